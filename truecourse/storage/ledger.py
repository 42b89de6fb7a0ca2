"""Append-only ledgers in object storage: numbered entries that are written once. Retention may remove old entries.

Each entry holds its own SHA-256 and that of the previous entry. This hash chain reveals every changed byte.

Entry `n + 1` is created by a conditional put, after its author has read entry `n`. Of concurrent authors exactly one
succeeds, and the others get an error. No lock is needed, so a dead process cannot block the ledger.
"""

import re
from typing import Generic, TypeVar

from pydantic import ValidationError

from truecourse.errors import AlreadyExists, IntegrityError, ModelError, NotFound
from truecourse.hashing import sha256
from truecourse.references import Entry
from truecourse.storage.object_store import ObjectStore

E = TypeVar("E", bound=Entry)
_SHA256 = re.compile(rb'^( "sha256": )"[0-9a-f]{64}"', re.MULTILINE)
"""The entry's own digest. Text in JSON has no line breaks, and nested objects are indented more."""


class Ledger(Generic[E]):
    """A ledger of entries of type `kind` under the key prefix `place`, numbered from 1."""

    def __init__(self, store: ObjectStore, place: str, kind: type[E]) -> None:
        self._store = store
        self._place = place
        self._kind = kind

    def newest(self) -> E | None:
        """The newest entry; None if the ledger is empty."""
        keys = self._keys()
        return self._read(keys[-1]) if keys else None

    def entries(self, after: int = 0) -> list[E]:
        """The entries with numbers above `after`, oldest first."""
        return [self._read(key) for key in self._keys() if key > self.key(after)]

    def last(self, count: int) -> list[E]:
        """The newest `count` entries, oldest first."""
        return [self._read(key) for key in self._keys()[-count:]]

    def numbers(self) -> list[int]:
        return [int(key.rpartition("/")[2].removesuffix(".json")) for key in self._keys()]

    def entry(self, number: int) -> E | None:
        """The entry of this number; None if it does not exist."""
        return self.after(number - 1)

    def after(self, number: int) -> E | None:
        """The entry after `number`, at the cost of one read; None if it does not exist yet."""
        try:
            return self._read(self.key(number + 1))
        except NotFound:
            return None

    def append(self, entry: E) -> E:
        """Write an entry. Its number must be one above the newest that its author has read. Return it with its digests.

        Raises ModelError if another author wrote that number first."""
        before = self.entry(entry.number - 1)
        entry = entry.model_copy(update={"follows": before.sha256 if before else ""})
        entry = entry.model_copy(update={"sha256": _digest(entry)})
        try:
            self._store.put_new(self.key(entry.number), _bytes(entry))
        except AlreadyExists:
            first = self._read(self.key(entry.number))
            what = f"{first.author} was first, at {first.at:%Y-%m-%d %H:%M:%S} UTC: {first.action}, {first.reason}"
            raise ModelError(what, where=self._place, hint="check what changed, and try again") from None
        return entry

    def faults(self, *, gaps: bool = False) -> list[str]:
        """Check the hash chain. Return a sentence for each fault; empty if every byte is as it was written.

        A missing entry is a fault, unless all entries before it are missing too, or `gaps` are allowed (after
        retention)."""
        faults: list[str] = []
        before: E | None = None
        for key in self._keys():
            data, name = self._store.get(key), key.rpartition("/")[2]
            try:
                entry = self._kind.model_validate_json(data)
            except ValidationError:
                faults.append(f"entry {name} was changed: it cannot be read")
                before = None
                continue
            if _stored_digest(data) != entry.sha256 or self.key(entry.number) != key:
                faults.append(f"entry {name} was changed: its bytes do not match its SHA-256")
            elif before is not None and entry.number != before.number + 1:
                if not gaps:
                    faults.append(f"entries {before.number + 1} to {entry.number - 1} are gone")
            elif before is not None and entry.follows != before.sha256:
                faults.append(f"entry {name} does not follow from the one before it")
            before = entry
        return faults

    def key(self, number: int) -> str:
        """The key of an entry in object storage."""
        return f"{self._place}/{number:09d}.json"

    def _keys(self) -> list[str]:
        return sorted(self._store.list(f"{self._place}/"))

    def _read(self, key: str) -> E:
        try:
            return self._kind.model_validate_json(self._store.get(key))
        except ValidationError:
            what = "the ledger's entry was changed and cannot be read"
            raise IntegrityError(what, where=key, hint="restore it from a backup") from None


def _bytes(entry: Entry) -> bytes:
    return entry.model_dump_json(indent=1).encode()


def _digest(entry: Entry) -> str:
    return sha256(_bytes(entry.model_copy(update={"sha256": ""})))


def _stored_digest(data: bytes) -> str:
    """Compute the SHA-256 of a stored entry without its own. Bytes are compared, so the entry may have any format."""
    bare, count = _SHA256.subn(rb'\1""', data)
    return sha256(bare) if count == 1 else ""
