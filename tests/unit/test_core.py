"""Settings, errors, loading and digests: users' mistakes are reported."""

import os
import pickle
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from truecourse.errors import Fault, ProblemError, SettingsError, TruecourseError
from truecourse.hashing import canonical_json, sha256_json
from truecourse.problem.loader import default_problem, load_problem, problem_digest, problem_document
from truecourse.settings import get_settings

PLAIN = """
from truecourse.problem import (Files, Float, Integer, Label, Problem, Table)

PROBLEM = Problem(
    name="{name}",
    kind="binary",
    tables=[Table("rows", source=Files("rows.csv"), columns={{"x": Float(ge={least}), "y": Integer()}})],
    label=Label(table="rows", column="y"),
)
"""


@pytest.fixture
def problems(tmp_path: Path, configure: Callable[..., None]) -> Path:
    configure(problems=tmp_path)
    return tmp_path


def write(folder: Path, name: str, text: str) -> None:
    (folder / name).mkdir(exist_ok=True)
    (folder / name / "problem.py").write_text(text)


def test_an_error_has_what_where_and_hint() -> None:
    error = TruecourseError("is empty", where="flights.csv", hint="export it again")
    assert str(error) == "flights.csv: is empty\n  → export it again"
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    faults = ProblemError("p", [Fault("a", "b", "c"), Fault("d", "e")])
    assert pickle.loads(pickle.dumps(faults)).faults == faults.faults


def test_an_invalid_setting_is_reported_by_its_variable(configure: Callable[..., None]) -> None:
    configure(mlflow_port="many", threads="0")
    with pytest.raises(SettingsError) as caught:
        get_settings()
    assert "TRUECOURSE_MLFLOW_PORT" in str(caught.value)
    assert "TRUECOURSE_THREADS" in str(caught.value)


def test_secrets_do_not_show(configure: Callable[..., None]) -> None:
    configure(s3_secret_access_key="hunter2", online_store="redis://:hunter2@h:1")
    assert "hunter2" not in repr(get_settings())


def test_a_problem_is_loaded_by_name(problems: Path) -> None:
    write(problems, "plain", PLAIN.format(name="plain", least=0))
    problem = load_problem("plain")
    assert problem.folder == problems / "plain"
    assert list(problem.features) == ["x"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("PROBLEM = 1", "defines no PROBLEM"),
        (PLAIN.format(name="other", least=0), "as its folder"),
        (PLAIN.format(name="p", least="'none'"), "ge"),
        ("import nothing_of_the_kind", "problem.py:1"),
        ("def (", "problem.py:1"),
    ],
)
def test_a_fault_in_a_problem_file_has_a_place(problems: Path, text: str, message: str) -> None:
    write(problems, "p", text)
    with pytest.raises(ProblemError, match=message):
        load_problem("p")


def test_an_unknown_problem_lists_the_existing_ones(problems: Path) -> None:
    write(problems, "plain", PLAIN.format(name="plain", least=0))
    with pytest.raises(ProblemError, match="known problems: plain"):
        load_problem("plane")


def test_the_digest_follows_the_specification(problems: Path) -> None:
    write(problems, "plain", PLAIN.format(name="plain", least=0))
    first = problem_digest(load_problem("plain"))
    write(problems, "plain", "# a comment\n" + PLAIN.format(name="plain", least=0))
    assert problem_digest(load_problem("plain")) == first
    write(problems, "plain", PLAIN.format(name="plain", least=1))
    assert problem_digest(load_problem("plain")) != first
    assert problem_document(load_problem("plain"))["tables"][0]["columns"]["x"]["ge"] == 1.0


def test_an_edit_right_after_a_load_is_noticed(problems: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An edit of the same size in the same second, which Python's bytecode cache would miss."""
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    found = []
    for least in (0, 1):
        write(problems, "plain", PLAIN.format(name="plain", least=least))
        os.utime(problems / "plain" / "problem.py", (1_700_000_000, 1_700_000_000))
        found.append(problem_document(load_problem("plain"))["tables"][0]["columns"]["x"]["ge"])
    assert found == [0.0, 1.0]


def test_equal_documents_have_equal_bytes() -> None:
    assert canonical_json({"b": 1, "a": [1.5, "é"]}) == '{"a":[1.5,"é"],"b":1}'.encode()
    assert sha256_json({"a": 1, "b": 2}) == sha256_json({"b": 2, "a": 1})


def test_the_default_problem(tmp_path: Path, configure: Callable[..., None]) -> None:
    """The configured problem if it exists or was named, else the only one; never a guess among several."""

    def there(*names: str) -> None:
        for name in names:
            (tmp_path / name).mkdir()
            (tmp_path / name / "problem.py").write_text("")

    configure(problems=tmp_path)
    with pytest.raises(SettingsError, match=r"there is no problem(.|\n)*truecourse init"):
        default_problem()
    there("wine")
    assert default_problem() == "wine"
    there("beer")
    with pytest.raises(SettingsError, match=r"there are 2: beer, wine(.|\n)*--problem"):
        default_problem()
    configure(problems=tmp_path, problem="cider")
    assert default_problem() == "cider"
