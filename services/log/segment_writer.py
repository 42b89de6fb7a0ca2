"""Append to the segments of one stream: data is on disk when append() returns."""

import os
import time
from contextlib import suppress
from pathlib import Path

from truecourse.serving import log_segments
from truecourse.serving.log_segments import Segment
from truecourse.storage.fsync import sync_descriptor


class UncertainWriteError(OSError):
    """A failed write that could not be undone: part of it may be read later."""


class SegmentAppender:
    """Appends to the segments of a stream. Not thread-safe."""

    def __init__(self, folder: Path, stream: str) -> None:
        self._segment = Segment(folder, stream, 1)
        self._file: int | None = None
        self.size = 0
        self.started = 0.0
        """When the segment was started, Unix seconds; 0 if there is none."""
        self._started = 0.0

    @property
    def age(self) -> float:
        """Seconds since the segment was started, whatever happens to the clock."""
        return time.monotonic() - self._started if self._file is not None else 0.0

    def append(self, data: bytes) -> None:
        """Write and sync. Raises OSError if none of `data` was kept, or UncertainWriteError."""
        if self._file is None:
            self._file, self.size = log_segments.create_segment(self._segment), 0
            self.started, self._started = time.time(), time.monotonic()
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(self._file, rest) :]
            sync_descriptor(self._file)
        except OSError as error:
            self._abandon(self._file)
            raise OSError(error.errno, os.strerror(error.errno or 0)) from None
        self.size += len(data)

    def _abandon(self, file: int) -> None:
        """Truncate data that was not synced, and leave the segment to the shipper.

        After a failed sync the state of its pages in the kernel is unknown, so the same data goes to a new segment."""
        try:
            os.ftruncate(file, self.size)
        except OSError as error:
            raise UncertainWriteError(error.errno, "a failed write cannot be undone") from None
        finally:
            if not self.size:
                with suppress(OSError):
                    self._segment.path(log_segments.OPEN).unlink()
            self._start_next(file)

    def seal(self) -> None:
        """Mark the segment as complete. Raises OSError; the shipper then treats it as abandoned."""
        if self._file is None:
            return
        file = self._file
        try:
            log_segments.seal(self._segment)
        finally:
            self._start_next(file)

    def _start_next(self, file: int) -> None:
        with suppress(OSError):
            os.close(file)
        self._segment = Segment(self._segment.folder, self._segment.stream, self._segment.number + 1)
        self._file, self.size, self.started = None, 0, 0.0
