"""Ledgers in object storage: numbered entries that are written once, and never changed. Retention may remove old ones.

Entry `n + 1` is created only if it is absent (a conditional put), by somebody who has read entry `n`: of any number
of racers exactly one writes it, and the others learn of it. No lock is held, so no dead process holds one.
"""

from typing import Generic, TypeVar

from truecourse.errors import AlreadyExists, ModelError, NotFound
from truecourse.references import Entry
from truecourse.storage import ObjectStore

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

    def append(self, entry: E) -> None:
        """Write an entry whose number is one above the newest that its author has read.

        Raises ModelError if somebody else wrote that number first."""
        try:
            self._store.put_new(self.key(entry.number), entry.model_dump_json(indent=1).encode())
        except AlreadyExists:
            first = self._read(self.key(entry.number))
            what = f"{first.author} was first, at {first.at:%Y-%m-%d %H:%M:%S} UTC: {first.action}, {first.reason}"
            raise ModelError(what, where=self._place, cure="look at what has changed, and try again") from None

    def key(self, number: int) -> str:
        """Where the entry lies."""
        return f"{self._place}/{number:09d}.json"

    def _keys(self) -> list[str]:
        return sorted(self._store.list(f"{self._place}/"))

    def _read(self, key: str) -> E:
        return self._kind.model_validate_json(self._store.get(key))
