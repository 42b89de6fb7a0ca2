"""Remove what the retention settings keep no longer."""

import logging
from datetime import UTC, datetime

from prefect import task

from truecourse import retention
from truecourse.errors import TruecourseError

log = logging.getLogger("truecourse.retention")


@task(name="clean up")
def clean_up(problem: str) -> dict[str, int]:
    """How many of each kind were removed. Once a day, by the wall clock; a failure is logged, and tomorrow is a day."""
    try:
        return retention.clean(problem, datetime.now(UTC)) or {}
    except TruecourseError as error:
        log.warning("cleaning up stopped, and goes on with the next run: %s", error)
        return {}
