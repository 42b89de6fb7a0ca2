"""The source rows of the aggregations of a recorded prediction: those that count for a feature at the decision."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from truecourse.arrays import Array
from truecourse.data import sql
from truecourse.data.arrow_types import UTC_TIME, arrow_type
from truecourse.data.sql import ROW
from truecourse.errors import TruecourseError
from truecourse.features.aggregates.evaluation import evaluate
from truecourse.features.aggregation_lookup import as_known_at, longest_window
from truecourse.features.aggregation_rows import source_of
from truecourse.features.asof import CREATED, EVENT
from truecourse.features.columns_read import view_columns_read
from truecourse.features.definition_digests import feature_table, view_digest
from truecourse.features.view_sql import key_columns
from truecourse.lineage.affected_features import source_versions
from truecourse.lineage.recorded_values import DIFFERENT, SUFFICIENT, as_declared, key_of, literal, same_value
from truecourse.lineage.source_files import describe_table_rows
from truecourse.problem import Aggregations, Problem
from truecourse.problem.namespace import Namespace
from truecourse.references import TableVersion
from truecourse.storage.delta_tables import Tables

MOST_REMOVED = 100
"""Most rows that are left out one by one."""
Record = Mapping[str, Any]


def origin_of_aggregations(
    tables: Tables, problem: Problem, view: Aggregations, record: Record, version: TableVersion | None
) -> dict[str, Any]:
    """Return the source rows of aggregations, in the form of feature_origins. `version`: of the feature table, by
    default the newest. `event_time` is the time of the newest event that counts."""
    version = version or tables.version(feature_table(problem, view.name))
    about: dict[str, Any] = {"view": view.name, "sql": source_of(view, problem)}
    about |= {"view_version": view_digest(problem, view)[:12], "key": None, "event_time": None}
    about |= {"feature_table": str(version or feature_table(problem, view.name))}
    about |= {"recorded_at": None, "state": "none", "rows": 0, "changed_by": None, "tables": []}
    key = key_of(problem, view, record)
    if isinstance(key, str):
        return about | {"detail": key}
    if version is None:
        return about | {"detail": "no feature table was computed with this definition of the view"}
    try:
        return about | {"key": key} | _source_rows(tables, problem.namespace_of(view.name), view, record, version, key)
    except (TruecourseError, pa.ArrowException) as error:
        what = error.what if isinstance(error, TruecourseError) else str(error)
        return about | {"detail": f"cannot be computed again: {what}"}


def _source_rows(
    tables: Tables, problem: Namespace, view: Aggregations, record: Record, version: TableVersion, key: dict[str, Any]
) -> dict[str, Any]:
    decided = _moment(record["decision_time"])
    columns = key_columns(problem, view)
    keys = pa.table({name: pa.array([value], arrow_type(columns[name])) for name, value in key.items()})
    stored = _known_rows(tables, view, version, keys, decided, _served(view, record) or decided)
    recorded = record["values"] if "values" in record else record["features"]
    values = _values(view, stored, keys, decided)
    wrong = [name for name, value in values.items() if name in recorded and not same_value(value, recorded[name])]
    numbers = stored[ROW].to_pylist()
    changes: dict[int, list[str]] | None = None
    if len(numbers) <= MOST_REMOVED:
        without = {number: _values(view, stored.filter(pc.field(ROW) != number), keys, decided) for number in numbers}
        changes = {
            number: [name for name in values if not same_value(values[name], other[name])]
            for number, other in without.items()
        }
    table, versions = problem.table(view.table), source_versions(tables, problem, version)
    where = _condition(view, key, decided)
    rows = tables.read(versions[table.name], filter=pc.field(ROW).isin(numbers))
    rows = as_declared(tables, versions[table.name], table, rows, view_columns_read(problem, view)[table.name])
    described = describe_table_rows(tables, problem, table, versions[table.name], rows, where, changes)
    return {
        "state": "candidates" if wrong else "sufficient",
        "detail": DIFFERENT if wrong else SUFFICIENT,
        "event_time": pc.max(stored[EVENT]).as_py(),
        "recorded_at": pc.max(stored[CREATED]).as_py(),
        "rows": len(numbers),
        "changed_by": None if changes is None else {n: sum(n in names for names in changes.values()) for n in values},
        "tables": [described],
    }


def _known_rows(
    tables: Tables, view: Aggregations, version: TableVersion, keys: pa.Table, decided: datetime, loaded: datetime
) -> pa.Table:
    """The stored rows of the key that were known at the decision and at the load, and that a window can reach."""
    condition = pc.field(EVENT) <= pa.scalar(decided, UTC_TIME)
    if memory := longest_window(view):
        condition &= pc.field(EVENT) > pa.scalar(decided - memory, UTC_TIME)
    for name in keys.column_names:
        condition &= pc.field(name) == keys[name][0]
    rows = tables.read(version, filter=condition)
    return as_known_at(rows, pa.scalar(min(decided, loaded), UTC_TIME))


def _values(view: Aggregations, stored: pa.Table, keys: pa.Table, decided: datetime) -> dict[str, Any]:
    moment: Array = np.array([decided.replace(tzinfo=None)], dtype="datetime64[us]")
    return {name: _plain(values[0]) for name, values in evaluate(view, stored, keys, moment).items()}


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, str):
        return value
    return None if np.isnan(value) else float(value)


def _served(view: Aggregations, record: Record) -> datetime | None:
    """The load that a served prediction was evaluated from."""
    text = (record.get("event_times") or {}).get(next(iter(view.features)))
    return datetime.fromisoformat(text).astimezone(UTC) if text else None


def _moment(time: Any) -> datetime:
    moment = datetime.fromisoformat(time) if isinstance(time, str) else time
    assert isinstance(moment, datetime)  # a problem with aggregations has time
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def _condition(view: Aggregations, key: Mapping[str, Any], decided: datetime) -> str:
    """SQL of the rows that can count, for a person who looks them up."""
    at, time = decided.replace(tzinfo=None), sql.quote(view.time)
    parts = [*(f"{sql.quote(name)} = {literal(value)}" for name, value in key.items()), sql.as_of(at)]
    parts.append(f"{time} <= {literal(decided)}")
    if memory := longest_window(view):
        parts.append(f"{time} > {literal(decided - memory)}")
    return " AND ".join([*parts, *([f"({view.where})"] if view.where else [])])
