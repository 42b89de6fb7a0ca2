"""Snapshots, models and predictions that source rows or a table version affect."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from truecourse.arrays import Array
from truecourse.data import sql
from truecourse.errors import StorageError, TruecourseError
from truecourse.features.affected_spans import ALWAYS
from truecourse.features.asof import EVENT
from truecourse.features.view_sql import duckdb_type, key_columns
from truecourse.lineage.affected_features import AffectedView
from truecourse.lineage.recorded_values import literal
from truecourse.lineage.source_rows import FIRST, Selection
from truecourse.modeling.snapshot import Manifest, load_frame, load_manifest
from truecourse.problem import Problem
from truecourse.references import ModelVersion, Snapshot, TableVersion
from truecourse.registry import aliases, runs
from truecourse.registry import versions as registry
from truecourse.serving.batch_scoring import BATCH, MODEL_VERSION, predictions_table
from truecourse.serving.prediction_log import VIEW_COLUMNS, log_table
from truecourse.storage.delta_tables import Tables

MOST_SNAPSHOTS = 20
"""Most snapshots whose frames are read; the others are counted."""


@dataclass(frozen=True)
class Effects:
    """What a selection of rows affects: feature rows by view, and past decisions by id (None: not computed)."""

    problem: Problem
    views: Sequence[AffectedView]
    decisions: Mapping[str, str] | None

    def affected(self, rows: pa.Table, ids: bool = True) -> Array:
        """Return which of n decisions (id, keys, time) are affected. `ids`: whether they have the decisions' ids."""
        found = np.zeros(len(rows), dtype=bool)
        if ids and self.decisions:
            values = pa.array(self.decisions.keys(), pa.string())
            found |= pc.is_in(rows["id"].cast(pa.string()), values).to_numpy()
        for view in self.views:
            keys = list(key_columns(self.problem, view.view))
            if set(keys) <= {*rows.column_names}:
                found |= view.affects(rows, keys)
        return found

    @property
    def columns(self) -> list[str]:
        """The columns of decisions that affected() reads."""
        keys = [key for view in self.views for key in key_columns(self.problem, view.view)]
        return list(dict.fromkeys(["id", *(["decision_time"] if self.problem.has_time else []), *keys]))


def snapshots(tables: Tables, problem: str) -> list[tuple[Snapshot, list[ModelVersion]]]:
    """Return every snapshot with the registered versions trained on it; those of the newest versions first."""
    trained: dict[str, list[ModelVersion]] = {}
    for version in reversed(registry.versions(problem)):
        try:
            trained.setdefault(runs.trained_run(problem, version.run_id).snapshot.sha256, []).append(version)
        except (TruecourseError, ValueError):  # its record is gone or unreadable; `trace model` reports it
            continue
    prefix = f"snapshots/{problem}/"
    stored = [key.removeprefix(prefix).split("/") for key in tables.store.list(prefix)]
    digests = sorted({parts[0] for parts in stored if parts[1:] == ["manifest.json"]})
    ordered = [*(one for one in trained if one in digests), *(one for one in digests if one not in trained)]
    return [(Snapshot(problem=problem, sha256=one, rows=0), trained.get(one, [])) for one in ordered]


def affected_snapshots(tables: Tables, selection: Selection, effects: Effects) -> dict[str, Any]:
    """Return the snapshots that hold affected decisions, with their number by split, and the models trained on them.

    {"count", "not_examined", "items": [{"sha256", "rows", "holds_rows", "affected": {split: n}, "models": [...]}]}.
    `holds_rows`: whether its clean table holds any of the rows; None if that version's files are gone."""
    every, items = snapshots(tables, selection.problem.name), []
    for snapshot, models in every[:MOST_SNAPSHOTS]:
        manifest = load_manifest(tables.store, snapshot)
        holds = _holds(tables, manifest, selection)
        if holds is False:
            continue
        frame = load_frame(tables.store, snapshot)
        columns = [name for name in (*effects.columns, "split") if name in frame.column_names]
        mask = effects.affected(frame.select(columns))
        sides = Counter(frame["split"].filter(pa.array(mask)).to_pylist())
        if holds is None or sides:
            item = {"sha256": snapshot.sha256, "rows": len(frame), "holds_rows": holds, "affected": dict(sides)}
            items.append(item | {"models": [one.version for one in models]})
    return {"count": len(items), "not_examined": max(0, len(every) - MOST_SNAPSHOTS), "items": items}


def _holds(tables: Tables, manifest: Manifest, selection: Selection) -> bool | None:
    version = manifest.versions("clean").get(selection.label)
    if version is None:
        return False
    try:
        return selection.is_in(tables, version)
    except (StorageError, pa.ArrowException, OSError):
        return None


def affected_models(problem: str, found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the registered versions trained or tested on affected decisions, with their number by split."""
    now = aliases.current(problem)
    names = {one.version: alias for alias in ("challenger", "champion") if (one := getattr(now, alias)) is not None}
    models = [
        {"version": version, "alias": names.get(version), "snapshot": item["sha256"], "affected": item["affected"]}
        for item in found["items"]
        for version in item["models"]
    ]
    return sorted(models, key=lambda model: model["version"])


def affected_batch_rows(tables: Tables, effects: Effects) -> dict[str, Any]:
    """Return the batch predictions of affected decisions: {"count", "of", "first": [...]}.

    Rows of scored files count by their features only: their ids are the file's, not those of decisions."""
    reference = tables.version(predictions_table(effects.problem.name))
    if reference is None:
        return {"count": 0, "of": 0, "first": []}
    dataset = tables.dataset(reference)
    columns = [name for name in effects.columns if name in dataset.schema.names]
    rows = tables.read(reference, [*columns, MODEL_VERSION, BATCH])
    files = {commit["batch"] for _, commit in tables.commits(reference.name) if commit.get("source")}
    of_file = pc.is_in(rows[BATCH], pa.array(files, pa.string()))
    parts = [(rows.filter(pc.invert(of_file)), True), (rows.filter(of_file), False)]
    found = pa.concat_tables([part.filter(pa.array(effects.affected(part, ids))) for part, ids in parts])
    first = found.slice(0, FIRST).rename_columns({MODEL_VERSION: "model_version", BATCH: "batch"}).to_pylist()
    return {"count": len(found), "of": len(rows), "first": first}


def affected_log_rows(tables: Tables, effects: Effects) -> dict[str, Any]:
    """Return the logged predictions that were served an affected feature row: {"count", "of", "hidden", "first"}.

    A logged prediction names the event time of each looked-up value. `hidden`: views whose key the log masks."""
    reference = tables.version(log_table(effects.problem.name))
    empty: dict[str, Any] = {"count": 0, "of": 0, "hidden": [], "first": []}
    if reference is None:
        return empty
    hidden = [v.view.name for v in effects.views if _private(effects.problem, v)]
    with sql.connect() as connection:
        connection.register("log", tables.dataset(reference))
        by_view = set(VIEW_COLUMNS) <= {*tables.dataset(reference).schema.names}
        ((total,),) = connection.execute("SELECT count(*) FROM log").fetchall()
        queries = []
        for number, view in enumerate(effects.views):
            if not view.count or view.view.name in hidden:
                continue
            if view.rows is not None:
                connection.register(
                    f"rows_{number}", view.rows.select([*key_columns(effects.problem, view.view), EVENT])
                )
            queries.append(_served_query(effects.problem, view, f"rows_{number}", by_view))
        if not queries:
            return empty | {"of": total, "hidden": hidden}
        names = 'prediction_id, "at", model_version, role'
        connection.execute(f"CREATE TEMP TABLE served AS {' UNION '.join(queries)}")
        ((count,),) = connection.execute("SELECT count(*) FROM served").fetchall()
        query = f'SELECT {names} FROM served ORDER BY "at", prediction_id LIMIT {FIRST}'  # noqa: S608
        first = connection.sql(query).to_arrow_table()
    return {"count": count, "of": total, "hidden": hidden, "first": first.to_pylist()}


def _private(problem: Problem, view: AffectedView) -> bool:
    return any(column.private for column in key_columns(problem, view.view).values())


def _served_query(problem: Problem, view: AffectedView, rows: str, by_view: bool) -> str:
    """SQL of the logged predictions whose looked-up values come from one of these feature rows.

    by_view: whether the log has event times by view; records of older versions have them by feature."""

    def path(name: str) -> str:
        return "'$.\"" + name.replace("'", "''") + "\"'"

    names = 'l.prediction_id, l."at", l.model_version, l.role'
    event = f"TRY_CAST(json_extract_string(l.event_times, {path(next(iter(view.view.features)))}) AS TIMESTAMPTZ)"
    if by_view:
        event = f"COALESCE(l.view_event_times[{literal(view.view.name)}], {event})"
    if view.rows is None:
        if ALWAYS in view.ranges:
            return f"SELECT {names} FROM log AS l WHERE {event} IS NOT NULL"  # noqa: S608
        bounds = [[f"TIMESTAMPTZ '{t.isoformat(sep=' ')}+00'" for t in one.moments()] for one in view.ranges]
        within = " OR ".join(f"{event} BETWEEN {start} AND {end}" for start, end in bounds)
        return f"SELECT {names} FROM log AS l WHERE {within}"  # noqa: S608
    on = [f"{event} = r.{EVENT}"] + [
        f"TRY_CAST(json_extract_string(l.request, {path(key)}) AS {duckdb_type(column)}) = r.{sql.quote(key)}"
        for key, column in key_columns(problem, view.view).items()
    ]
    return f"SELECT {names} FROM log AS l SEMI JOIN {rows} AS r ON {' AND '.join(on)}"  # noqa: S608


def predictions_of(tables: Tables, problem: str, models: Iterable[int]) -> list[dict[str, Any]]:
    """Count the predictions of these model versions in the log and in batches."""
    wanted, log, batches = sorted(set(models)), log_table(problem), predictions_table(problem)
    if not wanted:
        return []
    logged, scored = _by_version(tables, log, "model_version"), _by_version(tables, batches, MODEL_VERSION)
    return [
        {
            "version": version,
            "logged": logged.get(version, 0),
            "batch": scored.get(version, 0),
        }
        for version in wanted
    ]


def _by_version(tables: Tables, name: str, column: str) -> dict[int, int]:
    reference = tables.version(name)
    if reference is None:
        return {}
    counts = tables.read(reference, [column])[column].value_counts()
    return {one["values"]: one["counts"] for one in counts.to_pylist()}


@dataclass(frozen=True)
class TableEffects:
    """What was computed from exactly one version of a clean table: by name and version."""

    features: list[TableVersion] = field(default_factory=list)
    snapshots: list[dict[str, Any]] = field(default_factory=list)
    batch: int = 0


def read_by(tables: Tables, problem: str, version: TableVersion) -> TableEffects:
    """Find what was computed from a version of a clean table, as recorded in commits and manifests."""
    features = [
        TableVersion(name=name, version=number)
        for name in _feature_tables(tables, version.name.split("/")[1])
        for number, commit in tables.commits(name)
        if version.model_dump() in commit.get("inputs", ())
    ]
    found, known = [], {str(one) for one in features} | {str(version)}
    for snapshot, models in snapshots(tables, problem):
        manifest = load_manifest(tables.store, snapshot)
        through = [str(item.table) for item in manifest.inputs if str(item.table) in known]
        if through:
            item = {"sha256": snapshot.sha256, "rows": manifest.rows, "through": through}
            found.append(item | {"models": [one.version for one in models]})
    predicted = predictions_table(problem)
    commits = [commit for _, commit in tables.commits(predicted)]
    batch = [
        c["rows"] for c in commits if any(str(TableVersion.model_validate(t)) in known for t in c.get("tables", ()))
    ]
    return TableEffects(features, found, sum(batch))


def _feature_tables(tables: Tables, namespace: str) -> list[str]:
    prefix = f"features/{namespace}/"
    return sorted({prefix + key.removeprefix(prefix).split("/")[0] for key in tables.store.list(prefix)})
