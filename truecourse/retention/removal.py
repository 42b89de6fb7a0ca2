"""What a cleanup removes, by kind, and what it keeps."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from truecourse.settings import Settings
from truecourse.storage.delta_tables import Tables
from truecourse.storage.object_store import ObjectStore, StoredObject
from truecourse.wording import format_duration

GRACE = timedelta(days=1)
"""What is younger is never removed: a process may be about to refer to it."""
LOG_FILES = timedelta(days=7)
"""For how long replaced files of the prediction log are kept."""


@dataclass(frozen=True)
class Removal:
    """Objects of one kind that nothing needs. `count` of `kind`, `bytes` in all, `reason`: why nothing needs them.
    `remove` deletes them; it may be interrupted and repeated."""

    kind: str
    count: int
    bytes: int
    reason: str
    remove: Callable[[], object] = field(compare=False)


@dataclass(frozen=True)
class Context:
    """What a cleanup works on. `now`: wall clock, UTC."""

    tables: Tables
    problem: str
    settings: Settings
    now: datetime

    @property
    def store(self) -> ObjectStore:
        return self.tables.store

    def limit(self, days: float) -> datetime | None:
        """The time (UTC) before which something unneeded is removed; None: nothing is. `days`: its retention."""
        return self.now - max(timedelta(days=days), GRACE) if days else None

    def limits(self) -> Mapping[str, datetime | None]:
        """The limit of each kind of item, as marking needs it."""
        models, tables = self.limit(self.settings.model_retention), self.limit(self.settings.table_retention)
        return {
            "version": models, "run": models, "frame": models, "feature table": tables, "table file": tables,
            "log file": self.now - LOG_FILES, "source": self.limit(self.settings.source_retention),
            "table": None, "batch": None,
        }  # fmt: skip


def in_days(days: float) -> str:
    """A retention in words: `90 days`."""
    return format_duration(timedelta(days=days))


def objects_removal(store: ObjectStore, kind: str, objects: Iterable[StoredObject], reason: str) -> Iterable[Removal]:
    """The removal of stored objects, if there are any."""
    found = list(objects)

    def remove() -> None:
        for one in found:
            store.delete(one.key)

    if found:
        yield Removal(kind, len(found), sum(one.bytes for one in found), reason, remove)
