"""Watermarks of the drift check: the time up to which each column was checked, from which the next check continues."""

import logging
from datetime import UTC, datetime, timedelta

from pydantic import Field, ValidationError

from truecourse.errors import NotFound
from truecourse.references import StoredRecord, UtcTime
from truecourse.storage.object_store import ObjectStore

log = logging.getLogger("truecourse.monitor")


class Watermarks(StoredRecord):
    """`columns`: by column, the time (UTC) up to which its rows were checked."""

    columns: dict[str, UtcTime] = Field(default_factory=dict)

    def oldest(self, columns: list[str]) -> datetime | None:
        """Return the earliest watermark of the columns; None if one of them was never checked."""
        marks = [self.columns.get(name) for name in columns]
        return min((mark for mark in marks if mark is not None), default=None) if all(marks) else None


def read(store: ObjectStore, problem: str, now: datetime) -> Watermarks:
    """Read the watermarks. Those after `now` (UTC), from a clock jump or a later check, are ignored."""
    try:
        watermarks = Watermarks.model_validate_json(store.get(_key(problem)))
    except NotFound:
        return Watermarks()
    except ValidationError:
        log.warning("skipped %s: not a record of the current format", _key(problem))
        return Watermarks()
    return Watermarks(columns={name: mark for name, mark in watermarks.columns.items() if mark <= now})


def advance(store: ObjectStore, problem: str, columns: list[str], until: datetime) -> None:
    """Record that all rows of the columns before `until` (UTC) were checked. A watermark never moves back, unless it is
    in the future."""
    before = read(store, problem, datetime.now(UTC) + timedelta(seconds=1)).columns
    after = {name: max(until, before.get(name, until)) for name in columns}
    if after != before:
        store.put(_key(problem), Watermarks(columns=after).model_dump_json().encode())


def _key(problem: str) -> str:
    return f"checked/{problem}/drift.json"
