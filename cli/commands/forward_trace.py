"""`trace source`, `trace table` and `trace row`: what a file, a table version or a row affects."""

from collections.abc import Mapping
from typing import Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.text import Text

from cli.terminal.output import Answer, Json, ProblemName, command
from cli.terminal.tables import pairs, table
from truecourse.problem.loader import load_problem
from truecourse.wording import counted

SIDES = ("train", "validate", "test")


@command
def trace_source(
    file: Annotated[str, typer.Argument(help="A delivered file: its path, the key of its stored bytes, or SHA-256.")],
    problem: ProblemName = None,
    json: Json = False,
) -> Answer:
    """Show what a delivered file affects: rows, features, snapshots, models and predictions."""
    from truecourse.lineage import forward_trace
    from truecourse.storage.delta_tables import Tables

    found = forward_trace.trace_source(Tables(), load_problem(problem), file)
    return Answer(found, Group(_deliveries(found), *(part for one in found["tables"] for part in _effects(one))))


@command
def trace_row(
    table: Annotated[str, typer.Argument(metavar="TABLE", help="A table of the problem.")],
    key: Annotated[str, typer.Argument(metavar="KEY", help="The row's key; several columns are joined by |.")],
    problem: ProblemName = None,
    json: Json = False,
) -> Answer:
    """Show what one row of a table affects: features, snapshots, models and predictions."""
    from truecourse.lineage import forward_trace
    from truecourse.storage.delta_tables import Tables

    found = forward_trace.trace_row(Tables(), load_problem(problem), table, key)
    return Answer(found, Group(*(part for one in found["tables"] for part in _effects(one))))


@command
def trace_table(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A table of the problem.")],
    version: Annotated[int | None, typer.Option(help="A version of the clean table; the newest if not given.")] = None,
    problem: ProblemName = None,
    json: Json = False,
) -> Answer:
    """Show what was computed from a version of a table: features, snapshots, models and predictions."""
    from truecourse.lineage import forward_trace
    from truecourse.storage.delta_tables import Tables

    found = forward_trace.trace_table(Tables(), load_problem(problem), name, version)
    return Answer(found, _table_view(found))


def _more(count: int, shown: int, noun: str) -> list[RenderableType]:
    """A line that says how many items are not shown."""
    return (
        [Text(f"and {counted(count - shown, 'more ' + noun)}; --json counts them", style="dim")]
        if count > shown
        else []
    )


def _deliveries(found: Mapping[str, Any]) -> RenderableType:
    rows = [
        [d["table"], d["number"], d["place"], f"{d['at']:%Y-%m-%d %H:%M}", d["rows"], d["state"], d["sha256"][:12],
         "; ".join(d["refused"])]
        for d in found["deliveries"]
    ]  # fmt: skip
    return table("table", "delivery", "file", "read at", "rows", "state", "SHA-256", "why", rows=rows)


def _effects(found: Mapping[str, Any]) -> list[RenderableType]:
    """The rows, and what they affect, in the order of the data flow."""
    return [
        *_rows_view(found["rows"]),
        *_features_view(found["features"]),
        pairs({"decisions": _decisions_line(found["decisions"])}),
        *_snapshots_view(found),
        *_predictions_view(found["predictions"]),
    ]


def _rows_view(rows: Mapping[str, Any]) -> list[RenderableType]:
    states = ("current", "superseded", "quarantined", "not stored")
    counts = ", ".join(f"{rows[state]:,} {state}" for state in states if rows[state]) or "none"
    shown = [
        [one["row"], one["state"], f"{one['file']}, row {one['line']:,}" if one["file"] else None,
         _values(one["values"]), _reasons(one["reasons"])]
        for one in rows["first"]
    ]  # fmt: skip
    reasons = [f"{one['column']}: {one['expectation']} ({counted(one['rows'], 'row')})" for one in rows["reasons"]]
    parts: list[RenderableType] = [pairs({f"rows of {rows['table']}": counts})]
    if reasons:
        parts.append(pairs({"quarantined for": "; ".join(reasons)}))
    if shown:
        parts.append(table("row", "state", "from", "values", "why", rows=shown))
    return [*parts, *_more(rows["delivered"], len(shown), "row")]


def _values(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in values.items())


def _reasons(reasons: list[dict[str, Any]]) -> str:
    return "; ".join(f"{one['column']} {one['value']!r} breaks {one['expectation']}" for one in reasons)


def _features_view(views: list[dict[str, Any]]) -> list[RenderableType]:
    if not views:
        return [pairs({"features": "no view reads this table"})]
    rows = [
        [one["view"], one["table"] or "never computed", one["count"], one["changed"], one["removed"], one["added"],
         f"{one['from']:%Y-%m-%d %H:%M}" if one["from"] else None, one["method"]]
        for one in views
    ]  # fmt: skip
    headers = ("view", "feature table", "affected rows", "changed", "only with", "only without", "from", "how")
    return [table(*headers, rows=rows)]


def _decisions_line(found: Mapping[str, Any]) -> str:
    if found["count"] is None:
        return "not computed: the tables have too many rows"
    parts = [f"{count:,} by their {kind}" if kind != "decision" else f"{count:,} exist only with these rows"
             for kind, count in found["by"].items()]  # fmt: skip
    shown = f"; the first: {', '.join(found['first'])}" if found["first"] else ""
    return f"{', '.join(parts) or 'none directly'}{shown}"


def _sides(affected: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {side}" for side, count in affected.items()) or "none"


def _snapshots_view(found: Mapping[str, Any]) -> list[RenderableType]:
    snapshots, aliases = found["snapshots"], {one["version"]: one["alias"] for one in found["models"]}
    if not snapshots["count"]:
        return [pairs({"snapshots": "none"}), *_more(snapshots["not_examined"], 0, "snapshot")]
    rows = [
        [one["sha256"][:12], one["rows"], _sides(one["affected"]),
         ", ".join(f"{number}{f' ({aliases[number]})' if aliases.get(number) else ''}" for number in one["models"])]
        for one in snapshots["items"]
    ]  # fmt: skip
    drawn = table("snapshot", "rows", "affected rows", "model versions", rows=rows)
    return [drawn, *_more(snapshots["count"] + snapshots["not_examined"], len(rows), "snapshot")]


def _predictions_view(found: Mapping[str, Any]) -> list[RenderableType]:
    logged, batch = found["logged"], found["batch"]
    lines = {
        "logged predictions": f"{logged['count']:,} of {logged['of']:,} were served an affected feature row",
        "batch predictions": f"{batch['count']:,} of {batch['of']:,} are of affected decisions",
    }
    if logged["hidden"]:
        lines["not compared"] = f"the log hides the keys of {', '.join(logged['hidden'])}"
    first = [[one["prediction_id"], one["model_version"], f"{one['at']:%Y-%m-%d %H:%M:%S}"] for one in logged["first"]]
    first += [[str(one["id"]), one["model_version"], None] for one in batch["first"]]
    parts: list[RenderableType] = [pairs(lines)]
    if first:
        parts.append(table("prediction", "model version", "at", rows=first))
    return [*parts, *_more(logged["count"] + batch["count"], len(first), "prediction"), _by_models(found["by_models"])]


def _by_models(found: list[dict[str, Any]]) -> RenderableType:
    each = [f"version {one['version']}: {one['logged']:,} logged, {one['batch']:,} in batches" for one in found]
    return pairs({"made by models that learned from them": "; ".join(each) or "none"})


def _table_view(found: Mapping[str, Any]) -> RenderableType:
    features, snapshots = found["features"], found["snapshots"]
    commit, numbers = found["commit"], found["commit"]["deliveries"]
    shown = {
        "table": f"{found['table']}, {counted(found['rows'], 'row version')}",
        "written by": f"{commit['flow']}, {counted(len(numbers), 'delivery')}: {', '.join(map(str, numbers[:5]))}",
        "feature tables": ", ".join(features["first"]) or "none",
        "models": ", ".join(f"version {number}" for number in found["models"]) or "none",
        "batch predictions": f"{found['predictions']['batch']:,}",
    }
    rows = [
        [
            one["sha256"][:12],
            _sides({name: one["rows"].get(name, 0) for name in SIDES}),
            len(one["through"]),
            ", ".join(map(str, one["models"])),
        ]
        for one in snapshots["first"]
    ]
    parts: list[RenderableType] = [pairs(shown), *_more(features["count"], len(features["first"]), "feature table")]
    if rows:
        parts.append(table("snapshot", "rows", "inputs from it", "model versions", rows=rows))
    return Group(
        *parts, *_more(snapshots["count"], len(rows), "snapshot"), _by_models(found["predictions"]["by_models"])
    )
