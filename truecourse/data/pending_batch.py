"""Deliveries of a raw table that wait for validation, and the check of their rows in chunks of bounded memory."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
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
from truecourse.data.merge import is_live
from truecourse.data.parsing import LINE, UNREADABLE
from truecourse.data.sql import ROW, quote
from truecourse.data.table_edits import Edit
from truecourse.errors import NotFound
from truecourse.problem.namespace import Namespace
from truecourse.problem.schema import Table
from truecourse.references import TableVersion
from truecourse.storage.delta_tables import Tables, clean_table

CHUNK = 100_000


@dataclass(frozen=True)
class PendingBatch:
    """Deliveries of a raw version that are to be validated, in order. `revalidates_all`: all deliveries are validated
    again, because the table's declaration changed, or because it was asked for.

    `kept`: deliveries that were accepted before the declaration changed, with the rows that were quarantined then. They
    stay accepted, and so do their other rows, unless a cell or line cannot be read."""

    raw: TableVersion
    deliveries: tuple[Delivery, ...]
    known: tuple[Delivery, ...]
    """Every delivery of the table."""
    accepted: frozenset[int]
    revalidates_all: bool
    kept: Mapping[int, frozenset[int]] = field(default_factory=dict)
    edits: tuple[Edit, ...] = ()
    """The edits of the declaration since the clean table was written."""

    @property
    def selected(self) -> Any:
        """Filter expression for the rows of the deliveries."""
        ranges = [(d.start, d.end) for d in self.deliveries if d.rows]
        merged: list[tuple[int, int]] = []
        for start, end in ranges:
            if merged and merged[-1][1] == start:
                merged[-1] = (merged[-1][0], end)
            else:
                merged.append((start, end))
        parts = [(pc.field(ROW) >= start) & (pc.field(ROW) < end) for start, end in merged]
        return reduce(or_, parts) if parts else pc.field(ROW) < 0


def check(
    problem: Namespace, table: Table, tables: Tables, pending: PendingBatch, clean: TableVersion | None
) -> list[Tallies]:
    """Check every row-level expectation on the pending deliveries. Return the tallies of each delivery.

    `clean`: the current clean table, for foreign keys that refer to the table itself."""
    expectations, batch = compile_expectations(table), pending.deliveries
    tallies = TalliesByRange(
        expectations, [d.start for d in batch], [d.end for d in batch], [pending.kept.get(d.number) for d in batch]
    )
    if not any(delivery.rows for delivery in batch):
        return tallies.ranges
    suite = Suite(table, expectations)
    key_suite = Suite(table, [e for e in expectations if e.column in table.key]) if table.deleted is not None else None
    dataset = tables.dataset(pending.raw)
    keys = _referenced_keys(problem, table, tables, pending, clean)
    for chunk in _chunks(dataset, pending):
        unreadable = check_unreadable(chunk, tallies)
        if lines := [row for row, column in unreadable if column == LINE]:
            chunk = chunk.filter(pc.invert(pc.is_in(chunk.column(ROW), value_set=pa.array(lines, pa.int64()))))
        if key_suite is not None and table.deleted is not None:  # of rows that delete others, only the key matters
            deletes = pc.fill_null(chunk.column(table.deleted), False)
            key_suite.check(chunk.filter(deletes), unreadable, tallies)
            chunk = chunk.filter(pc.invert(deletes))
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


def _referenced_keys(
    problem: Namespace, table: Table, tables: Tables, pending: PendingBatch, clean: TableVersion | None
) -> dict[str, pa.Array]:
    """The existing keys of the referenced table, for each column with an `in_table`."""
    keys: dict[str, pa.Array] = {}
    for name, column in table.columns.items():
        if column.in_table is None:
            continue
        other = problem.table(column.in_table)
        key = other.key_column
        assert key is not None, f"{other.name} has no key of one column"  # `truecourse check` reports it first
        if other.name == table.name:
            values = [tables.read(pending.raw, [key], pending.selected).column(key)]
            values += [_current(tables, clean, key)] if clean else []
            chunks = [chunk for value in values for chunk in value.chunks]
        else:
            validated = tables.version(clean_table(problem.name, other.name))
            if validated is None:
                what = f"column {name} refers to the table {other.name}, of which nothing is validated yet"
                hint = f"ingest, push or validate rows of {other.name} first"
                raise NotFound(what, where=f"{problem.name}.{table.name}", hint=hint)
            chunks = _current(tables, validated, key).chunks
        keys[name] = pa.chunked_array(chunks, arrow_type(other.columns[key])).combine_chunks().unique()
    return keys


def _current(tables: Tables, version: TableVersion, column: str) -> pa.ChunkedArray:
    return tables.read(version, [column], pc.field("_tc_superseded_at").is_null()).column(column)


def check_unique(connection: duckdb.DuckDBPyConnection, table: Table, tallies: Tallies) -> None:
    """Check `unique` columns. A value is at fault if it appears twice in one delivery (relation `batch`; equal rows
    count once), or in a current row of the table with another key (relation `state`)."""
    declared, live = ", ".join(map(quote, table.columns)), is_live(table)
    for expectation, tally in tallies.items():
        if expectation.name != "unique":
            continue
        column = quote(expectation.column)
        rows = (
            f"SELECT max({ROW}) AS {ROW}, {column} FROM batch "  # noqa: S608
            f"WHERE {UNREADABLE} IS NULL AND {column} IS NOT NULL AND {live} GROUP BY {declared}"
        )
        rows = f"SELECT *, count(*) OVER (PARTITION BY {column}) AS _tc_times FROM ({rows})"  # noqa: S608
        query = f"SELECT {ROW}, {column} FROM ({rows}) WHERE _tc_times > 1"  # noqa: S608
        if table.key and table.key != (expectation.column,):
            keys = ", ".join(map(quote, table.key))
            kept = f"FROM state ANTI JOIN (SELECT {keys} FROM batch WHERE NOT ({live})) USING ({keys})"  # noqa: S608
            other = " OR ".join(f"b.{quote(k)} IS DISTINCT FROM c.{quote(k)}" for k in table.key)
            query += (
                f" UNION SELECT b.{ROW}, b.{column} FROM (FROM batch WHERE {live}) AS b JOIN ({kept}) AS c "  # noqa: S608
                f"ON b.{column} = c.{column} WHERE {other}"
            )
        bad = connection.sql(f"SELECT * FROM ({query}) ORDER BY {ROW}").to_arrow_table()  # noqa: S608
        tally.add(expectation, failures_of(bad, expectation.column))
