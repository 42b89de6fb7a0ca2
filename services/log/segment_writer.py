"""Appending to the segments of one stream: what append() returned from is on the disk, whatever happens next."""

import os
import time
from contextlib import suppress
from pathlib import Path

from truecourse.serving import log_segments
from truecourse.serving.log_segments import Segment


class UncertainWriteError(OSError):
    """A failed write that could not be taken back: part of it may be read later."""


class SegmentAppender:
    """To be used by one thread at a time."""

    def __init__(self, folder: Path, stream: str) -> None:
        self._segment = Segment(folder, stream, 1)
        self._file: int | None = None
        self.size = 0
        self.begun = 0.0
        """When the segment was begun, Unix seconds; 0 while there is none."""

    def append(self, data: bytes) -> None:
        """Write and sync. Raises OSError, and none of `data` is kept, or Uncertain."""
        if self._file is None:
            self._file, self.size, self.begun = log_segments.create_segment(self._segment), 0, time.time()
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(self._file, rest) :]
            os.fsync(self._file)
        except OSError as error:
            self._let_go(self._file)
            raise OSError(error.errno, os.strerror(error.errno or 0)) from None
        self.size += len(data)

    def _let_go(self, file: int) -> None:
        """Take back what was not synced, and leave the segment to the shipper: after a failed sync nobody knows what of
        its pages the kernel still holds, so the same bytes go to another one."""
        try:
            os.ftruncate(file, self.size)
        except OSError as error:
            raise UncertainWriteError(error.errno, "a failed write cannot be taken back") from None
        finally:
            if not self.size:
                with suppress(OSError):
                    self._segment.path(log_segments.OPEN).unlink()
            self._next(file)

    def seal(self) -> None:
        """Declare the segment complete. Raises OSError; the shipper will find it abandoned then."""
        if self._file is None:
            return
        file = self._file
        try:
            log_segments.seal(self._segment)
        finally:
            self._next(file)

    def _next(self, file: int) -> None:
        with suppress(OSError):
            os.close(file)
        self._segment = Segment(self._segment.folder, self._segment.stream, self._segment.number + 1)
        self._file, self.size, self.begun = None, 0, 0.0
