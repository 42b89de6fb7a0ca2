"""Feast's import skips type checks, and only for Feast's classes."""

import pytest
import typeguard

import feature_repo  # noqa: F401  # before Feast


def doubled(number: int) -> int:
    return number * 2


def test_only_feasts_classes_skip_type_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(typeguard.TypeCheckError):
        typeguard.typechecked(doubled)("2")  # type: ignore[arg-type]
    monkeypatch.setattr(doubled, "__module__", "feast.somewhere")
    assert typeguard.typechecked(doubled) is doubled
