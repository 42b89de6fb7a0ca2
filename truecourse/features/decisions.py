"""Past decisions: request fields as known at each decision, labels as known now."""

from collections.abc import Mapping
from datetime import datetime
from itertools import pairwise

import duckdb

from truecourse.data import sql, table_views
from truecourse.data.sql import CURRENT, RECORDED, ROW, SUPERSEDED, quote
from truecourse.features.columns_read import columns_read
from truecourse.features.view_sql import tables_read
from truecourse.problem import Problem
from truecourse.references import TableVersion, Window
from truecourse.storage.delta_tables import Tables

_EPOCH, _ORDER, _RANK = "_tc_epoch", "_tc_order", "_tc_rank"


def decisions_query(
    connection: duckdb.DuckDBPyConnection,
    problem: Problem,
    tables: Tables,
    versions: Mapping[str, TableVersion],
    window: Window | None = None,
    cut: sql.Cut | None = None,
) -> str:
    """SQL of the decisions in `window` and some outside of it, with `label` and `known_at` if the problem has them.
    `cut`: use sources cut at a time.

    Binds the tables to `connection`. Raises FeatureError with the SQL file."""
    former = decision_columns(problem)
    if not problem.has_spine:
        table_views.bind(connection, problem, tables, versions, cut=cut, former=former)
        return _label_table_query(connection, problem)
    spine = sql.statement(problem, str(problem.spine))
    epochs = _epochs(connection, problem, tables, versions)
    if epochs:
        spine = _bitemporal_spine(
            connection, problem, tables, versions, spine, _epochs_to_evaluate(epochs, window), cut
        )
    table_views.bind(connection, problem, tables, versions, cut=cut, former=former)
    if problem.label.sql is None:
        return spine
    labels = sql.statement(problem, problem.label.sql)
    return (
        f"SELECT decisions.*, labels.label, labels.known_at FROM ({spine}) AS decisions "  # noqa: S608
        f"LEFT JOIN ({labels}) AS labels USING (id)"
    )


def decision_columns(problem: Problem) -> dict[str, frozenset[str]]:
    """The columns of each table that decisions, and labels in SQL, may read. Without spine: not the label's, which a
    decision has no need of."""
    if problem.spine is None:
        table = problem.label_table
        fields = frozenset({*problem.request_fields, *table.key, *([table.time] if table.time else [])})
        return {table.name: fields & table.columns.keys()}
    files = [file for file in (problem.spine, problem.label.sql) if file]
    read = [columns_read(problem, file) for file in files]
    return {name: frozenset().union(*(one.get(name, ()) for one in read)) for name in {*read[0], *read[-1]}}


def _label_table_query(connection: duckdb.DuckDBPyConnection, problem: Problem) -> str:
    """SQL of the decisions without a spine: each row of the label's table is a decision at its own time, known then in
    its first version. A table without time has no history; one without key has no versions."""
    table = problem.label_table
    rows = quote(f"{table.name}__rows")
    id = sql.row_id(table)
    columns = [f"{id} AS id", *map(quote, problem.request_fields)]
    if table.time:
        columns.append(f"CAST({quote(table.time)} AS TIMESTAMP) AS decision_time")
    label = f"{quote(problem.label.column)} AS label" if problem.label.column else ""
    corrected = connection.execute(f"SELECT count(*) FROM {rows} WHERE NOT ({CURRENT})").fetchall() != [(0,)]  # noqa: S608
    if not table.time or not table.key or not corrected:
        return f"SELECT {', '.join([*columns, *([label] if label else [])])} FROM {rows} WHERE {CURRENT}"  # noqa: S608
    keys = ", ".join(map(quote, table.key))
    first = f"FROM {rows} QUALIFY row_number() OVER (PARTITION BY {keys} ORDER BY {ROW}) = 1"
    now = ", ".join([f"{id} AS id", *([label] if label else [])])
    return (
        f"SELECT * FROM (SELECT {', '.join(columns)} {first}) "  # noqa: S608
        f"JOIN (SELECT {now} FROM {rows} WHERE {CURRENT}) USING (id)"
    )


def _epochs(
    connection: duckdb.DuckDBPyConnection, problem: Problem, tables: Tables, versions: Mapping[str, TableVersion]
) -> list[datetime]:
    """Times (naive UTC) at which late rows and corrections of the spine's tables became known, ascending."""
    used = tables_read(problem, str(problem.spine))
    found: set[datetime] = set()
    for table in problem.tables:
        if table.name not in used or table.time is None:
            continue
        connection.register("versions", tables.dataset(versions[table.name]))
        moments = connection.execute(
            f"SELECT DISTINCT CAST(unnest([{RECORDED}, {SUPERSEDED}]) AS TIMESTAMP) FROM versions "  # noqa: S608
            f"WHERE {RECORDED} IS NOT NULL OR {SUPERSEDED} IS NOT NULL"
        ).fetchall()
        found |= {moment for (moment,) in moments if moment is not None}
    return sorted(found)


def _epochs_to_evaluate(epochs: list[datetime], window: Window | None) -> list[datetime | None]:
    """The epochs at which to evaluate the spine; None is before the first. Of those before a window, the last
    suffices."""
    start = window.start if window is not None else None
    if start is None:
        return [None, *epochs]
    before = [epoch for epoch in epochs if epoch < start]
    return [before[-1] if before else None, *(epoch for epoch in epochs if epoch >= start)]


def _bitemporal_spine(
    connection: duckdb.DuckDBPyConnection,
    problem: Problem,
    tables: Tables,
    versions: Mapping[str, TableVersion],
    spine: str,
    epochs: list[datetime | None],
    cut: sql.Cut | None,
) -> str:
    """Evaluate the spine on the tables as of each epoch. A decision has the values known before its time; a late
    decision has the values of its arrival; a decision that no longer exists is excluded."""
    for order, (epoch, following) in enumerate(pairwise([*epochs, None])):
        rows = sql.BASE if epoch is None else sql.as_of(epoch)
        table_views.bind(connection, problem, tables, versions, rows=rows, cut=cut, former=decision_columns(problem))
        moment = "TIMESTAMP '-infinity'" if epoch is None else f"TIMESTAMP '{epoch.isoformat(sep=' ')}'"
        sql.run(
            connection,
            f"CREATE OR REPLACE TEMP TABLE evaluated AS SELECT *, {moment} AS {_EPOCH}, {order} AS {_ORDER} "  # noqa: S608
            f"FROM ({spine})",
            where=str(problem.spine),
        )
        if order == 0:
            connection.execute("CREATE OR REPLACE TEMP TABLE decided AS SELECT * FROM evaluated")
            continue
        until = "" if following is None else f"AND decision_time <= TIMESTAMP '{following.isoformat(sep=' ')}'"
        sql.run(
            connection,
            f"INSERT INTO decided BY NAME SELECT * FROM evaluated WHERE (decision_time > {_EPOCH} {until}) "  # noqa: S608
            "OR id NOT IN (SELECT id FROM decided WHERE id IS NOT NULL)",
            where=str(problem.spine),
        )
    known = f"{_EPOCH} < decision_time"
    ranked = (
        f"SELECT *, rank() OVER (PARTITION BY id ORDER BY {known} DESC, "  # noqa: S608
        f"CASE WHEN {known} THEN {_ORDER} ELSE -{_ORDER} END DESC) AS {_RANK} FROM decided"
    )
    return (
        f"SELECT * EXCLUDE ({_EPOCH}, {_ORDER}, {_RANK}) FROM ({ranked}) "  # noqa: S608
        f"WHERE {_RANK} = 1 AND (id IS NULL OR id IN (SELECT id FROM evaluated))"
    )
