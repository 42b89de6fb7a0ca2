"""Locks in object storage, built on create-if-absent.

A lock is a sequence of numbered tickets, `locks/<name>/<number>`. The highest ticket holds the lock until it is
released or expires; then the process that creates the next ticket holds it. Only one of several processes can create a
ticket, so taking over from a dead owner is as safe as taking a free lock. A running owner renews its ticket; the ticket
of a dead owner expires within `expiry` seconds.
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
    """Hold a lock in the block. Raises StorageError after waiting for `patience` seconds."""
    owner, deadline = secrets.token_hex(8), time.monotonic() + patience
    while (ticket := _take(store, f"locks/{name}", owner, expiry)) is None:
        if time.monotonic() > deadline:
            hint = "another process holds it: wait for that process, or stop it; the lock of a dead process expires"
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
        except StorageError as error:  # there are four more tries before the ticket expires
            log.warning("the lock was not renewed: %s", error)


def _take(store: ObjectStore, place: str, owner: str, expiry: float) -> int | None:
    """Create a ticket. Return its number, or None while another process holds the lock."""
    numbers = [int(key.rsplit("/", 1)[1]) for key in store.list(f"{place}/")]
    newest = max(numbers, default=0)
    if newest and not _is_expired(store, _key(place, newest)):
        return None
    try:
        store.put_new(_key(place, newest + 1), _document(owner, expires=time.time() + expiry))
    except AlreadyExists:
        return None
    for number in numbers:  # only the highest ticket counts
        store.delete(_key(place, number))
    return newest + 1


def _is_expired(store: ObjectStore, key: str) -> bool:
    try:
        return bool(json.loads(store.get(key))["expires"] < time.time())
    except NotFound:
        return False  # it was deleted after a newer ticket was created: look again


def _key(place: str, number: int) -> str:
    return f"{place}/{number:09d}"


def _document(owner: str, expires: float) -> bytes:
    return json.dumps({"owner": owner, "expires": expires}).encode()
