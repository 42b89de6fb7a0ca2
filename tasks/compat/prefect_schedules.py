"""Past times of a schedule, which only Prefect's server computes.

What: a client's schedule is converted to the server's class of the same name, which computes its times.
Why: Prefect's API returns scheduled runs that exist, and no time at which a run should have existed. Without those
times a schedule that never fires cannot be noticed.
Without it: overdue flows are not found. So no setting leaves it out.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from truecourse.compat.patch import Patch

PATCH = Patch(
    module=__name__,
    checked={"prefect": ("3.8.8",)},
    changes="computes past times with prefect.server.schemas.schedules and run_coro_as_sync",
    reason="Prefect's API returns no time at which a run should have existed",
    upstream="https://github.com/PrefectHQ/prefect/blob/HEAD/src/prefect/server/schemas/schedules.py",
    without="overdue flows are not found",
)


def scheduled_times(schedule: Any, start: datetime, end: datetime) -> Sequence[datetime]:
    """The times of a schedule (cron, interval or rrule, as Prefect's client returns it) from `start` to `end`."""
    from prefect.server.schemas import schedules
    from prefect.utilities.asyncutils import run_coro_as_sync

    kind: Any = getattr(schedules, type(schedule).__name__)
    exact = kind.model_validate(schedule.model_dump())
    times: Any = run_coro_as_sync(exact.get_dates(start=start, end=end))
    return list(times)
