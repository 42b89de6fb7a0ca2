"""The format of a storage, `format.json`: it is checked whenever a command, a flow or a server opens the storage.

{"format": of its newest records, "oldest": of the oldest objects that `truecourse migrate` has not rewritten}. A
storage that holds records and no such file has format 1.
"""

from pydantic import ValidationError

from truecourse.errors import AccessDenied, AlreadyExists, IntegrityError, NotFound, StorageError
from truecourse.references import Reference
from truecourse.storage.object_store import ObjectStore
from truecourse.stored_format import FORMAT, UNNUMBERED, former_key, supported_format

KEY = "format.json"


class StorageFormat(Reference):
    """The formats in a storage. `format`: of its newest records; `oldest`: of objects that were not migrated."""

    format: int
    oldest: int

    @property
    def is_migrated(self) -> bool:
        return self.oldest >= FORMAT


def read_format(store: ObjectStore) -> StorageFormat:
    """Read the format of a storage; nothing is written. Raises FormatError if it is newer than this release's."""
    try:
        data = store.get(KEY)
    except NotFound:
        number = FORMAT if next(iter(store.list("")), None) is None else UNNUMBERED
        return StorageFormat(format=number, oldest=number)
    try:
        found = StorageFormat.model_validate_json(data)
    except ValidationError:
        what, hint = "it is not a storage format", "restore it from a backup"
        raise IntegrityError(what, where=f"{store.root}/{KEY}", hint=hint) from None
    supported_format(found.format, store.root)
    return found


def open_format(store: ObjectStore) -> StorageFormat:
    """Check the format of a storage, and mark the storage as used by this release.

    Raises FormatError if the format is newer than this release's. A storage that may only be read is not marked."""
    found = read_format(store)
    marked = found.model_copy(update={"format": FORMAT})
    try:
        if not store.exists(KEY):
            store.put_new(KEY, _document(marked))
        elif found.format < FORMAT:
            store.put(KEY, _document(marked))
    except AlreadyExists:  # another process was first
        return read_format(store)
    except AccessDenied:
        return found
    return marked


def refuse_newer_format(store: ObjectStore) -> None:
    """Raise FormatError if a newer Truecourse wrote the storage. For servers: one read; a storage that does not answer
    is not refused."""
    try:
        found = StorageFormat.model_validate_json(store.get(KEY))
    except (StorageError, ValidationError):
        return
    supported_format(found.format, store.root)


def mark_migrated(store: ObjectStore) -> None:
    store.put(KEY, _document(StorageFormat(format=FORMAT, oldest=FORMAT)))


def get_stored(store: ObjectStore, key: str) -> bytes:
    """Read an object by its key, or by the key that it has in a storage that was not migrated. Raises NotFound."""
    try:
        return store.get(key)
    except NotFound:
        before = former_key(key)
        if before is None:
            raise
        return store.get(before)


def _document(found: StorageFormat) -> bytes:
    return found.model_dump_json().encode()
