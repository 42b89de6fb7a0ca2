"""The sections of each kind of difference, for the terminal and for a page."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from truecourse.evaluation.comparison_sections import features_text, flipped_sections, interval_cells
from truecourse.page_sections import Code, Note, Pairs, Rows, Section
from truecourse.wording import counted


def table_sections(found: Mapping[str, Any]) -> Iterator[Section]:
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
    yield Pairs(shown)
    for kind, items in rows["first"].items():
        if items:
            lines = [[", ".join(f"{name}={_cell(value)}" for name, value in row.items())] for row in items]
            yield Rows((f"{kind}, the first",), lines, rest=rows[kind] - len(items), noun=f"{kind} row")


def _quarantine(side: Mapping[str, Any]) -> str:
    reasons = ", ".join(f"{reason} ({count:,})" for reason, count in side["reasons"].items())
    return f"{counted(side['rows'], 'row')}{f', {reasons}' if reasons else ''}"


def _cell(value: Any) -> str:
    return f"{value[0]} → {value[1]}" if isinstance(value, list) else str(value)


def _column_changes(columns: Mapping[str, Any]) -> str:
    parts = [f"{kind}: {', '.join(columns[kind])}" for kind in ("added", "removed") if columns[kind]]
    changed = [f"{name} {before} → {after}" for name, (before, after) in columns["changed"].items()]
    return "; ".join([*parts, *([f"changed: {', '.join(changed)}"] if changed else [])])


def _redactions(found: Mapping[str, Any]) -> dict[str, str]:
    """Which side lacks the rows of a forgotten subject."""
    sides = zip(("from", "to"), found["redacted"], strict=True)
    texts = [f"{side} redacted on {day}: a subject was forgotten" for side, day in sides if day]
    return {"redacted": "; ".join(texts)} if texts else {}


def snapshot_sections(found: Mapping[str, Any]) -> Iterator[Section]:
    rows = found["rows"]
    sides = [", ".join(f"{count:,} {side}" for side, count in split.items()) for split in found["split"]]
    yield Pairs(
        {
            "from": f"{found['from'][:12]}, {counted(rows['before'], 'row')}: {sides[0]}",
            "to": f"{found['to'][:12]}, {counted(rows['after'], 'row')}: {sides[1]}",
            "rows": f"{rows['added']['count']:,} added, {rows['removed']['count']:,} removed",
            "moved": ", ".join(f"{count:,} {move}" for move, count in rows["moved"].items()) or "none",
            "columns": _column_changes(found["columns"]) or "the same",
            **_redactions(found),
        }
    )
    if found["inputs"]:
        inputs = [[one["input"], one["from"], one["to"]] for one in found["inputs"]]
        yield Rows(("input", "from", "to"), inputs)
    if rows["changed"]:
        changed = [[name, one["count"], ", ".join(one["first"])] for name, one in rows["changed"].items()]
        yield Rows(("column with other values", "rows", "the first"), changed)
    yield from _code({"the problem's definition": found["definition"]} if found["definition"] else {})


def _code(files: Mapping[str, list[str]]) -> Iterator[Section]:
    if files:
        yield Code([line for each in files.values() for line in each])


def model_sections(found: Mapping[str, Any]) -> Iterator[Section]:
    test = found["test"]
    yield Pairs(
        {
            "from": f"version {found['from']['version']}, snapshot {found['snapshots'][0][:12]}",
            "to": f"version {found['to']['version']}, snapshot {found['snapshots'][1][:12]}",
            "model": "the same bytes" if found["same_bytes"] else "other bytes",
            "features": features_text(found["features"]),
            "code": ", ".join(found["code"]) or "the same",
            "libraries": ", ".join(f"{n} {a} → {b}" for n, (a, b) in found["libraries"].items()) or "the same",
            **_redactions(found),
        }
    )
    if found["parameters"]:
        yield Rows(("parameter", "from", "to"), [[n, str(a), str(b)] for n, (a, b) in found["parameters"].items()])
    yield from _code(found["code"])
    if test["reason"]:
        yield Note(f"not compared on test rows: {test['reason']}")
        return
    days = f" of {counted(test['days'], 'day')}" if test["days"] is not None else ""
    yield Note(f"On {counted(test['rows'], 'row')}{days} that neither was trained on, the second minus the first:")
    headers = ("metric", "from", "to", "difference", "95% interval")
    yield Rows(headers, list(map(_metric, test["metrics"].items())))
    if test["slices"]:
        slices = [[f"{s['column']} {s['value']}", s["rows"], *interval_cells(s["difference"])] for s in test["slices"]]
        yield Rows(("slice", "rows", "difference of the loss", "simultaneous 95% interval"), slices)
    yield from flipped_sections(test["flipped"])


def problem_sections(found: Mapping[str, Any]) -> Iterator[Section]:
    declared = found["declared"]
    yield Pairs(
        {
            "from": found["from"],
            "to": found["to"],
            "affects": found["affects"],
            "files": ", ".join(found["code"]) or "the same",
        }
    )
    if declared:
        yield Rows(("declaration", "from", "to"), [[one["field"], *_sides(one)] for one in declared])
    yield from _code(found["code"])


def _sides(one: Mapping[str, Any]) -> Iterator[str | None]:
    """Both values of a field; of digests the first 12 digits."""
    for value in (one["from"], one["to"]):
        yield value[:12] if value is not None and re.fullmatch("[0-9a-f]{64}", value) else value


def environment_sections(found: Mapping[str, Any]) -> Iterator[Section]:
    yield Pairs({name: f"{found[name]['environment']}: {_deployed(found[name])}" for name in ("from", "to")})
    if found["fields"]:
        yield Rows(("field", "from", "to"), [[one["field"], one["from"], one["to"]] for one in found["fields"]])
    else:
        yield Note("The configurations are the same.")


def _deployed(side: Mapping[str, Any]) -> str:
    if side["version"] is None:
        return "nothing is deployed"
    return f"version {side['version']}, deployed {side['at']} by {side['author']}"


def _metric(item: tuple[str, Mapping[str, Any]]) -> list[Any]:
    name, values = item
    return [name.replace("_", " "), values.get("from"), values.get("to"), *interval_cells(values["difference"])]
