"""Reference of the patches of libraries: every module of a `compat` package, with what it states."""

import importlib
from collections.abc import Iterator

from docs.hooks import markdown_text as markdown
from docs.hooks.markdown_text import code, sentence
from truecourse.compat.patch import Patch
from truecourse.settings import REPOSITORY

PACKAGES = ("truecourse", "feature_repo", "services", "tasks")
"""The packages with a package `compat`."""
INTRO = """Most of what Truecourse needs of a library is its documented interface. Code that depends on internals is one
module of a `compat` package. The module states what it depends on, and with which versions it was checked. Tests fail
if an upgrade changes names, signatures or formats that it takes for granted, and if other code uses internals.

The last column is the setting that leaves a patch out. `TRUECOURSE_SKIPPED_PATCHES` takes several names, separated by
commas. With `TRUECOURSE_FAST_PATH=false` every HTTP request goes through the ordinary ASGI application, under the same
limits. A one-row prediction then takes more processor time. Both settings are for finding out whether a patch is at
fault."""
HEADERS = ("patch, with its place upstream", "checked with", "what it changes", "why", "without it", "left out by")


def page() -> str:
    """The Markdown of the page."""
    return markdown.page("Patches of libraries", INTRO, markdown.table(HEADERS, map(_row, patches())))


def modules() -> list[str]:
    """The modules of the `compat` packages that state a patch."""
    files = [file for name in PACKAGES for file in sorted((REPOSITORY / name / "compat").glob("*.py"))]
    names = [".".join(file.relative_to(REPOSITORY).with_suffix("").parts) for file in files]
    return [name for name in names if not name.endswith((".__init__", ".patch", ".library_database"))]


def patches() -> Iterator[Patch]:
    """The patch of each module."""
    for name in modules():
        yield importlib.import_module(name).PATCH


def _row(patch: Patch) -> list[str]:
    versions = ", ".join(f"{name} {' and '.join(numbers)}" for name, numbers in patch.checked.items())
    texts = [sentence(text) for text in (patch.changes, patch.reason, patch.without)]
    return [f"[{patch.name}]({patch.upstream})", versions, *texts, code(patch.switch)]
