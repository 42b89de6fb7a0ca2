"""`diff`: what differs between two versions of a table, two model versions, or two snapshots."""

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.text import Text

from cli.terminal.output import Answer, Json, ProblemName, command
from cli.terminal.tables import pairs, table
from truecourse.errors import SettingsError
from truecourse.problem.loader import load_problem
from truecourse.settings import prefect_environment
from truecourse.wording import counted

LINES = 60
"""Most lines of code shown in the terminal; --json has them all."""
KINDS = {"model": r"\d{1,7}|champion|challenger", "snapshot": r"[0-9a-f]{8,64}", "table": r"[a-z][a-z0-9_]*(@\d+)?"}
Side = Annotated[
    str,
    typer.Argument(help="A table's version (orders@3), a model version (3, champion), or a snapshot's SHA-256."),
]


@command
def diff(one: Side, other: Side, problem: ProblemName = None, json: Json = False) -> Answer:
    """Show what differs between two versions of a table, two model versions, or two snapshots."""
    spec = load_problem(problem)
    kinds = [_kind(text) for text in (one, other)]
    if kinds[0] != kinds[1]:
        hint = "compare two tables (orders@3 orders@5), two model versions (3 4) or two snapshots"
        raise SettingsError(f"a {kinds[0]} and a {kinds[1]}", where=f"{one} and {other}", hint=hint)
    if kinds[0] == "model":
        prefect_environment()
        from tasks.training.compare_versions import compare_versions, version_number

        found = compare_versions(spec.name, *(version_number(spec.name, text) for text in (one, other)))
        return Answer(found, Group(*_model(found)))
    from truecourse.storage.delta_tables import Tables

    tables = Tables()
    if kinds[0] == "table":
        from truecourse.lineage.table_diff import diff_tables

        found = diff_tables(tables, spec, one, other)
        return Answer(found, Group(*_table(found)))
    from truecourse.lineage.snapshot_diff import diff_snapshots, find_snapshot

    snapshots = [find_snapshot(tables.store, spec.name, text) for text in (one, other)]
    found = diff_snapshots(tables.store, *snapshots)
    return Answer(found, Group(*_snapshot(found)))


def _kind(text: str) -> str:
    for kind, pattern in KINDS.items():
        if re.fullmatch(pattern, text):
            return kind
    raise SettingsError(
        "is no table, model version or snapshot", where=text, hint="for example orders@3, 3, or 0f3c9a12"
    )


def _more(count: int, shown: int, noun: str) -> Iterator[RenderableType]:
    if count > shown:
        yield Text(f"and {counted(count - shown, 'more ' + noun)}", style="dim")


def _table(found: Mapping[str, Any]) -> Iterator[RenderableType]:
    rows, columns = found["rows"], found["columns"]
    by = f"by {', '.join(found['key'])}" if found["key"] else "without a key: a changed row is removed and added"
    shown: dict[str, object] = {
        "from": f"{found['from']}, {counted(rows['before'], 'current row')}",
        "to": f"{found['to']}, {counted(rows['after'], 'current row')}",
        "rows": f"{rows['added']:,} added, {rows['removed']:,} removed, {rows['changed']:,} changed ({by})",
        "changed cells": ", ".join(f"{name} ({count:,})" for name, count in rows["by_column"].items()) or "none",
        "columns": _column_changes(columns) or "the same",
    }
    if found["edits"]:
        shown["edits"] = "; ".join(found["edits"])
    for kind in ("added", "removed"):
        if (deliveries := found["deliveries"][kind])["count"]:
            files = ", ".join(f"{one['file']} ({counted(one['rows'], 'row')})" for one in deliveries["first"])
            shown[f"deliveries {kind}"] = f"{deliveries['count']}: {files}"
    shown["quarantine"] = " → ".join(_quarantine(side) for side in found["quarantine"])
    yield pairs(shown)
    for kind, items in rows["first"].items():
        if items:
            lines = [[", ".join(f"{name}={_cell(value)}" for name, value in row.items())] for row in items]
            yield table(f"{kind}, the first", rows=lines)
            yield from _more(rows[kind], len(items), f"{kind} row")


def _quarantine(side: Mapping[str, Any]) -> str:
    reasons = ", ".join(f"{reason} ({count:,})" for reason, count in side["reasons"].items())
    return f"{counted(side['rows'], 'row')}{f', {reasons}' if reasons else ''}"


def _cell(value: Any) -> str:
    return f"{value[0]} → {value[1]}" if isinstance(value, list) else str(value)


def _column_changes(columns: Mapping[str, Any]) -> str:
    parts = [f"{kind}: {', '.join(columns[kind])}" for kind in ("added", "removed") if columns[kind]]
    changed = [f"{name} {before} → {after}" for name, (before, after) in columns["changed"].items()]
    return "; ".join([*parts, *([f"changed: {', '.join(changed)}"] if changed else [])])


def _snapshot(found: Mapping[str, Any]) -> Iterator[RenderableType]:
    rows = found["rows"]
    sides = [", ".join(f"{count:,} {side}" for side, count in split.items()) for split in found["split"]]
    yield pairs(
        {
            "from": f"{found['from'][:12]}, {counted(rows['before'], 'row')}: {sides[0]}",
            "to": f"{found['to'][:12]}, {counted(rows['after'], 'row')}: {sides[1]}",
            "rows": f"{rows['added']['count']:,} added, {rows['removed']['count']:,} removed",
            "moved": ", ".join(f"{count:,} {move}" for move, count in rows["moved"].items()) or "none",
            "columns": _column_changes(found["columns"]) or "the same",
        }
    )
    if found["inputs"]:
        inputs = [[one["input"], one["from"], one["to"]] for one in found["inputs"]]
        yield table("input", "from", "to", rows=inputs)
    if rows["changed"]:
        changed = [[name, one["count"], ", ".join(one["first"])] for name, one in rows["changed"].items()]
        yield table("column with other values", "rows", "the first", rows=changed)
    yield from _code({"the problem's definition": found["definition"]} if found["definition"] else {})


def _code(files: Mapping[str, list[str]]) -> Iterator[RenderableType]:
    styles = {"+": "green", "-": "red", "@": "cyan"}
    lines = [line for each in files.values() for line in each]
    for line in lines[:LINES]:
        yield Text(line, style=styles.get(line[:1], ""))
    yield from _more(len(lines), LINES, "line")


def _model(found: Mapping[str, Any]) -> Iterator[RenderableType]:
    features, test = found["features"], found["test"]
    names = "; ".join(f"{kind}: {', '.join(some)}" for kind, some in features.items() if some) or "the same"
    yield pairs(
        {
            "from": f"version {found['from']['version']}, snapshot {found['snapshots'][0][:12]}",
            "to": f"version {found['to']['version']}, snapshot {found['snapshots'][1][:12]}",
            "model": "the same bytes" if found["same_bytes"] else "other bytes",
            "features": names,
            "code": ", ".join(found["code"]) or "the same",
            "libraries": ", ".join(f"{n} {a} → {b}" for n, (a, b) in found["libraries"].items()) or "the same",
        }
    )
    if found["parameters"]:
        yield table("parameter", "from", "to", rows=[[n, str(a), str(b)] for n, (a, b) in found["parameters"].items()])
    yield from _code(found["code"])
    if test["reason"]:
        yield Text(f"not compared on test rows: {test['reason']}", style="yellow")
        return
    days = f" of {counted(test['days'], 'day')}" if test["days"] is not None else ""
    yield Text(f"\non {counted(test['rows'], 'row')}{days} that neither was trained on, the second minus the first:")
    yield table("metric", "from", "to", "difference", "95% interval", rows=list(map(_metric, test["metrics"].items())))
    if test["slices"]:
        slices = [[f"{s['column']} {s['value']}", s["rows"], *_interval(s["difference"])] for s in test["slices"]]
        yield table("slice", "rows", "difference of the loss", "simultaneous 95% interval", rows=slices)
    flips = test["flipped"]
    by = ", ".join(f"{count:,} {what}" for what, count in flips["by"].items())
    yield pairs({"other predictions": f"{flips['count']:,}{': ' if by else ''}{by}"})
    if flips["first"]:
        yield table(
            "id", "label", "from", "to", rows=[[f["id"], f["label"], f["from"], f["to"]] for f in flips["first"]]
        )
        yield from _more(flips["count"], len(flips["first"]), "row")


def _metric(item: tuple[str, Mapping[str, Any]]) -> list[Any]:
    name, values = item
    return [name.replace("_", " "), values.get("from"), values.get("to"), *_interval(values["difference"])]


def _interval(difference: Mapping[str, float | None]) -> list[Any]:
    low, high = difference["low"], difference["high"]
    return [difference["value"], f"{low:+.4f} to {high:+.4f}" if low is not None and high is not None else "–"]
