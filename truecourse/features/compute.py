"""Feature tables: a view's SQL over the clean tables, with every value dated by when it became known.

A row's first version is what was known at its event time. A source row that comes in late, or corrects another, is
known from its epoch on (`_tc_recorded_at`); from then the feature rows it touches have a further version, created at
that epoch. A feature row that such a source row makes vanish takes the value of the row before it.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import duckdb

from truecourse.data import sql
from truecourse.errors import StorageError
from truecourse.features.affected_spans import ALWAYS, TimeRange, around, merge_ranges
from truecourse.features.asof import CREATED, EVENT
from truecourse.features.definitions import feature_table, view_digest
from truecourse.features.view_sql import used_tables
from truecourse.features.view_versions import HISTORY, History, reach
from truecourse.problem import Problem, View
from truecourse.problem.schema import Table
from truecourse.references import TableVersion
from truecourse.storage.tables import Tables

Commit = dict[str, Any]


def compute_view(problem: Problem, tables: Tables, name: str, *, run: str = "", full: bool = False) -> TableVersion:
    """Bring a view's feature table up to the newest clean tables; nothing is written if it is.

    Only spans of time that new, late or corrected rows can touch are computed, unless `full`, or the view's SQL or
    declaration changed. Raises FeatureError that names the SQL file, and NotFound for a table never validated."""
    view = problem.view(name)
    current = sql.clean_versions(problem, tables)
    with sql.connect() as connection:
        used = used_tables(problem, view)
        inputs = [current[table.name].model_dump() for table in problem.tables if table.name in used]
        commit: Commit = {
            "flow": "materialize",
            "run": run,
            "inputs": inputs,
            "view_digest": view_digest(problem, view),
        }
        version, last = _newest(tables, feature_table(problem, name))
        same = last.get("view_digest") == commit["view_digest"] and not full
        if version is not None and same and last["inputs"] == inputs:
            return version
        spans = _spans(connection, problem, tables, view, inputs, last["inputs"]) if same else [ALWAYS]
        history = History(connection, problem, tables, view, current, used)
        return _write(history, spans, commit)


def newest_event(problem: Problem, tables: Tables) -> datetime:
    """The newest moment (naive UTC) in the feature tables; 1970 if none with times has a row."""
    import pyarrow.compute as pc

    newest = [datetime(1970, 1, 1, tzinfo=UTC)]
    for view in problem.views:
        version = tables.version(feature_table(problem, view.name))
        if version is None or view.timeless:
            continue
        table = tables.read(version, columns=[EVENT, CREATED])
        newest += [moment for name in (EVENT, CREATED) if (moment := pc.max(table[name]).as_py()) is not None]
    return max(newest).replace(tzinfo=None)


def _newest(tables: Tables, name: str) -> tuple[TableVersion | None, Commit]:
    version = tables.version(name)
    return version, tables.commits(name)[-1][1] if version else {}


def _spans(
    connection: duckdb.DuckDBPyConnection,
    problem: Problem,
    tables: Tables,
    view: View,
    now: list[Commit],
    before: list[Commit],
) -> list[TimeRange]:
    """The spans of event time in which rows may have changed between two sets of table versions."""
    old, new = ({v.name: v for v in map(TableVersion.model_validate, side)} for side in (before, now))
    by_name: Mapping[str, Table] = {f"tables/{problem.name}/clean/{table.name}": table for table in problem.tables}
    spans: list[TimeRange] = []
    for name in old.keys() | new.keys():
        if old.get(name) == new.get(name):
            continue
        timed = name in old and name in new and by_name[name].time is not None
        if view.timeless or view.lookback is None or not timed or _rewritten(tables, old[name], new[name]):
            return [ALWAYS]
        try:
            times = _changed_times(connection, tables, by_name[name], old[name], new[name])
        except StorageError:  # the old version's files are gone
            return [ALWAYS]
        spans += around(times, *reach(view))
    return merge_ranges(spans)


def _rewritten(tables: Tables, old: TableVersion, new: TableVersion) -> bool:
    """Whether the rows of a clean table were made anew in between: other values may stand under the same numbers."""
    return any(
        commit.get("rewritten") for version, commit in tables.commits(new.name) if old.version < version <= new.version
    )


def _changed_times(
    connection: duckdb.DuckDBPyConnection, tables: Tables, table: Table, old: TableVersion, new: TableVersion
) -> Any:
    """Times of rows that only one of two versions of a clean table has: added, or superseded since."""
    columns = f"{sql.quote(str(table.time))} AS time, _tc_row, _tc_recorded_at, _tc_superseded_at"
    for name, rows in zip(("__old", "__new"), tables.changed_files(old, new), strict=True):
        connection.register(name, rows)
    sides = [f"SELECT {columns} FROM {side}" for side in ("__old", "__new")]  # noqa: S608
    query = f"({sides[0]} EXCEPT {sides[1]}) UNION ALL ({sides[1]} EXCEPT {sides[0]})"
    found = sql.run(connection, f"SELECT DISTINCT CAST(time AS TIMESTAMP) AS time FROM ({query})", where=table.name)  # noqa: S608
    return found.fetchnumpy()["time"]


def _write(history: History, spans: list[TimeRange], commit: Commit) -> TableVersion:
    tables, name = history.tables, feature_table(history.problem, history.view.name)
    if not spans:  # the tables moved on, and no row that this view can see
        version = tables.version(name)
        assert version is not None
        empty = tables.dataset(version).schema.empty_table()
        return tables.append(name, empty, commit | {"rows": 0, "mode": "incremental", "spans": []})
    history.build(spans)
    ((rows,),) = history.connection.execute(f"SELECT count(*) FROM {HISTORY}").fetchall()  # noqa: S608
    columns = ", ".join([*history.keys, EVENT, CREATED, *history.features])
    order = ", ".join([EVENT, CREATED, *history.keys])
    ordered = f"SELECT {columns} FROM {HISTORY} ORDER BY {order}"  # noqa: S608
    reader = history.connection.sql(ordered).to_arrow_reader(1 << 16)
    if spans == [ALWAYS]:
        return tables.replace(name, reader, commit | {"rows": rows, "mode": "full"})
    texts = [_texts(span) for span in spans]
    where = " OR ".join(f"({EVENT} >= '{start}' AND {EVENT} <= '{end}')" for start, end in texts)
    return tables.replace(name, reader, commit | {"rows": rows, "mode": "incremental", "spans": texts}, where=where)


def _texts(span: TimeRange) -> list[str]:
    return [moment.isoformat() + "Z" for moment in span.moments()]
