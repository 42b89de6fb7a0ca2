"""Locks in object storage, built on create-if-absent alone.

A lock is a run of numbered tickets, `locks/<name>/<number>`. The highest ticket holds the lock until it is marked
released or its time is up; whoever creates the next number first holds it then. Taking over from a dead owner is
therefore as safe as taking a free lock: of any number of racers exactly one creates a ticket. A live owner renews its
ticket, however long its work takes; that of a dead one is over within `expiry` seconds.
"""

import json
import logging
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from truecourse.errors import AlreadyExists, NotFound, StorageError
from truecourse.storage.object_store import ObjectStore

log = logging.getLogger("truecourse.storage.locks")


@contextmanager
def locked(store: ObjectStore, name: str, *, expiry: float = 30, patience: float = 90) -> Iterator[None]:
    """Hold the lock. Raises StorageError after `patience` seconds of waiting for it."""
    owner, deadline = secrets.token_hex(8), time.monotonic() + patience
    while (ticket := _take(store, f"locks/{name}", owner, expiry)) is None:
        if time.monotonic() > deadline:
            hint = "another process holds it; wait for it, or stop it: the lock of a dead process frees itself"
            raise StorageError(f"waited {patience:.0f} s for a lock", where=f"locks/{name}", hint=hint)
        time.sleep(0.1)
    key, done = _key(f"locks/{name}", ticket), threading.Event()
    renewal = threading.Thread(target=_renew, args=(store, key, owner, expiry, done), daemon=True)
    renewal.start()
    try:
        yield
    finally:
        done.set()
        renewal.join()
        store.put(key, _document(owner, expires=0))


def _renew(store: ObjectStore, key: str, owner: str, expiry: float, done: threading.Event) -> None:
    while not done.wait(expiry / 5):
        try:
            store.put(key, _document(owner, expires=time.time() + expiry))
        except StorageError as error:  # there are four more tries before the ticket is over
            log.warning("the lock was not renewed: %s", error)


def _take(store: ObjectStore, place: str, owner: str, expiry: float) -> int | None:
    """The number of our new ticket, or None while another's holds."""
    numbers = [int(key.rsplit("/", 1)[1]) for key in store.list(f"{place}/")]
    newest = max(numbers, default=0)
    if newest and not _is_over(store, _key(place, newest)):
        return None
    try:
        store.put_new(_key(place, newest + 1), _document(owner, expires=time.time() + expiry))
    except AlreadyExists:
        return None
    for number in numbers:  # only the highest ticket counts
        store.delete(_key(place, number))
    return newest + 1


def _is_over(store: ObjectStore, key: str) -> bool:
    try:
        return bool(json.loads(store.get(key))["expires"] < time.time())
    except NotFound:
        return False  # a newer ticket swept it away: look again


def _key(place: str, number: int) -> str:
    return f"{place}/{number:09d}"


def _document(owner: str, expires: float) -> bytes:
    return json.dumps({"owner": owner, "expires": expires}).encode()
