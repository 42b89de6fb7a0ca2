"""Counts, durations and suggestions in messages and pages."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import REPOSITORY
from truecourse.errors import ProblemError, SettingsError
from truecourse.problem.loader import load_problem
from truecourse.settings import Settings, get_settings
from truecourse.wording import counted, counted_of, nearest, suggestion


@pytest.mark.parametrize(
    ("number", "noun", "expected"),
    [(0, "row", "0 rows"), (1, "row", "1 row"), (1204, "row", "1,204 rows"), (2, "query", "2 queries"),
     (2, "day", "2 days"), (2, "class", "2 classes"), (3, "batch", "3 batches"), (2, "link back", "2 link backs")],
)  # fmt: skip
def test_nouns_agree_with_their_count(number: int, noun: str, expected: str) -> None:
    assert counted(number, noun) == expected


def test_a_part_of_a_whole() -> None:
    assert counted_of(0, 1, "gate") == "0 of 1 gate"
    assert counted_of(1, 2, "gate") == "1 of 2 gates"


@given(st.lists(st.text("abcdefgh_", min_size=3, max_size=12), min_size=1, unique=True), st.data())
def test_a_misspelt_name_is_suggested(names: list[str], data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(names))
    place = data.draw(st.integers(0, len(name) - 1))
    wrong = name[:place] + name[place + 1 :]
    if wrong not in names:
        assert nearest(wrong, names)
    assert f"--{name}" in suggestion(name.upper(), names, "--")


PLURAL = re.compile(
    r"\{[^{}]*\}\s(rows|tables|files|days|features|links|views|gates|decisions|versions|requests|columns|predictions|"
    r"findings|faults|others|classes|fields|characters|bytes|sources|trials|commits|values)\b"
)
"""A number and a noun that does not follow it: `1 rows` for somebody."""


def test_no_message_counts_with_a_fixed_plural() -> None:
    found = []
    for path in sorted(REPOSITORY.glob("[a-z]*/**/*.py")):
        if path.relative_to(REPOSITORY).parts[0] in ("truecourse", "tasks", "flows", "services", "cli", "feature_repo"):
            lines = path.read_text().splitlines()
            found += [f"{path.name}:{i + 1} {line.strip()}" for i, line in enumerate(lines) if PLURAL.search(line)]
    assert not found, "\n".join(found)


@pytest.fixture
def problems(tmp_path: Path, configure: Callable[..., None]) -> Path:
    configure(problems=tmp_path)
    return tmp_path


def write(problems: Path, text: str) -> None:
    (problems / "p").mkdir(parents=True)
    (problems / "p" / "problem.py").write_text(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("from truecourse.problem import Table\nPROBLEM = Table('t', collumns={})", "did you mean columns?"),
        ("from truecourse.problem import Text\nPROBLEM = Text(descripton='x')", "did you mean description?"),
        ("from truecourse.problem import Tabel", "did you mean Table or Label?"),
        ("from truecourse.problem import *\nPROBLEM = Problme()", "did you mean Problem?"),
    ],
)
def test_a_misspelt_word_of_a_problem_gets_a_hint(problems: Path, text: str, message: str) -> None:
    write(problems, text)
    with pytest.raises(ProblemError) as raised:
        load_problem("p")
    assert message in str(raised.value)
    assert "problem.py:" in str(raised.value)


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    monkeypatch.chdir(tmp_path)
    get_settings.cache_clear()
    return monkeypatch


@pytest.mark.parametrize("name", ["TRUECOURSE_HOEM", "truecourse_hoem"])
def test_an_unknown_setting_is_rejected_with_a_suggestion(fresh: pytest.MonkeyPatch, name: str) -> None:
    fresh.setenv(name, "/tmp")
    with pytest.raises(SettingsError, match="did you mean TRUECOURSE_HOME"):
        get_settings()


def test_an_unknown_setting_in_the_file_is_rejected_with_its_place(fresh: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("OTHER=1\nTRUECOURSE_TREADS=2\nTRUECOURSE_PORT_OF=x\n")
    with pytest.raises(SettingsError) as raised:
        get_settings()
    assert f"TRUECOURSE_TREADS: unknown setting in {tmp_path / '.env'}; did you mean TRUECOURSE_THREADS" in str(
        raised.value
    )
    assert "TRUECOURSE_PORT_OF" in str(raised.value)
    assert "OTHER" not in str(raised.value)


def test_foreign_variables_are_ignored(fresh: pytest.MonkeyPatch) -> None:
    """Nested names, and the variables that Kubernetes sets for a service called truecourse."""
    fresh.setenv("TRUECOURSE_CONNECTIONS__WAREHOUSE", "sqlite:///x.db")
    fresh.setenv("TRUECOURSE_SERVICE_HOST", "10.0.0.1")
    fresh.setenv("TRUECOURSE_SERVICE_PORT_HTTP", "3000")
    fresh.setenv("TRUECOURSE_PORT", "tcp://10.0.0.1:3000")
    fresh.setenv("TRUECOURSE_PORT_3000_TCP_ADDR", "10.0.0.1")
    assert isinstance(get_settings(), Settings)
