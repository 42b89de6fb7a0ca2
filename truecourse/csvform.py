"""How a CSV file is written: its encoding, delimiter and header, told from its first lines."""

import csv
import gzip
import io
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, cast

from truecourse.errors import SourceError
from truecourse.settings import get_settings

HEAD = 256 * 1024
DELIMITERS = (",", ";", "\t", "|")


@dataclass(frozen=True)
class CsvForm:
    delimiter: str
    encoding: str
    header: tuple[str, ...]


@contextmanager
def unpacked(data: Path) -> Iterator[Path]:
    """The file itself, or what a zip or gzip file holds, in a temporary folder of <home>/tmp.

    Raises SourceError for a file that is absent, empty, broken, or a zip of several files."""
    if not data.is_file():
        what = "is a folder" if data.is_dir() else "no such file"
        raise SourceError(what, where=str(data), cure="give the path of a CSV or Parquet file")
    scratch = get_settings().temporary
    scratch.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=scratch) as folder:
        try:
            plain = _plain_file(data, Path(folder))
            empty = plain.stat().st_size == 0
        except (OSError, EOFError, zipfile.BadZipFile, RuntimeError) as error:
            raise SourceError(f"cannot be read: {error}", where=str(data), cure="check the file") from None
        if empty:
            raise SourceError("the file is empty", where=str(data), cure="give a file with a header and rows")
        yield plain


def _plain_file(data: Path, folder: Path) -> Path:
    target = folder / "data"
    if data.suffix.lower() == ".zip":
        with zipfile.ZipFile(data) as archive:
            members = [m for m in archive.infolist() if not m.is_dir() and not m.filename.startswith("__MACOSX/")]
            if len(members) != 1:
                what = f"the zip file holds {len(members)} files"
                raise SourceError(what, where=str(data), cure="give a zip file that holds one")
            with archive.open(members[0]) as packed:
                _copy(packed, target)
        return target
    if data.suffix.lower() == ".gz":
        with gzip.open(data, "rb") as unzipped:
            _copy(cast(IO[bytes], unzipped), target)
        return target
    with data.open("rb"):  # say now if it may not be read
        return data


def _copy(source: IO[bytes], target: Path) -> None:

    with target.open("wb") as file:
        shutil.copyfileobj(source, file)


def csv_form(file: Path, where: str) -> CsvForm:
    """Raises SourceError for a file with no header line, or no text."""
    with file.open("rb") as opened:
        head = opened.read(HEAD)
    if b"\0" in head:
        raise SourceError("is neither CSV nor Parquet", where=where, cure="convert it to CSV or Parquet")
    encoding = _encoding(file)
    text = head.decode(encoding, errors="ignore").removeprefix("\ufeff")
    lines = text.splitlines(keepends=True)
    whole = "".join(lines[:-1] if len(head) == HEAD and len(lines) > 1 else lines)
    delimiter = max(DELIMITERS, key=lambda candidate: _columns(whole, candidate))
    header = next(csv.reader(io.StringIO(whole), delimiter=delimiter), [])
    if not any(name.strip() for name in header):
        raise SourceError("has no header line", where=where, cure="name the columns in its first line")
    return CsvForm(delimiter, encoding, tuple(header))


def _encoding(file: Path) -> str:
    decoder = io.TextIOWrapper(file.open("rb"), encoding="utf-8")
    try:
        with decoder:
            while decoder.read(1 << 20):
                pass
    except UnicodeDecodeError:
        return "latin-1"
    return "utf-8"


def _columns(text: str, delimiter: str) -> int:
    """Columns that this delimiter gives, if the first lines agree on them."""
    rows = [row for _, row in zip(range(20), csv.reader(io.StringIO(text), delimiter=delimiter), strict=False) if row]
    widths = {len(row) for row in rows}
    return len(rows[0]) * (2 if len(widths) == 1 else 1) if rows else 0
