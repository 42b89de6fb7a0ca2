"""The record of findings: when each was first seen, who was told, what was done about it, and when it was gone again.

The history is a ledger in object storage, `alarms/<problem>/`: an entry for every change, with what happened and all
that stands after it. The state is one object, `alarms/<problem>.json`: the newest entry, and what checks have confirmed
since then. A change is in the history before it is in the state, so whoever is killed in between loses nothing: the
reader of a state that is behind finds the entries that follow it. Of two checks that confirm open alarms at the same
moment, what the first one confirmed may be overwritten, which costs a recovery one check; a change is never lost.
"""

import getpass
import logging
from collections.abc import Callable
from datetime import datetime
from typing import Any, Literal

from pydantic import Field, ValidationError

from truecourse.errors import ModelError, NotFound
from truecourse.monitoring.findings import Check, Finding
from truecourse.references import Entry, Reference, UtcTime, aware_utc
from truecourse.settings import get_settings
from truecourse.storage.ledger import Ledger
from truecourse.storage.object_store import ObjectStore

Kind = Literal[
    "opened", "escalated", "reminded", "recovered",
    "delivered", "undelivered",
    "due", "not now", "retraining", "retrained", "promoted", "rolled back",
]  # fmt: skip
"""What can happen: to a finding; to messages about it; to the model because of it."""
_ENOUGH = 20
"""Attempts that an entry tells of: all that cool-down and budget ask for."""
_RECENT = 20
"""Events that the state itself tells of, for pages."""
_CONFIRMED = {"open", "checked"}
"""What changes with every check, and is no news unless an event comes with it."""
log = logging.getLogger("truecourse.alerts")


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


class Notification(Reference):
    """A message that is owed to channels, by name. Each gets it at least once; its `id` tells the same from another."""

    id: str
    kind: Kind
    at: datetime
    finding: Finding
    sentence: str
    owed: tuple[str, ...]

    @property
    def about(self) -> str:
        """The problem, the alarm and the kind: the same for every reminder of an alarm."""
        return self.id.rpartition("/")[0]


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
    report was; `decision` the last one about retraining, and `decided` when it was last told. `outages`: what channels
    fail at, by name. `recent`: the newest events, without their findings and attempts."""

    events: tuple[Event, ...] = ()
    open: tuple[Alarm, ...] = ()
    checked: dict[Check, datetime] = Field(default_factory=dict)
    outbox: tuple[Notification, ...] = ()
    attempts: tuple[Attempt, ...] = ()
    decision: Decision | None = None
    decided: UtcTime | None = None
    outages: dict[str, str] = Field(default_factory=dict)
    recent: tuple[Event, ...] = ()

    def alarm(self, id: str) -> Alarm | None:
        return next((alarm for alarm in self.open if alarm.id == id), None)


Change = Callable[[Record | None], dict[str, Any] | None]
"""The next entry's fields, of the newest entry that there is; None for no next entry."""


def open_ledger(store: ObjectStore, problem: str) -> Ledger[Record]:
    return Ledger(store, f"alarms/{problem}", Record)


def state_key(problem: str) -> str:
    """Where the state lies: beside the history, and not in it."""
    return f"alarms/{problem}.json"


def load_record(store: ObjectStore, problem: str) -> Record | None:
    """What stands, at the cost of two reads, however long the history is; None where nothing was ever found."""
    seen, ledger = _state(store, problem), open_ledger(store, problem)
    if seen is None:
        seen = ledger.newest()
    while (later := ledger.after(seen.number if seen else 0)) is not None:
        seen = later
    return seen


def _state(store: ObjectStore, problem: str) -> Record | None:
    try:
        return Record.model_validate_json(store.get(state_key(problem)))
    except NotFound:
        return None
    except ValidationError:
        log.warning("%s is no state of this form: the history is read instead", state_key(problem))
        return None


def history(store: ObjectStore, problem: str) -> list[Event]:
    """All that happened, oldest first."""
    return [event for entry in open_ledger(store, problem).entries() for event in entry.events]


def write(store: ObjectStore, problem: str, at: datetime, action: str, change: Change) -> Record | None:
    """Enter what `change` makes of what stands; nothing, and what stands is returned, where that is None.

    An entry of the history is made where something happened; what a check has only confirmed (`seen`, `clean`,
    `checked`) is kept in the state alone. `change` returns fields and is asked again if somebody else wrote meanwhile.
    `at`: now, UTC."""
    ledger = open_ledger(store, problem)
    while True:
        seen = load_record(store, problem)
        changes = change(seen)
        if changes is None:
            return seen
        entry = _following(seen, at, action, changes)
        if changes.get("events") or set(changes) - {"events"} - _CONFIRMED:
            try:
                entry = ledger.append(entry)
            except ModelError:
                continue  # they were first: look at what they wrote
        else:
            entry = entry.model_copy(update={"number": entry.number - 1})
        store.put(state_key(problem), entry.model_dump_json().encode())
        return entry


def _following(seen: Record | None, at: datetime, action: str, changes: dict[str, Any]) -> Record:
    events = changes.get("events", ())
    kept = dict(seen) if seen else {}
    kept |= {"number": seen.number + 1 if seen else 1, "action": action, "at": aware_utc(at), "events": ()}
    kept |= {"reason": events[0].sentence if events else "", "author": get_settings().author or getpass.getuser()}
    told = [event.model_copy(update={"finding": None, "attempt": None}) for event in events]
    kept["recent"] = (*(seen.recent if seen else ()), *told)[-_RECENT:]
    entry = Record.model_validate(kept | changes)
    return entry.model_copy(update={"attempts": entry.attempts[-_ENOUGH:]})
