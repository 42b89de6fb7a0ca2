"""How far each column was looked at: the next check goes on from there, and what was not looked at is not clean."""

import logging
from datetime import UTC, datetime, timedelta

from pydantic import Field, ValidationError

from truecourse.errors import NotFound
from truecourse.references import Reference, UtcTime
from truecourse.storage.object_store import ObjectStore

log = logging.getLogger("truecourse.monitor")


class Watermarks(Reference):
    """`columns`: of each column the moment (UTC) up to which its rows were looked at."""

    columns: dict[str, UtcTime] = Field(default_factory=dict)

    def oldest(self, columns: list[str]) -> datetime | None:
        """From where all of the columns are to be looked at; None where one of them never was."""
        found = [self.columns.get(name) for name in columns]
        return min((mark for mark in found if mark is not None), default=None) if all(found) else None


def read(store: ObjectStore, problem: str, now: datetime) -> Watermarks:
    """Marks that lie after `now` (UTC) are of a clock that jumped, or of a later check: they count for nothing."""
    try:
        found = Watermarks.model_validate_json(store.get(_key(problem)))
    except NotFound:
        return Watermarks()
    except ValidationError:
        log.warning("%s is no record of this form and is left out", _key(problem))
        return Watermarks()
    return Watermarks(columns={name: mark for name, mark in found.columns.items() if mark <= now})


def advance(store: ObjectStore, problem: str, columns: list[str], until: datetime) -> None:
    """All rows of the columns before `until` (UTC) were looked at. A mark never goes back, unless it is in the
    future."""
    before = read(store, problem, datetime.now(UTC) + timedelta(seconds=1)).columns
    after = {name: max(until, before.get(name, until)) for name in columns}
    if after != before:
        store.put(_key(problem), Watermarks(columns=after).model_dump_json().encode())


def _key(problem: str) -> str:
    return f"checked/{problem}/drift.json"
