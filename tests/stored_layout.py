"""The paths that the page on the stored layout describes, and which of them a home has."""

import re
from collections.abc import Iterator
from pathlib import Path

from tests.conftest import REPOSITORY

PAGE = REPOSITORY / "docs" / "reference" / "storage.md"


def patterns_of(home: Path) -> dict[str, set[str]]:
    """For each file of a home, the described patterns that it matches: none is a file that the page leaves out."""
    storage, outside = described("Storage root"), described("Home")
    seen = {}
    for file in (path.relative_to(home).as_posix() for path in home.rglob("*") if path.is_file()):
        key, patterns = (file.removeprefix("storage/"), storage) if file.startswith("storage/") else (file, outside)
        seen[file] = {each for each in patterns if matches(each, key)}
    return seen


def described(title: str) -> list[str]:
    """The paths in the tables of a section of the page."""
    section = re.split(r"^## ", PAGE.read_text(), flags=re.MULTILINE)
    (text,) = (part for part in section if part.startswith(f"{title}\n"))
    return list(paths_in(text))


def paths_in(text: str) -> Iterator[str]:
    yield from re.findall(r"^\| `([^`]+)` \|", text, re.MULTILINE)


def matches(pattern: str, path: str) -> bool:
    """Whether a path is of the described kind: `<name>` is a part of one name, and a final slash all that is below."""
    expression = re.sub(r"<\w+>", "[^/]+", re.escape(pattern).replace(r"\<", "<").replace(r"\>", ">"))
    return re.fullmatch(f"{expression}.+" if pattern.endswith("/") else expression, path) is not None
