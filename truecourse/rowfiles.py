"""Files of rows to score: CSV, Parquet or JSON lines, row by row; none is skipped.

Cells are offered as what they say, never repaired: text that is no number stays text, for the contract to refuse.
"""

import csv
import glob
import gzip
import io
import json
import math
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime
from decimal import Decimal
from fnmatch import fnmatch
from pathlib import Path
from typing import IO, Any

from truecourse.contract import Contract
from truecourse.errors import RequestError, SourceError
from truecourse.request import decode
from truecourse.storage import ObjectStore

Row = Any
"""A dict by field; anything else is a row that could not be read, and is refused as such."""
_NULLS = frozenset({"", "NA"})
_BOOLEANS = {"true": True, "True": True, "1": True, "false": False, "False": False, "0": False}


def find(source: str, store: ObjectStore, temporary: Path) -> list[Path]:
    """The files of a path, a glob, or a key or glob of object storage, which are copied to `temporary`.

    Raises SourceError if there are none."""
    local = sorted(Path(found) for found in glob.glob(source) if Path(found).is_file())  # noqa: PTH207 - the pattern may be absolute
    if local:
        return local
    prefix = source[: min((source.find(sign) for sign in "*?[" if sign in source), default=len(source))]
    is_key = bool(prefix) and not Path(source).is_absolute() and ".." not in Path(source).parts
    keys = [key for key in store.list(prefix) if key == source or fnmatch(key, source)] if is_key else []
    for number, key in enumerate(keys):
        store.download(key, temporary / f"{number}-{Path(key).name}")
    if not keys:
        cure = f"give a path, a glob, or a key below {store.root}"
        raise SourceError("no such file", where=source, cure=cure)
    return [temporary / f"{number}-{Path(key).name}" for number, key in enumerate(keys)]


def read(path: Path, contract: Contract) -> Iterator[Row]:
    """Rows one by one, with the contract's fields only. Raises SourceError for a file that is none of the formats, or
    lacks a column that no row may lack."""
    name = path.name.removesuffix(".gz").removesuffix(".zip")
    try:
        if name.endswith(".parquet"):
            yield from _parquet(path, contract)
        elif name.endswith((".jsonl", ".ndjson")):
            with _text(path) as lines:
                yield from _jsonl(lines, contract)
        elif name.endswith(".csv"):
            with _text(path) as lines:
                yield from _csv(path, lines, contract)
        else:
            cure = "name it .csv, .parquet or .jsonl (.gz and .zip are opened)"
            raise SourceError("its name says no format", where=str(path), cure=cure)
    except (OSError, UnicodeDecodeError, csv.Error, zipfile.BadZipFile) as error:
        raise SourceError(f"cannot be read: {error}", where=str(path)) from error


@contextmanager
def _text(path: Path) -> Iterator[IO[str]]:
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            members = [item for item in archive.namelist() if not item.endswith("/")]
            if len(members) != 1:
                raise SourceError(f"holds {len(members)} files, not one", where=str(path))
            with archive.open(members[0]) as member:
                yield io.TextIOWrapper(member, "utf-8-sig", newline="")
    elif path.suffix == ".gz":
        with gzip.open(path, "rt", encoding="utf-8-sig", newline="") as file:
            yield file
    else:
        with path.open(encoding="utf-8-sig", newline="") as file:
            yield file


def _wanted(path: Path, present: list[str], contract: Contract) -> list[str]:
    """The columns to read. Extra columns of a file are nobody's business."""
    absent = [f.name for f in contract.fields if not f.nulls and f.name not in present]
    absent += [name for name in contract.extras if name != "id" and name not in present]
    if absent:
        cure = f"it has {', '.join(present[:50])}"
        raise SourceError(f"has no column {', '.join(absent)}", where=str(path), cure=cure)
    return [name for name in (*contract.extras, *contract.names) if name in present]


def _csv(path: Path, lines: IO[str], contract: Contract) -> Iterator[Row]:
    reader = csv.reader(lines)
    header = next(reader, [])
    types = {field.name: field.type for field in contract.fields}
    columns = [(header.index(name), name, types.get(name, "text")) for name in _wanted(path, header, contract)]
    for cells in reader:
        if len(cells) == len(header):
            yield {name: _cell(cells[place], kind) for place, name, kind in columns}
        elif cells:
            yield f"{len(cells)} cells under {len(header)} columns: {','.join(cells)[:200]}"


def _cell(text: str, kind: str) -> Any:
    if text in _NULLS:
        return None
    if kind == "boolean":
        return _BOOLEANS.get(text, text)
    try:
        return int(text) if kind == "integer" else float(text) if kind == "float" else text
    except ValueError:
        return text


def _jsonl(lines: IO[str], contract: Contract) -> Iterator[Row]:
    wanted = {*contract.extras, *contract.names}
    for line in lines:
        if not line.strip():
            continue
        try:
            row = decode(line.encode())
        except RequestError:
            yield f"no JSON: {line.strip()[:200]}"
            continue
        yield {name: row[name] for name in row if name in wanted} if isinstance(row, dict) else row


def _parquet(path: Path, contract: Contract) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            columns = _wanted(path, file.schema_arrow.names, contract)
            for batch in file.iter_batches(batch_size=10_000, columns=columns):
                for row in batch.to_pylist():
                    yield {name: _value(value) for name, value in row.items()}
    except pa.ArrowException as error:
        raise SourceError(f"cannot be read: {error}", where=str(path)) from error


def _value(value: Any) -> Any:
    if isinstance(value, float) and math.isnan(value):
        return None
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, date) and not isinstance(value, datetime):
        return datetime(value.year, value.month, value.day, tzinfo=UTC)
    return value


def described(row: Row) -> str:
    """A row as JSON, for the table of rejected rows."""
    return json.dumps(row, default=str, ensure_ascii=False)
