"""The rows of a raw table that were not validated yet: one batch, checked in chunks of bounded memory."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from truecourse.cells import LINE, UNREADABLE
from truecourse.expectations import (
    Suite,
    Tallies,
    Tally,
    check_references,
    check_unreadable,
    compile_expectations,
    failures_of,
)
from truecourse.frame import arrow_type
from truecourse.problem import Problem
from truecourse.references import TableVersion
from truecourse.schema import Table
from truecourse.sql import CURRENT, quoted
from truecourse.tables import Tables, clean_table, raw_table

CHUNK = 100_000


@dataclass(frozen=True)
class Batch:
    """Rows `start` <= _tc_row < `end` of a raw version; `sources`: where each source's rows start."""

    raw: TableVersion
    start: int
    end: int
    sources: tuple[int, ...]

    @property
    def rows(self) -> int:
        return self.end - self.start


def pending(problem: Problem, table: Table, tables: Tables) -> tuple[Batch | None, tuple[int, dict[str, Any]] | None]:
    """The batch to validate (None: nothing new), and the newest clean version with its commit (None: no table).

    Raises NotFound for a table that was never ingested."""
    raw = raw_table(problem.name, table.name)
    commits = tables.commits(raw)
    clean = clean_table(problem.name, table.name)
    last = (
        next((c for c in reversed(tables.commits(clean)) if c[1].get("inputs")), None) if tables.exists(clean) else None
    )
    done = last[1]["inputs"][0]["version"] if last else -1
    start = sum(commit.get("rows", 0) for version, commit in commits if version <= done)
    starts, end = [], start
    for version, commit in commits:
        for source in commit.get("sources", ()) if version > done else ():
            starts.append(end)
            end += source["rows"]
    if commits[-1][0] <= done:
        return None, last
    return Batch(TableVersion(name=raw, version=commits[-1][0]), start, end, tuple(starts)), last


def check(problem: Problem, table: Table, tables: Tables, batch: Batch, clean: TableVersion | None) -> Tallies:
    """Every expectation of one row, on every row of the batch. `clean`: the table so far, for references to itself."""
    tallies: Tallies = {expectation: Tally() for expectation in compile_expectations(table)}
    suite = Suite(table, list(tallies))
    dataset = tables.dataset(batch.raw)
    keys = _referred(problem, table, tables, batch, clean)
    for chunk in _chunks(dataset, batch):
        unreadable = check_unreadable(chunk, tallies)
        if lines := [row for row, column in unreadable if column == LINE]:
            chunk = chunk.filter(pc.invert(pc.is_in(chunk.column("_tc_row"), value_set=pa.array(lines, pa.int64()))))
        if len(chunk):
            suite.check(chunk, unreadable, tallies)
            check_references(chunk, keys, tallies)
    return tallies


def _chunks(dataset: ds.Dataset, batch: Batch) -> Iterator[pa.Table]:
    waiting: list[pa.RecordBatch] = []
    scanner = dataset.scanner(
        filter=pc.field("_tc_row") >= batch.start, batch_size=CHUNK, batch_readahead=2, fragment_readahead=1
    )
    for piece in scanner.to_batches():
        waiting.append(piece)
        if sum(map(len, waiting)) >= CHUNK:
            yield pa.Table.from_batches(waiting).combine_chunks()
            waiting = []
    if sum(map(len, waiting)):
        yield pa.Table.from_batches(waiting).combine_chunks()


def _referred(
    problem: Problem, table: Table, tables: Tables, batch: Batch, clean: TableVersion | None
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
            values = [tables.read(batch.raw, [key], pc.field("_tc_row") >= batch.start).column(key)]
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


def check_unique(
    connection: duckdb.DuckDBPyConnection, table: Table, batch: Batch, tallies: Tallies, *, first: bool
) -> None:
    """A value of a `unique` column twice in one source is a fault (two equal rows are one row); so is one that a row
    of another key has. The same key in another source is a correction."""
    source = " + ".join(f"CAST(_tc_row >= {start} AS INT)" for start in batch.sources) or "0"
    declared = ", ".join(map(quoted, table.columns))
    for expectation, tally in tallies.items():
        if expectation.name != "unique":
            continue
        column = quoted(expectation.column)
        rows = (
            f"SELECT max(_tc_row) AS _tc_row, {source} AS _tc_source, {column} FROM batch "  # noqa: S608
            f"WHERE {UNREADABLE} IS NULL AND {column} IS NOT NULL GROUP BY {declared}, _tc_source"
        )
        rows = f"SELECT *, count(*) OVER (PARTITION BY {column}, _tc_source) AS _tc_times FROM ({rows})"  # noqa: S608
        query = f"SELECT _tc_row, {column} FROM ({rows}) WHERE _tc_times > 1"  # noqa: S608
        if not first and table.key and table.key != (expectation.column,):
            other = " OR ".join(f"b.{quoted(k)} IS DISTINCT FROM c.{quoted(k)}" for k in table.key)
            query += (
                f" UNION SELECT b._tc_row, b.{column} FROM batch AS b JOIN (SELECT * FROM clean WHERE {CURRENT}) AS c "  # noqa: S608
                f"ON b.{column} = c.{column} WHERE {other}"
            )
        bad = connection.sql(f"SELECT * FROM ({query}) ORDER BY _tc_row").to_arrow_table()  # noqa: S608
        tally.add(expectation, failures_of(bad, expectation.column), batch.rows)
