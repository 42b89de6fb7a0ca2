"""Messages about findings reach people, or wait: whatever a channel fails at is told, and tried again next time.

A notice stays in the record until each channel that it is owed to has taken it. Whoever is killed between sending and
writing so down sends it again: a receiver may see a notice twice, with the same id, and misses none.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from truecourse.errors import DeliveryFailed
from truecourse.monitoring.record import Event, Notice, Record, stands, write
from truecourse.privacy import private_names
from truecourse.problem import Problem
from truecourse.storage import ObjectStore
from truecourse.wording import counted

log = logging.getLogger("truecourse.alerts")
Channel = Callable[[str, Sequence[Notice]], None]
"""Gives notices of a problem, by name, to a receiver. Raises DeliveryFailed."""
AT_ONCE = 20
"""Notices in one message: Slack takes fifty blocks, and nobody reads more."""


def deliver(store: ObjectStore, problem: Problem, channels: Mapping[str, Channel], at: datetime) -> dict[str, str]:
    """Give every channel the notices that it is owed; by its name, what came of it. Raises nothing: a channel that
    fails keeps its notices waiting, and the others go on. `at`: now, UTC."""
    seen = stands(store, problem.name)
    if seen is None or not seen.outbox:
        return {}
    taken: dict[str, set[str]] = {}
    events = []
    for name, send in channels.items():
        waiting = [public(problem, notice) for notice in seen.outbox if name in notice.owed]
        if waiting:
            taken[name], failure = _given(problem.name, send, waiting)
            events.append(_told(name, len(taken[name]), len(waiting), failure, at))

    def change(now: Record | None) -> dict[str, Any] | None:
        assert now is not None
        outbox = [_left(notice, channels, taken) for notice in now.outbox]
        return {"outbox": tuple(notice for notice in outbox if notice.owed), "events": tuple(events)}

    write(store, problem.name, at, "delivered", change)
    for event in events:
        log.log(logging.WARNING if event.kind == "undelivered" else logging.INFO, "%s", event.sentence)
    return {event.sentence.partition(": ")[0]: event.sentence.partition(": ")[2] for event in events}


def public(problem: Problem, notice: Notice) -> Notice:
    """The notice without what it may tell of the values of a private field: it leaves the house."""
    finding = notice.finding
    if finding.subject not in private_names(problem):
        return notice
    hidden = f"{finding.subject}, a private field: {finding.cause}."
    bare = finding.model_copy(update={"sentence": hidden, "figures": {}})
    return notice.model_copy(update={"sentence": hidden, "finding": bare})


def _given(problem: str, send: Channel, notices: Sequence[Notice]) -> tuple[set[str], str]:
    """The ids of those that were taken, and what stopped the others."""
    taken: set[str] = set()
    for first in range(0, len(notices), AT_ONCE):
        message = notices[first : first + AT_ONCE]
        try:
            send(problem, message)
        except DeliveryFailed as error:
            return taken, error.what
        except Exception as error:  # the others go on; what it says may hold an address or a password
            return taken, f"it broke: {type(error).__name__}"
        taken |= {notice.id for notice in message}
    return taken, ""


def _told(name: str, taken: int, owed: int, failure: str, at: datetime) -> Event:
    said = f"{name}: {counted(taken, 'notice')} delivered"
    if failure:
        said += f", {owed - taken} waiting: {failure}"
    return Event(kind="undelivered" if failure else "delivered", at=at, sentence=said)


def _left(notice: Notice, channels: Mapping[str, Channel], taken: Mapping[str, set[str]]) -> Notice:
    """What is still owed of a notice; nothing to a channel that was taken out of the settings."""
    owed = tuple(name for name in notice.owed if name in channels and notice.id not in taken.get(name, ()))
    return notice.model_copy(update={"owed": owed})
