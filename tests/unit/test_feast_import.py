"""Feast's import skips type checks, and only for Feast's classes."""

import sys
from collections.abc import Callable

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


def test_feasts_classes_are_checked_if_the_patch_is_left_out(
    monkeypatch: pytest.MonkeyPatch, configure: Callable[..., None]
) -> None:
    monkeypatch.setattr(doubled, "__module__", "feast.somewhere")
    monkeypatch.setitem(sys.modules, "feast.somewhere", sys.modules[__name__])  # typeguard reads its source
    configure(skipped_patches="typeguard_decorator")
    with pytest.raises(typeguard.TypeCheckError):
        typeguard.typechecked(doubled)("2")  # type: ignore[arg-type]
