"""Room for the meters' files, taken from the disk when a worker starts.

prometheus_client keeps meters in files that it maps into memory, and makes them with holes. A write to a hole on a full
disk is no error that could be caught but a signal, SIGBUS, that ends the process: a worker would die of counting a
request. So the files have their blocks before they are mapped. A worker that starts on a full disk keeps its meters
in memory, and no other worker tells them.
"""

import logging
import os
from pathlib import Path
from typing import Any

from prometheus_client import values
from prometheus_client.mmap_dict import MmapedDict

log = logging.getLogger("truecourse.serving")
SIZE = 1 << 18
"""Bytes of a file. Metrics with bounded labels never need more: see the test of what they take."""


def install() -> None:
    """For every meter of this process that is made from now on."""
    values.MmapedDict = Reserved  # type: ignore[attr-defined]


class Reserved(MmapedDict):
    def __init__(self, filename: str, *arguments: Any, **options: Any) -> None:
        try:
            _reserve(filename)
        except OSError as error:
            log.error("the meters of this worker are told by nobody: %s", error.strerror)
            filename = f"/proc/self/fd/{os.memfd_create('meters')}"
        super().__init__(filename, *arguments, **options)  # type: ignore[no-untyped-call]


def _reserve(filename: str) -> None:
    """Raises OSError, and leaves no file, where there is no room."""
    descriptor = os.open(filename, os.O_CREAT | os.O_RDWR, 0o644)
    try:
        os.posix_fallocate(descriptor, 0, SIZE)
    except OSError:
        Path(filename).unlink()
        raise
    finally:
        os.close(descriptor)
