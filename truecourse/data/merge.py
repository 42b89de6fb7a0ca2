"""Merge a delivery's valid rows into the clean table: rows are new, late, corrected, unchanged or removed.

The clean table is bitemporal. `_tc_recorded_at`: when a late row or a correction became known (null: at the row's own
time). `_tc_superseded_at`: when the row was replaced (null: it is current).

Relations of the connection: `stored`, the stored clean table; `state`, its current rows after the deliveries merged so
far; `added` and `closed`, rows that these added and superseded; `valid_rows`, a delivery's valid rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import duckdb
import pyarrow as pa

from truecourse.data.arrow_types import arrow_type
from truecourse.data.deliveries import Delivery, is_copy
from truecourse.data.sql import CURRENT, RECORDED, ROW, SUPERSEDED, quote
from truecourse.problem.schema import Table

EPOCH = datetime(1970, 1, 1)
MOMENT = pa.timestamp("us", tz="UTC")
_OLD, _SAME, _NUMBER = "_tc_old", "_tc_same", "_tc_number"


@dataclass(frozen=True)
class Merge:
    """Counts of a planned merge. `watermark`: the newest time after the delivery, naive UTC."""

    inserted: int
    corrected: int
    unchanged: int
    deleted: int
    """Rows that delete the current row of their key."""
    vanished: int
    """Current rows that the delivery lacks."""
    before: int
    """Current rows that earlier deliveries of the same place brought."""
    watermark: datetime | None

    @property
    def removed(self) -> int:
        """Current rows that the delivery removes."""
        return self.deleted + self.vanished


def clean_schema(table: Table) -> pa.Schema:
    declared = [(name, arrow_type(column)) for name, column in table.columns.items()]
    return pa.schema([*declared, (ROW, pa.int64()), (RECORDED, MOMENT), (SUPERSEDED, MOMENT)])


def is_live(table: Table) -> str:
    """The condition that a row is not the deletion of its key (`Table.deleted`)."""
    return "true" if table.deleted is None else f"{quote(table.deleted)} IS NOT TRUE"


def create_relations(connection: duckdb.DuckDBPyConnection, table: Table, stored: Any, *, several: bool) -> None:
    """Create the relations. `stored`: a dataset of the clean table, or None. `several`: more than one delivery will be
    merged, so the table is read into memory once."""
    connection.register("empty", clean_schema(table).empty_table())
    connection.register("stored", clean_schema(table).empty_table() if stored is None else stored)
    kind = "TABLE" if several else "VIEW"
    connection.execute(f"CREATE TEMP {kind} state AS SELECT {_declared(table)}, {ROW} FROM stored WHERE {CURRENT}")  # noqa: S608
    connection.execute("CREATE TEMP TABLE added AS SELECT * FROM empty")
    connection.execute(f"CREATE TEMP TABLE closed AS SELECT {ROW}, {SUPERSEDED} FROM empty")  # noqa: S608


def plan_merge(
    connection: duckdb.DuckDBPyConnection,
    table: Table,
    delivery: Delivery,
    known: Sequence[Delivery],
    standing: Sequence[Delivery],
    watermark: datetime | None,
) -> Merge:
    """Compare `valid_rows` (declared columns and `_tc_row`) with `state`. `known`: every delivery of the table.
    `standing`: the accepted deliveries of the newest content of every other place.

    Creates the relations `merged`, the rows with their match (`_tc_old`: its number, `_tc_same`: whether it is equal),
    and `gone`, the numbers of rows that are no longer current."""
    different, equal = _keep_last_of_key(connection, table)
    _place_rows(connection, table, delivery, known)
    if table.combines == "replace" and not table.key:
        _match_multiset(connection, table)
    else:
        _match(connection, table)
        if table.combines == "replace" and not delivery.after:
            _match_vanished(connection, table, standing)
    _find_gone(connection, table, delivery, known)
    own = f"{ROW} >= {delivery.start} AND {ROW} < {delivery.end}"  # excludes rows taken over from another place
    lives, replaced = is_live(table), f"{_OLD} IS NOT NULL AND NOT {_SAME}"
    new, changed, same, superseded, deleted = _one(
        connection,
        f"SELECT count(*) FILTER ({_OLD} IS NULL AND NOT {_SAME} AND {lives}), "  # noqa: S608
        f"count(*) FILTER ({replaced} AND {lives} AND {own}), count(*) FILTER ({_SAME} AND {own}), "
        f"count(*) FILTER ({replaced} AND {lives}), count(*) FILTER ({replaced} AND NOT {lives}) FROM merged",
    )
    return Merge(
        inserted=new,
        corrected=different + changed,
        unchanged=equal + same,
        deleted=deleted,
        vanished=_one(connection, "SELECT count(*) FROM gone")[0] - superseded - deleted,
        before=_one(connection, "SELECT count(*) FROM place_rows")[0],
        watermark=_watermark(connection, table, watermark),
    )


def _keep_last_of_key(connection: duckdb.DuckDBPyConnection, table: Table) -> tuple[int, int]:
    """Create the relation `winners`: the latest row of each key. Return how many dropped rows differ from it, and how
    many are equal to it."""
    if not table.key:
        connection.execute("CREATE OR REPLACE TEMP VIEW winners AS SELECT * FROM valid_rows")
        return 0, 0
    keys = ", ".join(map(quote, table.key))
    connection.execute(
        f"CREATE OR REPLACE TEMP TABLE last_rows AS SELECT first({ROW} ORDER BY {_latest_first(table)}) AS {ROW}, "  # noqa: S608
        f"count(*) AS _tc_times FROM valid_rows GROUP BY {keys}"
    )
    connection.execute(
        f"CREATE OR REPLACE TEMP VIEW winners AS SELECT valid_rows.* FROM valid_rows SEMI JOIN last_rows USING ({ROW})"  # noqa: S608
    )
    if not _one(connection, "SELECT count(*) FROM last_rows WHERE _tc_times > 1")[0]:
        return 0, 0
    different, equal = _one(
        connection,
        f"SELECT count(*) FILTER (NOT ({_equal(table, 'loser', 'winner')})), "  # noqa: S608
        f"count(*) FILTER ({_equal(table, 'loser', 'winner')}) "
        f"FROM (SELECT valid_rows.* FROM valid_rows ANTI JOIN last_rows USING ({ROW})) AS loser "
        f"JOIN winners AS winner ON {_equal(table, 'loser', 'winner', table.key)}",
    )
    return different, equal


def _place_rows(
    connection: duckdb.DuckDBPyConnection, table: Table, delivery: Delivery, known: Sequence[Delivery]
) -> None:
    """Create the relation `place_rows`: the current rows that earlier deliveries of the same place brought."""
    ranges = [(d.start, d.end) for d in known if d.place == delivery.place and d.number < delivery.number and d.rows]
    where = " OR ".join(f"({ROW} >= {start} AND {ROW} < {end})" for start, end in ranges)
    if table.combines != "replace" or not ranges or delivery.after:
        where = "false"
    connection.execute(f"CREATE OR REPLACE TEMP TABLE place_rows AS SELECT {ROW} FROM state WHERE {where}")  # noqa: S608


def _match(connection: duckdb.DuckDBPyConnection, table: Table) -> None:
    """Match each row with the current row of its key. A current row that is later is kept."""
    if not table.key:
        old, same, joined = "CAST(NULL AS BIGINT)", "false", ""
    else:
        old = f"existing.{ROW}"
        same = (
            f"existing.{ROW} IS NOT NULL AND ({_is_later(table, 'existing', 'winner')} "
            f"OR ({_equal(table, 'winner', 'existing')}))"
        )
        joined = f"LEFT JOIN state AS existing ON {_equal(table, 'winner', 'existing', table.key)}"
    if table.deleted is not None:  # there is nothing to delete
        same = f"({same}) OR (existing.{ROW} IS NULL AND winner.{quote(table.deleted)} IS TRUE)"
    connection.execute(
        f"CREATE OR REPLACE TEMP TABLE merged AS SELECT winner.*, {old} AS {_OLD}, {same} AS {_SAME} "  # noqa: S608
        f"FROM winners AS winner {joined}"
    )


def _match_multiset(connection: duckdb.DuckDBPyConnection, table: Table) -> None:
    """Without key, match each row with an equal row of its place's earlier content, one to one."""

    def counted(query: str) -> str:
        return (
            f"SELECT *, row_number() OVER (PARTITION BY {_declared(table)} ORDER BY {ROW}) AS {_NUMBER} "  # noqa: S608
            f"FROM ({query})"
        )

    if not _one(connection, "SELECT count(*) FROM place_rows")[0]:
        _match(connection, table)
        return
    place_rows = counted(f"SELECT state.* FROM state SEMI JOIN place_rows USING ({ROW})")  # noqa: S608
    matches = f"{_equal(table, 'winner', 'existing')} AND winner.{_NUMBER} = existing.{_NUMBER}"
    connection.execute(
        f"CREATE OR REPLACE TEMP TABLE merged AS SELECT winner.* EXCLUDE ({_NUMBER}), existing.{ROW} AS {_OLD}, "  # noqa: S608
        f"existing.{ROW} IS NOT NULL AS {_SAME} "
        f"FROM ({counted('SELECT * FROM winners')}) AS winner LEFT JOIN ({place_rows}) AS existing ON {matches}"
    )


def _match_vanished(connection: duckdb.DuckDBPyConnection, table: Table, standing: Sequence[Delivery]) -> None:
    """With a key, replace a row that its place no longer has by the latest row of that key from another place, if there
    is one."""
    ranges = [f"({ROW} >= {d.start} AND {ROW} < {d.end})" for d in standing if d.rows]
    if not ranges or not _one(connection, "SELECT count(*) FROM place_rows")[0]:
        return
    keys = ", ".join(map(quote, table.key))
    connection.execute(
        f"INSERT INTO merged SELECT other.*, existing.{ROW}, {_equal(table, 'other', 'existing')} "  # noqa: S608
        f"FROM (SELECT state.* FROM state SEMI JOIN place_rows USING ({ROW})) AS existing "
        f"ANTI JOIN winners ON {_equal(table, 'winners', 'existing', table.key)} "
        f"JOIN (SELECT {_declared(table)}, {ROW} FROM raw ANTI JOIN quarantined USING ({ROW}) WHERE "
        f"{' OR '.join(ranges)} "
        f"QUALIFY row_number() OVER (PARTITION BY {keys} ORDER BY {_latest_first(table)}) = 1) AS other "
        f"ON {_equal(table, 'other', 'existing', table.key)}"
    )


def _find_gone(
    connection: duckdb.DuckDBPyConnection, table: Table, delivery: Delivery, known: Sequence[Delivery]
) -> None:
    """Create the relation `gone`: rows that are changed, and, with `replace`, rows that the new content lacks."""
    changed = f"SELECT {_OLD} AS {ROW} FROM merged WHERE {_OLD} IS NOT NULL AND NOT {_SAME}"  # noqa: S608
    moved = delivery.copy_of is not None and not is_copy(delivery, known)
    vanished = f"SELECT {ROW} FROM place_rows ANTI JOIN (SELECT {_OLD} FROM merged) ON {ROW} = {_OLD}"  # noqa: S608
    if table.key:
        vanished = (
            f"SELECT state.{ROW} FROM state SEMI JOIN place_rows USING ({ROW}) "  # noqa: S608
            f"ANTI JOIN merged ON {_equal(table, 'merged', 'state', table.key)}"
        )
    queries = [changed] if moved or table.combines != "replace" else [changed, vanished]
    connection.execute(f"CREATE OR REPLACE TEMP TABLE gone AS {' UNION ALL '.join(queries)}")


def apply_merge(
    connection: duckdb.DuckDBPyConnection, table: Table, merge: Merge, before: datetime | None, *, several: bool
) -> None:
    """Apply a planned merge to the relations. `before`: the watermark before the delivery's group; rows up to it are
    late."""
    recorded = _literal(merge.watermark) if table.time is not None else "NULL"
    late = f"{quote(table.time)} <= {_literal(before)}" if table.time is not None and before is not None else "false"
    closed = _literal(merge.watermark if table.time is not None and merge.watermark is not None else EPOCH)
    connection.execute(
        f"INSERT INTO closed SELECT {ROW}, {closed} FROM gone ANTI JOIN added USING ({ROW})"  # noqa: S608
    )
    connection.execute(
        f"UPDATE added SET {SUPERSEDED} = {closed} WHERE {SUPERSEDED} IS NULL AND {ROW} IN (FROM gone)"  # noqa: S608
    )
    connection.execute(
        f"INSERT INTO added SELECT {_declared(table)}, {ROW}, "  # noqa: S608
        f"CASE WHEN {_OLD} IS NOT NULL OR {late} THEN CAST({recorded} AS TIMESTAMPTZ) END, "
        f"CAST(NULL AS TIMESTAMPTZ) FROM merged WHERE NOT {_SAME} AND {is_live(table)}"
    )
    if several:
        connection.execute(f"DELETE FROM state WHERE {ROW} IN (FROM gone)")  # noqa: S608
        current = f"SELECT {_declared(table)}, {ROW} FROM merged WHERE NOT {_SAME} AND {is_live(table)}"  # noqa: S608
        connection.execute(f"INSERT INTO state {current}")


def supersedes_rows(connection: duckdb.DuckDBPyConnection) -> bool:
    """Whether the merge supersedes stored rows; if not, the new rows can be appended."""
    return bool(_one(connection, "SELECT count(*) FROM closed")[0])


def new_rows_sql(table: Table) -> str:
    """SQL of the rows to append, sorted."""
    return _in_order(table, "SELECT * FROM added")


def all_rows_sql(table: Table) -> str:
    """SQL of the whole table after the merges: stored rows, with superseded ones closed, and new rows, sorted."""
    declared = ", ".join(f"stored.{quote(name)}" for name in table.columns)
    return _in_order(
        table,
        f"SELECT {declared}, stored.{ROW}, stored.{RECORDED}, "  # noqa: S608
        f"coalesce(stored.{SUPERSEDED}, closed.{SUPERSEDED}) AS {SUPERSEDED} "
        f"FROM stored LEFT JOIN closed ON stored.{ROW} = closed.{ROW} UNION ALL SELECT * FROM added",
    )


def _in_order(table: Table, query: str) -> str:
    """Sort by time, then by source order: equal inputs give equal files, and a scan of a time range reads little."""
    order = f"{quote(table.time)}, {ROW}" if table.time is not None else ROW
    return f"SELECT * FROM ({query}) ORDER BY {order}"  # noqa: S608


def _latest_first(table: Table) -> str:
    """The order of the rows of a key, from the latest on: by `Table.updated`, if it is declared, then by arrival."""
    arrival = f"{ROW} DESC"
    return arrival if table.updated is None else f"{quote(table.updated)} DESC NULLS LAST, {arrival}"


def _is_later(table: Table, one: str, other: str) -> str:
    """The condition that a row is later than another row of its key, as _latest_first() orders them."""
    arrived = f"{one}.{ROW} > {other}.{ROW}"
    if table.updated is None:
        return arrived
    own, others = (f"{side}.{quote(table.updated)}" for side in (one, other))
    newer = f"coalesce({own} > {others}, {own} IS NOT NULL AND {others} IS NULL)"
    return f"({newer} OR ({own} IS NOT DISTINCT FROM {others} AND {arrived}))"


def _equal(table: Table, one: str, other: str, columns: Sequence[str] = ()) -> str:
    names = columns or tuple(table.columns)
    return " AND ".join(f"{one}.{quote(name)} IS NOT DISTINCT FROM {other}.{quote(name)}" for name in names)


def _watermark(connection: duckdb.DuckDBPyConnection, table: Table, so_far: datetime | None) -> datetime | None:
    if table.time is None:
        return None
    newest = _one(connection, f"SELECT CAST(max({quote(table.time)}) AS TIMESTAMP) FROM merged")[0]  # noqa: S608
    return max((moment for moment in (so_far, newest) if moment is not None), default=None)


def _declared(table: Table) -> str:
    return ", ".join(map(quote, table.columns))


def _literal(moment: datetime | None) -> str:
    return "NULL" if moment is None else f"TIMESTAMPTZ '{moment.isoformat(sep=' ')}+00'"


def _one(connection: duckdb.DuckDBPyConnection, query: str) -> tuple[Any, ...]:
    rows: list[tuple[Any, ...]] = connection.execute(query).fetchall()  # fetchone() would leave the result open
    return rows[0]
