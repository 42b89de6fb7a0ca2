"""Reading a source file in batches of declared columns: CSV, Parquet, JSON lines, query results."""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from truecourse.cells import Malformed, typed, value_text
from truecourse.errors import SourceError
from truecourse.schema import Csv, Table
from truecourse.sources import Located, unpacked

log = logging.getLogger("truecourse.ingest")
BATCH = 50_000
BLOCK = 4 << 20


def read_batches(located: Located, table: Table) -> Iterator[pa.RecordBatch]:
    """The source's rows in order, under cells.batch_schema; malformed lines last.

    Raises SourceError that names the file and what is wrong with it: nothing that cannot be read is passed over."""
    with unpacked(located) as path, _errors(located, path):
        if located.format == "csv":
            yield from _csv(located, path, table)
        elif located.format == "jsonl":
            yield from _json_lines(located, path, table)
        elif located.format == "parquet":
            yield from _parquet(located, path, table)
        else:
            yield from _query(located, path, table)


@contextmanager
def _errors(located: Located, path: Path) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, UnicodeDecodeError, OSError) as error:
        if "UTF8" in str(error) or isinstance(error, UnicodeDecodeError):
            _undecodable(located, path)
        if "Empty CSV" in str(error):
            raise SourceError(
                "the file is empty: not even a header line", where=located.uri, cure="fetch the file again"
            ) from None
        what = f"cannot be read as {located.format}: {error}"
        raise SourceError(what, where=located.uri, cure="check the file, and the source's format and csv") from None


def _undecodable(located: Located, path: Path) -> NoReturn:
    encoding = located.csv.encoding if located.format == "csv" else "utf-8"
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                line.decode(encoding)
            except UnicodeDecodeError as error:
                what = f"line {number} is not {encoding}: byte 0x{line[error.start]:02x} at {error.start}"
                raise SourceError(
                    what, where=located.uri, cure='name its encoding: csv=Csv(encoding="latin-1")'
                ) from None
    raise SourceError(f"is not {encoding}", where=located.uri, cure='name its encoding: csv=Csv(encoding="latin-1")')


def require_columns(located: Located, table: Table, present: list[str]) -> None:
    """Raises SourceError for a declared column the source does not have, or has twice; logs the ones it ignores."""
    cure = f"its columns: {', '.join(present[:50])}"
    if missing := [name for name in table.columns if name not in present]:
        raise SourceError(
            f"has no column {', '.join(map(repr, missing))}", where=f"{table.name}: {located.uri}", cure=cure
        )
    if twice := [name for name in table.columns if present.count(name) > 1]:
        raise SourceError(f"has {', '.join(map(repr, twice))} twice", where=f"{table.name}: {located.uri}", cure=cure)
    if ignored := [name for name in present if name not in table.columns]:
        log.info("%s: %s: not declared, ignored: %s", table.name, located.uri, ", ".join(ignored))


def _csv(located: Located, path: Path, table: Table) -> Iterator[pa.RecordBatch]:
    malformed: list[str] = []

    def keep(row: Any) -> str:
        malformed.append(row.text)
        return "skip"

    require_columns(located, table, _header(located.csv, path))
    parse = pa.csv.ParseOptions(delimiter=located.csv.delimiter, newlines_in_values=True, invalid_row_handler=keep)
    convert = pa.csv.ConvertOptions(
        column_types=dict.fromkeys(table.columns, pa.string()),
        include_columns=list(table.columns),
        strings_can_be_null=False,
    )
    with pa.csv.open_csv(path, _read_options(located.csv), parse, convert) as reader:
        for batch in reader:
            yield typed(dict(zip(batch.schema.names, batch.columns, strict=True)), table.columns, located.csv)
    if malformed:
        yield _lines(malformed, table)


def _lines(texts: list[str], table: Table) -> pa.RecordBatch:
    nulls = pa.nulls(len(texts), pa.string())
    malformed = [Malformed(row, 0, text, "is no row") for row, text in enumerate(texts)]
    return typed(dict.fromkeys(table.columns, nulls), table.columns, malformed=malformed)


def _read_options(csv: Csv) -> pa.csv.ReadOptions:
    return pa.csv.ReadOptions(block_size=BLOCK, encoding=csv.encoding, column_names=list(csv.names or ()) or None)


def _header(csv: Csv, path: Path) -> list[str]:
    if csv.names:
        return list(csv.names)
    import csv as reading

    with path.open(
        encoding="utf-8-sig" if csv.encoding.lower() in ("utf-8", "utf8") else csv.encoding, newline=""
    ) as file:
        for row in reading.reader(file, delimiter=csv.delimiter):
            return row
    raise pa.ArrowInvalid("Empty CSV file")


def _parquet(located: Located, path: Path, table: Table) -> Iterator[pa.RecordBatch]:
    with pq.ParquetFile(path) as file:
        require_columns(located, table, file.schema_arrow.names)
        for batch in file.iter_batches(BATCH, columns=list(table.columns)):
            yield typed({name: batch.column(name) for name in table.columns}, table.columns)


def _query(located: Located, path: Path, table: Table) -> Iterator[pa.RecordBatch]:
    with pa.memory_map(str(path)) as source, pa.ipc.open_file(source) as file:
        require_columns(located, table, file.schema.names)
        for number in range(file.num_record_batches):
            batch = file.get_batch(number)
            yield typed({name: batch.column(name) for name in table.columns}, table.columns)


def _json_lines(located: Located, path: Path, table: Table) -> Iterator[pa.RecordBatch]:
    malformed: list[str] = []
    rows: list[dict[str, Any]] = []
    first = True
    with path.open(encoding="utf-8-sig") as file:
        for line in file:
            if not line.strip():
                continue
            row = _object(line)
            if row is None:
                malformed.append(line.rstrip("\n"))
                continue
            rows.append(row)
            if len(rows) == BATCH:
                yield _objects_batch(located, table, rows, first)
                rows, first = [], False
    if rows:
        yield _objects_batch(located, table, rows, first)
    if malformed:
        yield _lines(malformed, table)


def _object(line: str) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) else None


def _objects_batch(located: Located, table: Table, rows: list[dict[str, Any]], first: bool) -> pa.RecordBatch:
    if first:  # JSON leaves out what is null, so that only a column which may not be null must be seen
        present = list(dict.fromkeys(name for row in rows for name in row))
        require_columns(located, table, present + [n for n, c in table.columns.items() if c.nulls and n not in present])
    cells = {name: pa.array([value_text(row.get(name)) for row in rows], pa.string()) for name in table.columns}
    return typed(cells, table.columns)
