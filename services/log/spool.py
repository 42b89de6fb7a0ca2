"""The spool of a worker's prediction log: entries wait in memory briefly, then are written and synced in batches.

put() encodes entries of few answers at once, and leaves large ones to a thread, which syncs all to the worker's own
segments. Entries that cannot be written wait in memory up to a limit; those beyond it are dropped and counted, and the
endpoint goes on answering. Another process ships segments to object storage (truecourse/serving/log_shipping.py).
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
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from services.log.segment_writer import SegmentAppender, UncertainWriteError
from truecourse.responses import LogStatus
from truecourse.serving import log_segments

log = logging.getLogger("truecourse.log")
Encode = Callable[[Mapping[str, Any]], bytes]
BATCH = 4 << 20
"""Approximate bytes of one sync."""
TURN = 16
"""Predictions that are encoded before other threads get a turn, which costs as much as encoding one."""
AT_ONCE = 128
"""Entries of up to so many predictions are encoded by put(): another thread, without the data in its cache, would
take three times as long."""
MEASURED = 2.0
"""Seconds until the unshipped bytes of all workers are measured again, unless a SHARE of the room was written before.
Without a shipper, measuring every segment takes longer than writing one."""
SHARE = 16
"""Number of workers that can write at once within the limit."""
WOKEN = 2_000
"""Waiting predictions that are written at once, before the interval ends."""


class Recordable(Protocol):
    """Results for the log: `answers`, and entries that cover them all."""

    @property
    def answers(self) -> Sequence[Any]: ...

    def entries(self) -> Iterable[Mapping[str, Any]]: ...


@dataclass(frozen=True)
class Limits:
    """`sync`: seconds between syncs. `age`, `size`: seconds and bytes after which a segment is sealed. `memory`: most
    predictions that wait. `disk`: most bytes of unshipped segments of all workers."""

    sync: float = 0.2
    age: float = 2.0
    size: int = 8 << 20
    memory: int = 50_000
    disk: int = 1 << 30


class Entry(NamedTuple):
    """An encoded entry: when it was put (Unix seconds), its bytes in a segment, and its number of predictions."""

    at: float
    framed: bytes
    predictions: int


class Spool:
    """`encode`: makes the bytes of an entry, and masks private values."""

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

    def put(self, results: Recordable) -> None:
        """Add results. Never waits for the disk, and never raises for it."""
        at, count = time.time(), len(results.answers)
        with self._lock:
            if self._waiting + count > self._limits.memory:
                self._dropped += count
                return
            self._waiting += count
        item: Recordable | list[Entry] = results
        if count <= AT_ONCE:
            with suppress(Exception):  # the thread tries again, and reports the error
                item = self._encode_results(at, results)
        self._queue.append((at, item))
        if self._waiting >= WOKEN and not self._error:
            self._wake.set()

    def close(self) -> None:
        """Write all waiting entries, and seal the segment."""
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
        """Write and sync waiting entries; seal the segment if it is due. Never raises for the disk."""
        with self._flushing:
            error = self._encode_queue()
            try:
                self._write()
                if seal or self._due():
                    self._appender.seal()
            except OSError as failure:
                error = failure.strerror or type(failure).__name__
            if error and not self._error:
                log.error("the prediction log is not written: %s", error)
            self._error = error

    def _encode_queue(self) -> str:
        """Encode queued results. Those that cannot be encoded are dropped; the error, or an empty string."""
        error, encoded = "", 0
        while self._queue:
            at, item = self._queue.popleft()
            if isinstance(item, list):
                self._encoded.extend(item)
                continue
            try:
                self._encoded.extend(self._encode_results(at, item))
            except Exception as failure:  # its message may hold values of the request
                error = f"encoding an entry failed: {type(failure).__name__}"
                self._count(dropped=len(item.answers))
            encoded += len(item.answers)
            if encoded >= TURN:
                encoded = 0
                time.sleep(0)  # lets a request thread run
        return error

    def _encode_results(self, at: float, results: Recordable) -> list[Entry]:
        return [
            Entry(at, log_segments.frame_record(self._encode(entry)), len(entry["answers"]))
            for entry in results.entries()
        ]

    def _count(self, written: int = 0, dropped: int = 0) -> None:
        with self._lock:
            self._waiting -= written + dropped
            self._written += written
            self._dropped += dropped

    def _write(self) -> None:
        """Write encoded entries. Raises OSError; entries that were not written stay."""
        while self._encoded:
            batch = self._batch()
            count = sum(entry.predictions for entry in batch)
            try:
                self._appender.append(b"".join(entry.framed for entry in batch))
            except UncertainWriteError:  # writing again might duplicate entries
                self._drop_first(len(batch))
                self._count(dropped=count)
                raise
            self._drop_first(len(batch))
            self._trusted -= sum(len(entry.framed) for entry in batch)
            self._count(written=count)

    def _batch(self) -> list[Entry]:
        """The next entries that fit into this worker's share of the disk. Raises OSError if none fits."""
        if time.monotonic() < self._until and (batch := self._fitting(self._trusted)):
            return batch
        room = self._limits.disk - sum(size for size, _ in log_segments.sizes(self._folder))
        self._trusted, self._until = room // SHARE, time.monotonic() + MEASURED
        if batch := self._fitting(room):
            return batch
        raise OSError(errno.ENOSPC, f"{self._limits.disk >> 20} MiB wait to be shipped: the limit is reached")

    def _fitting(self, room: int) -> list[Entry]:
        batch: list[Entry] = []
        size = 0
        for entry in self._encoded:
            size += len(entry.framed)
            if size > room or (batch and size > BATCH):
                break
            batch.append(entry)
        return batch

    def _drop_first(self, count: int) -> None:
        for _ in range(count):
            self._encoded.popleft()

    def _due(self) -> bool:
        appender, limits = self._appender, self._limits
        return bool(appender.size) and (appender.size >= limits.size or appender.age >= limits.age)

    def status(self) -> LogStatus:
        """The status of the log. It reads the folder, so call it now and then only."""
        files = log_segments.sizes(self._folder)
        with self._lock:
            return LogStatus(
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
            with suppress(IndexError):  # the thread may empty the queue meanwhile
                waiting.append(queue[0][0])
        oldest = min([*sealed, *waiting, *filter(None, [self._appender.started])], default=0.0)
        return max(0.0, time.time() - oldest) if oldest else 0.0


def _shipping_error(folder: Path) -> str:
    """The shipper's last error, from its report; empty if there is none."""
    try:
        return str(json.loads((folder / log_segments.REPORT).read_bytes())["error"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""
