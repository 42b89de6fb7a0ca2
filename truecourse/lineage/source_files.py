"""Source rows by the files that delivered them, and the bytes of these files."""

from collections import Counter
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from truecourse.data.deliveries import Delivery, archive_key, read_deliveries
from truecourse.data.sql import ROW
from truecourse.lineage.source_rows import FIRST, describe_row
from truecourse.problem.namespace import Namespace
from truecourse.problem.schema import Table
from truecourse.references import TableVersion
from truecourse.storage.delta_tables import Tables
from truecourse.storage.lineage_links import verify_object


def describe_table_rows(
    tables: Tables,
    problem: Namespace,
    table: Table,
    version: TableVersion,
    rows: pa.Table,
    where: str,
    changes: Mapping[int, list[str]] | None,
) -> dict[str, Any]:
    """Describe rows of a clean table: count, first and last time, files with their bytes, and a query that lists them.

    `where`: the SQL condition that selects them. `changes`: features by row number that change without the row; these
    rows are shown first."""
    known = _known_deliveries(tables, problem.name, table.name)
    times = pc.min_max(rows[table.time]).as_py() if table.time is not None else {"min": None, "max": None}
    matter = [number for number, names in (changes or {}).items() if names]
    shown = [
        *rows.filter(pc.field(ROW).isin(matter)).to_pylist(),
        *rows.filter(~pc.field(ROW).isin(matter)).to_pylist(),
    ]
    return {
        "table": table.name,
        "version": str(version),
        "rows": len(rows),
        "matter": None if changes is None else len(matter),
        "from": times["min"],
        "to": times["max"],
        "query": f"SELECT * FROM {table.name} WHERE {where}",  # noqa: S608
        "first": [
            describe_row(problem, table, known, row) | {"changes": (changes or {}).get(row[ROW])}
            for row in shown[:FIRST]
        ],
        "files": _files(tables, problem, table, known, rows),
    }


@lru_cache(maxsize=32)  # a trace asks once for each view that reads the table
def _known_deliveries(tables: Tables, problem: str, table: str) -> list[Delivery]:
    return read_deliveries(tables, problem, table)[0]


def _files(tables: Tables, problem: Namespace, table: Table, known: list[Delivery], rows: pa.Table) -> dict[str, Any]:
    """Count the files that delivered the rows, and hash the kept bytes of the first again."""
    numbers = rows[ROW].to_pylist()
    held = Counter(d.number for number in numbers for d in known if d.start <= number < d.end)
    first = [
        {
            "file": delivery.place,
            "rows": held[delivery.number],
            "sha256": delivery.sha256,
            "bytes": delivery.bytes,
            **_kept(tables, archive_key(problem.name, table.name, delivery.sha256), delivery.sha256),
        }
        for delivery in known
        if delivery.number in held
    ][:FIRST]
    return {"count": len(held), "first": first}


@lru_cache(maxsize=256)  # as above; the bytes of a file are hashed once in a trace
def _kept(tables: Tables, key: str, sha256: str) -> dict[str, Any]:
    found = verify_object(tables.store, "source", key, sha256)
    return {"archived": key, "state": found["state"]}
