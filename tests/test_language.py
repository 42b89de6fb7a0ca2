"""The product is written in the field's own terms: words of our former dialect do not come back."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

DIALECT = {
    "told": "notified, reported, or what it holds",
    "said": "message, or what it holds",
    "office": "champion",
    "incumbents?": "champion and challenger",
    "withdraw(?:n|s)?": "roll back",
    "taken back": "rolled back",
    "judged?": "evaluate, check",
    "verdicts?": "result",
    "past the gates": "gates passed",
    "under way": "in progress",
    "settled": "resolved, recorded",
    "keeper": "supervisor",
    "cures?": "hint",
    "trouble": "incident, cause",
    "hindsight": "label model",
    "yardstick": "baseline",
    "sketch(?:es)?": "daily histograms",
    "usual swing": "within seasonal range",
    "surer": "optimistic",
    "strange": "unseen, unexpected",
    "came true": "actual",
    "can wait": "severity warning",
    "outbox": "pending notifications",
    "owed": "pending",
    "spoilers": "blockers",
    "nameless": "without an id",
    "second opinion": "Evidently comparison",
    "whoever": "the caller, the user",
}
"""A dialect term, as a pattern of whole words, and the terms to use instead: docs and names alike."""
_FORMER = "a name in records of format 1, which are still read"
ALLOWED = {
    "told": (_FORMER, "stored_format.py test_storage_format.py"),
    "said": (_FORMER, "stored_format.py"),
    "withdraw": (_FORMER, "stored_format.py test_storage_format.py"),
    "judged": (_FORMER, "stored_format.py test_storage_format.py"),
    "judge": (_FORMER, "stored_format.py test_storage_format.py"),
    "settled": (_FORMER, "stored_format.py test_storage_format.py"),
    "keeper": (_FORMER, "stored_format.py"),
    "cure": (_FORMER, "stored_format.py test_client_calls.py"),
    "hindsight": (_FORMER, "stored_format.py test_storage_format.py"),
    "yardstick": (_FORMER, "stored_format.py test_storage_format.py test_stored_format.py"),
    "sketches": (_FORMER, "stored_format.py test_storage_format.py test_stored_format.py"),
    "outbox": (_FORMER, "stored_format.py test_storage_format.py"),
    "owed": (_FORMER, "stored_format.py test_storage_format.py"),
    "spoilers": (_FORMER, "stored_format.py test_storage_format.py make_format_1_home.py"),
    "nameless": (_FORMER, "stored_format.py test_storage_format.py"),
}
"""Names of our former dialect, why each is left, and the files where it stands. At most 20."""
FOLDERS = (
    "truecourse", "tasks", "flows", "feature_repo", "services", "cli", "benchmarks", "docs", "deployments", "tests"
)  # fmt: skip
SUFFIXES = {".py", ".md", ".html", ".j2", ".yaml", ".toml"}


def texts() -> Iterator[Path]:
    for folder in FOLDERS:
        paths = sorted((REPOSITORY / folder).rglob("*"))
        yield from (path for path in paths if path.suffix in SUFFIXES and path != Path(__file__))
    yield from (REPOSITORY / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "prefect.yaml"))


def occurrences(pattern: str, text: str) -> Iterator[re.Match[str]]:
    """Whole words, also as a part of a name: `is_told` and `told` have it, `stole` has not."""
    return re.finditer(rf"(?i)(?<![a-z])(?:{pattern})(?![a-z])", text)


@pytest.mark.parametrize("pattern", DIALECT)
def test_no_dialect_comes_back(pattern: str) -> None:
    found = [
        f"{path.relative_to(REPOSITORY)}:{text.count(chr(10), 0, match.start()) + 1}: {match[0]}"
        for path in texts()
        for text in [path.read_text()]
        for match in occurrences(pattern, text)
        if path.name not in ALLOWED.get(match[0].lower(), ("", ""))[1].split()
    ]
    assert not found, f"write {DIALECT[pattern]}: {found}"


def test_the_exceptions_are_few_and_needed() -> None:
    assert len(ALLOWED) <= 20
    held = {(term, path.name) for path in texts() for term in ALLOWED if any(occurrences(term, path.read_text()))}
    assert {(term, name) for term, (_, names) in ALLOWED.items() for name in names.split()} <= held


def test_whole_words_are_found_in_names_too() -> None:
    assert [m[0] for m in occurrences("told", "told, is_told, TOLD; stole, tolds, untold")] == ["told", "told", "TOLD"]
