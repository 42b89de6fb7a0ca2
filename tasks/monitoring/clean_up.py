"""Remove data whose retention time is over."""

import logging
from datetime import UTC, datetime

from prefect import task

from truecourse.errors import TruecourseError
from truecourse.retention import collect

log = logging.getLogger("truecourse.retention")


@task(name="clean up")
def clean_up(problem: str) -> dict[str, int]:
    """Apply the retention settings once a day, by the wall clock; returns how many items of each kind were removed.

    An error is logged, and the next run tries again."""
    try:
        return collect.clean(problem, datetime.now(UTC)) or {}
    except TruecourseError as error:
        log.warning("cleaning up failed, the next run tries again: %s", error)
        return {}
