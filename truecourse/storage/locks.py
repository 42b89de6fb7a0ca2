"""Locks in object storage, built on create-if-absent.

A lock is a sequence of numbered tickets, `locks/<name>/<number>`. The highest ticket holds the lock until it is
released or expires; then the process that creates the next ticket holds it. Only one of several processes can create a
ticket, so taking over from a dead owner is as safe as taking a free lock.

A running owner renews its ticket. A ticket expires once a waiting process has seen it unchanged for its `expiry` in
seconds, by the waiting process's own monotonic clock: a changed system clock, or clocks that differ between machines,
neither free a lock that is held nor keep one whose owner is dead. The ticket of a dead process of the same machine
expires at once.
"""

import json
import logging
import os
import secrets
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from truecourse import processes
from truecourse.errors import AlreadyExists, NotFound, StorageError
from truecourse.storage.object_store import ObjectStore

log = logging.getLogger("truecourse.storage.locks")


@contextmanager
def locked(store: ObjectStore, name: str, *, expiry: float = 30, patience: float = 90) -> Iterator[None]:
    """Hold a lock in the block. Raises StorageError after waiting for `patience` seconds."""
    attempt, deadline = _Attempt(store, f"locks/{name}", expiry), time.monotonic() + patience
    while (key := attempt.ticket()) is None:
        if time.monotonic() > deadline:
            hint = "another process holds it: wait for that process, or stop it; the lock of a dead process expires"
            raise StorageError(f"waited {patience:.0f} s for a lock", where=f"locks/{name}", hint=hint)
        time.sleep(0.1)
    done = threading.Event()
    renewal = threading.Thread(target=_renew, args=(store, key, attempt.owner, expiry, done), daemon=True)
    renewal.start()
    try:
        yield
    finally:
        done.set()
        renewal.join()
        store.put(key, _document(attempt.owner, renewals=0))


def _renew(store: ObjectStore, key: str, owner: dict[str, Any], expiry: float, done: threading.Event) -> None:
    renewals = 1
    while not done.wait(expiry / 5):
        renewals += 1
        try:
            store.put(key, _document(owner, renewals))
        except StorageError as error:  # there are four more tries before the ticket expires
            log.warning("the lock was not renewed: %s", error)


class _Attempt:
    """One process's attempt at a lock: what it has seen of the ticket that holds the lock, and since when."""

    def __init__(self, store: ObjectStore, place: str, expiry: float) -> None:
        self.store, self.place = store, place
        self.owner = {"token": secrets.token_hex(8), "expiry": expiry, **this_process()}
        self.seen: tuple[str, bytes] | None = None
        self.since = 0.0

    def ticket(self) -> str | None:
        """Create a ticket. Return its key, or None while another process holds the lock."""
        keys = sorted(self.store.list(f"{self.place}/"))
        if keys and not self._is_expired(keys[-1]):
            return None
        number = int(keys[-1].rsplit("/", 1)[1]) + 1 if keys else 1
        key = f"{self.place}/{number:09d}"
        try:
            self.store.put_new(key, _document(self.owner, renewals=1))
        except AlreadyExists:
            return None
        for older in keys:  # only the highest ticket counts
            self.store.delete(older)
        return key

    def _is_expired(self, key: str) -> bool:
        try:
            content = self.store.get(key)
        except NotFound:
            return False  # it was deleted after a newer ticket was created: look again
        ticket = json.loads(content)
        if not ticket.get("renewals"):
            return True  # released
        if self.seen != (key, content):
            self.seen, self.since = (key, content), time.monotonic()
        return time.monotonic() - self.since > ticket["expiry"] or is_dead(ticket)


def this_process() -> dict[str, Any]:
    """Return what identifies this process: {"machine", "pid", "started"}."""
    return {"machine": _machine(), "pid": os.getpid(), "started": processes.started_at(os.getpid())}


def is_here(process: Mapping[str, Any]) -> bool:
    """Return whether a process, as this_process() returns it, is or was one of this machine."""
    return bool(process["machine"]) and process["machine"] == _machine()


def is_dead(process: Mapping[str, Any]) -> bool:
    """Return whether a process was one of this machine that no longer runs."""
    return is_here(process) and processes.started_at(process["pid"]) != process["started"]


def _machine() -> str:
    """Identifies the set of processes that this process can see; empty if the system cannot tell.

    Process ids are unique within one boot of a machine and one namespace: two containers may share an id."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _document(owner: dict[str, Any], renewals: int) -> bytes:
    """The ticket's content. It differs after each renewal; `renewals` is 0 once the lock is released."""
    return json.dumps({**owner, "renewals": renewals}).encode()
