"""Messages about findings reach people, or wait: whatever a channel fails at is told, and tried again next time.

A notice stays in the record until each channel that it is owed to has taken it. Whoever is killed between sending and
writing so down sends it again: a receiver may see a notice twice, with the same id, and misses none.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextvars import copy_context
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from truecourse.errors import DeliveryFailed
from truecourse.monitoring.alerts.history import Event, Kind, Notification, Record, load_record, write
from truecourse.problem import Problem
from truecourse.serving.privacy import private_names
from truecourse.storage.object_store import ObjectStore
from truecourse.wording import counted, format_duration

log = logging.getLogger("truecourse.alerts")
Channel = Callable[[str, Sequence[Notification]], None]
"""Gives notices of a problem, by name, to a receiver. Raises DeliveryFailed."""
PER_MESSAGE = 20
"""Notices in one message: Slack takes fifty blocks, and nobody reads more."""
TIMEOUT = 30.0
"""Seconds that all channels together may take of a run of checks."""


def deliver(
    store: ObjectStore, problem: Problem, channels: Mapping[str, Channel], at: datetime, patience: float = TIMEOUT
) -> dict[str, str]:
    """Give every channel the notices that it is owed; by its name, what came of it. Raises nothing: a channel that
    fails keeps its notices waiting, and the others go on. `at`: now, UTC.

    Channels are asked side by side, and all of them together hold the caller for `patience` seconds at most: what is
    not taken by then waits for the next time. That a channel fails is written down once, until it fails otherwise or
    works again."""
    seen = load_record(store, problem.name)
    if seen is None or not seen.outbox:
        return {}
    waiting = {name: [redact(problem, one) for one in seen.outbox if name in one.owed] for name in channels}
    sendings = [_Sending(problem.name, channels[name], name, tuple(owed)) for name, owed in waiting.items() if owed]
    _send(sendings, patience)
    taken = {one.name: set(one.taken) for one in sendings}
    outages = {one.name: one.failure for one in sendings if one.failure}
    told = {one.name: one.sentence for one in sendings}

    def change(now: Record | None) -> dict[str, Any] | None:
        assert now is not None
        news = [one for one in sendings if one.taken or one.failure != now.outages.get(one.name, "")]
        kept = [_left(notice, channels, taken) for notice in now.outbox]
        outbox = tuple(notice for notice in kept if notice.owed)
        if not news and outbox == now.outbox:
            return None
        still = {name: why for name, why in now.outages.items() if name in channels and name not in taken} | outages
        return {"outbox": outbox, "outages": still, "events": tuple(one.event(at) for one in news)}

    write(store, problem.name, at, "delivered", change)
    for one in sendings:
        log.log(logging.WARNING if one.failure else logging.INFO, "%s: %s", one.name, one.sentence)
    return told


@dataclass
class _Sending:
    """What one channel is given, in a thread of its own: a receiver that never ends its answer ends nobody's wait.

    `taken`: ids of notices; `failure`: what stopped the others."""

    problem: str
    send: Channel
    name: str
    notices: tuple[Notification, ...]
    taken: set[str] = field(default_factory=set)
    failure: str = ""
    over: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        for first in range(0, len(self.notices), PER_MESSAGE):
            message = self.notices[first : first + PER_MESSAGE]
            if self.over.is_set():
                return
            failure = self._failure(message)
            if self.over.is_set():  # nobody waits any more: what was taken after all is sent again, with the same id
                return
            if failure:
                self.failure = failure
                return
            self.taken |= {notice.id for notice in message}

    def _failure(self, message: Sequence[Notification]) -> str:
        try:
            self.send(self.problem, message)
        except DeliveryFailed as error:
            return error.what
        except Exception as error:  # the others go on; what it says may hold an address or a password
            return f"it broke: {type(error).__name__}"
        return ""

    @property
    def sentence(self) -> str:
        said = f"{counted(len(self.taken), 'notice')} delivered"
        return f"{said}, {len(self.notices) - len(self.taken)} waiting: {self.failure}" if self.failure else said

    def event(self, at: datetime) -> Event:
        kind: Kind = "undelivered" if self.failure else "delivered"
        return Event(kind=kind, at=at, sentence=f"{self.name}: {self.sentence}")


def _send(sendings: Sequence[_Sending], patience: float) -> None:
    end = time.monotonic() + patience
    # Daemons, each in a copy of this context (Prefect's channel finds its flow run there).
    threads = [threading.Thread(target=copy_context().run, args=(one.run,), daemon=True) for one in sendings]
    for thread in threads:
        thread.start()
    for thread, one in zip(threads, sendings, strict=True):
        thread.join(max(0.0, end - time.monotonic()))
        one.over.set()
        if thread.is_alive():
            one.failure = f"it was not done within {format_duration(patience)}"


def redact(problem: Problem, notice: Notification) -> Notification:
    """The notice without what it may tell of the values of a private field: it leaves the house."""
    finding = notice.finding
    if finding.subject not in private_names(problem):
        return notice
    hidden = f"{finding.subject}, a private field: {finding.cause}."
    bare = finding.model_copy(update={"sentence": hidden, "figures": {}})
    return notice.model_copy(update={"sentence": hidden, "finding": bare})


def _left(notice: Notification, channels: Mapping[str, Channel], taken: Mapping[str, set[str]]) -> Notification:
    """What is still owed of a notice; nothing to a channel that was taken out of the settings."""
    owed = tuple(name for name in notice.owed if name in channels and notice.id not in taken.get(name, ()))
    return notice.model_copy(update={"owed": owed})
