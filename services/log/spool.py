"""A worker's prediction log on its way out: kept in memory for a moment, written and synced in batches.

put() makes an entry of a few answers at once, and leaves many to a thread, which syncs all of them to the worker's own
segments. What cannot be written waits in memory up to a limit, and what goes beyond it is dropped and counted: the
endpoint answers on. Shipping to object storage is another process's work (truecourse/serving/log_shipping.py).
"""

import errno
import json
import logging
import math
import os
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from services.log.segment_writer import SegmentAppender, UncertainWriteError
from services.log.spool_types import Limits, Recordable, SpoolStatus
from truecourse.serving import log_segments

log = logging.getLogger("truecourse.log")
Encode = Callable[[Mapping[str, Any]], bytes]
BATCH = 4 << 20
"""About as many bytes are synced at once."""
TURN = 16
"""So many predictions are made entries of before others have a turn, which costs as much as one."""
AT_ONCE = 128
"""Of up to so many predictions the entry is made when they are put: another thread, whose core has none of it in its
cache, would take three times as long."""
MEASURED = 2.0
"""Seconds until what all workers have unshipped is measured again, unless a SHARE of the room is written before: where
nobody ships, to look at every segment takes longer than to write one."""
SHARE = 16
"""As many workers can write at once without taking more than there is."""
WOKEN = 2_000
"""As many waiting predictions are written at once, without waiting for the interval to end."""


class Entry(NamedTuple):
    """When it was put, Unix seconds; its bytes as they stand in a segment; the predictions in it."""

    at: float
    framed: bytes
    predictions: int


class Spool:
    """`encode` makes the bytes of an entry, and is where private values are hidden."""

    def __init__(self, folder: Path, encode: Encode, limits: Limits | None = None) -> None:
        self._folder, self._encode, self._limits = folder, encode, limits or Limits()
        stream = f"{time.time_ns() // 1000:016d}-{os.getpid()}-{secrets.token_hex(4)}"
        self._appender = SegmentAppender(folder, stream)
        self._queue: deque[tuple[float, Recordable | list[Entry]]] = deque()
        self._encoded: deque[Entry] = deque()
        self._lock, self._flushing, self._wake = threading.Lock(), threading.Lock(), threading.Event()
        self._written = self._waiting = self._dropped = 0
        self._trusted, self._until = 0, -math.inf
        self._error = ""
        self._ended = False
        self._thread = threading.Thread(target=self._run, name="spool", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def put(self, answered: Recordable) -> None:
        """Never waits for the disk, and never raises for it."""
        at, count = time.time(), len(answered.answers)
        with self._lock:
            if self._waiting + count > self._limits.memory:
                self._dropped += count
                return
            self._waiting += count
        waits: Recordable | list[Entry] = answered
        if count <= AT_ONCE:
            with suppress(Exception):  # the thread comes to it, and tells
                waits = self._entries(at, answered)
        self._queue.append((at, waits))
        if self._waiting >= WOKEN and not self._error:
            self._wake.set()

    def close(self) -> None:
        """Write what waits, and seal the segment."""
        self._ended = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(10)
        self.flush(seal=True)

    def _run(self) -> None:
        while not self._ended:
            self._wake.wait(self._limits.sync)
            self._wake.clear()
            self.flush()

    def flush(self, seal: bool = False) -> None:
        """Write and sync what waits; seal the segment if its time has come. Never raises for the disk."""
        with self._flushing:
            error = self._take()
            try:
                self._write()
                if seal or self._due():
                    self._appender.seal()
            except OSError as failure:
                error = failure.strerror or type(failure).__name__
            if error and not self._error:
                log.error("the prediction log is not written: %s", error)
            self._error = error

    def _take(self) -> str:
        """Make entries of what was put. What none can be made of is dropped; why, if there is such."""
        error, made = "", 0
        while self._queue:
            at, waits = self._queue.popleft()
            if isinstance(waits, list):
                self._encoded.extend(waits)
                continue
            try:
                self._encoded.extend(self._entries(at, waits))
            except Exception as failure:  # its message may tell what was sent
                error = f"no entry can be made: {type(failure).__name__}"
                self._gone(dropped=len(waits.answers))
            made += len(waits.answers)
            if made >= TURN:
                made = 0
                time.sleep(0)  # lets a request in
        return error

    def _entries(self, at: float, answered: Recordable) -> list[Entry]:
        return [
            Entry(at, log_segments.frame_record(self._encode(entry)), len(entry["answers"]))
            for entry in answered.entries()
        ]

    def _gone(self, written: int = 0, dropped: int = 0) -> None:
        with self._lock:
            self._waiting -= written + dropped
            self._written += written
            self._dropped += dropped

    def _write(self) -> None:
        """Raises OSError; what could not be written goes on waiting."""
        while self._encoded:
            batch = self._batch()
            count = sum(entry.predictions for entry in batch)
            try:
                self._appender.append(b"".join(entry.framed for entry in batch))
            except UncertainWriteError:  # to write it again might double it
                self._forget(len(batch))
                self._gone(dropped=count)
                raise
            self._forget(len(batch))
            self._trusted -= sum(len(entry.framed) for entry in batch)
            self._gone(written=count)

    def _batch(self) -> list[Entry]:
        """The next entries, as many as the disk's share has room for. Raises OSError if that is none."""
        if time.monotonic() < self._until and (batch := self._fitting(self._trusted)):
            return batch
        room = self._limits.disk - sum(size for size, _ in log_segments.sizes(self._folder))
        self._trusted, self._until = room // SHARE, time.monotonic() + MEASURED
        if batch := self._fitting(room):
            return batch
        raise OSError(errno.ENOSPC, f"{self._limits.disk >> 20} MiB wait to be shipped, the most that may")

    def _fitting(self, room: int) -> list[Entry]:
        batch: list[Entry] = []
        size = 0
        for entry in self._encoded:
            size += len(entry.framed)
            if size > room or (batch and size > BATCH):
                break
            batch.append(entry)
        return batch

    def _forget(self, count: int) -> None:
        for _ in range(count):
            self._encoded.popleft()

    def _due(self) -> bool:
        appender, limits = self._appender, self._limits
        return bool(appender.size) and (appender.size >= limits.size or time.time() - appender.begun >= limits.age)

    def status(self) -> SpoolStatus:
        """To be asked now and then: it looks at the folder."""
        files = log_segments.sizes(self._folder)
        with self._lock:
            return SpoolStatus(
                written=self._written,
                waiting=self._waiting,
                dropped=self._dropped,
                unshipped_bytes=sum(size for size, _ in files),
                lag_seconds=self._lag(
                    [changed for _, changed in log_segments.sizes(self._folder, [log_segments.SEALED])]
                ),
                error=self._error,
                shipping_error=_shipping_error(self._folder),
            )

    def _lag(self, sealed: list[float]) -> float:
        waiting = []
        for queue in (self._queue, self._encoded):
            with suppress(IndexError):  # the thread may empty it at this moment
                waiting.append(queue[0][0])
        oldest = min([*sealed, *waiting, *filter(None, [self._appender.begun])], default=0.0)
        return max(0.0, time.time() - oldest) if oldest else 0.0


def _shipping_error(folder: Path) -> str:
    """What the shipper left word of."""
    try:
        return str(json.loads((folder / log_segments.REPORT).read_bytes())["error"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""
