"""`push`: fresh rows of a view's table, visible online and offline at once."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Group, RenderableType
from rich.text import Text

from cli.terminal.output import Answer, Json, ProblemName, command
from cli.terminal.tables import pairs, table
from truecourse.wording import counted


@command
def push(
    name: Annotated[
        str, typer.Argument(metavar="VIEW", help="A view or a table: AREA.VIEW, PROBLEM.VIEW, or VIEW of --problem.")
    ],
    file: Annotated[Path, typer.Argument(help="CSV, Parquet or JSON lines; - is standard input.")] = Path("-"),
    id: Annotated[
        str, typer.Option("--id", help="The push's id: what is pushed again with it counts once. Default: SHA-256.")
    ] = "",
    format: Annotated[
        Literal["csv", "parquet", "jsonl"] | None,
        typer.Option(help="The format; by default it follows the file's name, and is jsonl for standard input."),
    ] = None,
    table: Annotated[str, typer.Option(help="The table, for a view that reads several.")] = "",
    problem: ProblemName = None,
    json: Json = False,
) -> Answer:
    """Push rows to a view's table: they are stored, validated, and visible online and offline when this ends.

    The exit status is 1 if the push is refused, or a view could not be updated. Invalid rows of an accepted push are
    quarantined, and listed."""
    from cli.terminal.progress import Progress, log_to
    from feature_repo.push import push as push_to
    from feature_repo.push import pushed_table
    from truecourse.ingestion.push import Push
    from truecourse.problem.loader import load_namespace, load_problem
    from truecourse.storage.delta_tables import Tables

    owner, _, view = name.rpartition(".")
    namespace = load_namespace(owner) if owner else load_problem(problem)
    target = pushed_table(namespace, view, table)
    with _rows(file) as path, Progress(["push"]) as progress, log_to(progress), progress.step("push") as done:
        named = f"rows.{format or 'jsonl'}" if format or path != file else file.name
        results, update = push_to(namespace, target, Tables(), [Push(path, named, id)])
        (result,) = results
        if isinstance(result, Exception):
            raise result
        done(f"{counted(result.rows, 'row')} of {result.table} {'refused' if result.refused else 'stored'}")
    document = result.model_dump(mode="json") | update.model_dump(mode="json")
    return Answer(document, _view(document), ok=not result.refused and not update.waiting)


@contextmanager
def _rows(file: Path) -> Iterator[Path]:
    """The file, or one with the content of standard input. Raises SourceError if it is missing."""
    from truecourse.data.sources import locate_file, scratch

    if str(file) != "-":
        locate_file(str(file), file, "jsonl")
        yield file
        return
    with scratch() as folder:
        path = folder / "rows"
        path.write_bytes(sys.stdin.buffer.read())
        yield path


def _view(document: dict[str, Any]) -> RenderableType:
    counts = ("inserted", "corrected", "unchanged", "deleted", "quarantined")
    shown: dict[str, object] = {"table": document["table"], "push": document["id"]}
    shown["delivery"] = f"{document['delivery']}{', recorded before' if document['repeated'] else ''}"
    shown |= {name: f"{document[name]:,}" for name in counts if document[name]}
    shown |= {f"view {view}": f"{counted(keys, 'key')} online" for view, keys in document["loaded"].items()}
    notes = [Text(f"refused: {reason}", style="red") for reason in document["refused"]]
    notes += [Text(f"view {view} waits: {why}", style="yellow") for view, why in document["waiting"].items()]
    faults = [[one["row"], one["field"] or "", one["problem"]] for one in document["faults"]]
    rest = document["fault_count"] - len(faults)
    if rest > 0:
        notes.append(Text(f"and {counted(rest, 'further fault')}"))
    return Group(pairs(shown), *([table("row", "column", "fault", rows=faults)] if faults else []), *notes)
