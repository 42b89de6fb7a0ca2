"""The process that ships prediction logs to object storage: `python -m services.log.shipper PROBLEM`.

It is a process of its own, not part of a worker, which may be killed, replaced or busy. Several may run at once: one
ships, and another takes over when it ends.
"""

import logging
import sys
import time

from truecourse.errors import TruecourseError
from truecourse.processes import interrupted_by_signals
from truecourse.repeats import count_repeats
from truecourse.serving.log_segments import OPEN, list_segments
from truecourse.serving.log_shipping import ship, spool_folder
from truecourse.settings import get_settings
from truecourse.storage.format import refuse_newer_format
from truecourse.storage.object_store import open_store

log = logging.getLogger("truecourse.log")
LONGEST = 30.0
"""Longest pause in seconds between two attempts while storage is down."""

LAST = 5.0
"""Seconds that it waits at its end for the endpoint's last segment."""


def run(problem: str) -> None:
    """Ship until SIGTERM, then until the endpoint, which stops at the same time, has closed its last segment.

    Raises FormatError if a newer Truecourse wrote the storage."""
    refuse_newer_format(open_store())
    pause = interval = get_settings().log_ship
    try:
        with interrupted_by_signals():
            while True:
                pause = interval if _try_ship(problem) else min(max(pause, interval) * 2, max(LONGEST, interval))
                time.sleep(pause)
    except KeyboardInterrupt:
        until = time.monotonic() + LAST
        while _try_ship(problem) and list_segments(spool_folder(problem), OPEN) and time.monotonic() < until:
            time.sleep(0.2)


def _try_ship(problem: str) -> bool:
    try:
        shipment = ship(problem)
    except (TruecourseError, OSError) as error:
        log.error("shipping failed, and is retried: %s", error)
        return False
    if shipment.records or shipment.repeated:
        log.info(shipment.sentence)
    return True


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    count_repeats("truecourse.log")
    run(sys.argv[1])
