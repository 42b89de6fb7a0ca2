"""`gc`: remove what nothing needs under the retention settings."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Group
from rich.text import Text

from cli.terminal.output import Answer, Json, command, complete_area, complete_problem
from cli.terminal.tables import table
from truecourse.errors import NotFound
from truecourse.wording import counted, nearest

if TYPE_CHECKING:
    from truecourse.retention.collect import Plan


@command
def gc(
    problem: Annotated[
        str | None,
        typer.Option(help="Only this problem; all problems and areas if not given.", autocompletion=complete_problem),
    ] = None,
    area: Annotated[str | None, typer.Option(help="Only this feature area.", autocompletion=complete_area)] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List what would be removed, and remove nothing.")] = False,
    json: Json = False,
) -> Answer:
    """Remove what nothing needs under the retention settings, and list what is kept because of what.

    A feature area keeps what any problem needs of it.

    `monitor` does the same once a day. The command may be interrupted and repeated, also while the platform runs."""
    from truecourse.retention import collect, inventory
    from truecourse.storage.area_marks import marked_areas
    from truecourse.storage.object_store import open_store

    store, now = open_store(), datetime.now(UTC)
    problems = _chosen("problem", problem, area, inventory.problems(store))
    areas = _chosen("feature area", area, problem, sorted(marked_areas(store)))
    by_problem, plans = dict[str, collect.Plan](), list[collect.Plan]()
    for name in problems:
        by_problem[name] = collect.make_plan(name, now)
        plans.append(_carried_out(by_problem[name], dry_run))
    for name in areas:
        plans.append(_carried_out(collect.make_area_plan(name, now, by_problem if dry_run else None), dry_run))
    plans.append(_carried_out(collect.machine_plan(now), dry_run))
    document = {"storage": store.root, "dry_run": dry_run, **collect.as_document(plans)}
    return Answer(document, _view(document))


def _chosen(kind: str, name: str | None, other: str | None, stored: list[str]) -> list[str]:
    """The names to clean of one kind: the given one; else all, unless one of the other kind is given."""
    if name is not None and name not in stored:
        raise NotFound(f"nothing is stored of this {kind}", where=name, hint=nearest(name, stored))
    return [name] if name is not None else [] if other is not None else stored


def _carried_out(plan: "Plan", dry_run: bool) -> "Plan":
    if not dry_run:
        plan.carry_out()
    return plan


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
