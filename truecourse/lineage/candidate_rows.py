"""Candidate source rows of a recorded prediction, and tables that hold only such rows."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, TypeAlias

import duckdb
import pyarrow as pa
import pyarrow.dataset as ds

from truecourse.data import sql
from truecourse.data.sql import ROW
from truecourse.lineage.recorded_values import as_declared
from truecourse.problem.schema import Table
from truecourse.references import TableVersion
from truecourse.storage.delta_tables import Limit, Tables

Database: TypeAlias = duckdb.DuckDBPyConnection
"""An open connection whose database others share (truecourse.data.sql.connect)."""
MOST_CANDIDATES = 100_000
"""Most candidate rows from which a view or a decision is computed again."""
TOO_MANY = "candidates: too many rows to compute it from them alone"


class HeldTables(Tables):
    """Tables of which some hold only the given rows, by the table's name."""

    def __init__(self, rows: Mapping[str, pa.Table]) -> None:
        super().__init__()
        self._rows = rows

    def dataset(self, reference: TableVersion, where: Sequence[Limit] = ()) -> ds.Dataset:
        held = self._rows.get(reference.name)
        return super().dataset(reference, where) if held is None else ds.dataset(held)

    def commit(self, reference: TableVersion) -> dict[str, Any] | None:
        """The commit that wrote a version; None of a table whose rows are given: they are as the problem declares."""
        return None if reference.name in self._rows else super().commit(reference)


def candidate_rows(
    tables: Tables, database: Database, version: TableVersion, table: Table, where: str, read: Collection[str]
) -> pa.Table:
    """Read rows of a version as `table` declares them. `read`: the columns that count."""
    with sql.connect(database) as connection:
        connection.register("rows", tables.dataset(version))
        query = f"SELECT * FROM rows WHERE {where} ORDER BY {ROW} LIMIT {MOST_CANDIDATES + 1}"  # noqa: S608
        return as_declared(tables, version, table, connection.sql(query).to_arrow_table(), read)
