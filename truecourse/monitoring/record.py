"""The record of findings: when each was first seen, who was told, what was done about it, and when it was gone again.

A ledger in object storage, `alarms/<problem>/`. Every entry says what has happened since the one before it, and all
that stands after it, so that whoever wants to know reads the newest alone.
"""

import getpass
from collections.abc import Callable
from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from truecourse.errors import ModelError
from truecourse.ledger import Ledger
from truecourse.monitoring.findings import Check, Finding
from truecourse.references import Entry, Reference, aware_utc
from truecourse.settings import get_settings
from truecourse.storage import ObjectStore

Kind = Literal[
    "opened", "escalated", "reminded", "recovered",
    "delivered", "undelivered",
    "due", "not now", "retraining", "retrained", "promoted", "rolled back",
]  # fmt: skip
"""What can happen: to a finding; to messages about it; to the model because of it."""
_ENOUGH = 20
"""Attempts that an entry tells of: all that cool-down and budget ask for."""


class Alarm(Reference):
    """A finding from when it was first seen until it has recovered.

    `opened`, `seen`: when it was found first and last. `told`: when people were last told; None for a finding that
    pages nobody. `clean`: how many checks in a row no longer found it."""

    finding: Finding
    opened: datetime
    seen: datetime
    told: datetime | None = None
    clean: int = 0

    @property
    def key(self) -> str:
        return self.finding.key

    @property
    def id(self) -> str:
        """The same trouble at another time has the same key and another id."""
        return f"{self.key}@{self.opened:%Y%m%dT%H%M%S}"


class Notice(Reference):
    """A message that is owed to channels, by name. Each gets it at least once; its `id` tells the same from another."""

    id: str
    kind: Kind
    at: datetime
    finding: Finding
    sentence: str
    owed: tuple[str, ...]


class Attempt(Reference):
    """A training begun because of findings, by their alarms' ids. `number`: of the entry that it began with.

    `outcome`: "challenger" came through no gate, or waits for its canary or a person; "champion" came into office;
    "failed" with an error. `promoted`, `rolled_back`: when the version came into office, and out of it again."""

    number: int
    alarms: tuple[str, ...]
    at: datetime
    outcome: Literal["running", "challenger", "champion", "rolled back", "failed"] = "running"
    run_id: str | None = None
    version: int | None = None
    gates: tuple[dict[str, Any], ...] = ()
    detail: str = ""
    ended: datetime | None = None


class Decision(Reference):
    """Whether to train because of open findings, by their alarms' ids, and why, or why not."""

    retrain: bool
    because: str
    alarms: tuple[str, ...] = ()


class Event(Reference):
    """One thing that happened, in a sentence. `alarm`: the id of what it happened to, `finding` that alarm's; `attempt`
    the training it is about."""

    kind: Kind
    at: datetime
    sentence: str
    alarm: str = ""
    finding: Finding | None = None
    attempt: Attempt | None = None


class Record(Entry):
    """An entry: `events` since the one before; the rest is what stands. `checked`: of which moment each check's newest
    report was; `decision` the last one about retraining."""

    events: tuple[Event, ...] = ()
    open: tuple[Alarm, ...] = ()
    checked: dict[Check, datetime] = Field(default_factory=dict)
    outbox: tuple[Notice, ...] = ()
    attempts: tuple[Attempt, ...] = ()
    decision: Decision | None = None

    def alarm(self, id: str) -> Alarm | None:
        return next((alarm for alarm in self.open if alarm.id == id), None)


Change = Callable[[Record | None], dict[str, Any] | None]
"""The next entry's fields, of the newest entry that there is; None for no next entry."""


def book(store: ObjectStore, problem: str) -> Ledger[Record]:
    return Ledger(store, f"alarms/{problem}", Record)


def stands(store: ObjectStore, problem: str) -> Record | None:
    """What stands; None where nothing was ever found."""
    return book(store, problem).newest()


def history(store: ObjectStore, problem: str) -> list[Event]:
    """All that happened, oldest first."""
    return [event for entry in book(store, problem).entries() for event in entry.events]


def write(store: ObjectStore, problem: str, at: datetime, action: str, change: Change) -> Record | None:
    """Append what `change` makes of the newest entry; nothing, and what stands is returned, where that is None.

    `change` returns fields of the next entry and is asked again if somebody else wrote meanwhile. `at`: now, UTC."""
    ledger = book(store, problem)
    while True:
        seen = ledger.newest()
        changes = change(seen)
        if changes is None:
            return seen
        entry = _following(seen, at, action, changes)
        try:
            ledger.append(entry)
        except ModelError:
            continue  # they were first: look at what they wrote
        return entry


def _following(seen: Record | None, at: datetime, action: str, changes: dict[str, Any]) -> Record:
    events = changes.get("events", ())
    kept = dict(seen) if seen else {}
    kept |= {"number": seen.number + 1 if seen else 1, "action": action, "at": aware_utc(at), "events": ()}
    kept |= {"reason": events[0].sentence if events else "", "author": get_settings().author or getpass.getuser()}
    entry = Record.model_validate(kept | changes)
    return entry.model_copy(update={"attempts": entry.attempts[-_ENOUGH:]})
