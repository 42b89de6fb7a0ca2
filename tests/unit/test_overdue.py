"""A flow is overdue by the last scheduled time whose grace period is over: cron and interval schedules, compared with
Prefect minute by minute."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prefect.client.schemas.schedules import CronSchedule, IntervalSchedule

from tasks.monitoring.flow_schedules import moments_before
from truecourse.monitoring.health.flow_run_health import EARLY, GRACE, LEAST, Run, ScheduledFlow

START = datetime(2024, 5, 6, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
STEP = 31
"""Minutes between two looks at silent days: at another place in the period each time."""


def interval(minutes: int) -> IntervalSchedule:
    return IntervalSchedule(interval=minutes * MINUTE, anchor_date=START)


def cron(text: str) -> CronSchedule:
    return CronSchedule(cron=text, timezone="UTC")


SCHEDULES: dict[str, tuple[Any, int]] = {
    "*/5": (cron("*/5 * * * *"), 5), "hourly": (cron("0 * * * *"), 60), "nightly": (cron("0 0 * * *"), 1440),
    "1 min": (interval(1), 1), "7 min": (interval(7), 7), "45 min": (interval(45), 45), "6 hours": (interval(360), 360),
}  # fmt: skip
"""With their periods in minutes; each is due at START."""


def flow(schedule: Any, now: datetime, runs: list[Run], since: datetime) -> ScheduledFlow:
    moments = moments_before(schedule, now - GRACE)
    return ScheduledFlow("one", "", moments[-1] if moments else None, since=since, runs=runs, workers=1)


def ran(at: datetime) -> Run:
    return Run("completed", at, at, 10.0)


@settings(max_examples=120)
@given(
    st.sampled_from(list(SCHEDULES)),
    st.lists(st.integers(-600, 1400), max_size=4),
    st.integers(-600, 1200),
    st.integers(1, 1440),
)
def test_overdue_equals_a_count_of_all_scheduled_times(name: str, began: list[int], since: int, minute: int) -> None:
    schedule, period = SCHEDULES[name]
    now, start = START + minute * MINUTE, START + since * MINUTE
    begun = [START + one * MINUTE for one in began if START + one * MINUTE <= now]
    # Every moment of three days, counted here and not by Prefect.
    due = [START + k * period * MINUTE for k in range(-3 * 1440 // period, 1440 // period + 1)]
    missed = [
        moment for moment in due
        if start <= moment <= now - GRACE and not any(one >= moment - EARLY for one in begun)
    ]  # fmt: skip
    runs = [ran(one) for one in sorted(begun, reverse=True)]
    assert flow(schedule, now, runs, start).overdue(now) == bool(missed)


@pytest.mark.parametrize("name", ["*/5", "hourly", "7 min"])
def test_silent_days_are_overdue_except_in_the_grace_period(name: str) -> None:
    schedule, period = SCHEDULES[name]
    runs, since = [ran(START)], START - timedelta(days=30)
    flagged = [
        flow(schedule, now, runs, since).overdue(now)
        for now in (START + minute * MINUTE for minute in range(0, 3 * 1440, STEP))
    ]
    first = flagged.index(True)
    assert first * STEP <= period + GRACE / MINUTE + STEP
    assert all(flagged[first:])


def test_a_flow_that_never_ran_is_overdue_after_its_first_scheduled_time() -> None:
    schedule, now = SCHEDULES["hourly"][0], START + timedelta(hours=5, minutes=30)
    assert flow(schedule, now, [], START).overdue(now)
    assert not flow(schedule, now, [], now - timedelta(minutes=20)).overdue(now), "asked for nothing yet"


def test_a_running_run_delays_overdue_only_within_its_time_limit() -> None:
    schedule, now = SCHEDULES["*/5"][0], START + timedelta(hours=5)
    past = [ran(START + minute * MINUTE) for minute in (15, 10, 5)]

    def running(seconds: float) -> bool:
        begun = now - timedelta(seconds=seconds)
        return flow(schedule, now, [Run("running", begun, begun, seconds), *past], START).overdue(now)

    assert not running(LEAST - 60)
    assert running(LEAST + 1200), "a run of three silent days hides nothing"
