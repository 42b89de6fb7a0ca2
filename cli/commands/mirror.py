"""`mirror show` and `mirror write`: differences between MLflow and the model registry, and writing MLflow again."""

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
    """Show differences between MLflow and the model registry, each with a hint. Exits 1 if there are any."""
    name = load_problem(problem).name
    return _answer(name, mirror_check.differences(name))


@command
def write(problem: ProblemName = None, json: Json = False) -> Answer:
    """Write the registry to MLflow again: versions, aliases, tags, runs, artifacts, and the trials of parameter
    searches. Entries of others stay."""
    spec = load_problem(problem)
    return _answer(spec.name, mirror_check.write(spec))


def _answer(problem: str, found: list[Difference]) -> Answer:
    return Answer({"problem": problem, "differences": to_documents(found)}, view(found), ok=not found)


def to_documents(found: list[Difference]) -> list[dict[str, Any]]:
    return [vars(one) for one in found]


def mirror_differences(problem: str) -> list[dict[str, Any]] | str:
    """The differences for `status`, or why they are unknown."""
    try:
        return to_documents(mirror_check.differences(problem))
    except MirrorError as error:
        return error.what


def view(found: list[Difference]) -> RenderableType:
    lines = [f"• {one.sentence}\n  → {one.hint}" for one in found]
    return Text("\n".join(lines) if lines else "MLflow matches the registry")
