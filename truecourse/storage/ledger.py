"""Ledgers in object storage: numbered entries that are written once, and never changed. Retention may remove old ones.

Each entry holds its own SHA-256 and that of the entry before it: a hash chain, which no changed byte fits into.

Entry `n + 1` is created only if it is absent (a conditional put), by somebody who has read entry `n`: of any number
of racers exactly one writes it, and the others learn of it. No lock is held, so no dead process holds one.
"""

from typing import Generic, TypeVar

from pydantic import ValidationError

from truecourse.errors import AlreadyExists, IntegrityError, ModelError, NotFound
from truecourse.hashing import sha256
from truecourse.references import Entry
from truecourse.storage.object_store import ObjectStore

E = TypeVar("E", bound=Entry)


class Ledger(Generic[E]):
    """The entries below `place`, oldest first, numbered from 1."""

    def __init__(self, store: ObjectStore, place: str, kind: type[E]) -> None:
        self._store = store
        self._place = place
        self._kind = kind

    def newest(self) -> E | None:
        keys = self._keys()
        return self._read(keys[-1]) if keys else None

    def entries(self, after: int = 0) -> list[E]:
        return [self._read(key) for key in self._keys() if key > self.key(after)]

    def last(self, count: int) -> list[E]:
        """The newest entries, oldest of them first, whatever number of others there are."""
        return [self._read(key) for key in self._keys()[-count:]]

    def numbers(self) -> list[int]:
        return [int(key.rpartition("/")[2].removesuffix(".json")) for key in self._keys()]

    def entry(self, number: int) -> E | None:
        """None where there is no such number."""
        return self.after(number - 1)

    def after(self, number: int) -> E | None:
        """The entry that follows `number`, at the cost of one read; None while there is none."""
        try:
            return self._read(self.key(number + 1))
        except NotFound:
            return None

    def append(self, entry: E) -> E:
        """Write an entry whose number is one above the newest that its author has read; it, as it was written.

        Raises ModelError if somebody else wrote that number first."""
        before = self.entry(entry.number - 1)
        entry = entry.model_copy(update={"follows": before.sha256 if before else ""})
        entry = entry.model_copy(update={"sha256": _digest(entry)})
        try:
            self._store.put_new(self.key(entry.number), _bytes(entry))
        except AlreadyExists:
            first = self._read(self.key(entry.number))
            what = f"{first.author} was first, at {first.at:%Y-%m-%d %H:%M:%S} UTC: {first.action}, {first.reason}"
            raise ModelError(what, where=self._place, hint="look at what has changed, and try again") from None
        return entry

    def faults(self, *, gaps: bool = False) -> list[str]:
        """What of the hash chain does not hold, a sentence for each entry; none where every byte is as it was written.

        An entry that is gone is a fault too, unless all before it are gone, or `gaps` are what retention leaves."""
        found: list[str] = []
        before: E | None = None
        for key in self._keys():
            data, name = self._store.get(key), key.rpartition("/")[2]
            try:
                entry = self._kind.model_validate_json(data)
            except ValidationError:
                found.append(f"entry {name} was changed: it cannot be read")
                before = None
                continue
            if _digest(entry) != entry.sha256 or _bytes(entry) != data or self.key(entry.number) != key:
                found.append(f"entry {name} was changed: its bytes are not of its SHA-256")
            elif before is not None and entry.number != before.number + 1:
                if not gaps:
                    found.append(f"entries {before.number + 1} to {entry.number - 1} are gone")
            elif before is not None and entry.follows != before.sha256:
                found.append(f"entry {name} does not follow from the one before it")
            before = entry
        return found

    def key(self, number: int) -> str:
        """Where the entry lies."""
        return f"{self._place}/{number:09d}.json"

    def _keys(self) -> list[str]:
        return sorted(self._store.list(f"{self._place}/"))

    def _read(self, key: str) -> E:
        try:
            return self._kind.model_validate_json(self._store.get(key))
        except ValidationError:
            what = "the ledger's entry was changed, and cannot be read"
            raise IntegrityError(what, where=key, hint="restore it from a backup") from None


def _bytes(entry: Entry) -> bytes:
    return entry.model_dump_json(indent=1).encode()


def _digest(entry: Entry) -> str:
    return sha256(_bytes(entry.model_copy(update={"sha256": ""})))
