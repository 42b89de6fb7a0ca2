"""`diff`: what differs between two versions of a table, model versions, snapshots, problems or environments."""

import re
from typing import Annotated, Any

import typer
from rich.console import Group
from rich.text import Text

from cli.commands import diff_sections
from cli.commands.status_report import write_page
from cli.terminal.output import Answer, Json, ProblemName, command
from cli.terminal.sections import terminal_view
from truecourse.errors import SettingsError
from truecourse.page_sections import page_view
from truecourse.problem import Problem
from truecourse.problem.loader import load_problem
from truecourse.settings import prefect_environment

KINDS = {
    "problem": r"problem:.+",
    "environment": r"environment:.+",
    "model": r"\d{1,7}|champion|challenger",
    "snapshot": r"[0-9a-f]{8,64}",
    "table": r"[a-z][a-z0-9_]*(@\d+)?",
}
Side = Annotated[
    str,
    typer.Argument(
        help="A table's version (orders@3), a model version (3, champion), a snapshot's SHA-256, a problem's folder or "
        "the code that a version was trained with (problem:orders, problem:champion), or environment:NAME."
    ),
]


@command
def diff(
    one: Side,
    other: Side,
    problem: ProblemName = None,
    page: Annotated[bool, typer.Option("--page", help="Also write the answer as a page.")] = False,
    json: Json = False,
) -> Answer:
    """Show what differs between two versions of a table, model versions, snapshots, problems or environments."""
    spec = load_problem(problem)
    kinds = [_kind(text) for text in (one, other)]
    if kinds[0] != kinds[1]:
        hint = "compare two tables (orders@3 orders@5), two model versions (3 4) or two snapshots"
        raise SettingsError(f"a {kinds[0]} and a {kinds[1]}", where=f"{one} and {other}", hint=hint)
    found = _find(spec, kinds[0], one, other)
    sections = list(getattr(diff_sections, f"{kinds[0]}_sections")(found))
    if not page:
        return Answer(found, terminal_view(sections))
    sides = [side.removeprefix(f"{kinds[0]}:") for side in (one, other)]
    html = page_view(spec.name, f"Difference of {one} and {other}", sections)
    path = write_page(spec.name, "diff", "-".join([kinds[0], *sides]), html)
    view = Group(terminal_view(sections), Text(f"\n→ {path}"))
    return Answer(found | {"page": str(path)}, view)


def _find(spec: Problem, kind: str, one: str, other: str) -> dict[str, Any]:
    """The difference, as a document."""
    prefect_environment()
    if kind == "model":
        from tasks.training.compare_models import version_number
        from tasks.training.compare_versions import compare_versions

        return compare_versions(spec.name, *(version_number(spec.name, text) for text in (one, other)))
    if kind == "problem":
        from tasks.training.compare_problems import compare_problems

        return compare_problems(spec.name, *(text.removeprefix("problem:") for text in (one, other)))
    if kind == "environment":
        from truecourse.lineage.environment_diff import diff_environments

        return diff_environments(spec.name, *(text.removeprefix("environment:") for text in (one, other)))
    from truecourse.storage.delta_tables import Tables

    tables = Tables()
    if kind == "table":
        from truecourse.lineage.table_diff import diff_tables

        return diff_tables(tables, spec, one, other)
    from truecourse.lineage.snapshot_diff import diff_snapshots, find_snapshot

    return diff_snapshots(tables.store, *(find_snapshot(tables.store, spec.name, text) for text in (one, other)))


def _kind(text: str) -> str:
    for kind, pattern in KINDS.items():
        if re.fullmatch(pattern, text):
            return kind
    hint = "for example orders@3, 3, 0f3c9a12, problem:3 or environment:prod"
    hint = "for example orders@3, 3, 0f3c9a12, problem:3 or environment:prod"
    raise SettingsError("is no table, model version, snapshot, problem or environment", where=text, hint=hint)
