"""`explore`: what a file, a table or a problem's decisions hold, with leak suspects, as an answer and a page."""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.text import Text

from cli.commands.status_report import copy_page
from cli.terminal.output import Answer, Json, ProblemName, command, stderr
from cli.terminal.tables import pairs, table
from truecourse.errors import NotFound, SettingsError
from truecourse.exploration.records import ColumnSummary, Exploration
from truecourse.exploration.source import Source, as_roles, decisions_source, file_source, table_source
from truecourse.html import share
from truecourse.problem.loader import load_problem
from truecourse.settings import prefect_environment
from truecourse.storage.object_store import open_store
from truecourse.wording import counted, counted_of

LINES = 40
"""Most columns and findings in the terminal; the page has all."""


@command
def explore(
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="FILE|TABLE",
            help="A file, a glob in quotes, or a table of the problem; its decisions if not given.",
        ),
    ] = None,
    problem: ProblemName = None,
    label: Annotated[str | None, typer.Option(help="The column to predict, of a file.", metavar="COLUMN")] = None,
    time: Annotated[str | None, typer.Option(help="The time of the decision, of a file.", metavar="COLUMN")] = None,
    key: Annotated[list[str] | None, typer.Option(help="A column of a file's key.", metavar="COLUMN")] = None,
    version: Annotated[int | None, typer.Option(min=0, help="A version of the table.")] = None,
    json: Json = False,
) -> Answer:
    """Explore a file before there is a problem, a clean table, or the decisions of a problem: types, missing values,
    distributions, keys, relations to the label, drift, and leak suspects. Writes a page."""
    from truecourse.exploration.explore import explore as search
    from truecourse.exploration.page import publish

    console = stderr()
    with console.status("reading the rows") as status, _open(source, problem, label, time, key, version) as opened:
        found = search(opened, lambda name: status.update(name))
    page = copy_page(publish(open_store(), found))
    document = found.model_dump(mode="json") | {"page": str(page)}
    return Answer(document, Group(*_view(found), Text(str(page), style="dim")))


def _open(
    source: str | None,
    problem: str | None,
    label: str | None,
    time: str | None,
    key: list[str] | None,
    version: int | None,
) -> AbstractContextManager[Source]:
    """Open what the arguments name: a file, if there is one of that name; or else a table of the problem."""
    if source is not None and _is_file(source):
        if version is not None:
            raise SettingsError("a file has no versions", where="--version", hint="leave out --version")
        return file_source(source, as_roles(label, time, key or ()))
    if label or time or key:
        raise SettingsError(
            "label, time and key of a problem are those that it declares", where="--label, --time, --key",
            hint="give them for a file only" if source is None else f"is there no file {source}? check its path",
        )  # fmt: skip
    if source is None:
        if version is not None:
            raise SettingsError("versions are those of a table", where="--version", hint="name a table")
        return _open_decisions(problem)
    spec = load_problem(problem)
    if source not in {each.name for each in spec.tables} and ("/" in source or "." in source):
        raise NotFound("no such file", where=source, hint="give the path of a CSV, JSON lines or Parquet file")
    return table_source(spec, source, version)


def _is_file(source: str) -> bool:
    return any(sign in source for sign in "*?[") or Path(source).expanduser().exists()


def _open_decisions(problem: str | None) -> AbstractContextManager[Source]:
    """The decisions from the newest clean tables and features, with the split of training."""
    prefect_environment()
    from tasks.features.decision_frame import decision_frame, feature_versions
    from truecourse.data.sql import clean_versions
    from truecourse.features.frame import add_split
    from truecourse.storage.delta_tables import Tables

    spec, tables = load_problem(problem), Tables()
    clean = clean_versions(spec, tables)
    frame = decision_frame(spec, tables, clean, feature_versions(spec, tables, clean))
    return decisions_source(spec, add_split(spec, frame))


def _view(found: Exploration) -> Iterator[RenderableType]:
    facts: dict[str, object] = {
        "rows": found.rows,
        "complete rows": counted_of(found.complete_rows, found.rows, "row"),
        "label": f"{found.label} ({found.label_kind or 'not a label'})" if found.label else "not given: --label COLUMN",
        "time": found.time or "none",
        "keys": ", ".join(" and ".join(key.columns) for key in found.keys[:5]) or "none found",
        "duplicate rows": found.duplicates.rows,
    }
    yield Text(found.title, style="bold")
    yield pairs(facts)
    for note in found.notes:
        yield Text(note, style="dim")
    yield table(
        "column", "type", "missing", "distinct", "values", "explains", rows=[_row(c) for c in found.columns[:LINES]]
    )
    if len(found.columns) > LINES:
        yield Text(f"and {counted(len(found.columns) - LINES, 'more column')}", style="dim")
    for name, reason in list(found.left_out.items())[:LINES]:
        yield Text(f"{name} is left out: {reason}", style="dim")
    leaks = found.of("leak")
    for finding in leaks:
        yield Text(f"✗ suspected leak: {finding.sentence}", style="red")
    others = [finding for finding in found.findings if finding.topic != "leak"]
    for finding in others[:LINES]:
        yield Text(f"! {finding.sentence}", style="yellow")
    if len(others) > LINES:
        yield Text(f"and {counted(len(others) - LINES, 'more finding')}", style="dim")
    if found.label and not leaks:
        yield Text("✓ no leak suspect", style="green")


def _row(column: ColumnSummary) -> list[Any]:
    distinct = f"{'' if column.distinct_exact else '≈'}{column.distinct:,}"
    explains = "" if column.relation is None else share(max(column.relation.value, 0.0))
    return [column.name, column.type, share(column.missing_share), distinct, _values(column), explains]


def _values(column: ColumnSummary) -> str:
    """The most frequent values, or the range."""
    if column.private:
        return "private"
    if column.type in ("Text", "Boolean"):
        return ", ".join(str(value) for value, _ in column.top[:3])[:40]
    low, high = (f"{end:,.6g}" if isinstance(end, int | float) else f"{end:%Y-%m-%d}" if end else "" for end in (
        column.minimum, column.maximum,
    ))  # fmt: skip
    return f"{low} to {high}"
