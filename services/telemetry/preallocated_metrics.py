"""Preallocated metric files: their disk blocks are reserved when a worker starts.

prometheus_client maps sparse files into memory. Writing to a hole on a full disk raises no error that could be caught,
but SIGBUS, which kills the process: a worker would die from counting a request. A worker that starts on a full disk
keeps its metrics in memory, and no other worker reports them.
"""

import logging
import os
from pathlib import Path
from typing import Any

from prometheus_client import values
from prometheus_client.mmap_dict import MmapedDict

log = logging.getLogger("truecourse.serving")
SIZE = 1 << 18
"""Bytes of a file. Metrics with bounded labels never need more, as a test checks."""


def install() -> None:
    """Preallocate the files of all metrics that are created from now on."""
    values.MmapedDict = PreallocatedDict  # type: ignore[attr-defined]


class PreallocatedDict(MmapedDict):
    def __init__(self, filename: str, *arguments: Any, **options: Any) -> None:
        try:
            _reserve(filename)
        except OSError as error:
            log.error("the metrics of this worker are not reported: %s", error.strerror)
            filename = f"/proc/self/fd/{os.memfd_create('metrics')}"
        super().__init__(filename, *arguments, **options)  # type: ignore[no-untyped-call]


def _reserve(filename: str) -> None:
    """Allocate the file's blocks. Raises OSError, and leaves no file, if the disk is full."""
    descriptor = os.open(filename, os.O_CREAT | os.O_RDWR, 0o644)
    try:
        os.posix_fallocate(descriptor, 0, SIZE)
    except OSError:
        Path(filename).unlink()
        raise
    finally:
        os.close(descriptor)
