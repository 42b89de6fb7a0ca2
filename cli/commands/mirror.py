"""`mirror show` and `mirror write`: what MLflow shows otherwise than our record says, and writing it anew."""

from typing import Any

from rich.console import RenderableType
from rich.text import Text

from cli.terminal.output import Answer, Json, ProblemName, command
from truecourse.errors import MirrorError
from truecourse.problem.loader import load_problem
from truecourse.registry import mirror_check
from truecourse.registry.mirror_check import Difference


@command
def show(problem: ProblemName = None, json: Json = False) -> Answer:
    """Where MLflow and our record of models differ, with what to do; 1 if they do."""
    name = load_problem(problem).name
    return _answer(name, mirror_check.differences(name))


@command
def write(problem: ProblemName = None, json: Json = False) -> Answer:
    """Let MLflow show what our record says: versions, aliases, tags, runs, artifacts. What others put there stays."""
    spec = load_problem(problem)
    return _answer(spec.name, mirror_check.write(spec))


def _answer(problem: str, found: list[Difference]) -> Answer:
    return Answer({"problem": problem, "differences": documents(found)}, view(found), ok=not found)


def documents(found: list[Difference]) -> list[dict[str, Any]]:
    return [vars(one) for one in found]


def mirror_differences(problem: str) -> list[dict[str, Any]] | str:
    """For `status`: the differences, or why they are not known."""
    try:
        return documents(mirror_check.differences(problem))
    except MirrorError as error:
        return error.what


def view(found: list[Difference]) -> RenderableType:
    lines = [f"• {one.sentence}\n  → {one.hint}" for one in found]
    return Text("\n".join(lines) if lines else "MLflow shows what is recorded")
