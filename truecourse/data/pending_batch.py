"""The deliveries of a raw table that are to be judged, and the check of their rows in chunks of bounded memory."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce
from operator import or_
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from truecourse.data.arrow_types import arrow_type
from truecourse.data.deliveries import Delivery
from truecourse.data.expectations import (
    Suite,
    Tallies,
    TalliesByRange,
    check_references,
    check_unreadable,
    compile_expectations,
    failures_of,
)
from truecourse.data.parsing import LINE, UNREADABLE
from truecourse.data.sql import ROW, quoted
from truecourse.problem import Problem
from truecourse.problem.schema import Table
from truecourse.references import TableVersion
from truecourse.storage.tables import Tables, clean_table

CHUNK = 100_000


@dataclass(frozen=True)
class PendingBatch:
    """Deliveries of a raw version that are to be validated, in order. `revalidates_all`: all deliveries are validated
    again, because the table's declaration changed."""

    raw: TableVersion
    deliveries: tuple[Delivery, ...]
    known: tuple[Delivery, ...]
    """Every delivery of the table."""
    accepted: frozenset[int]
    revalidates_all: bool

    @property
    def selected(self) -> Any:
        """The filter of their rows."""
        ranges = [(d.start, d.end) for d in self.deliveries if d.rows]
        joined: list[tuple[int, int]] = []
        for start, end in ranges:
            if joined and joined[-1][1] == start:
                joined[-1] = (joined[-1][0], end)
            else:
                joined.append((start, end))
        parts = [(pc.field(ROW) >= start) & (pc.field(ROW) < end) for start, end in joined]
        return reduce(or_, parts) if parts else pc.field(ROW) < 0


def check(
    problem: Problem, table: Table, tables: Tables, pending: PendingBatch, clean: TableVersion | None
) -> list[Tallies]:
    """Every expectation of one row, on every row of the pending deliveries; the tallies of each delivery. `clean`: the
    table so far, for references to itself."""
    expectations, judged = compile_expectations(table), pending.deliveries
    tallies = TalliesByRange(expectations, [d.start for d in judged], [d.end for d in judged])
    if not any(delivery.rows for delivery in judged):
        return tallies.ranges
    suite = Suite(table, expectations)
    dataset = tables.dataset(pending.raw)
    keys = _referred(problem, table, tables, pending, clean)
    for chunk in _chunks(dataset, pending):
        unreadable = check_unreadable(chunk, tallies)
        if lines := [row for row, column in unreadable if column == LINE]:
            chunk = chunk.filter(pc.invert(pc.is_in(chunk.column(ROW), value_set=pa.array(lines, pa.int64()))))
        if len(chunk):
            suite.check(chunk, unreadable, tallies)
            check_references(chunk, keys, tallies)
    return tallies.ranges


def _chunks(dataset: ds.Dataset, pending: PendingBatch) -> Iterator[pa.Table]:
    waiting: list[pa.RecordBatch] = []
    scanner = dataset.scanner(filter=pending.selected, batch_size=CHUNK, batch_readahead=2, fragment_readahead=1)
    for piece in scanner.to_batches():
        waiting.append(piece)
        if sum(map(len, waiting)) >= CHUNK:
            yield pa.Table.from_batches(waiting).combine_chunks()
            waiting = []
    if sum(map(len, waiting)):
        yield pa.Table.from_batches(waiting).combine_chunks()


def _referred(
    problem: Problem, table: Table, tables: Tables, pending: PendingBatch, clean: TableVersion | None
) -> dict[str, pa.Array]:
    """By column that has an `in_table`: the keys there are in that table."""
    found: dict[str, pa.Array] = {}
    for name, column in table.columns.items():
        if column.in_table is None:
            continue
        other = problem.table(column.in_table)
        key = other.key_column
        assert key is not None, f"{other.name} has no key of one column"  # `truecourse check` says so first
        if other.name == table.name:
            values = [tables.read(pending.raw, [key], pending.selected).column(key)]
            values += [_current(tables, clean, key)] if clean else []
            chunks = [chunk for value in values for chunk in value.chunks]
        else:
            chunks = _current(tables, _newest(tables, clean_table(problem.name, other.name)), key).chunks
        found[name] = pa.chunked_array(chunks, arrow_type(other.columns[key])).combine_chunks().unique()
    return found


def _newest(tables: Tables, name: str) -> TableVersion:
    return TableVersion(name=name, version=tables.open(name).version())


def _current(tables: Tables, version: TableVersion, column: str) -> pa.ChunkedArray:
    return tables.read(version, [column], pc.field("_tc_superseded_at").is_null()).column(column)


def check_unique(connection: duckdb.DuckDBPyConnection, table: Table, tallies: Tallies) -> None:
    """A value of a `unique` column twice in one delivery (relation `batch`) is a fault (two equal rows are one row); so
    is one that a row of another key has in the table so far (relation `state`). The same key there is a correction."""
    declared = ", ".join(map(quoted, table.columns))
    for expectation, tally in tallies.items():
        if expectation.name != "unique":
            continue
        column = quoted(expectation.column)
        rows = (
            f"SELECT max({ROW}) AS {ROW}, {column} FROM batch "  # noqa: S608
            f"WHERE {UNREADABLE} IS NULL AND {column} IS NOT NULL GROUP BY {declared}"
        )
        rows = f"SELECT *, count(*) OVER (PARTITION BY {column}) AS _tc_times FROM ({rows})"  # noqa: S608
        query = f"SELECT {ROW}, {column} FROM ({rows}) WHERE _tc_times > 1"  # noqa: S608
        if table.key and table.key != (expectation.column,):
            other = " OR ".join(f"b.{quoted(k)} IS DISTINCT FROM c.{quoted(k)}" for k in table.key)
            query += (
                f" UNION SELECT b.{ROW}, b.{column} FROM batch AS b JOIN state AS c "  # noqa: S608
                f"ON b.{column} = c.{column} WHERE {other}"
            )
        bad = connection.sql(f"SELECT * FROM ({query}) ORDER BY {ROW}").to_arrow_table()  # noqa: S608
        tally.add(expectation, failures_of(bad, expectation.column))
