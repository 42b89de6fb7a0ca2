"""Lineage forwards: what a source file, a version of a table or one row affects, down to the predictions."""

from collections.abc import Sequence
from typing import Any

from truecourse.data.deliveries import Delivery, read_deliveries
from truecourse.data.sql import table_label
from truecourse.errors import NotFound
from truecourse.features.aggregation_rows import source_of
from truecourse.features.asof import EVENT
from truecourse.lineage import dependents
from truecourse.lineage.affected_features import AffectedView, affected_decisions, affected_views
from truecourse.lineage.dependents import Effects
from truecourse.lineage.source_rows import (
    FIRST,
    Selection,
    describe_delivery,
    describe_rows,
    find_deliveries,
    select_deliveries,
    select_row,
    select_table,
)
from truecourse.problem import Problem
from truecourse.references import TableVersion
from truecourse.storage.delta_tables import Tables, clean_table


def trace_source(tables: Tables, problem: Problem, file: str) -> dict[str, Any]:
    """Trace a file's deliveries forwards: {"source", "deliveries", "tables": [effects of each table]}.

    `file`: as in find_deliveries(). Raises SourceError if no delivery has it."""
    found = find_deliveries(tables, problem, file)
    by_table: dict[str, list[Delivery]] = {}
    for owner, table, delivery in found:
        by_table.setdefault(table_label(problem, owner, table), []).append(delivery)
    selections = []
    for name, chosen in by_table.items():
        owner, table = select_table(problem, name)
        known, _ = read_deliveries(tables, owner.name, table.name)
        selections.append(select_deliveries(problem, owner, table, known, chosen))
    deliveries = [
        describe_delivery(tables, owner, table, delivery) | {"table": table_label(problem, owner, table)}
        for owner, table, delivery in found
    ]
    return {"source": file, "deliveries": deliveries, "tables": [effects_of(tables, one) for one in selections]}


def trace_row(tables: Tables, problem: Problem, table: str, key: str) -> dict[str, Any]:
    """Trace all versions of a row forwards: {"row", "tables": [its effects]}. Raises NotFound for an unknown one."""
    selection = select_row(tables, problem, *select_table(problem, table), key)
    return {"row": f"{table} {key}", "deliveries": [], "tables": [effects_of(tables, selection)]}


def effects_of(tables: Tables, selection: Selection) -> dict[str, Any]:
    """Return the rows, and the features, decisions, snapshots, models and predictions that they affect."""
    effects = Effects(selection.problem, affected_views(tables, selection), affected_decisions(tables, selection))
    found = dependents.affected_snapshots(tables, selection, effects)
    models = dependents.affected_models(selection.problem.name, found)
    learned = [one["version"] for one in models if one["affected"].get("train") or one["affected"].get("validate")]
    return {
        "rows": describe_rows(tables, selection),
        "features": [_view_document(effects.problem, view) for view in effects.views],
        "decisions": _decisions_document(effects),
        "snapshots": found | {"items": found["items"][:FIRST]},
        "models": models,
        "predictions": {
            "logged": dependents.affected_log_rows(tables, effects),
            "batch": dependents.affected_batch_rows(tables, effects),
            "by_models": dependents.predictions_of(tables, selection.problem.name, learned),
        },
    }


def _view_document(problem: Problem, view: AffectedView) -> dict[str, Any]:
    first = view.rows.slice(0, FIRST).to_pylist() if view.rows is not None else []
    return {
        "view": view.view.name,
        "sql": source_of(view.view, problem),
        "table": str(view.version) if view.version is not None else None,
        "method": view.method,
        "count": view.count,
        "changed": view.changed,
        "removed": view.removed,
        "added": view.added,
        "from": first[0][EVENT] if first else None,
        "first": first,
    }


def _decisions_document(effects: Effects) -> dict[str, Any]:
    """Count the decisions of the tables by what the rows affect of them; `count` is None if that was not computed."""
    found = effects.decisions
    if found is None:
        return {"count": None, "by": {}, "first": []}
    by = {kind: sum(one == kind for one in found.values()) for kind in ("decision", "request", "label")}
    return {"count": len(found), "by": {kind: n for kind, n in by.items() if n}, "first": list(found)[:FIRST]}


def trace_table(tables: Tables, problem: Problem, name: str, number: int | None = None) -> dict[str, Any]:
    """Trace a version of a clean table forwards, the newest by default: what was computed from exactly this version.

    Raises NotFound for an unknown table or version."""
    owner, table = select_table(problem, name)
    newest = tables.version(clean_table(owner.name, table.name))
    if newest is None:
        hint = f"truecourse run ingest --problem {problem.name}, then validate"
        raise NotFound("the table has no clean version", where=f"{problem.name}.{name}", hint=hint)
    version = newest if number is None else TableVersion(name=newest.name, version=number)
    commits = dict(tables.commits(newest.name))
    if version.version not in commits:
        hint = f"its versions are {min(commits)} to {max(commits)}"
        raise NotFound(f"no version {number}", where=f"{problem.name}.{name}", hint=hint)
    found = dependents.read_by(tables, problem.name, version)
    models = [one for item in found.snapshots for one in item["models"]]
    return {
        "table": str(version),
        "commit": _commit_document(commits[version.version]),
        "rows": tables.dataset(version).count_rows(),
        "features": _listed([str(one) for one in found.features]),
        "snapshots": _listed(found.snapshots),
        "models": sorted(set(models)),
        "predictions": {
            "batch": found.batch,
            "by_models": dependents.predictions_of(tables, problem.name, models),
        },
    }


def _commit_document(commit: dict[str, Any]) -> dict[str, Any]:
    numbers = [one["number"] for one in commit.get("deliveries", ())]
    return {"flow": commit.get("flow"), "run": commit.get("run"), "deliveries": numbers, "rows": commit.get("rows")}


def _listed(items: Sequence[Any]) -> dict[str, Any]:
    return {"count": len(items), "first": list(items[:FIRST])}
