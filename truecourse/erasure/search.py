"""Search every byte of storage and home for a subject's key: unpacked archives, Parquet cells and databases too."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from truecourse.erasure import archives, documents
from truecourse.erasure.frames import clean_rows
from truecourse.erasure.subject import Subject
from truecourse.errors import NotFound
from truecourse.settings import Settings
from truecourse.storage.object_store import ObjectStore


def find_everywhere(store: ObjectStore, settings: Settings, subjects: Sequence[Subject]) -> Iterator[str]:
    """The objects and files that still name the subject. A key that is no distinctive text is found in columns of its
    name and beside that name only."""
    for key in store.list(""):
        if not key.startswith("locks/"):
            with suppress(NotFound):  # replaced meanwhile
                if names_subject(store.get(key), subjects):
                    yield key
    root = settings.storage_root
    inside = None if root.startswith("s3://") else Path(root).absolute()
    for path in (*hidden_files(settings), *files_outside(settings.home, inside)):
        with suppress(FileNotFoundError):
            if names_subject(path.read_bytes(), subjects):
                yield f"file {path}"


def hidden_files(settings: Settings) -> list[Path]:
    """Files in a local storage root that are no objects: interrupted writes left them beside their objects."""
    if settings.storage_root.startswith("s3://"):
        return []
    return [path for path in sorted(Path(settings.storage_root).rglob(".*")) if path.is_file()]


def names_subject(data: bytes, subjects: Sequence[Subject]) -> bool:
    """Whether bytes name the subject, packed or not."""
    if data[:4] == documents.PARQUET:
        return _in_parquet(data, subjects)
    if archives.is_archive(data):
        try:
            return any(names_subject(part, subjects) for _, part in archives.members(data))
        except archives.BROKEN:
            return False
    searched = [subject for subject in subjects if documents.is_text(data) or subject.is_long]
    return any(subject.finds_key(data) for subject in searched)


def _in_parquet(data: bytes, subjects: Sequence[Subject]) -> bool:
    try:
        rows = pq.read_table(pa.BufferReader(data))
    except (pa.ArrowException, OSError):
        return any(subject.finds_key(data) for subject in subjects)
    if clean_rows(rows, subjects, declared=True).removed:
        return True
    for column in rows.columns:
        if pa.types.is_string(column.type):
            texts = "\n".join(text for text in pc.unique(column).to_pylist() if text).encode()
            if any(subject.is_searchable and subject.finds_key(texts) for subject in subjects):
                return True
    return False


def files_outside(home: Path, root: Path | None) -> Iterator[Path]:
    """The files of a home, without those below the storage root."""
    for path in sorted(home.rglob("*")):
        if path.is_file() and not path.is_symlink() and (root is None or not path.absolute().is_relative_to(root)):
            yield path
