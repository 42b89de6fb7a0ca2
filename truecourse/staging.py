"""Data files on their way into a profile: every column as ingest reads it, staged on disk, columns by position."""

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from truecourse.cells import LINE, UNREADABLE, is_text
from truecourse.csvform import CsvForm, csv_form, file_format
from truecourse.errors import SourceError
from truecourse.reading import BATCH, read_batches
from truecourse.schema import Csv, Files, Format, Table, Text
from truecourse.sources import Located, scratch, unpacked

_SAMPLE = 2000
_SHOWN = 5
_TOTAL = re.compile(
    r"^(grand |sub)?(total|totals|sum|summe|gesamt|insgesamt|gesamtsumme|totale|somme|suma)\b[\s:]*$", re.IGNORECASE
)


@dataclass
class Staged:
    """All rows of the files, in order: CSV and JSON lines as texts, null where the file says so; Parquet with its own
    types. A column whose name stands twice in a file is null in `batches`. `kinds`: the columns' types in the file."""

    names: list[str]
    format: Format
    csv: Csv
    path: Path
    titles: tuple[str, ...] = ()
    rows: int = 0
    twice: frozenset[str] = frozenset()
    absent: tuple[str, ...] = ()
    malformed: tuple[str, ...] = ()
    malformed_lines: int = 0
    totals: tuple[str, ...] = ()
    total_texts: dict[int, set[str]] = field(default_factory=dict)
    """By column, the texts that mark the rows of totals."""
    kinds: list[pa.DataType] = field(default_factory=list)
    _samples: list[pa.RecordBatch] = field(default_factory=list)

    def batches(self) -> Iterator[pa.RecordBatch]:
        with pa.memory_map(str(self.path)) as mapped, pa.ipc.open_file(mapped) as file:
            for number in range(file.num_record_batches):
                yield file.get_batch(number)

    def sample(self, position: int) -> pa.Array:
        """Some 2000 values of a column, from all over the files."""
        return pa.concat_arrays([batch.column(position) for batch in self._samples])

    def tell(self, lines: Sequence[str], count: int) -> None:
        self.malformed = (*self.malformed, *lines)[:_SHOWN]
        self.malformed_lines += count


@contextmanager
def staged(files: Sequence[Path]) -> Iterator[Staged]:
    """The files' rows, in a folder of <home>/tmp that is gone afterwards. Raises SourceError for a file that cannot be
    read, or is written in another way than the first."""
    with scratch() as folder:
        parts = [_opened(path) for path in files]
        first, form, titles, _ = parts[0]
        names = [name for name in parts[0][3] if all(name in part[3] for part in parts)]
        every = list(dict.fromkeys(name for part in parts for name in part[3]))
        stage = Staged(names, first.format or "csv", form, folder / "cells.arrow", titles)
        stage.absent = tuple(name for name in every if name not in names)
        stage.twice = frozenset(n for _, _, _, header in parts for n, count in Counter(header).items() if count > 1)
        for path, part in zip(files[1:], parts[1:], strict=True):
            if (part[0].format, part[1]) != (first.format, form):
                what = f"is not written as {files[0].name} is: {part[0].format}, {part[1]!r}"
                raise SourceError(what, where=str(path), cure="give files of one format, delimiter and encoding")
        _write(stage, [part[0] for part in parts])
        yield stage


def _opened(path: Path) -> tuple[Located, Csv, tuple[str, ...], list[str]]:
    """The file with its format, its dialect, title lines and column names."""
    try:
        size = path.stat().st_size
    except OSError as error:
        raise SourceError(f"cannot be read: {error.strerror}", where=str(path)) from None
    located = Located(path.as_posix(), path, "", size, "csv")
    if not size:
        raise SourceError("the file is empty", where=str(path), cure="give a file with a header and rows")
    try:
        with unpacked(located) as file:
            if not file.stat().st_size:
                raise SourceError("the file is empty", where=str(path), cure="give a file with a header and rows")
            format = file_format(file, str(path))
            form = csv_form(file, str(path)) if format == "csv" else CsvForm(Csv(), (), ())
            names = form.header
            if format != "csv":
                names = tuple(pq.read_schema(file).names if format == "parquet" else _keys(file, str(path)))
    except (OSError, pa.ArrowException) as error:
        what = f"cannot be read: {str(error).splitlines()[0]}"
        raise SourceError(what, where=str(path), cure="check the file") from None
    read = Located(path.as_posix(), path, "", size, format, form.csv)
    return read, form.csv, form.titles, [name.strip() if format == "csv" else name for name in names]


def _keys(file: Path, where: str) -> list[str]:
    """Every name of a JSON lines file, in the order of their first row."""
    names: dict[str, None] = {}
    with file.open("rb") as lines:
        for line in lines:
            try:
                row = json.loads(line)
            except ValueError:
                continue
            if isinstance(row, dict):
                names.update(dict.fromkeys(map(str, row)))
    if not names:
        raise SourceError("holds no JSON object", where=where, cure="write one JSON object a line")
    return list(names)


def _write(stage: Staged, parts: Sequence[Located]) -> None:
    writer: pa.RecordBatchFileWriter | None = None
    schema: pa.Schema | None = None
    try:
        for located in parts:
            for batch in _without_totals(stage, _read(stage, located)):
                if schema is None:
                    schema = batch.schema
                    stage.kinds = stage.kinds or list(schema.types)
                    writer = pa.ipc.new_file(str(stage.path), schema, options=pa.ipc.IpcWriteOptions(compression="lz4"))
                assert writer is not None
                batch = batch.cast(schema)
                writer.write_batch(batch)
                _take_sample(stage, batch)
                stage.rows += len(batch)
    except pa.ArrowException as error:
        raise SourceError(f"cannot be read: {str(error).splitlines()[0]}", where=parts[0].uri) from None
    finally:
        if writer is not None:
            writer.close()


def _take_sample(stage: Staged, batch: pa.RecordBatch) -> None:
    step = max(1, len(batch) // _SAMPLE)
    stage._samples.append(batch.take(pa.array(range(0, len(batch), step), pa.int64())))
    if len(stage._samples) > 64:  # half of what there is, so that memory does not grow with the files
        stage._samples = [sample.take(pa.array(range(0, len(sample), 2), pa.int64())) for sample in stage._samples]
        stage._samples = [pa.concat_batches(stage._samples)]


def _read(stage: Staged, located: Located) -> Iterator[pa.RecordBatch]:
    """Columns by position; the names that a table can declare are read as ingest would read them."""
    positions = {name: i for i, name in enumerate(stage.names) if name.strip() and name not in stage.twice}
    if located.format == "parquet":
        yield from _parquet(stage, located, positions)
        return
    columns = {name: Text(nulls=True) for name in positions}
    if not columns:
        raise SourceError("names no column that can be told apart", where=located.uri, cure="name the columns")
    table = Table(name="profile", source=Files(located.uri), columns=columns)
    schema = pa.schema([(f"c{i}", pa.string()) for i in range(len(stage.names))])
    for batch in read_batches(located, table):
        lost = batch.column(UNREADABLE)
        if lost.null_count < len(batch):
            bad = [json.loads(text) for text in lost.drop_null().to_pylist()]
            stage.tell([str(row.get(LINE, row))[:200] for row in bad[:_SHOWN]], len(bad))
            batch = batch.filter(pc.is_null(lost))
        empty = pa.nulls(len(batch), pa.string())
        arrays = [batch.column(name) if positions.get(name) == i else empty for i, name in enumerate(stage.names)]
        yield pa.RecordBatch.from_arrays(arrays, schema=schema)


def _parquet(stage: Staged, located: Located, positions: dict[str, int]) -> Iterator[pa.RecordBatch]:
    with unpacked(located) as path, pq.ParquetFile(path) as file:
        header = file.schema_arrow.names
        stage.kinds = [_decoded(file.schema_arrow.types[header.index(name)]) for name in stage.names]
        places = [header.index(name) if positions.get(name) == i else None for i, name in enumerate(stage.names)]
        for batch in file.iter_batches(BATCH):
            arrays = [_storable(batch.column(i)) if i is not None else pa.nulls(len(batch)) for i in places]
            yield pa.RecordBatch.from_arrays(arrays, [f"c{i}" for i in range(len(arrays))])


def _decoded(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _storable(column: pa.Array) -> pa.Array:
    """Plain values as they are; of what no column can hold, where there is one."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if is_text(column.type):
        return column.cast(pa.string())
    return column if is_plain(column.type) else pc.if_else(pc.is_valid(column), True, None)


def is_plain(kind: pa.DataType) -> bool:
    tests = (pa.types.is_boolean, pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal, pa.types.is_date,
             pa.types.is_timestamp, pa.types.is_null)  # fmt: skip
    return any(test(kind) for test in tests)


def _without_totals(stage: Staged, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The rows but for up to three at the end, of which a cell says that they are totals."""
    held: pa.RecordBatch | None = None
    for batch in batches:
        if held is not None:
            yield held
        held = batch
    if held is None or not len(held):
        return
    found = 0
    while found < min(3, len(held) - 1):
        row = held.slice(len(held) - 1 - found, 1)
        marks = {i: text for i, cell in enumerate(row.columns) if _TOTAL.match(text := _text(cell))}
        above = held.slice(0, len(held) - 1 - found)
        if not marks or any(_occurs(above.column(i), text) for i, text in marks.items()):
            break
        for i, text in marks.items():
            stage.total_texts.setdefault(i, set()).add(text)
        stage.totals = (*stage.totals, ", ".join(_text(cell) for cell in row.columns))
        found += 1
    yield held.slice(0, len(held) - found)


def _occurs(column: pa.Array, text: str) -> bool:
    return any(pc.is_in(column, value_set=pa.array([text], column.type)).to_pylist())


def _text(cell: pa.Array) -> str:
    value = cell[0].as_py()
    return "" if value is None else str(value).strip()
