"""`gc`: remove what nothing needs under the retention settings."""

from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from rich.console import Group
from rich.text import Text

from cli.terminal.output import Answer, Json, command, complete_problem
from cli.terminal.tables import table
from truecourse.errors import NotFound
from truecourse.wording import counted, nearest


@command
def gc(
    problem: Annotated[
        str | None,
        typer.Option(help="Only this problem; all stored problems if not given.", autocompletion=complete_problem),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List what would be removed, and remove nothing.")] = False,
    json: Json = False,
) -> Answer:
    """Remove what nothing needs under the retention settings, and list what is kept because of what.

    `monitor` does the same once a day. The command may be interrupted and repeated, also while the platform runs."""
    from truecourse.retention import collect, inventory
    from truecourse.storage.object_store import open_store

    store, now = open_store(), datetime.now(UTC)
    names = inventory.problems(store)
    if problem is not None and problem not in names:
        raise NotFound("nothing is stored of this problem", where=problem, hint=nearest(problem, names))
    plans = []
    for name in [problem] if problem else names:
        plans.append(collect.make_plan(name, now))
        if not dry_run:
            plans[-1].carry_out()
    plans.append(collect.machine_plan(now))
    if not dry_run:
        plans[-1].carry_out()
    document = {"storage": store.root, "dry_run": dry_run, **collect.as_document(plans)}
    return Answer(document, _view(document))


def _view(document: dict[str, Any]) -> Group:
    removed = [(one["kind"], one["count"], size_text(one["bytes"]), one["reason"]) for one in document["removed"]]
    kept = [(one["what"], one["reason"], _needs(one)) for one in document["kept"]]
    verb = "would be removed" if document["dry_run"] else "removed"
    parts: list[Any] = []
    if kept:
        parts.append(table("kept", "because", "old data that it reproduces from", rows=kept))
    if removed:
        parts.append(table("kind", "number", "bytes", "why nothing needs them", rows=removed))
    parts.append(Text(f"{size_text(document['bytes'])} {verb}" if removed else f"nothing {verb}"))
    return Group(*parts)


def _needs(kept: dict[str, Any]) -> str:
    parts = [counted(count, kind) for kind, count in sorted(kept["needs"].items())]
    return f"{', '.join(parts)}: {size_text(kept['bytes'])}" if parts else "none"


def size_text(size: int) -> str:
    """A number of bytes with a unit: `1.5 MB`."""
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return counted(size, "byte")
