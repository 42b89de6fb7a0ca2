"""How a batch of good rows meets the rows there are: what is new, late, corrected, unchanged.

Two times are kept. `_tc_recorded_at`: a late row or a correction is known only from then on (null: from its own time).
`_tc_superseded_at`: until then the row was held to be true (null: it still is).
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import duckdb
import pyarrow as pa

from truecourse.frame import arrow_type
from truecourse.schema import Table
from truecourse.sql import CURRENT, quoted

EPOCH = datetime(1970, 1, 1)
MOMENT = pa.timestamp("us", tz="UTC")


@dataclass(frozen=True)
class Merge:
    """Counts of a merge that is ready to be written; `watermark` is naive UTC, after the batch."""

    inserted: int
    corrected: int
    unchanged: int
    replaces: int
    """Stored rows that are superseded; with none the batch can simply be appended."""
    total: int
    """Rows held to be true after the batch."""
    watermark: datetime | None


def clean_schema(table: Table) -> pa.Schema:
    declared = [(name, arrow_type(column)) for name, column in table.columns.items()]
    return pa.schema([*declared, ("_tc_row", pa.int64()), ("_tc_recorded_at", MOMENT), ("_tc_superseded_at", MOMENT)])


def plan_merge(connection: duckdb.DuckDBPyConnection, table: Table, *, first: bool) -> Merge:
    """Compare relation `good` (declared columns and _tc_row) with relation `clean`, unless this is the first load.

    Leaves the temporary table `merged`: the rows that win their key, `_tc_old` (the stored row they meet) and
    `_tc_same`.
    """
    corrected, unchanged = _winners(connection, table)
    _meet(connection, table, first)
    new, changed, same = _one(
        connection,
        "SELECT count(*) FILTER (_tc_old IS NULL), count(*) FILTER (_tc_old IS NOT NULL AND NOT _tc_same), "
        "count(*) FILTER (_tc_same) FROM merged",
    )
    before = 0 if first else _one(connection, f"SELECT count(*) FROM clean WHERE {CURRENT}")[0]  # noqa: S608
    return Merge(
        inserted=new,
        corrected=corrected + changed,
        unchanged=unchanged + same,
        replaces=changed,
        total=before + new,
        watermark=_watermark(connection, table, ["merged"] if first else ["merged", "clean"]),
    )


def _winners(connection: duckdb.DuckDBPyConnection, table: Table) -> tuple[int, int]:
    """Of several rows of one key the last wins. How many lost to a different row, and to an equal one."""
    if not table.key:
        connection.execute("CREATE TEMP VIEW winners AS SELECT * FROM good")
        return 0, 0
    keys = ", ".join(map(quoted, table.key))
    connection.execute(
        "CREATE TEMP TABLE last_rows AS SELECT max(_tc_row) AS _tc_row, count(*) AS _tc_times "  # noqa: S608
        f"FROM good GROUP BY {keys}"
    )
    connection.execute("CREATE TEMP VIEW winners AS SELECT good.* FROM good SEMI JOIN last_rows USING (_tc_row)")
    if not _one(connection, "SELECT count(*) FROM last_rows WHERE _tc_times > 1")[0]:
        return 0, 0
    different, equal = _one(
        connection,
        f"SELECT count(*) FILTER (NOT ({_equal(table, 'loser', 'winner')})), "  # noqa: S608
        f"count(*) FILTER ({_equal(table, 'loser', 'winner')}) "
        f"FROM (SELECT good.* FROM good ANTI JOIN last_rows USING (_tc_row)) AS loser "
        f"JOIN winners AS winner ON {_equal(table, 'loser', 'winner', table.key)}",
    )
    return different, equal


def _meet(connection: duckdb.DuckDBPyConnection, table: Table, first: bool) -> None:
    if first or not table.key:
        connection.execute(
            "CREATE TEMP VIEW merged AS SELECT *, CAST(NULL AS BIGINT) AS _tc_old, false AS _tc_same FROM winners"
        )
        return
    connection.execute(
        "CREATE TEMP TABLE merged AS SELECT winner.*, there._tc_row AS _tc_old, "  # noqa: S608
        f"there._tc_row IS NOT NULL AND {_equal(table, 'winner', 'there')} AS _tc_same FROM winners AS winner "
        f"LEFT JOIN (SELECT * FROM clean WHERE {CURRENT}) AS there ON {_equal(table, 'winner', 'there', table.key)}"
    )


def _equal(table: Table, one: str, other: str, columns: tuple[str, ...] = ()) -> str:
    names = columns or tuple(table.columns)
    return " AND ".join(f"{one}.{quoted(name)} IS NOT DISTINCT FROM {other}.{quoted(name)}" for name in names)


def _watermark(connection: duckdb.DuckDBPyConnection, table: Table, relations: list[str]) -> datetime | None:
    if table.time is None:
        return None
    column = quoted(table.time)
    newest = [_one(connection, f"SELECT CAST(max({column}) AS TIMESTAMP) FROM {name}")[0] for name in relations]  # noqa: S608
    return max((moment for moment in newest if moment is not None), default=None)


def new_rows(table: Table, merge: Merge, before: datetime | None) -> str:
    """SQL of the rows to add. `before`: the watermark before the batch; rows not beyond it come late."""
    recorded = _literal(merge.watermark) if table.time is not None else "NULL"
    late = f"{quoted(table.time)} <= {_literal(before)}" if table.time is not None and before is not None else "false"
    return (
        f"SELECT {_declared(table)}, _tc_row, "  # noqa: S608
        f"CASE WHEN _tc_old IS NOT NULL OR {late} THEN CAST({recorded} AS TIMESTAMPTZ) END AS _tc_recorded_at, "
        "CAST(NULL AS TIMESTAMPTZ) AS _tc_superseded_at FROM merged WHERE NOT _tc_same"
    )


def all_rows(table: Table, merge: Merge, before: datetime | None) -> str:
    """SQL of the whole table after the merge: what was there, superseded rows closed, and the new rows."""
    closed = _literal(merge.watermark if table.time is not None and merge.watermark is not None else EPOCH)
    declared = ", ".join(f"clean.{quoted(name)}" for name in table.columns)
    return (
        f"SELECT {declared}, clean._tc_row, clean._tc_recorded_at, "  # noqa: S608
        f"CASE WHEN gone._tc_old IS NOT NULL THEN {closed} ELSE clean._tc_superseded_at END AS _tc_superseded_at "
        "FROM clean LEFT JOIN (SELECT _tc_old FROM merged WHERE _tc_old IS NOT NULL AND NOT _tc_same) AS gone "
        f"ON clean._tc_row = gone._tc_old UNION ALL {new_rows(table, merge, before)}"
    )


def in_order(table: Table, query: str) -> str:
    """By time, then by source order: equal inputs give equal files, and a scan of a window reads little."""
    order = f"{quoted(table.time)}, _tc_row" if table.time is not None else "_tc_row"
    return f"SELECT * FROM ({query}) ORDER BY {order}"  # noqa: S608


def _declared(table: Table) -> str:
    return ", ".join(map(quoted, table.columns))


def _literal(moment: datetime | None) -> str:
    return "NULL" if moment is None else f"TIMESTAMPTZ '{moment.isoformat(sep=' ')}+00'"


def _one(connection: duckdb.DuckDBPyConnection, query: str) -> tuple[Any, ...]:
    rows: list[tuple[Any, ...]] = connection.execute(query).fetchall()  # fetchone would keep the connection busy
    return rows[0]
