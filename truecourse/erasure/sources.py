"""Rewrite the archived bytes of a source without a subject's rows: CSV, JSON lines, Parquet, Arrow, gzip and zip."""

import csv
import io
import json
from collections.abc import Callable, Iterator, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from truecourse.data.decoding import detect_encoding
from truecourse.data.sources import scratch
from truecourse.erasure.archives import GZIP, ZIP, rewrite_gzip, rewrite_zip
from truecourse.erasure.frames import clean_rows, has_key
from truecourse.erasure.subject import Subject
from truecourse.problem.schema import Csv

PARQUET, ARROW = b"PAR1", b"ARROW1"


def rewrite_source(data: bytes, dialect: Csv, is_lines: bool, subjects: Sequence[Subject]) -> tuple[bytes | None, int]:
    """A source's bytes without the subjects' rows, and the number of rows removed.

    `is_lines`: the source is JSON lines. The bytes are None if the source cannot be rewritten: its text cannot be
    decoded or is not well formed, or a line still names a subject. Without such rows they are returned as they are."""
    if data[:4] == PARQUET:
        return _rewrite_table(data, subjects, _read_parquet, _write_parquet)
    if data[:6] == ARROW:
        return _rewrite_table(data, subjects, _read_arrow, _write_arrow)
    if data[:2] == GZIP or data[:4] == ZIP:
        counts: list[int] = []

        def inner(part: bytes) -> bytes | None:
            written, count = rewrite_source(part, dialect, is_lines, subjects)
            counts.append(count)
            return written

        packed = rewrite_gzip(data, inner) if data[:2] == GZIP else rewrite_zip(data, lambda _, part: inner(part))
        return packed, sum(counts)
    return _rewrite_text(data, dialect, is_lines, subjects)


def _rewrite_text(data: bytes, dialect: Csv, is_lines: bool, subjects: Sequence[Subject]) -> tuple[bytes | None, int]:
    encoding = "utf-8" if is_lines else _encoding(data, dialect)
    try:
        text = data.decode(encoding)
        kept, removed = _keep_lines(text, subjects) if is_lines else _keep_records(text, dialect, subjects)
    except (UnicodeError, csv.Error):
        named = any(subject.finds_key(data) for subject in subjects)
        return (None, 1) if named else (data, 0)
    return (kept.encode(encoding), removed) if removed else (data, 0)


def _encoding(data: bytes, dialect: Csv) -> str:
    if dialect.encoding.lower() not in ("utf-8", "utf8"):
        return dialect.encoding
    with scratch() as folder:
        (folder / "head").write_bytes(data[:64])
        found = detect_encoding(folder / "head") if data[:3] == b"\xef\xbb\xbf" or data[:2] in _MARKS else "utf-8"
    return {"utf-16-le": "utf-16", "utf-16-be": "utf-16"}.get(found, found)


_MARKS = (b"\xff\xfe", b"\xfe\xff")


def _keep_lines(text: str, subjects: Sequence[Subject]) -> tuple[str, int]:
    kept, removed = [], 0
    for line in text.splitlines(keepends=True):
        if any(_line_is_of(line, subject) for subject in subjects):
            removed += 1
        else:
            kept.append(line)
    return "".join(kept), removed


def _line_is_of(line: str, subject: Subject) -> bool:
    if not any(part.text in line for part in subject.parts[:1]):
        return False
    try:
        row = json.loads(line)
    except ValueError:
        return subject.finds_key(line.encode())
    return has_key(row, subject) if isinstance(row, dict) else subject.finds_key(line.encode())


def _keep_records(text: str, dialect: Csv, subjects: Sequence[Subject]) -> tuple[str, int]:
    """Keep the text of all other records as it is, with their line ends and quotes."""
    kept, removed = [], 0
    names: list[str] | None = list(dialect.names) if dialect.names else None
    for raw, cells in _records(text, dialect):
        if names is None:
            if cells:
                names = [cell.strip().lstrip("\ufeff") for cell in cells]
            kept.append(raw)
            continue
        if any(_record_is_of(raw, cells, names, subject) for subject in subjects):
            removed += 1
        else:
            kept.append(raw)
    return "".join(kept), removed


def _record_is_of(raw: str, cells: list[str], names: list[str], subject: Subject) -> bool:
    if not any(part.text in raw for part in subject.parts):
        return False
    if len(cells) != len(names):  # a malformed line
        return subject.finds_key(raw.encode())
    return has_key(dict(zip(names, cells, strict=True)), subject)


def _records(text: str, dialect: Csv) -> Iterator[tuple[str, list[str]]]:
    """Each record of a CSV text: its lines as they are, and its cells."""
    used: list[str] = []

    def lines() -> Iterator[str]:
        for line in io.StringIO(text, newline=""):
            used.append(line)
            yield line

    for cells in csv.reader(lines(), delimiter=dialect.delimiter):
        yield "".join(used), cells
        used.clear()
    if used:
        yield "".join(used), []


def _rewrite_table(
    data: bytes,
    subjects: Sequence[Subject],
    read: Callable[[bytes], pa.Table],
    write: Callable[[pa.Table], bytes],
) -> tuple[bytes | None, int]:
    rows = read(data)
    cleaned = clean_rows(rows, subjects, declared=True)
    return (write(cleaned.rows), cleaned.removed) if cleaned.removed else (data, 0)


def _read_parquet(data: bytes) -> pa.Table:
    return pq.read_table(pa.BufferReader(data))


def _write_parquet(rows: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(rows, sink)
    return bytes(sink.getvalue().to_pybytes())


def _read_arrow(data: bytes) -> pa.Table:
    with pa.ipc.open_file(pa.BufferReader(data)) as file:
        return file.read_all()


def _write_arrow(rows: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, rows.schema) as writer:
        writer.write_table(rows)
    return bytes(sink.getvalue().to_pybytes())
