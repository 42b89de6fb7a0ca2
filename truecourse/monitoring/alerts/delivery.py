"""Delivery of notifications: at least once per channel; failures are recorded and retried at the next check.

A pending notification stays in the record until each of its channels has accepted it. A process that is killed after
sending and before recording sends again: a receiver may get a notification twice, with the same id, but misses none.
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
from truecourse.monitoring.alerts.alert_record import Event, Kind, Notification, Record, load_record, write
from truecourse.problem import Problem
from truecourse.serving.privacy import private_names
from truecourse.storage.object_store import ObjectStore
from truecourse.wording import counted, format_duration

log = logging.getLogger("truecourse.alerts")
Channel = Callable[[str, Sequence[Notification]], None]
"""Sends the notifications of a problem, by name, to a receiver. Raises DeliveryFailed."""
PER_MESSAGE = 20
"""Notifications in one message: Slack accepts fifty blocks, and longer messages are not read."""
TIMEOUT = 30.0
"""Seconds that all channels together may take in a run of checks."""


def deliver(
    store: ObjectStore, problem: Problem, channels: Mapping[str, Channel], at: datetime, timeout: float = TIMEOUT
) -> dict[str, str]:
    """Send every channel its pending notifications, and return a sentence about the result by channel name.

    `at`: now, UTC. Nothing is raised: the notifications of a channel that fails stay pending. Channels run in parallel
    and delay the caller by at most `timeout` seconds; what is not delivered by then stays pending. A failure is
    recorded once, until its reason changes or the channel works again."""
    record = load_record(store, problem.name)
    if record is None or not record.pending:
        return {}
    pending = {name: [redact(problem, one) for one in record.pending if name in one.channels] for name in channels}
    deliveries = [
        _Delivery(problem.name, channels[name], name, tuple(queued)) for name, queued in pending.items() if queued
    ]
    _send(deliveries, timeout)
    delivered = {one.name: set(one.delivered) for one in deliveries}
    outages = {one.name: one.failure for one in deliveries if one.failure}
    sentences = {one.name: one.sentence for one in deliveries}

    def change(now: Record | None) -> dict[str, Any] | None:
        assert now is not None
        changed = [one for one in deliveries if one.delivered or one.failure != now.outages.get(one.name, "")]
        kept = [_pending(notification, channels, delivered) for notification in now.pending]
        left = tuple(notification for notification in kept if notification.channels)
        if not changed and left == now.pending:
            return None
        failing = {
            name: why for name, why in now.outages.items() if name in channels and name not in delivered
        } | outages
        return {"pending": left, "outages": failing, "events": tuple(one.event(at) for one in changed)}

    write(store, problem.name, at, "delivered", change)
    for one in deliveries:
        log.log(logging.WARNING if one.failure else logging.INFO, "%s: %s", one.name, one.sentence)
    return sentences


@dataclass
class _Delivery:
    """One channel's notifications, sent in a thread of its own, so that a receiver that hangs delays no other.

    `delivered`: ids of the notifications delivered. `failure`: why the others were not. `over`: set when the caller no
    longer waits."""

    problem: str
    send: Channel
    name: str
    notifications: tuple[Notification, ...]
    delivered: set[str] = field(default_factory=set)
    failure: str = ""
    over: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        for first in range(0, len(self.notifications), PER_MESSAGE):
            message = self.notifications[first : first + PER_MESSAGE]
            if self.over.is_set():
                return
            failure = self._try_send(message)
            if self.over.is_set():  # the caller no longer waits: this message will be sent again, with the same ids
                return
            if failure:
                self.failure = failure
                return
            self.delivered |= {notification.id for notification in message}

    def _try_send(self, message: Sequence[Notification]) -> str:
        try:
            self.send(self.problem, message)
        except DeliveryFailed as error:
            return error.what
        except Exception as error:  # other channels continue; the error's text may contain an address or a password
            return f"the channel failed: {type(error).__name__}"
        return ""

    @property
    def sentence(self) -> str:
        message = f"{counted(len(self.delivered), 'notification')} delivered"
        pending = len(self.notifications) - len(self.delivered)
        return f"{message}, {pending} pending: {self.failure}" if self.failure else message

    def event(self, at: datetime) -> Event:
        kind: Kind = "undelivered" if self.failure else "delivered"
        return Event(kind=kind, at=at, sentence=f"{self.name}: {self.sentence}")


def _send(deliveries: Sequence[_Delivery], timeout: float) -> None:
    end = time.monotonic() + timeout
    # Daemon threads, each with a copy of the context: Prefect's channel reads its flow run from it.
    threads = [threading.Thread(target=copy_context().run, args=(one.run,), daemon=True) for one in deliveries]
    for thread in threads:
        thread.start()
    for thread, one in zip(threads, deliveries, strict=True):
        thread.join(max(0.0, end - time.monotonic()))
        one.over.set()
        if thread.is_alive():
            one.failure = f"the channel did not finish within {format_duration(timeout)}"


def redact(problem: Problem, notification: Notification) -> Notification:
    """Remove what a notification may reveal about the values of a private field, before it leaves the system."""
    finding = notification.finding
    if finding.subject not in private_names(problem):
        return notification
    hidden = f"{finding.subject}, a private field: {finding.cause}."
    bare = finding.model_copy(update={"sentence": hidden, "figures": {}})
    return notification.model_copy(update={"sentence": hidden, "finding": bare})


def _pending(one: Notification, channels: Mapping[str, Channel], delivered: Mapping[str, set[str]]) -> Notification:
    """Keep the channels that have not accepted the notification and are still configured."""
    left = tuple(name for name in one.channels if name in channels and one.id not in delivered.get(name, ()))
    return one.model_copy(update={"channels": left})
