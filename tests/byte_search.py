"""Search every byte of a home and of a bucket for texts and numbers, unpacked: an oracle for `truecourse forget`."""

import gzip
import io
import lzma
import sqlite3
import struct
import tarfile
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from truecourse.storage.object_store import ObjectStore


def places_with(home: Path, store: ObjectStore, wanted: Iterable[str]) -> list[str]:
    """Where a text is found, or a number as text or as eight bytes: file or key, and the text."""
    texts = list(wanted)
    objects = [(f"object {key}", store.get(key)) for key in store.list("")]
    files = [(f"file {path.relative_to(home)}", path.read_bytes()) for path in home.rglob("*") if path.is_file()]
    found = {
        f"{name}: {text}"
        for name, data in [*objects, *files]
        for part in _unpacked(data)
        for text in texts
        if any(form in part for form in _forms(text))
    }
    return sorted(found)


def _forms(text: str) -> list[bytes]:
    forms = [text.encode(), text.encode("utf-16-le")]
    try:
        number = float(text)
    except ValueError:
        return forms
    return [*forms, struct.pack("<d", number), f"{number:,}".encode()]


def _unpacked(data: bytes) -> Iterator[bytes]:
    yield data
    if data[:4] == b"PAR1":
        table = pq.read_table(pa.BufferReader(data))
        yield str(table.to_pylist()).encode()
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="none", use_dictionary=False)
        yield sink.getvalue().to_pybytes()
    elif data[:2] == b"\x1f\x8b":
        yield from _unpacked(gzip.decompress(data))
    elif data[:6] == b"\xfd7zXZ\x00":
        yield from _unpacked(lzma.decompress(data))
    elif data[:4] == b"PK\x03\x04":
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for name in archive.namelist():
                yield from _unpacked(archive.read(name))
    elif data[257:262] == b"ustar":
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            for member in tar:
                if (file := tar.extractfile(member)) is not None:
                    yield from _unpacked(file.read())
    elif data[:16] == b"SQLite format 3\x00":
        with closing(sqlite3.connect(":memory:")) as database:
            database.deserialize(data[:18] + b"\1\1" + data[20:])  # not as a file with a write-ahead log
            yield "\n".join(database.iterdump()).encode(errors="surrogateescape")
