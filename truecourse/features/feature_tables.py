"""Compute feature tables from the clean tables, with the time at which each value became known.

The table of Aggregations holds the versions of the source rows (truecourse/features/aggregation_rows.py). That of a
view in SQL holds the versions of its result. The first version of a feature row is what was known at its event time. A
late source row or a correction is known from its epoch on (`_tc_recorded_at`), and the feature rows that it affects get
another version, created at that epoch. A feature row that disappears by such a change takes the values of the row
before it.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Protocol

import duckdb

from truecourse.data import sql
from truecourse.data.former_columns import altered_columns, stored_names
from truecourse.errors import StorageError
from truecourse.features.affected_spans import ALWAYS, TimeRange, merge_ranges, ranges_around
from truecourse.features.aggregates.stored_rows import UNTIL
from truecourse.features.aggregation_rows import AggregationRows
from truecourse.features.asof import CREATED, EVENT
from truecourse.features.columns_read import view_columns_read
from truecourse.features.computation_cost import Stopwatch, record_cost
from truecourse.features.definition_digests import feature_table, view_digest
from truecourse.features.view_sql import used_tables
from truecourse.features.view_versions import HISTORY, History, reach
from truecourse.problem import Aggregations
from truecourse.problem.namespace import AnyView, Namespace
from truecourse.problem.schema import Table
from truecourse.references import TableVersion
from truecourse.storage.compaction import after_compactions, compact_small_files
from truecourse.storage.delta_tables import Tables
from truecourse.storage.locks import locked

Commit = dict[str, Any]
PATIENCE = 600
"""Seconds to wait for another process that computes the same view."""


def compute_view(problem: Namespace, tables: Tables, name: str, *, run: str = "", full: bool = False) -> TableVersion:
    """Update a view's feature table to the newest clean tables; write nothing if it is up to date.

    Only time ranges that new, late or corrected rows can affect are computed, unless `full` is set, or the view's SQL
    or declaration changed. Its cost is recorded (truecourse/features/computation_cost.py).
    Raises FeatureError with the SQL file, and NotFound if a table was never validated."""
    owner = problem.namespace_of(name)
    inputs = _inputs(owner, tables, name)
    if not full and (newest := _up_to_date(owner, tables, name, inputs)):
        return newest
    with locked(tables.store, f"features/{owner.name}/{name}", patience=PATIENCE):  # others may compute it
        return _compute(owner, tables, name, run, full)


def _inputs(problem: Namespace, tables: Tables, name: str) -> list[Commit]:
    """The newest clean versions of the tables that a view reads."""
    current, used = sql.clean_versions(problem, tables), used_tables(problem, problem.view(name))
    return [current[table.name].model_dump() for table in problem.tables if table.name in used]


def _up_to_date(problem: Namespace, tables: Tables, name: str, inputs: list[Commit]) -> TableVersion | None:
    """The newest version of a view's feature table; None if it was computed from other table versions."""
    version, last = _newest(tables, feature_table(problem, name))
    same = version is not None and last.get("view_digest") == view_digest(problem, problem.view(name))
    return version if same and last["inputs"] == inputs else None


def _compute(problem: Namespace, tables: Tables, name: str, run: str, full: bool) -> TableVersion:
    watch, view, inputs = Stopwatch(), problem.view(name), _inputs(problem, tables, name)
    if not full and (newest := _up_to_date(problem, tables, name, inputs)):  # another process computed it meanwhile
        return newest
    current, used = sql.clean_versions(problem, tables), used_tables(problem, view)
    commit: Commit = {
        "flow": "materialize",
        "run": run,
        "inputs": inputs,
        "view_digest": view_digest(problem, view),
    }
    with sql.connect() as connection:
        version, last = _newest(tables, feature_table(problem, name))
        same = last.get("view_digest") == commit["view_digest"] and not full
        ranges = _changed_ranges(connection, problem, tables, view, inputs, last["inputs"]) if same else [ALWAYS]
        history: _Rows
        if isinstance(view, Aggregations):
            history = AggregationRows(connection, problem, tables, view, current)
        else:
            history = History(connection, problem, tables, view, current, used)
        computed = _write(history, ranges, commit)
    record_cost(tables, version, computed, watch)
    return computed


def newest_event(problem: Namespace, tables: Tables) -> datetime:
    """The newest event or creation time (naive UTC) in the feature tables; 1970 if they have none."""
    import pyarrow.compute as pc

    newest = [datetime(1970, 1, 1, tzinfo=UTC)]
    for view in problem.own_views:
        version = tables.version(feature_table(problem, view.name))
        if version is None or view.timeless:
            continue
        names = [EVENT, CREATED, *([UNTIL] if isinstance(view, Aggregations) else [])]
        table = tables.read(version, columns=names)
        newest += [moment for name in names if (moment := pc.max(table[name]).as_py()) is not None]
    return max(newest).replace(tzinfo=None)


def _newest(tables: Tables, name: str) -> tuple[TableVersion | None, Commit]:
    version = tables.version(name)
    return version, tables.commits(name)[-1][1] if version else {}


def _changed_ranges(
    connection: duckdb.DuckDBPyConnection,
    problem: Namespace,
    tables: Tables,
    view: AnyView,
    now: list[Commit],
    before: list[Commit],
) -> list[TimeRange]:
    """Ranges of event time in which feature rows may differ between two sets of table versions."""
    old, new = ({v.name: v for v in map(TableVersion.model_validate, side)} for side in (before, now))
    by_name: Mapping[str, Table] = {f"tables/{problem.name}/clean/{table.name}": table for table in problem.tables}
    ranges: list[TimeRange] = []
    for name in old.keys() | new.keys():
        if name in old:
            old[name] = after_compactions(tables, old[name])
        if old.get(name) == new.get(name):
            continue
        if name in old and name in new:
            table = by_name[name]
            read = view_columns_read(problem, view)[table.name]
            numbers = [sql.ROW] if isinstance(view, Aggregations) else []
            try:
                if _same_rows(connection, tables, table, read, old[name], new[name], numbers):
                    continue
            except StorageError:  # the old version's files are gone
                return [ALWAYS]
        timed = name in old and name in new and by_name[name].time is not None
        if view.timeless or view.lookback is None or not timed or _rewritten(tables, old[name], new[name]):
            return [ALWAYS]
        time = view.time if isinstance(view, Aggregations) else str(by_name[name].time)
        if altered_columns(tables, new[name], by_name[name], [time]):
            return [ALWAYS]
        try:
            time = stored_names(tables, new[name], by_name[name].columns, [time])[time]
            times = _changed_times(connection, tables, time, old[name], new[name])
        except StorageError:  # the old version's files are gone
            return [ALWAYS]
        ranges += ranges_around(times, *reach(view))
    return merge_ranges(ranges)


def _same_rows(
    connection: duckdb.DuckDBPyConnection,
    tables: Tables,
    table: Table,
    columns: frozenset[str],
    old: TableVersion,
    new: TableVersion,
    further: Sequence[str],
) -> bool:
    """Whether two versions of a clean table have equal rows in these columns, after edits of the table. `further`:
    columns of Truecourse that must be equal too."""
    removed, added = tables.changed_files(old, new)
    if not removed.files and not added.files:
        return True
    if not _rewritten(tables, old, new):
        return False
    sums = []
    for name, rows, version in (("__old", removed, old), ("__new", added, new)):
        connection.register(name, rows)
        if altered_columns(tables, version, table, columns):
            return False
        names_now = stored_names(tables, version, table.columns, columns)
        stored = [names_now[name] for name in sorted(columns)]
        names = ", ".join(map(sql.quote, [*stored, *further, sql.RECORDED, sql.SUPERSEDED]))
        # Equal for equal rows in any order; sorting both versions would cost as much as the view.
        query = f"SELECT count(*), sum(digest), bit_xor(digest) FROM (SELECT hash({names}) AS digest FROM {name})"  # noqa: S608
        sums.append(sql.run(connection, query, where=new.name).fetchall())
    return bool(sums[0] == sums[1])


def _rewritten(tables: Tables, old: TableVersion, new: TableVersion) -> bool:
    """Whether a clean table was rewritten between two versions, so that row numbers may have other values."""
    return any(
        commit.get("rewritten") for version, commit in tables.commits(new.name) if old.version < version <= new.version
    )


def _changed_times(
    connection: duckdb.DuckDBPyConnection, tables: Tables, time: str, old: TableVersion, new: TableVersion
) -> Any:
    """Values of the column `time` in rows that differ between two versions of a clean table: added or superseded
    rows."""
    columns = f"{sql.quote(time)} AS time, _tc_row, _tc_recorded_at, _tc_superseded_at"
    for name, rows in zip(("__old", "__new"), tables.changed_files(old, new), strict=True):
        connection.register(name, rows)
    sides = [f"SELECT {columns} FROM {side}" for side in ("__old", "__new")]  # noqa: S608
    query = f"({sides[0]} EXCEPT {sides[1]}) UNION ALL ({sides[1]} EXCEPT {sides[0]})"
    distinct = f"SELECT DISTINCT CAST(time AS TIMESTAMP) AS time FROM ({query}) WHERE time IS NOT NULL"  # noqa: S608
    times = sql.run(connection, distinct, where=new.name)
    return times.fetchnumpy()["time"]


class _Rows(Protocol):
    """Builds a view's rows in the temporary table HISTORY. `columns`: those beside keys and times; `order`: the columns
    by which the rows are stored in order. Names are quoted."""

    @property
    def connection(self) -> duckdb.DuckDBPyConnection: ...
    @property
    def problem(self) -> Namespace: ...
    @property
    def tables(self) -> Tables: ...
    @property
    def view(self) -> AnyView: ...
    @property
    def keys(self) -> list[str]: ...
    @property
    def columns(self) -> list[str]: ...
    @property
    def order(self) -> list[str]: ...

    def build(self, ranges: list[TimeRange]) -> None: ...


def _write(history: _Rows, ranges: list[TimeRange], commit: Commit) -> TableVersion:
    tables, name = history.tables, feature_table(history.problem, history.view.name)
    if not ranges:  # the tables have new versions, but no change affects this view
        version = tables.version(name)
        assert version is not None
        empty = tables.dataset(version).schema.empty_table()
        return tables.append(name, empty, commit | {"rows": 0, "mode": "incremental", "spans": []})
    history.build(ranges)
    ((rows,),) = history.connection.execute(f"SELECT count(*) FROM {HISTORY}").fetchall()  # noqa: S608
    columns = ", ".join([*history.keys, EVENT, CREATED, *history.columns])
    ordered = f"SELECT {columns} FROM {HISTORY} ORDER BY {', '.join(history.order)}"  # noqa: S608
    reader = history.connection.sql(ordered).to_arrow_reader(1 << 16)
    if ranges == [ALWAYS]:
        return tables.replace(name, reader, commit | {"rows": rows, "mode": "full"})
    texts = [_texts(time_range) for time_range in ranges]
    compact_small_files(tables, name)
    where = " OR ".join(f"({EVENT} >= '{start}' AND {EVENT} <= '{end}')" for start, end in texts)
    return tables.replace(name, reader, commit | {"rows": rows, "mode": "incremental", "spans": texts}, where=where)


def _texts(time_range: TimeRange) -> list[str]:
    return [moment.isoformat() + "Z" for moment in time_range.moments()]
