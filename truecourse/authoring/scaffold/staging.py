"""Stage data files on disk for the profile: rows as ingest reads them, columns by position."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from truecourse.authoring.scaffold.csv_dialect import detect_csv_form, detect_format
from truecourse.data.parsing import is_text
from truecourse.data.readers import dialect, open_rows
from truecourse.data.sources import Located, scratch, unpacked
from truecourse.errors import SourceError
from truecourse.problem.schema import Csv, Format

_SAMPLE = 2000
_MAX_SHOWN = 5
_TOTAL = re.compile(
    r"^(grand |sub)?(total|totals|sum|summe|gesamt|insgesamt|gesamtsumme|totale|somme|suma)\b[\s:]*$", re.IGNORECASE
)


@dataclass
class StagedFiles:
    """All rows of the files, in order: CSV and JSON lines as texts, Parquet with its own types.

    A column whose name occurs twice in a file is null in `batches`. `kinds` holds the columns' types in the file."""

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
    samples: list[pa.RecordBatch] = field(default_factory=list)
    parts: list[Located] = field(default_factory=list)
    whole: bool = True
    """Whether all rows are staged, and not only the first ones."""

    def batches(self) -> Iterator[pa.RecordBatch]:
        with pa.memory_map(str(self.path)) as mapped, pa.ipc.open_file(mapped) as file:
            for number in range(file.num_record_batches):
                yield file.get_batch(number)

    def all_batches(self) -> Iterator[pa.RecordBatch]:
        """The rows of the files: those on disk, or read again if not all are staged; `rows` is their number then."""
        if self.whole:
            yield from self.batches()
            return
        self.rows, self.malformed, self.malformed_lines, self.totals = 0, (), 0, ()
        for batch in _read_all(self):
            self.rows += len(batch)
            yield batch

    def sample(self, position: int) -> pa.Array:
        """Evenly spaced values of a column, from all files."""
        return pa.concat_arrays([batch.column(position) for batch in self.samples])

    def add_malformed(self, lines: Sequence[str], count: int) -> None:
        self.malformed = (*self.malformed, *lines)[:_MAX_SHOWN]
        self.malformed_lines += count


@contextmanager
def stage_files(files: Sequence[Path], most: int | None = None) -> Iterator[StagedFiles]:
    """Stage the files' rows in a temporary folder of <home>/tmp: all, or the first ones, at least `most`.

    Raises SourceError for a file that cannot be read, or whose format or dialect differs from the first."""
    with scratch() as folder:
        parts = [_open_part(path) for path in files]
        first = parts[0]
        names = [name for name in first.names if all(name in part.names for part in parts)]
        every = list(dict.fromkeys(name for part in parts for name in part.names))
        csv = dialect(first.located)
        stage = StagedFiles(names, first.located.format or "csv", csv, folder / "cells.arrow", first.titles)
        stage.absent = tuple(name for name in every if name not in names)
        stage.twice = frozenset(n for part in parts for n, count in Counter(part.names).items() if count > 1)
        for path, part in zip(files[1:], parts[1:], strict=True):
            if (part.located.format, part.located.csv) != (first.located.format, first.located.csv):
                what = f"has another format than {files[0].name}: {part.located.format}, {part.located.csv!r}"
                raise SourceError(what, where=str(path), hint="give files of one format, delimiter and encoding")
        stage.parts = [part.located for part in parts]
        _write(stage, most)
        yield stage


@dataclass(frozen=True)
class _Part:
    """One file with its format, dialect, title lines and column names."""

    located: Located
    titles: tuple[str, ...]
    names: tuple[str, ...]


def _open_part(path: Path) -> _Part:
    try:
        size = path.stat().st_size
    except OSError as error:
        raise SourceError(f"cannot be read: {error.strerror}", where=str(path)) from None
    located = Located(path.as_posix(), path, "", size, "csv")
    titles: tuple[str, ...] = ()
    try:
        with unpacked(located) as file:
            if not file.stat().st_size:
                raise SourceError("the file is empty", where=str(path), hint="give a file with a header and rows")
            located = replace(located, format=detect_format(file, str(path)))
            if located.format == "csv":
                form = detect_csv_form(file, str(path))
                located, titles = replace(located, csv=form.csv), form.titles
    except OSError as error:
        raise SourceError(f"cannot be read: {error}", where=str(path), hint="check the file") from None
    with open_rows(located) as rows:
        return _Part(located, titles, rows.names)


def _write(stage: StagedFiles, most: int | None) -> None:
    """Write the rows to one Arrow file: texts unparsed, other values in their own types."""
    writer: pa.RecordBatchFileWriter | None = None
    try:
        for batch in _read_all(stage):
            if most is not None and stage.rows >= most:
                stage.whole = False
                break
            if writer is None:
                options = pa.ipc.IpcWriteOptions(compression="lz4")
                writer = pa.ipc.new_file(str(stage.path), batch.schema, options=options)
            writer.write_batch(batch)
            _take_sample(stage, batch)
            stage.rows += len(batch)
    finally:
        if writer is not None:
            writer.close()


def _read_all(stage: StagedFiles) -> Iterator[pa.RecordBatch]:
    """The rows of all files, in order, without rows of totals; in the types of the first batch."""
    schema: pa.Schema | None = None
    try:
        for located in stage.parts:
            for batch in _without_totals(stage, _read(stage, located)):
                schema = schema or batch.schema
                yield batch.cast(schema)
    except pa.ArrowException as error:
        what = f"cannot be read: {str(error).splitlines()[0]}"
        raise SourceError(what, where=stage.parts[0].uri, hint="give files whose columns have one type each") from None


def _read(stage: StagedFiles, located: Located) -> Iterator[pa.RecordBatch]:
    """Read a file's batches, columns by position. Columns without a unique name are null."""
    with open_rows(located) as rows:
        wanted = {i: rows.names.index(n) for i, n in enumerate(stage.names) if n.strip() and n not in stage.twice}
        for chunk in rows.chunks(list(wanted.values())):
            if chunk.malformed:
                lines = [f"line {m.line}: {m.fault}: {m.text}"[:200] for m in chunk.malformed]
                stage.add_malformed(lines, len(lines))
            held = dict(zip(wanted, chunk.cells, strict=True))
            if not stage.kinds:
                stage.kinds = [_value_type(held[i].type) if i in held else pa.null() for i in range(len(stage.names))]
            empty = pa.nulls(chunk.rows)
            arrays = [_storable(held[i]) if i in held else empty for i in range(len(stage.names))]
            batch = pa.RecordBatch.from_arrays(arrays, [f"c{i}" for i in range(len(arrays))])
            if chunk.malformed:
                valid = np.ones(chunk.rows, dtype=bool)
                valid[[m.row for m in chunk.malformed]] = False
                batch = batch.filter(pa.array(valid))
            yield batch


def _take_sample(stage: StagedFiles, batch: pa.RecordBatch) -> None:
    step = max(1, len(batch) // _SAMPLE)
    stage.samples.append(batch.take(pa.array(range(0, len(batch), step), pa.int64())))
    if len(stage.samples) > 64:  # keep every other row, so that memory does not grow with the files
        stage.samples = [sample.take(pa.array(range(0, len(sample), 2), pa.int64())) for sample in stage.samples]
        stage.samples = [pa.concat_batches(stage.samples)]


def _value_type(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _storable(column: pa.Array) -> pa.Array:
    """Plain values unchanged; for unsupported types, True where a value is present."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if is_text(column.type):
        return column.cast(pa.string())
    return column if is_plain(column.type) else pc.if_else(pc.is_valid(column), True, None)


def is_plain(kind: pa.DataType) -> bool:
    tests = (pa.types.is_boolean, pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal, pa.types.is_date,
             pa.types.is_timestamp, pa.types.is_null)  # fmt: skip
    return any(test(kind) for test in tests)


def _without_totals(stage: StagedFiles, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The rows without up to three rows of totals at the end, which a cell such as "Total" marks."""
    held: pa.RecordBatch | None = None
    for batch in batches:
        if held is not None:
            yield held
        held = batch
    if held is None or not len(held):
        return
    dropped = 0
    while dropped < min(3, len(held) - 1):
        row = held.slice(len(held) - 1 - dropped, 1)
        marks = {i: text for i, cell in enumerate(row.columns) if _TOTAL.match(text := _text(cell))}
        above = held.slice(0, len(held) - 1 - dropped)
        if not marks or any(_occurs(above.column(i), text) for i, text in marks.items()):
            break
        for i, text in marks.items():
            stage.total_texts.setdefault(i, set()).add(text)
        stage.totals = (*stage.totals, ", ".join(_text(cell) for cell in row.columns))
        dropped += 1
    yield held.slice(0, len(held) - dropped)


def _occurs(column: pa.Array, text: str) -> bool:
    return any(pc.is_in(column, value_set=pa.array([text], column.type)).to_pylist())


def _text(cell: pa.Array) -> str:
    value = cell[0].as_py()
    return "" if value is None else str(value).strip()
