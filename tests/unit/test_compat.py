"""Patches of libraries: each states what it depends on, and a test fails where the library has another shape.

Their effects are tested where they are used; here are the names, signatures and formats that they take for granted.
"""

import importlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from docs.hooks import patches_page
from tests.conftest import REPOSITORY
from truecourse.compat.patch import OPTIONAL, Patch, skipped_patches
from truecourse.errors import SettingsError

FILES = [REPOSITORY.joinpath(*name.split(".")).with_suffix(".py") for name in patches_page.modules()]


def patch_of(path: Path) -> Patch:
    name = ".".join(path.relative_to(REPOSITORY).with_suffix("").parts)
    patch: Patch = importlib.import_module(name).PATCH
    assert patch.module == name
    return patch


def locked_versions() -> Iterator[tuple[str, str]]:
    yield from re.findall(r"^([\w.-]+)==(\S+)", (REPOSITORY / "requirements.lock").read_text(), re.M)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_each_module_states_its_patch(path: Path) -> None:
    patch = patch_of(path)
    for text in (patch.changes, patch.reason, patch.without):
        assert text
        assert text[-1] != "."
    assert patch.upstream.startswith("https://")
    documentation = importlib.import_module(patch.module).__doc__ or ""
    assert [part for part in ("What:", "Why:", "Without it:") if f"\n{part}" not in documentation] == []
    assert ("no setting leaves it out" in documentation) == (patch.switch == "")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_it_was_checked_with_the_locked_versions(path: Path) -> None:
    """After an upgrade: read the library's changes, run this file, and correct `checked`."""
    locked = list(locked_versions())
    for name, versions in patch_of(path).checked.items():
        assert set(versions) == {version for found, version in locked if found == name}, name


def test_every_patch_is_in_the_reference() -> None:
    page = patches_page.page()
    assert len(FILES) > 20
    for path in FILES:
        patch = patch_of(path)
        (row,) = re.findall(rf"^\| \[{patch.name}\].*", page, re.M)
        assert all(text in row for text in (patch.upstream, patch.changes[1:], *patch.checked))
        assert row.endswith(f"| `{patch.switch}` |" if patch.switch else "|  |")


def test_the_optional_patches_exist_and_can_be_left_out(configure: Callable[..., None]) -> None:
    patches = {path.stem: patch_of(path) for path in FILES}
    assert len(patches) == len(FILES), "names are unique"
    assert set(OPTIONAL) <= set(patches)
    configure(skipped_patches=" , ".join(OPTIONAL))
    assert [patch.name for patch in patches.values() if not patch.is_active()] == sorted(
        OPTIONAL, key=[path.stem for path in FILES].index
    )
    configure(skipped_patches="")
    assert all(patch.is_active() for patch in patches.values())


def test_a_patch_that_is_unknown_or_needed_is_an_error(configure: Callable[..., None]) -> None:
    for name, hint in (("mlflow_table", "did you mean mlflow_tables"), ("circus_socket", "optional patches are")):
        configure(skipped_patches=name)
        with pytest.raises(SettingsError, match=f"no optional patch is named {name}") as refused:
            skipped_patches()
        assert hint in refused.value.hint
