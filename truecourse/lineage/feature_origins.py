"""Where each feature of a recorded prediction comes from: its feature row, and the source rows of that row.

A view's SQL is computed again from candidate rows alone: those known when the feature row was recorded, of the same key
and within the view's lookback. If that gives the recorded values, the candidates are proved to be sufficient. A row
counts for a feature if the feature has another value without this one row.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from truecourse.data import sql, table_views
from truecourse.data.arrow_types import UTC_TIME, arrow_type
from truecourse.data.former_columns import stored_names
from truecourse.data.merge import clean_schema
from truecourse.data.sources import scratch
from truecourse.data.sql import ROW
from truecourse.errors import TruecourseError
from truecourse.features.aggregation_rows import source_of
from truecourse.features.asof import CREATED, EVENT, NO_TIME
from truecourse.features.columns_read import view_columns_read
from truecourse.features.definition_digests import feature_table
from truecourse.features.view_sql import checked_query, key_columns, used_tables
from truecourse.features.view_versions import memory
from truecourse.lineage.affected_features import source_versions
from truecourse.lineage.aggregation_origins import origin_of_aggregations
from truecourse.lineage.batch_inputs import batch_commit
from truecourse.lineage.candidate_rows import MOST_CANDIDATES, TOO_MANY, Database, HeldTables, candidate_rows
from truecourse.lineage.decision_origins import origin_of_decision
from truecourse.lineage.recorded_values import DIFFERENT, SUFFICIENT, key_of, literal, same_value
from truecourse.lineage.source_files import describe_table_rows
from truecourse.monitoring.skew.view_history import ViewHistory, read_history
from truecourse.problem import Aggregations, Problem, View
from truecourse.problem.namespace import AnyView, Namespace
from truecourse.problem.schema import Table
from truecourse.references import ModelVersion, TableVersion, naive_utc
from truecourse.registry.trained_problem import archived_problem
from truecourse.storage.delta_tables import Tables, clean_table

MOST_REMOVED = 100
"""Most candidate rows that are left out one by one."""
Record = Mapping[str, Any]
Rows = Mapping[str, pa.Table]


def prediction_origins(tables: Tables, record: Record, version: ModelVersion) -> dict[str, Any]:
    """Return the origins of a record of find_records() or find_scored_rows(): {"features": [...], "origins": [...]}.

    A feature: {"feature", "value", "from", "sql", "event_time", "rows", "changed_by"}. `from`: "request", "request
    function", "part of" a time field, or the view's name. `rows`: candidate rows. `changed_by`: those without which
    alone the value is another one; None if unknown. An origin is that of a view, or of the decision of a batch: see
    _origin_of_view()."""
    with ExitStack() as stack:
        try:
            problem = archived_problem(version, stack.enter_context(scratch()))
        except TruecourseError as error:
            return {"features": [], "origins": [], "reason": f"the archived problem cannot be opened: {error.what}"}
        database = stack.enter_context(sql.connect())
        origins = [_origin_of(tables, database, problem, view, record) for view in problem.views]
        if "batch" in record and "values" in record:
            with suppress(TruecourseError, pa.ArrowException, duckdb.Error):  # its tables are gone: a link reports it
                origins += origin_of_decision(tables, database, problem, record)
        return {"features": list(_features(problem, record, origins)), "origins": origins}


def _features(problem: Problem, record: Record, origins: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    given = record["values"] if "values" in record else record["features"]
    views = {name: view.name for view in problem.views for name in view.features}
    computed = problem.request_features.features if problem.request_features is not None else {}
    parts = {name: f"part of {feature.field}" for name, feature in problem.time_features.items()}
    by_view = {origin["view"]: origin for origin in origins}
    for name in problem.features:
        source = views.get(name) or parts.get(name) or ("request function" if name in computed else "request")
        origin = by_view.get("request" if name in parts else source, {})
        changed = origin.get("changed_by")
        yield {
            "feature": name,
            "value": given.get(name),
            "from": source,
            "sql": origin.get("sql"),
            "event_time": origin.get("event_time"),
            "rows": origin.get("rows"),
            "changed_by": None if changed is None else changed.get(name, 0),
        }


def _origin_of(tables: Tables, database: Database, problem: Problem, view: AnyView, record: Record) -> dict[str, Any]:
    if isinstance(view, Aggregations):
        version = _version_of(tables, problem, record, feature_table(problem, view.name))
        return origin_of_aggregations(tables, problem, view, record, version)
    return _origin_of_view(tables, database, problem, view, record)


def _origin_of_view(tables: Tables, database: Database, problem: Problem, view: View, record: Record) -> dict[str, Any]:
    """Return a view's feature row and its source rows.

    {"view", "sql", "view_version": the first digits of its definition's digest, "feature_table", "key", "event_time",
    "recorded_at", "state": "sufficient", "candidates" or "none", "detail", "rows", "changed_by": {feature: rows} or
    None, "tables": [describe_table_rows()]}."""
    name = feature_table(problem, view.name)
    about: dict[str, Any] = {"view": view.name, "sql": source_of(view, problem)}
    about |= {"view_version": name.rpartition(".")[2], "feature_table": name}
    about |= {"key": None, "event_time": None, "recorded_at": None, "state": "none", "rows": 0, "changed_by": None}
    try:
        found = _feature_row(tables, problem, view, record, name)
        if isinstance(found, str):
            return about | {"detail": found, "tables": []}
        about |= {"feature_table": str(found.version), "key": found.key, "recorded_at": found.created}
        about |= {"event_time": None if view.timeless else found.event}
        return about | _source_rows(tables, database, problem.namespace_of(view.name), view, found)
    except (TruecourseError, pa.ArrowException, duckdb.Error) as error:
        what = error.what if isinstance(error, TruecourseError) else str(error)
        return about | {"detail": f"cannot be computed again: {what}", "tables": []}


@dataclass(frozen=True)
class FeatureRow:
    """A row of a feature table: its key, times (UTC) and values by feature."""

    version: TableVersion
    key: dict[str, Any]
    event: datetime
    created: datetime
    values: dict[str, Any]


def _feature_row(tables: Tables, problem: Problem, view: View, record: Record, name: str) -> FeatureRow | str:
    """Find the feature row that a prediction looked up; the reason if there is none.

    The log names the event time. Of a batch prediction, the row is looked up as of the decision."""
    batch, columns = "values" in record, key_columns(problem, view)
    key = key_of(problem, view, record)
    if isinstance(key, str):
        return key
    version = _version_of(tables, problem, record, name) or tables.version(name)
    if version is None:
        return "no feature table was computed with this definition of the view"
    typed = {name: pa.scalar(value, arrow_type(columns[name])) for name, value in key.items()}
    event = _looked_up(tables, problem, view, version, typed, record) if batch else _served(view, record)
    if event is None:
        return "no row of its key was known within the time to live"
    condition = pc.field(EVENT) == pa.scalar(event, UTC_TIME)
    for name, value in typed.items():
        condition &= pc.field(name) == value
    rows = tables.read(version, filter=condition).sort_by(CREATED).to_pylist()
    limit = record.get("scored_at") or record.get("at")
    known = [row for row in rows if limit is None or row[CREATED] <= limit] or rows
    served = record["values"] if batch else record["features"]
    equal = [row for row in known if all(same_value(row[name], served.get(name)) for name in view.features)]
    if not equal:
        return f"no version of the feature row of {event:%Y-%m-%d %H:%M:%S} has these values any more"
    row = equal[-1]
    return FeatureRow(version, key, row[EVENT], row[CREATED], {name: row[name] for name in view.features})


def _version_of(tables: Tables, problem: Problem, record: Record, name: str) -> TableVersion | None:
    """Return the version of a feature table that a batch prediction's commit names."""
    commit = batch_commit(tables, problem, record) if "values" in record else None
    named = [TableVersion.model_validate(one) for one in commit["tables"]] if commit is not None else []
    return next((one for one in named if one.name == name), None)


def _served(view: View, record: Record) -> datetime | None:
    text = (record.get("event_times") or {}).get(next(iter(view.features)))
    return datetime.fromisoformat(text).astimezone(UTC) if text else None


def _looked_up(
    tables: Tables, problem: Problem, view: View, version: TableVersion, key: Mapping[str, Any], record: Record
) -> datetime | None:
    moment = naive_utc(record["decision_time"]) or NO_TIME
    history = read_history(problem, tables, view, moment, moment, datetime(9999, 1, 1), version)
    if not isinstance(history, ViewHistory):
        return None
    keys = pl.DataFrame(pa.table({name: pa.array([value]) for name, value in key.items()}))
    event = history.as_of(keys, np.array([moment], dtype="datetime64[us]")).event[0]
    return None if np.isnat(event) else event.item().replace(tzinfo=UTC)


def _source_rows(tables: Tables, database: Database, problem: Namespace, view: View, row: FeatureRow) -> dict[str, Any]:
    """Find the candidate rows of a feature row, prove that they suffice, and leave each out in turn."""
    versions = source_versions(tables, problem, row.version)
    used = [table for table in problem.tables if table.name in used_tables(problem, view)]
    names = {table.name: stored_names(tables, versions[table.name], table.columns) for table in used}
    read = view_columns_read(problem, view)
    for by_key in (True, False):
        wheres = {table.name: _conditions(view, table, row, by_key, names[table.name]) for table in used}
        rows = {
            t.name: candidate_rows(tables, database, versions[t.name], t, wheres[t.name], read[t.name]) for t in used
        }
        count = sum(map(len, rows.values()))
        if count > MOST_CANDIDATES:
            detail, state, changed = TOO_MANY, "candidates", None
            break
        with sql.connect(database) as connection:
            again = Recomputation(connection, problem, view, versions, row, rows)
            if not again.different():
                state, detail = "sufficient", SUFFICIENT
                changed = again.changes() if count <= MOST_REMOVED else None
                break
        state, detail, changed = (
            "candidates",
            DIFFERENT,
            None,
        )
    described = [
        describe_table_rows(tables, problem, table, versions[table.name], rows[table.name], wheres[table.name],
                            None if changed is None else changed[table.name])
        for table in used
    ]  # fmt: skip
    by_feature = None if changed is None else {
        name: sum(name in names for each in changed.values() for names in each.values()) for name in view.features
    }  # fmt: skip
    return {"state": state, "detail": detail, "rows": count, "changed_by": by_feature, "tables": described}


def _conditions(view: View, table: Table, row: FeatureRow, by_key: bool, stored: Mapping[str, str]) -> str:
    """SQL of a table's rows that were known when the feature row was recorded, within the view's lookback.

    `stored`: the names under which the table's version stores its columns; empty if one was removed."""
    created = row.created.astimezone(UTC).replace(tzinfo=None)
    parts = [sql.CURRENT if view.timeless else sql.as_of(created)]
    time = stored[table.time] if table.time is not None else ""
    if time and view.lookback is not None and not view.timeless:
        bounds = (row.event - view.lookback - memory(view), row.event + view.lookback)
        start, end = (f"TIMESTAMPTZ '{t.astimezone(UTC).replace(tzinfo=None).isoformat(sep=' ')}+00'" for t in bounds)
        parts.append(f"{sql.quote(time)} BETWEEN {start} AND {end}")
    keys = {stored[name]: value for name, value in row.key.items() if stored.get(name)} if by_key else {}
    return " AND ".join([*(f"{sql.quote(name)} = {literal(value)}" for name, value in keys.items()), *parts])


class Recomputation:
    """Computes a feature row from some rows of the tables alone. `rows`: by table."""

    def __init__(
        self,
        connection: duckdb.DuckDBPyConnection,
        problem: Namespace,
        view: View,
        versions: Mapping[str, TableVersion],
        row: FeatureRow,
        rows: Rows,
    ) -> None:
        self._connection, self._view, self._row, self._rows = connection, view, row, rows
        # The SQL reads no other tables: empty ones, because a stored one may have other columns by now.
        every = {table.name: rows.get(table.name, clean_schema(table).empty_table()) for table in problem.tables}
        held = HeldTables({clean_table(problem.name, name): table for name, table in every.items()})
        known = sql.CURRENT if view.timeless else sql.as_of(row.created.astimezone(UTC).replace(tzinfo=None))
        table_views.bind(connection, problem, held, versions, rows=known)
        keys = " AND ".join(f"{sql.quote(name)} = {literal(value)}" for name, value in row.key.items())
        query = checked_query(connection, problem, view)
        self._query = (
            f"SELECT * FROM ({query}) WHERE {keys} AND {EVENT} <= {literal(row.event)} "  # noqa: S608
            f"ORDER BY {EVENT} DESC LIMIT 1"
        )

    def different(self) -> list[str]:
        """Return the features whose values differ from the recorded ones. Of a row that does not exist in a later
        version of the view's rows, the values of the row before it count."""
        found = sql.fetch(self._connection, self._query, self._view.sql).to_pylist()
        if not found:
            return list(self._view.features)
        moved = found[0][EVENT] != self._row.event and self._row.created == self._row.event
        return [name for name, value in self._row.values.items() if moved or not same_value(value, found[0][name])]

    def changes(self) -> dict[str, dict[int, list[str]]]:
        """Return the features that have another value without each row, by table and row number."""
        found: dict[str, dict[int, list[str]]] = {}
        for name, held in self._rows.items():
            found[name] = {}
            for number in held[ROW].to_pylist():
                self._connection.register(f"{name}__rows", held.filter(pc.field(ROW) != number))
                found[name][number] = self.different()
            self._connection.register(f"{name}__rows", held)
        return found
