"""Fetch each source of a table as a local file, with its size and digest."""

import fnmatch
import glob
import gzip
import importlib.metadata
import re
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import NoReturn

from truecourse.data.deliveries import PUSHED
from truecourse.data.queries import run_query
from truecourse.errors import NotFound, SourceError
from truecourse.hashing import sha256_file
from truecourse.problem.namespace import Namespace
from truecourse.problem.schema import Csv, Files, Format, Objects, PackageData, Sql, Table
from truecourse.settings import get_settings
from truecourse.storage.object_store import ObjectStore
from truecourse.wording import counted

FORMATS: dict[str, Format] = {
    ".csv": "csv", ".tsv": "csv", ".parquet": "parquet", ".pq": "parquet", ".jsonl": "jsonl", ".ndjson": "jsonl",
}  # fmt: skip


@dataclass(frozen=True)
class Located:
    """A source file on this machine. `uri`: its origin, without secrets. `sha256`: of its bytes."""

    uri: str
    path: Path
    sha256: str
    bytes: int
    format: Format | None = None
    """None: an Arrow file of text cells, the result of a SQL query."""
    csv: Csv = field(default_factory=Csv)
    after: str = ""
    """For a query's rows after a cursor value: that value, see Delivery."""
    reached: str = ""
    """For a query with a cursor: the highest value that it returned, or `after`."""


@contextmanager
def scratch() -> Iterator[Path]:
    """Create a folder below <home>/tmp, and remove it after the block."""
    temporary = get_settings().temporary
    temporary.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=temporary, prefix="ingest-") as folder:
        yield Path(folder)


def locate(problem: Namespace, table: Table, store: ObjectStore, folder: Path, after: str = "") -> Iterator[Located]:
    """Yield the source files of a table, sorted by name. Objects and query results are fetched into `folder`. Raises
    SourceError if there is none. `after`: what a query with a cursor has read, see queries.run_query()."""
    source, where = table.source, f"{problem.name}.{table.name}"
    if isinstance(source, Files):
        files = [(path.as_posix(), path) for path in _files(problem.folder, source.path, where)]
    elif isinstance(source, PackageData):
        files = [(f"package:{source.package}/{source.path}", _package_file(source, where))]
    elif isinstance(source, Objects):
        yield from _objects(source, store, folder, where)
        return
    else:
        path = folder / "query.arrow"
        reached = run_query(
            source, path, where, after=after, order=[table.columns[name].source or name for name in table.key]
        )
        uri = f"sql:{source.connection}"
        yield Located(uri, path, sha256_file(path), path.stat().st_size, after=after, reached=reached)
        return
    for uri, path in files:
        yield _located(uri, path, source)


def locate_archived(table: Table, uri: str, path: Path) -> Located:
    """A source's archived bytes, to be read under the table's current declaration."""
    if uri.startswith(PUSHED):
        return locate_pushed(table, uri, path)
    if isinstance(table.source, Sql):
        return Located(uri, path, sha256_file(path), path.stat().st_size)
    return _located(uri, path, table.source)


def locate_pushed(table: Table, uri: str, path: Path) -> Located:
    """Pushed rows. Their format follows the address; CSV is written as the table's source is.

    Raises SourceError if the format is unknown."""
    return locate_file(uri, path, named_format(uri), getattr(table.source, "csv", None))


def _located(uri: str, path: Path, source: Files | PackageData | Objects) -> Located:
    return locate_file(uri, path, source.format, source.csv)


def locate_file(uri: str, path: Path, format: Format | None = None, csv: Csv | None = None) -> Located:
    """Describe a local file. Unless given, the format follows the file's name (case-insensitive), or that of the only
    file in a zip. A `.tsv` file has tabs as delimiter.

    Raises SourceError if the file is missing or unreadable, or its format is unknown."""
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "no such file"
        raise SourceError(what, where=uri, hint="give the path of a file")
    format = format or named_format(uri, path)
    if format is None:
        known = ", ".join(FORMATS)
        hint = 'rename it, or declare the format in its source, for example format="csv"'
        raise SourceError(f"unknown file format (known: {known})", where=uri, hint=hint)
    name = _name_inside(uri, path)
    csv = csv or Csv()
    if re.search(r"\.tsv(\.gz|\.zip)?$", name, re.IGNORECASE) and csv.delimiter == ",":
        csv = replace(csv, delimiter="\t")
    try:
        return Located(uri, path, sha256_file(path), path.stat().st_size, format, csv)
    except OSError as error:
        raise SourceError(error.strerror or str(error), where=uri, hint="check the file's owner and mode") from None


def named_format(uri: str, path: Path | None = None) -> Format | None:
    """The format by the file's name, or by that of the only file in a zip; None if unknown."""
    name = uri if path is None else _name_inside(uri, path)
    suffixes = [s for s in PurePosixPath(name.lower()).suffixes if s not in (".gz", ".zip")]
    return FORMATS.get(suffixes[-1]) if suffixes else None


def _name_inside(uri: str, path: Path) -> str:
    """The name that determines the format: of the file, or of the only file in a zip without format in its name."""
    suffixes = PurePosixPath(uri.lower()).suffixes
    if suffixes[-1:] == [".zip"] and not {*suffixes} & {*FORMATS}:
        with suppress(OSError, zipfile.BadZipFile), zipfile.ZipFile(path) as archive:
            members = _members(archive)
            return members[0].filename if len(members) == 1 else uri
    return uri


def _files(base: Path, pattern: str, where: str) -> list[Path]:
    if not glob.has_magic(pattern):
        path = base / pattern
        if not path.is_file():
            what = "is a folder" if path.is_dir() else "no such file"
            raise SourceError(what, where=f"{where}: {path}", hint="correct the table's source, or put the file there")
        return [path]
    matching = sorted(Path(name) for name in glob.glob(str(base / pattern), recursive=True))  # noqa: PTH207 (absolute too)
    files = [path for path in matching if path.is_file()]
    if not files:
        raise SourceError(
            "no file matches", where=f"{where}: {base / pattern}", hint="correct the glob, or put files there"
        )
    return files


def _package_file(source: PackageData, where: str) -> Path:
    try:
        listed = importlib.metadata.files(source.package) or []
    except importlib.metadata.PackageNotFoundError:
        hint = f"install it: uv add {source.package}"
        raise SourceError(f"the package {source.package} is not installed", where=where, hint=hint) from None
    matching = [f for f in listed if f.as_posix() == source.path] or [
        f for f in listed if f.as_posix().endswith(f"/{source.path}")
    ]
    if len(matching) != 1:
        data = [f.as_posix() for f in listed if f.suffix not in (".py", ".pyc") and ".dist-info" not in f.as_posix()]
        what = f"{counted(len(matching), 'file')} of the package {source.package} are named {source.path}"
        raise SourceError(what, where=where, hint=f"its files: {', '.join(data[:20])}")
    return Path(str(matching[0].locate()))


def _objects(source: Objects, store: ObjectStore, folder: Path, where: str) -> Iterator[Located]:
    place = f"{where}: {store.root}/{source.key}"
    keys = [source.key]
    if glob.has_magic(source.key):
        prefix = re.split(r"[*?\[]", source.key, maxsplit=1)[0]
        keys = sorted(key for key in store.list(prefix) if fnmatch.fnmatchcase(key, source.key))
        if not keys:
            raise SourceError("no object matches", where=place, hint="correct the glob, or put the objects there")
    for number, key in enumerate(keys):
        path = folder / f"object-{number}"
        try:
            store.download(key, path)
        except NotFound:
            raise SourceError("no such object", where=place, hint="correct the key, or put the object there") from None
        yield _located(f"object:{key}", path, source)


@contextmanager
def unpacked(located: Located) -> Iterator[Path]:
    """Yield the file's path, or that of its unpacked .zip or .gz content. Raises SourceError if the archive is broken
    or holds several files."""
    name = located.uri.lower()
    if not name.endswith((".zip", ".gz")) or located.format is None:
        yield located.path
        return
    with scratch() as folder:
        target = folder / "unpacked"
        try:
            _unpack_zip(located, target) if name.endswith(".zip") else _unpack_gzip(located, target)
        except (zipfile.BadZipFile, EOFError, zlib.error, gzip.BadGzipFile, RuntimeError, NotImplementedError) as error:
            _raise_broken(located, error)
        yield target


def _unpack_gzip(located: Located, target: Path) -> None:
    with gzip.open(located.path) as packed, target.open("wb") as file:
        shutil.copyfileobj(packed, file, 1 << 20)


def _unpack_zip(located: Located, target: Path) -> None:
    with zipfile.ZipFile(located.path) as archive:
        members = _members(archive)
        if len(members) != 1:
            names = ", ".join(m.filename for m in members[:10]) or "none"
            what = f"holds {counted(len(members), 'file')}, not one: {names}"
            raise SourceError(what, where=located.uri, hint="pack one file per archive, or unpack it and use a glob")
        with archive.open(members[0]) as packed, target.open("wb") as file:
            shutil.copyfileobj(packed, file, 1 << 20)


def _members(archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    return [m for m in archive.infolist() if not m.is_dir() and not m.filename.startswith("__MACOSX/")]


def _raise_broken(located: Located, error: Exception) -> NoReturn:
    what = f"the archive is broken: {error}"
    raise SourceError(what, where=located.uri, hint="fetch the file again") from None
