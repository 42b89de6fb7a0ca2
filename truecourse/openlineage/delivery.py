"""Delivery of events to a file or an HTTP server, which can neither fail nor delay a flow.

Each event is first written to `<home>/openlineage/pending/`. A thread of the process sends what is there, oldest first;
what is not delivered stays, and later runs send it. One process of a home sends at a time. A receiver may get an event
twice, if a process ends between sending and recording, but misses none.
"""

import fcntl
import itertools
import json
import logging
import os
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

from truecourse import addresses
from truecourse.errors import DeliveryFailed
from truecourse.openlineage.events import Document
from truecourse.settings import get_settings
from truecourse.wording import counted

log = logging.getLogger("truecourse.openlineage")
ENDPOINT = "/api/v1/lineage"
"""The path to which clients of OpenLineage post, if the URL has none."""
TIMEOUT = 5.0
"""Seconds that a server may take for each step of a request."""
WAIT = 2.0
"""Seconds that a flow waits at its end for the delivery of its events."""
MOST_PENDING = 20_000
"""Most events that wait; above it, the oldest are removed."""
_UNPROCESSABLE = (400, 409, 413, 415, 422)
"""Statuses of an event that the server will never accept."""
_numbers = itertools.count()


@dataclass(frozen=True)
class Outage:
    """The receiver has accepted no event since a time. `removed`: events that were removed because too many waited."""

    since: str
    reason: str
    removed: int = 0


def folder() -> Path:
    return get_settings().home / "openlineage"


def pending() -> list[Path]:
    """The files of the events that wait, oldest first."""
    return sorted((folder() / "pending").glob("*.json"))


def refused() -> list[Path]:
    """The files of the events that the server refused, oldest first."""
    return sorted((folder() / "refused").glob("*.json"))


def outage() -> Outage | None:
    """The current outage; None if the last delivery succeeded."""
    try:
        return Outage(**json.loads(_outage_file().read_text()))
    except (OSError, ValueError, TypeError):
        return None


def _outage_file() -> Path:
    return folder() / "outage.json"


def keep(events: Iterable[Document]) -> None:
    """Write events to the folder of those that wait. Raises OSError."""
    place = folder() / "pending"
    place.mkdir(parents=True, exist_ok=True)
    for event in events:
        _replace(place / f"{time.time_ns():020d}-{os.getpid()}-{next(_numbers)}.json", json.dumps(event))
    if outage() is not None:
        _remove_oldest()


def _replace(file: Path, text: str) -> None:
    temporary = file.with_suffix(f".{os.getpid()}.tmp")
    temporary.write_text(text)
    temporary.replace(file)


def _remove_oldest() -> None:
    waiting, known = pending(), outage()
    surplus = waiting[: max(0, len(waiting) - MOST_PENDING)]
    for file in surplus:
        file.unlink(missing_ok=True)
    if surplus and known is not None:
        removed = known.removed + len(surplus)
        _replace(_outage_file(), json.dumps(asdict(known) | {"removed": removed}))
        log.error(
            "%s removed since %s: more than %d wait", counted(removed, "lineage event"), known.since, MOST_PENDING
        )


def send_pending() -> int:
    """Send what waits until all is sent or the receiver fails; the number of events delivered.

    An outage is logged when it begins, when its reason changes, and when it ends. Raises OSError if the home cannot be
    written."""
    delivered = 0
    with _only_sender() as alone:
        if not alone:  # the other process sends them, or the next run
            return 0
        while waiting := pending():
            for file in waiting:
                try:
                    delivered += _send_file(file)
                except DeliveryFailed as failure:
                    _note_outage(failure.what)
                    return delivered
            _end_outage(delivered)
    return delivered


def _send_file(file: Path) -> bool:
    """Send one event and remove its file; whether the receiver took it. Raises DeliveryFailed if it has to wait."""
    try:
        _send(file.read_bytes())
    except FileNotFoundError:  # it was removed as surplus
        return False
    except DeliveryFailed as error:
        if error.status not in _UNPROCESSABLE:
            raise
        (folder() / "refused").mkdir(exist_ok=True)
        file.replace(folder() / "refused" / file.name)
        log.error("%s; it refuses a lineage event, kept as %s", error.what, folder() / "refused" / file.name)
        return False
    file.unlink(missing_ok=True)
    return True


def _send(event: bytes) -> None:
    settings = get_settings()
    target = settings.openlineage
    if target.startswith("file:"):
        _append(Path(target.removeprefix("file:")), event)
        return
    url = target.rstrip("/") + ENDPOINT if urlsplit(target).path in ("", "/") else target
    headers = {"Content-Type": "application/json"}
    if key := settings.openlineage_api_key.get_secret_value():
        headers["Authorization"] = f"Bearer {key}"
    addresses.post(url, event, headers, TIMEOUT)


def _append(file: Path, event: bytes) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("ab", buffering=0) as opened:
            fcntl.flock(opened, fcntl.LOCK_EX)  # processes of other homes may append too
            opened.write(event + b"\n")
    except OSError as error:
        raise DeliveryFailed(f"the file cannot be written: {error.strerror or error}") from None


def _note_outage(reason: str) -> None:
    known = outage()
    if known is not None and known.reason == reason:
        return
    since = known.since if known is not None else datetime.now(UTC).isoformat(timespec="seconds")
    removed = known.removed if known is not None else 0
    _replace(_outage_file(), json.dumps(asdict(Outage(since, reason, removed))))
    log.warning("lineage events are not delivered and wait in %s: %s", folder() / "pending", reason)


def _end_outage(delivered: int) -> None:
    known = outage()
    if known is not None:
        _outage_file().unlink(missing_ok=True)
        log.info("%s delivered that waited since %s", counted(delivered, "lineage event"), known.since)


@contextmanager
def _only_sender() -> Iterator[bool]:
    """Yield whether this process sends alone; wait a little for another one."""
    folder().mkdir(parents=True, exist_ok=True)
    with (folder() / "lock").open("ab") as lock:
        end = time.monotonic() + WAIT
        while not (alone := _try_lock(lock.fileno())) and time.monotonic() < end:
            time.sleep(0.05)
        yield alone


def _try_lock(descriptor: int) -> bool:
    """Lock an open file; the kernel releases the lock of a dead process."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


class _Sender:
    """Sends in a thread of its own, which the process does not wait for at its end."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._wanted = False
        self._idle = threading.Event()
        self._idle.set()

    def request(self) -> None:
        with self._lock:
            self._wanted = True
            if self._idle.is_set():
                self._idle.clear()
                threading.Thread(target=self._run, name="openlineage", daemon=True).start()

    def wait(self, seconds: float) -> bool:
        return self._idle.wait(seconds)

    def _run(self) -> None:
        while True:
            with self._lock:
                if not self._wanted:
                    self._idle.set()
                    return
                self._wanted = False
            try:
                send_pending()
            except Exception as error:  # a lineage event must not end a thread with a traceback: the events wait
                log.warning("lineage events are not delivered: %s", error)


_sender = _Sender()


def start_sending() -> None:
    """Send what waits, in the background."""
    _sender.request()


def wait_for_delivery(seconds: float = WAIT) -> bool:
    """Wait until the background has sent what waits, or until the time is over; whether it has."""
    return _sender.wait(seconds)
