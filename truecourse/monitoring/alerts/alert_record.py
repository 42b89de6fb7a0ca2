"""The alert record of a problem: when each finding was opened, notified, acted on, and recovered.

The history is a ledger in object storage, `alarms/<problem>/`. Each change appends an entry with its events and the
complete state after it. The state is also one object, `alarms/<problem>.json`: the newest entry, plus what checks have
confirmed since then. An entry is appended before the state object is written, so a killed process loses nothing: a
reader of an outdated state object reads the entries that follow it. If two checks confirm open alarms at the same
moment, the second may overwrite the first, which delays a recovery by one check; changes are never lost.
"""

import getpass
import logging
from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from truecourse.errors import ModelError, NotFound
from truecourse.monitoring.findings import Check, Finding
from truecourse.references import Entry, Reference, UtcTime, aware_utc
from truecourse.settings import get_settings
from truecourse.storage.ledger import Ledger
from truecourse.storage.object_store import ObjectStore
from truecourse.stored_format import renamed

Kind = Literal[
    "opened", "escalated", "reminded", "recovered",
    "delivered", "undelivered",
    "due", "not now", "retraining", "retrained", "promoted", "rolled back",
]  # fmt: skip
"""Kinds of events: of a finding; of its notifications; of retraining and promotion because of it."""
_ATTEMPTS = 20
"""Retraining attempts in an entry: enough for the cool-down and the budget."""
_RECENT = 20
"""Newest events in an entry, for pages."""
_CONFIRMED = {"open", "checked"}
"""Fields that change with every check; they are written to the history only together with an event."""
log = logging.getLogger("truecourse.alerts")


class Alarm(Reference):
    """A finding, from the check that first found it until it has recovered.

    `opened`, `seen`: when it was found first and last. `notified_at`: when its last notification was created; None for
    a finding that is not critical. `clean`: how many consecutive checks have not found it."""

    finding: Finding
    opened: datetime
    seen: datetime
    notified_at: Annotated[datetime | None, renamed("notified_at")] = None
    clean: int = 0

    @property
    def key(self) -> str:
        return self.finding.key

    @property
    def id(self) -> str:
        """Identifies this alarm; a later alarm about the same finding has the same key and another id."""
        return f"{self.key}@{self.opened:%Y%m%dT%H%M%S}"


class Notification(Reference):
    """A message to `channels` (names), those that have not accepted it yet, delivered to each at least once.

    Duplicates have the same `id`."""

    id: str
    kind: Kind
    at: datetime
    finding: Finding
    sentence: str
    channels: Annotated[tuple[str, ...], renamed("channels")]

    @property
    def about(self) -> str:
        """The problem, the alarm and the kind; equal for all reminders of an alarm."""
        return self.id.rpartition("/")[0]


class Attempt(Reference):
    """A retraining that was started because of alarms (ids). `number`: of the ledger entry that started it.

    `outcome`: "challenger" if a gate failed, or if it waits for its canary or for approval; "champion" if it was
    promoted; "failed" if it ended with an error."""

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
    """Whether to retrain because of open alarms (ids), and the reason."""

    retrain: bool
    because: str
    alarms: tuple[str, ...] = ()


class Event(Reference):
    """An event, described by a sentence. `alarm`: the id of its alarm, `finding`: that alarm's finding. `attempt`: the
    retraining it is about."""

    kind: Kind
    at: datetime
    sentence: str
    alarm: str = ""
    finding: Finding | None = None
    attempt: Attempt | None = None


class Record(Entry):
    """An entry of the ledger: the `events` since the previous entry, and the state after them.

    `checked`: the moment of each check's newest report. `pending`: notifications to deliver. `decision`: the last one
    about retraining; `decided`: when it was last recorded. `outages`: why channels fail, by name. `recent`: the newest
    events, without their findings and attempts."""

    events: tuple[Event, ...] = ()
    open: tuple[Alarm, ...] = ()
    checked: dict[Check, datetime] = Field(default_factory=dict)
    pending: Annotated[tuple[Notification, ...], renamed("pending")] = ()
    attempts: tuple[Attempt, ...] = ()
    decision: Decision | None = None
    decided: UtcTime | None = None
    outages: dict[str, str] = Field(default_factory=dict)
    recent: tuple[Event, ...] = ()

    def alarm(self, id: str) -> Alarm | None:
        return next((alarm for alarm in self.open if alarm.id == id), None)


Change = Callable[[Record | None], dict[str, Any] | None]
"""Computes the fields of the next entry from the newest entry; None for no new entry."""


def open_ledger(store: ObjectStore, problem: str) -> Ledger[Record]:
    return Ledger(store, f"alarms/{problem}", Record)


def state_key(problem: str) -> str:
    """Return the key of the state object; it is not part of the ledger."""
    return f"alarms/{problem}.json"


def load_record(store: ObjectStore, problem: str) -> Record | None:
    """Load the current record, in two reads however long the history is; None if there never was a finding."""
    record, ledger = _state(store, problem), open_ledger(store, problem)
    if record is None:
        record = ledger.newest()
    while (later := ledger.after(record.number if record else 0)) is not None:
        record = later
    return record


def _state(store: ObjectStore, problem: str) -> Record | None:
    try:
        return Record.model_validate_json(store.get(state_key(problem)))
    except NotFound:
        return None
    except ValidationError:
        log.warning("%s cannot be parsed: reading the history instead", state_key(problem))
        return None


def history(store: ObjectStore, problem: str) -> list[Event]:
    """Return all events, oldest first."""
    return [event for entry in open_ledger(store, problem).entries() for event in entry.events]


def write(store: ObjectStore, problem: str, at: datetime, action: str, change: Change) -> Record | None:
    """Apply `change` to the current record, and return the new record; the current one if `change` returns None.

    An entry is appended to the history if there are events or other changes. What a check only confirms (`seen`,
    `clean`, `checked`) is written to the state object alone. `change` is called again if another process wrote in
    between. `at`: now, UTC."""
    ledger = open_ledger(store, problem)
    while True:
        record = load_record(store, problem)
        changes = change(record)
        if changes is None:
            return record
        entry = _next_entry(record, at, action, changes)
        if changes.get("events") or set(changes) - {"events"} - _CONFIRMED:
            try:
                entry = ledger.append(entry)
            except ModelError:
                continue  # another process was first: start again from its entry
        else:
            entry = entry.model_copy(update={"number": entry.number - 1})
        store.put(state_key(problem), entry.model_dump_json().encode())
        return entry


def _next_entry(record: Record | None, at: datetime, action: str, changes: dict[str, Any]) -> Record:
    events = changes.get("events", ())
    fields = dict(record) if record else {}
    fields |= {"number": record.number + 1 if record else 1, "action": action, "at": aware_utc(at), "events": ()}
    fields |= {"reason": events[0].sentence if events else "", "author": get_settings().author or getpass.getuser()}
    short = [event.model_copy(update={"finding": None, "attempt": None}) for event in events]
    fields["recent"] = (*(record.recent if record else ()), *short)[-_RECENT:]
    entry = Record.model_validate(fields | changes)
    return entry.model_copy(update={"attempts": entry.attempts[-_ATTEMPTS:]})
