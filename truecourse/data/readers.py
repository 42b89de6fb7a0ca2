"""Reading a file of rows, of whatever format: for ingest, profile and scoring alike.

`open_rows` gives columns as the file has them, by position; `read_batches` the declared columns of a table, parsed by
truecourse/data/parsing.py. Every format answers alike: an empty file, a column that is absent or stands twice, and
bytes that cannot be read are errors that name the file; a line that is no row is kept with its number, and reading goes
on.
"""

import json
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from truecourse.data.decoding import utf8_blocks
from truecourse.data.parsing import PLAIN, Malformed, parse_batch, value_text
from truecourse.data.records import Chunk, Records
from truecourse.data.sources import Located, unpacked
from truecourse.errors import SourceError
from truecourse.problem.schema import Columns, Csv, Table, source_names

log = logging.getLogger("truecourse.ingest")
BATCH = 50_000
"""Rows of a chunk, at most, of the formats that tell them."""


class Rows(Protocol):
    """An open file: the names of its columns by position, as written (one may stand twice), and its rows."""

    names: tuple[str, ...]

    def chunks(self, wanted: Sequence[int]) -> Iterator[Chunk]:
        """All rows in order, with the columns at these positions: texts, or the types of a Parquet file."""


@contextmanager
def open_rows(located: Located) -> Iterator[Rows]:
    """The rows of a file as it has them. Memory is bounded: about 4 MiB of text or 50,000 rows at once.

    Raises SourceError, also while the rows are read, that names the file, and the line and byte where there is one."""
    with _errors(located), unpacked(located) as path:
        if not path.stat().st_size:
            hint = "a file has at least a header line; fetch it again"
            raise SourceError("the file is empty", where=located.uri, hint=hint)
        if located.format == "csv":
            yield Records(utf8_blocks(path, located.csv.encoding, located.uri), located.csv, located.uri)
        elif located.format == "jsonl":
            yield JsonLines(path, located.uri)
        elif located.format == "parquet":
            # Spark's int96 times would be read as nanoseconds, and wrap beyond 2262.
            with pq.ParquetFile(path, coerce_int96_timestamp_unit="us") as file:
                yield ParquetRows(file)
        else:
            with pa.memory_map(str(path)) as source, pa.ipc.open_file(source) as file:
                yield QueryRows(file)


def dialect(located: Located) -> Csv:
    """The dialect that the file's texts are parsed by: the source's own for CSV; others have none."""
    return located.csv if located.format == "csv" else PLAIN


def read_batches(located: Located, table: Table) -> Iterator[pa.RecordBatch]:
    """The declared columns of the source's rows in order, under cells.batch_schema; lines that are no rows among them.

    Raises SourceError that names the file and what is wrong with it: nothing that cannot be read is passed over."""
    with open_rows(located) as rows:
        yield from parse_batches(located, rows, table.columns, table.name)


def parse_batches(located: Located, rows: Rows, columns: Columns, name: str) -> Iterator[pa.RecordBatch]:
    """An open file's rows as these columns. `name` is the table's, for messages. Raises SourceError."""
    named = source_names(columns)
    absent = {column for column, source in named.items() if source not in rows.names}
    if located.format == "jsonl":  # JSON leaves out what is null
        absent = {column for column in absent if not columns[column].nulls}
    declared, missing = dict.fromkeys(named.values()), {named[column] for column in absent}
    require_columns(f"{name}: {located.uri}", declared, rows.names, missing)
    held = {column: rows.names.index(source) for column, source in named.items() if source in rows.names}
    csv = dialect(located)
    for chunk in rows.chunks(list(held.values())):
        if chunk.rows:
            nulls = pa.nulls(chunk.rows, pa.string())
            cells = dict.fromkeys(columns, nulls) | dict(zip(held, chunk.cells, strict=True))
            yield parse_batch(cells, columns, csv, chunk.malformed)


def require_columns(where: str, columns: Mapping[str, Any], present: Sequence[str], absent: set[str]) -> None:
    """Raises SourceError for declared columns that are `absent`, with those that may have taken their place, or stand
    twice; logs the columns of the file that are not declared."""
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
        hint = f"rename one of them in the source, or leave the column out; its columns: {', '.join(present[:50])}"
        raise SourceError(what, where=where, hint=hint)
    if others:
        log.info("%s: not declared, ignored: %s", where, ", ".join(others))


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
    """Top-level columns of a Parquet file, of its own Arrow types."""

    def __init__(self, file: pq.ParquetFile) -> None:
        self._file = file
        self.schema: pa.Schema = file.schema_arrow
        self.names = tuple(self.schema.names)

    def chunks(self, wanted: Sequence[int]) -> Iterator[Chunk]:
        names = [self.names[place] for place in wanted]
        for batch in self._file.iter_batches(BATCH, columns=list(dict.fromkeys(names))):
            # By name, for `a.b` is both a column and the field of a struct: then both are read.
            yield Chunk([batch.column(batch.schema.names.index(name)) for name in names], batch.num_rows)


class QueryRows:
    """The result of a query: texts in an Arrow file."""

    def __init__(self, file: pa.ipc.RecordBatchFileReader) -> None:
        self._file = file
        self.names = tuple(file.schema.names)

    def chunks(self, wanted: Sequence[int]) -> Iterator[Chunk]:
        for number in range(self._file.num_record_batches):
            batch = self._file.get_batch(number)
            yield Chunk([batch.column(place) for place in wanted], batch.num_rows)


class JsonLines:
    """One JSON object a line; its members are the columns, in the order in which the file first names them. An object
    that names a member twice is no row."""

    def __init__(self, path: Path, where: str) -> None:
        self._path, self._where = path, where
        names: dict[str, None] = {}
        for _, _, row in self._objects():
            if isinstance(row, dict):
                names |= dict.fromkeys(row)
        self.names = tuple(names)

    def chunks(self, wanted: Sequence[int]) -> Iterator[Chunk]:
        names = [self.names[place] for place in wanted]
        objects = self._objects()
        while part := list(islice(objects, BATCH)):
            rows = [row if isinstance(row, dict) else {} for _, _, row in part]
            cells = [pa.array([value_text(row.get(name)) for row in rows], pa.string()) for name in names]
            malformed = (
                Malformed(place, line, text.decode().rstrip("\r"), row)
                for place, (line, text, row) in enumerate(part)
                if isinstance(row, str)
            )
            yield Chunk(cells, len(rows), tuple(malformed))

    def _objects(self) -> Iterator[tuple[int, bytes, dict[str, Any] | str]]:
        """Each line's number, text and object, or what is wrong with it."""
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
        return _strict_object(text)  # NaN, and a better message
    if row.__class__ is not dict:
        return "is no JSON object"
    # orjson keeps the last of two members of one name: where a line has no more colons than members, there are none.
    pairs = text.count(b'":')
    if pairs == len(row) and not re.search(rb'"\s+:', text):
        return dict(row)
    return _strict_object(text)


def _strict_object(text: bytes) -> dict[str, Any] | str:
    try:
        row = json.loads(text, object_pairs_hook=_members)
    except (ValueError, RecursionError) as error:
        return f"is no JSON object: {error}"
    return row if isinstance(row, dict) else "is no JSON object"


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        twice = next(name for place, (name, _) in enumerate(pairs) if name in dict(pairs[:place]))
        raise ValueError(f"it names {twice!r} twice")
    return members
