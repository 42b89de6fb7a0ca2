"""The process that ships prediction logs to object storage: `python -m services.log.shipper PROBLEM`.

It stands beside the endpoint, not in a worker: a worker may be killed, replaced or busy. Several may run at once; one
ships, and another takes over when that one is gone.
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

log = logging.getLogger("truecourse.log")
LONGEST = 30.0
"""Seconds between two attempts while storage is down."""

LAST = 5.0
"""Seconds that it waits for that."""


def run(problem: str) -> None:
    """Until SIGTERM, and then until the endpoint, which is stopped with it, has let go of its last segment."""
    pause = interval = get_settings().log_ship
    try:
        with interrupted_by_signals():
            while True:
                pause = interval if _shipped(problem) else min(max(pause, interval) * 2, max(LONGEST, interval))
                time.sleep(pause)
    except KeyboardInterrupt:
        until = time.monotonic() + LAST
        while _shipped(problem) and list_segments(spool_folder(problem), OPEN) and time.monotonic() < until:
            time.sleep(0.2)


def _shipped(problem: str) -> bool:
    try:
        shipment = ship(problem)
    except (TruecourseError, OSError) as error:
        log.error("nothing is shipped, and nothing is lost: %s", error)
        return False
    if shipment.records:
        log.info("%d predictions shipped", shipment.records)
    return True


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    count_repeats("truecourse.log")
    run(sys.argv[1])
