"""Checks of scheduled flows by their runs; usual values are learned from the past."""

from datetime import UTC, datetime, timedelta
from statistics import median
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from truecourse.monitoring.health.flow_run_health import GRACE, Outcome, Run, ScheduledFlow
from truecourse.monitoring.robust_stats import MIN_HISTORY, is_unusual, longest_gap

NOW = datetime(2024, 5, 6, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


def run(hours_ago: float, outcome: Outcome = "completed", seconds: float = 60, message: str = "") -> Run:
    at = NOW - hours_ago * HOUR
    return Run(outcome, at, None if outcome == "waiting" else at, seconds, message)


def flow(*runs: Run, due: float = 3, period: float = 24, **more: Any) -> ScheduledFlow:
    about: dict[str, Any] = {"since": NOW - timedelta(days=90), "workers": 1} | more
    return ScheduledFlow("nightly", "0 9 * * *", NOW - due * HOUR, period * HOUR, runs=runs, **about)


def causes(found: ScheduledFlow) -> list[tuple[str, bool]]:
    return [(finding.cause, finding.page) for finding in found.findings(NOW)]


def test_flows_that_ran_when_due_are_ok() -> None:
    assert causes(flow(run(3), run(27))) == []
    assert causes(flow(run(2), run(27))) == [], "late, and there"
    assert causes(flow(run(3, "running", 30), run(27))) == [], "in progress"


def test_a_flow_that_did_not_run_is_overdue_with_the_cause() -> None:
    waiting = run(3, "waiting")
    (finding,) = flow(waiting, run(27)).findings(NOW)
    assert (finding.key, finding.page) == ("pipelines/flow nightly/overdue", True)
    assert finding.sentence == (
        "The flow nightly is overdue: it should have started 3 hours ago, its last success started 1.1 days ago."
    )
    (nobody,) = flow(waiting, workers=0).findings(NOW)
    assert nobody.cause == "no worker"
    assert "it has never run; there is no worker to run it" in nobody.sentence


def test_nothing_is_overdue_before_its_time() -> None:
    within = GRACE / HOUR - 0.01
    assert causes(flow(run(24.1), due=within)) == []
    assert causes(flow(run(27), since=NOW - HOUR)) == [], "its schedule is younger than what it would have asked for"
    assert causes(flow(run(27), due=3, serving=NOW - GRACE / 2)) == [], "the platform has just begun, and catches up"
    assert causes(flow(run(27), due=3, serving=NOW - GRACE)) == [("overdue", True)]
    assert causes(ScheduledFlow("nightly", "0 9 * * *")) == [], "no server tells"


def test_a_failure_is_critical_if_repeated_or_the_next_run_is_far() -> None:
    failed = run(0.2, "failed", message="ValidationFailed: 9% of rows are bad\nTraceback")
    (finding,) = flow(failed, run(1), due=0.2, period=0.5).findings(NOW)
    assert (finding.cause, finding.page) == ("failed", False)
    assert finding.sentence.endswith("UTC: ValidationFailed: 9% of rows are bad.")
    assert causes(flow(failed, run(0.7, "crashed"), run(1), due=0.2, period=0.5)) == [("failed", True)]
    assert causes(flow(failed, run(24), due=0.2)) == [("failed", True)], "a night later is late"
    assert causes(flow(run(0.1), failed, due=0.2)) == [], "it recovered"
    assert causes(flow(run(0.1, "cancelled"), run(1), due=0.2)) == [], "somebody wanted that"


def test_slowness_needs_significance_and_size() -> None:
    usual = [run(24 * day, seconds=60 + day) for day in range(1, 12)]
    assert causes(flow(run(3, seconds=200), *usual)) == [("slow", False)]
    assert causes(flow(run(3, "running", 200), *usual)) == [("slow", False)]
    assert causes(flow(run(3, seconds=85), *usual)) == [], "sure, and of no weight"
    assert causes(flow(run(3, seconds=5), *usual)) == [], "quick is no fault"
    assert causes(flow(run(3, seconds=200), *usual[:5])) == [], "five runs say nothing"
    erratic = [run(24 * day, seconds=60 * (1 + day % 4)) for day in range(1, 12)]
    assert causes(flow(run(3, seconds=250), *erratic)) == [], "it always was erratic"


@given(st.lists(st.floats(1, 1e6), min_size=1, max_size=40), st.floats(1, 1e6), st.floats(1.1, 5))
def test_observed_durations_are_never_unusual(past: list[float], value: float, factor: float) -> None:
    assert not any(is_unusual(one, past, factor) for one in past)
    if is_unusual(value, past, factor):
        assert len(past) >= MIN_HISTORY
        assert value > factor * median(past) or value < median(past) / factor
        assert not is_unusual(value, [*past, value], factor), "once it has happened, it is known"


def test_usual_intervals_need_a_week_of_history() -> None:
    daily = [NOW + timedelta(days=day) for day in range(MIN_HISTORY + 1)]
    assert longest_gap(daily) == timedelta(days=1)
    assert longest_gap([*daily, daily[-1] + timedelta(days=3)]) == timedelta(days=3)
    assert longest_gap(daily[:-1]) is None
