"""Read files of rows in any format, for ingest, profile and scoring.

`open_rows` returns the file's columns by position; `read_batches` returns the declared columns of a table, parsed by
truecourse/data/parsing.py. All formats behave alike: an empty file, a missing or duplicate column, and bytes that
cannot be read are errors that name the file. A malformed line is kept with its number, and reading continues.
"""

import json
import logging
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from truecourse.data.arrow_types import arrow_type
from truecourse.data.decoding import utf8_blocks
from truecourse.data.parsing import PLAIN, Malformed, parse_batch, read_cells, value_text
from truecourse.data.records import Chunk, Records
from truecourse.data.sources import Located, unpacked
from truecourse.errors import SourceError
from truecourse.problem.schema import AnyColumn, Columns, Csv, Table, Text, Time, source_names
from truecourse.wording import counted

log = logging.getLogger("truecourse.ingest")
BATCH = 50_000
"""Most rows of a chunk, for all formats except CSV."""


class Rows(Protocol):
    """An open file: its column names by position, as written (possibly with duplicates), and its rows."""

    names: tuple[str, ...]

    def chunks(self, wanted: Sequence[int]) -> Iterator[Chunk]:
        """Yield all rows in order, with the columns at these positions: texts, or a Parquet file's types."""


@contextmanager
def open_rows(located: Located) -> Iterator[Rows]:
    """Open a file's rows, unparsed. Memory is bounded: about 4 MiB of text or 50,000 rows at a time.

    Raises SourceError, also while the rows are read, with the file and, if known, the line and byte."""
    with _errors(located), unpacked(located) as path:
        if not path.stat().st_size:
            hint = "a file needs at least a header line; fetch it again"
            raise SourceError("the file is empty", where=located.uri, hint=hint)
        if located.format == "csv":
            yield Records(utf8_blocks(path, located.csv.encoding, located.uri), located.csv, located.uri)
        elif located.format == "jsonl":
            yield JsonLines(path, located.uri)
        elif located.format == "parquet":
            # Spark's int96 times would be read as nanoseconds, which overflow after 2262.
            with pq.ParquetFile(path, coerce_int96_timestamp_unit="us") as file:
                yield ParquetRows(file)
        else:
            with pa.memory_map(str(path)) as source, pa.ipc.open_file(source) as file:
                yield QueryRows(file)


def dialect(located: Located) -> Csv:
    """The dialect to parse the file's texts with: the source's for CSV, PLAIN for other formats."""
    return located.csv if located.format == "csv" else PLAIN


def read_batches(located: Located, table: Table, optional: Collection[str] = ()) -> Iterator[pa.RecordBatch]:
    """Read the declared columns of a source's rows in order, with batch_schema(), including malformed lines.

    `optional`: columns that the source may lack; they have their default then, or null. Raises SourceError with the
    file and its fault; nothing unreadable is skipped."""
    with open_rows(located) as rows:
        yield from parse_batches(located, rows, table.columns, table.name, optional)


def absent_columns(located: Located, columns: Columns) -> list[str]:
    """The columns that a source lacks. Raises SourceError if it cannot be read."""
    with open_rows(located) as rows:
        return [name for name, source in source_names(columns, rows.names).items() if source not in rows.names]


def new_columns(located: Located, columns: Columns) -> dict[str, int]:
    """The columns of a source that are not declared, each with the number of its rows that have a value in it."""
    with open_rows(located) as rows:
        known = set(source_names(columns, rows.names).values())
        positions = {name: number for number, name in enumerate(rows.names) if name not in known}
        filled = dict.fromkeys(positions, 0)
        csv = dialect(located)
        for chunk in rows.chunks(list(positions.values())) if positions else ():
            for name, cells in zip(positions, chunk.cells, strict=True):
                filled[name] += chunk.rows - read_cells(cells, Text(), csv)[0].null_count
    return filled


def parse_batches(
    located: Located, rows: Rows, columns: Columns, name: str, optional: Collection[str] = ()
) -> Iterator[pa.RecordBatch]:
    """Parse an open file's rows to these columns. `name`: the table's, for messages. `optional`: as in read_batches().
    Raises SourceError."""
    names = source_names(columns, rows.names)
    absent = {column for column, source in names.items() if source not in rows.names and column not in optional}
    if located.format == "jsonl":  # JSON objects omit nulls
        absent = {column for column in absent if not columns[column].nulls}
    declared, missing = dict.fromkeys(names.values()), {names[column] for column in absent}
    try:
        require_columns(f"{name}: {located.uri}", declared, rows.names, missing)
    except SourceError as error:
        count = sum(chunk.rows for chunk in rows.chunks([0] if rows.names else []))
        raise SourceError(f"{error.what}; it has {counted(count, 'row')}", where=error.where, hint=error.hint) from None
    positions = {column: rows.names.index(source) for column, source in names.items() if source in rows.names}
    csv = dialect(located)
    for chunk in rows.chunks(list(positions.values())):
        if chunk.rows:
            cells = {
                column: default_cells(columns[column], chunk.rows) for column in columns if column not in positions
            }
            cells |= dict(zip(positions, chunk.cells, strict=True))
            yield parse_batch(cells, columns, csv, chunk.malformed)


def default_cells(column: AnyColumn, rows: int) -> pa.Array:
    """The default of a column that the source lacks, once for each row."""
    if column.default is None:
        return pa.nulls(rows, pa.string())
    value: Any = column.default
    if isinstance(column, Time):
        moment = datetime.fromisoformat(str(value))
        value = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return pa.array([value] * rows, arrow_type(column))


def require_columns(where: str, columns: Mapping[str, Any], present: Sequence[str], absent: set[str]) -> None:
    """Raise SourceError for declared columns that are in `absent` or appear twice in `present`; log undeclared ones.

    The message lists the file's undeclared columns, because a column may have been renamed."""
    others = [name for name in dict.fromkeys(present) if name not in columns]
    if missing := [name for name in columns if name in absent]:
        what = f"has no column {', '.join(map(repr, missing))}"
        hint = f"its columns: {', '.join(present[:50])}"
        if others:
            what += f"; its {', '.join(map(repr, others[:20]))} {'are' if len(others) > 1 else 'is'} not declared"
            hint = f"if a column was renamed, rename it in the source or in problem.py; {hint}"
        raise SourceError(what, where=where, hint=hint)
    if twice := [name for name in columns if list(present).count(name) > 1]:
        what = f"has {', '.join(map(repr, twice))} twice"
        hint = f"rename one of them in the source, or remove the column; its columns: {', '.join(present[:50])}"
        raise SourceError(what, where=where, hint=hint)
    if others:
        log.info("%s: undeclared columns are ignored: %s", where, ", ".join(others))


@contextmanager
def _errors(located: Located) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        what = f"cannot be read as {located.format or 'the result of a query'}: {_first_line(error)}"
        raise SourceError(what, where=located.uri, hint="check the file, and the source's format and csv") from None


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


class ParquetRows:
    """Top-level columns of a Parquet file, with the file's Arrow types."""

    def __init__(self, file: pq.ParquetFile) -> None:
        self._file = file
        self.schema: pa.Schema = file.schema_arrow
        self.names = tuple(self.schema.names)

    def chunks(self, wanted: Sequence[int]) -> Iterator[Chunk]:
        names = [self.names[position] for position in wanted]
        for batch in self._file.iter_batches(BATCH, columns=list(dict.fromkeys(names))):
            # By name: `a.b` may be a column and the field of a struct, and then both are read.
            yield Chunk([batch.column(batch.schema.names.index(name)) for name in names], batch.num_rows)


class QueryRows:
    """The result of a SQL query: texts in an Arrow file."""

    def __init__(self, file: pa.ipc.RecordBatchFileReader) -> None:
        self._file = file
        self.names = tuple(file.schema.names)

    def chunks(self, wanted: Sequence[int]) -> Iterator[Chunk]:
        for number in range(self._file.num_record_batches):
            batch = self._file.get_batch(number)
            yield Chunk([batch.column(position) for position in wanted], batch.num_rows)


class JsonLines:
    """One JSON object per line. Its members are the columns, in order of first appearance in the file. An object with a
    duplicate member is malformed."""

    def __init__(self, path: Path, where: str) -> None:
        self._path, self._where = path, where
        names: dict[str, None] = {}
        for _, _, row in self._objects():
            if isinstance(row, dict):
                names |= dict.fromkeys(row)
        self.names = tuple(names)

    def chunks(self, wanted: Sequence[int]) -> Iterator[Chunk]:
        names = [self.names[position] for position in wanted]
        objects = self._objects()
        while part := list(islice(objects, BATCH)):
            rows = [row if isinstance(row, dict) else {} for _, _, row in part]
            cells = [pa.array([value_text(row.get(name)) for row in rows], pa.string()) for name in names]
            malformed = (
                Malformed(number, line, text.decode().rstrip("\r"), row)
                for number, (line, text, row) in enumerate(part)
                if isinstance(row, str)
            )
            yield Chunk(cells, len(rows), tuple(malformed))

    def _objects(self) -> Iterator[tuple[int, bytes, dict[str, Any] | str]]:
        """Yield each line's number, text, and object or fault."""
        rest, line = b"", 1
        for block in utf8_blocks(self._path, "utf-8", self._where):
            *lines, rest = (rest + block).split(b"\n")
            for text in lines:
                if text.strip():
                    yield line, text, _object(text)
                line += 1
        if rest.strip():
            yield line, rest, _object(rest)


def _object(text: bytes) -> dict[str, Any] | str:
    try:
        row = orjson.loads(text)
    except orjson.JSONDecodeError:
        return _strict_object(text)  # accepts NaN, and has better messages
    if row.__class__ is not dict:
        return "is not a JSON object"
    # orjson keeps the last of duplicate members. A line with no more colons than members has no duplicates.
    pairs = text.count(b'":')
    if pairs == len(row) and not re.search(rb'"\s+:', text):
        return dict(row)
    return _strict_object(text)


def _strict_object(text: bytes) -> dict[str, Any] | str:
    try:
        row = json.loads(text, object_pairs_hook=_members)
    except (ValueError, RecursionError) as error:
        return f"is not a JSON object: {error}"
    return row if isinstance(row, dict) else "is not a JSON object"


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        twice = next(name for number, (name, _) in enumerate(pairs) if name in dict(pairs[:number]))
        raise ValueError(f"duplicate member {twice!r}")
    return members
