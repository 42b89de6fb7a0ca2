"""Profile data files, column by column: the basis for the guesses of `truecourse init`.

Each column gets the declaration with which the parser of ingest reads nearly all of its cells. The exceptions are
counted, and the most frequent ones kept. Memory is bounded: cells are staged on disk, and DuckDB spills."""

import glob
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from truecourse.authoring.leakage.suspects import MAX_ROWS
from truecourse.authoring.scaffold import staging
from truecourse.authoring.scaffold.column_types import Choice, FileTypes, choose_types
from truecourse.data.arrow_types import arrow_type
from truecourse.data.parsing import read_cells
from truecourse.data.sql import connect
from truecourse.errors import SourceError
from truecourse.problem.schema import AnyColumn, Csv, Format

MAX_COUNTED = 51
"""Columns with fewer distinct values get a count for each value."""


@dataclass(frozen=True)
class ColumnProfile:
    """The profile of one column.

    `declared` is None for a column that no table can hold (a list, a struct, only nulls); `why_not` is the reason.
    `unreadable` counts the cells that do not parse as declared, `exceptions` holds the most frequent of them with their
    counts, and `remarks` are sentences about how the cells are written."""

    name: str
    position: int
    declared: AnyColumn | None
    rows: int
    nulls: int
    distinct: int
    low: Any = None
    high: Any = None
    """Least and greatest value: numbers, naive UTC times, or the lengths of texts."""
    counts: tuple[tuple[Any, int], ...] = ()
    """Every value and its rows, most frequent first, if there are fewer than MAX_COUNTED."""
    whole: bool = False
    """A Float of whole numbers only."""
    unreadable: int = 0
    exceptions: tuple[tuple[str, int], ...] = ()
    remarks: tuple[str, ...] = ()
    why_not: str = ""
    totals: tuple[str, ...] = ()
    """Texts of this column that mark a row of totals at the end of a file."""

    @property
    def type(self) -> str | None:
        return None if self.declared is None else type(self.declared).__name__

    @property
    def held(self) -> int:
        return self.rows - self.nulls

    @property
    def unique(self) -> bool:
        return self.nulls == 0 and self.distinct == self.rows - self.unreadable > 1

    @property
    def counts_rows(self) -> bool:
        """Whether the values are consecutive row numbers from 0 or 1."""
        consecutive = self.type == "Integer" and self.unique and self.high - self.low == self.distinct - 1
        return consecutive and self.low in (0, 1)


@dataclass(frozen=True)
class FileProfile:
    """The profile of data files.

    `source` is the absolute path or glob. `rows` does not count malformed lines and rows of totals."""

    source: str
    files: tuple[Path, ...]
    format: Format
    csv: Csv
    titles: tuple[str, ...]
    rows: int
    columns: tuple[ColumnProfile, ...]
    times: dict[str, tuple[tuple[datetime, int], ...]]
    """For each Time column, its days (at midnight) and how many labelled rows fall on each, in order."""
    sample: dict[str, pa.Array]
    """Up to leakage.MAX_ROWS rows, evenly spaced, typed, by column."""
    malformed: tuple[str, ...]
    """The first malformed lines."""
    malformed_lines: int
    totals: tuple[str, ...]
    """Rows of totals at the end of the files, as text."""
    unreadable: dict[frozenset[int], int]
    """Rows with cells that do not parse, by the positions of their columns."""
    absent: tuple[str, ...] = ()
    """Columns that only some of the files have."""

    @property
    def path(self) -> Path:
        return self.files[0]


def table_name(data: str) -> str:
    """Turn a file name into an identifier: `Sales 2024.csv.zip` to `sales_2024`, `sales-*.csv` to `sales`."""
    stem = Path(data).name.split(".")[0].lower()
    name = "".join(c if c.isascii() and c.isalnum() else "_" for c in stem).strip("_")[:50].strip("_")
    return name if name[:1].isalpha() else f"table_{name}".rstrip("_")


def find_files(data: str) -> tuple[str, tuple[Path, ...]]:
    """Find the files of a path or glob. Returns it as an absolute one, and its files in order.

    Raises SourceError if there are none."""
    path = Path(data).expanduser()
    absolute = str(path.absolute())
    if path.is_file():
        return glob.escape(absolute), (path.absolute(),)
    if path.is_dir():
        raise SourceError("is a folder", where=data, hint=f"give a file, or a glob: {path}/*.csv")
    found = sorted(Path(name) for name in glob.glob(absolute, recursive=True) if Path(name).is_file())  # noqa: PTH207
    if not found:
        magic = glob.has_magic(data)
        hint = "give the path of a CSV, JSON lines or Parquet file, or a glob in quotes: 'sales-*.csv'"
        raise SourceError("no file matches" if magic else "no such file", where=data, hint=hint)
    return absolute, tuple(found)


def profile_files(
    data: str | Path,
    label: str | None = None,
    connection: duckdb.DuckDBPyConnection | None = None,
    target: str = "data",
) -> FileProfile:
    """Profile all files of a path or glob, in bounded memory. `times` counts only rows with a `label`.

    `connection`: keeps the typed rows in its table `target`, columns named by position (c0, c1, ...).
    Raises SourceError for a file that cannot be read or has no rows, and for files of different formats."""
    source, files = find_files(str(data))
    with ExitStack() as stack:
        connection = connection or stack.enter_context(connect())
        staged = stack.enter_context(staging.stage_files(files))
        if not staged.rows:
            raise SourceError("has no rows", where=str(data), hint="give a file with a header and rows")
        types = choose_types(staged)
        loaded = _load(connection, target, staged, types)
        columns = tuple(
            _column(connection, target, position, name, choice, staged.rows)
            for position, (name, choice) in enumerate(zip(staged.names, types.choices, strict=True))
        )
        labelled = f"c{staged.names.index(label)} IS NOT NULL" if label in staged.names else "true"
        times = {c.name: _days(connection, target, c.position, labelled) for c in columns if c.type == "Time"}
    return FileProfile(
        source, files, staged.format, types.csv, staged.titles, staged.rows, columns, times, loaded.sample,
        staged.malformed, staged.malformed_lines, staged.totals, dict(loaded.unreadable), staged.absent,
    )  # fmt: skip


@dataclass
class _Loaded:
    sample: dict[str, pa.Array]
    unreadable: Counter[frozenset[int]]


def _load(connection: duckdb.DuckDBPyConnection, target: str, staged: staging.StagedFiles, types: FileTypes) -> _Loaded:
    """Load the typed rows into DuckDB's table `target`, columns named by position (c0, c1, ...)."""
    declared = {i: c.declared for i, c in enumerate(types.choices) if c.declared is not None}
    schema = pa.schema([(f"c{i}", arrow_type(column)) for i, column in declared.items()] or [("none", pa.null())])
    loaded = _Loaded({}, Counter())
    kept: list[pa.RecordBatch] = []

    def batches() -> Iterator[pa.RecordBatch]:
        before = 0
        step = max(1, -(-staged.rows // MAX_ROWS))
        for batch in staged.batches():
            unreadable: dict[int, list[int]] = {}
            arrays = []
            for i, column in declared.items():
                array, failed = read_cells(batch.column(i), column, types.csv)
                arrays.append(array)
                for row in failed:
                    unreadable.setdefault(row, []).append(i)
            loaded.unreadable.update(map(frozenset, unreadable.values()))
            typed = pa.RecordBatch.from_arrays(arrays or [pa.nulls(len(batch))], schema=schema)
            kept.append(typed.take(pa.array(range(-before % step, len(typed), step), pa.int64())))
            before += len(typed)
            yield typed

    connection.register("source", pa.RecordBatchReader.from_batches(schema, batches()))
    moments = {i for i, column in declared.items() if type(column).__name__ == "Time"}
    casts = [f"CAST(c{i} AS TIMESTAMP) AS c{i}" if i in moments else f"c{i}" for i in declared] or ["*"]
    connection.execute(f"CREATE TEMP TABLE {target} AS SELECT {', '.join(casts)} FROM source")  # noqa: S608
    sample = pa.Table.from_batches(kept, schema)
    names = staged.names
    loaded.sample = {names[i]: sample.column(f"c{i}").combine_chunks() for i in declared if names.count(names[i]) == 1}
    return loaded


def _column(
    connection: duckdb.DuckDBPyConnection, target: str, position: int, name: str, choice: Choice, rows: int
) -> ColumnProfile:
    column = f"c{position}"
    fields: dict[str, Any] = {
        "unreadable": choice.unreadable, "exceptions": choice.exceptions, "remarks": choice.remarks,
        "why_not": choice.why_not, "totals": choice.totals,
    }  # fmt: skip
    if choice.declared is None:
        return ColumnProfile(name, position, None, rows, rows - choice.held, 0, **fields)
    held, distinct = _fetch_row(connection, f"SELECT count({column}), count(DISTINCT {column}) FROM {target}")  # noqa: S608
    if not held:
        return ColumnProfile(name, position, None, rows, rows, 0, **(fields | {"why_not": "is empty"}))
    kind = type(choice.declared).__name__
    value = f"length({column})" if kind == "Text" else column
    low, high = _fetch_row(connection, f"SELECT min({value}), max({value}) FROM {target}")  # noqa: S608
    whole = kind == "Float" and _fetch_row(connection, f"SELECT bool_and({column} = floor({column})) FROM {target}")[0]  # noqa: S608
    counts: list[tuple[Any, int]] = []
    if distinct < MAX_COUNTED:
        query = f"SELECT {column}, count(*) FROM {target} WHERE {column} IS NOT NULL GROUP BY 1 ORDER BY 2 DESC, 1"  # noqa: S608
        counts = connection.execute(query).fetchall()
    nulls = rows - held - choice.unreadable
    return ColumnProfile(
        name, position, choice.declared, rows, nulls, distinct, low, high, tuple(counts), bool(whole), **fields
    )


def _days(
    connection: duckdb.DuckDBPyConnection, target: str, position: int, labelled: str
) -> tuple[tuple[datetime, int], ...]:
    day = f"CAST(date_trunc('day', c{position}) AS TIMESTAMP)"
    query = f"SELECT {day}, count(*) FROM {target} WHERE c{position} IS NOT NULL AND {labelled} GROUP BY 1 ORDER BY 1"  # noqa: S608
    return tuple(connection.execute(query).fetchall())


def _fetch_row(connection: duckdb.DuckDBPyConnection, query: str, parameters: Any = None) -> tuple[Any, ...]:
    rows: list[tuple[Any, ...]] = connection.execute(query, parameters).fetchall()
    return rows[0]
