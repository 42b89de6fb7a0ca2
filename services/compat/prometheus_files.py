"""prometheus_client's files, in which the workers of a server share their metrics.

What: `MmapedDict` is replaced by a class that allocates a file's disk blocks when a worker starts. The files of killed
workers are found by their names, and removed.
Why: the files are sparse. Writing to a hole on a full disk raises no error that could be caught, but SIGBUS, which
kills the process: a worker would die from counting a request. With the patch a worker that starts on a full disk keeps
its metrics in memory, and no other worker reports them. A killed worker's gauges would be reported for ever.
Without it: a full disk can kill workers.
"""

import logging
import os
import re
from pathlib import Path
from typing import Any

from prometheus_client import multiprocess, values
from prometheus_client.mmap_dict import MmapedDict

from truecourse.compat.patch import Patch

log = logging.getLogger("truecourse.serving")
PATCH = Patch(
    module=__name__,
    checked={"prometheus-client": ("0.24.1",)},
    changes="replaces MmapedDict by one that allocates its file; removes the gauges of dead workers by file name",
    reason="the files are sparse: a full disk kills a worker that counts a request",
    upstream="https://github.com/prometheus/client_python/issues/426",
    without="a full disk can kill workers",
)
SIZE = 1 << 18
"""Bytes of a file. Metrics with bounded labels never need more, as a test checks."""


def preallocate() -> None:
    """Preallocate the files of all metrics that are created from now on."""
    if PATCH.is_active():
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


def collector(folder: Path) -> Any:
    """A collector of all workers' metrics that is not registered yet."""
    return multiprocess.MultiProcessCollector(None, str(folder))  # type: ignore[no-untyped-call]


def remove_dead_gauges(folder: Path) -> None:
    """Remove the gauge files of killed workers, which prometheus_client keeps."""
    for file in folder.glob("gauge_live*_*.db"):
        found = re.search(r"_(\d+)\.db$", file.name)
        if found and not Path("/proc", found[1]).exists() and Path("/proc").is_dir():
            file.unlink(missing_ok=True)
