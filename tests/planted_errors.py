"""Edit one place of the deliveries problem, to test whether `truecourse check` finds the fault."""

from pathlib import Path

from truecourse.authoring.checks.run_checks import check_problem
from truecourse.errors import Fault
from truecourse.problem.loader import load_problem

PROBLEM = "problem.py"
Case = tuple[str, str, str, str, str, str]
"""File, old text, new text; then parts of the expected fault: where, what and hint."""


def faults_after(folder: Path, *edits: tuple[str, str, str]) -> list[Fault]:
    """The faults of the problem in `folder` after replacing (file, text, other text)."""
    for file, old, new in edits:
        text = (folder / file).read_text()
        assert old in text, f"{file} holds no {old!r}"
        (folder / file).write_text(text.replace(old, new, 1))
    return check_problem(load_problem(folder.name))


def assert_found(folder: Path, case: Case) -> None:
    file, old, new, where, what, hint = case
    names = "from truecourse.problem import ("
    more = "Alerts, Choice, Range, MetricGate, Promotion, Retraining, SliceFloor,"
    faults = faults_after(folder, (PROBLEM, names, names + more), (file, old, new))
    assert any(where in f.where and what in f.what and hint in f.hint for f in faults), "\n".join(map(str, faults))
