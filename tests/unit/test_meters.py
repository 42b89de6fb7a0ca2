"""An endpoint's metrics over time: each count is counted once, whatever restarts and however often it is sampled."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest

from services.telemetry.prometheus_metrics import Metrics
from truecourse.errors import PlatformError
from truecourse.monitoring.health.counters import PROBES, UNANSWERED, CounterHistory, parse_metrics

NOW = datetime(2024, 5, 6, 12, tzinfo=UTC)
MONTH = timedelta(days=30)
DAY = timedelta(days=1)


def test_the_services_metrics_are_parsed() -> None:
    registry = CollectorRegistry()
    metrics = Metrics(["/predict", "/explain", "/livez"], registry)
    before = parse_metrics(generate_latest(registry).decode()).counters  # other tests of this process may have counted
    for status, seconds in ((200, 0.003), (200, 0.3), (503, 0.004), (429, 0.0001)):
        metrics.count_request("/predict", status, seconds)
    metrics.count_request("/livez", 200, 0.001)
    metrics.flush()
    metrics.refused.labels("overload").inc()
    metrics.reads.labels("routes").inc(7)
    metrics.misses.labels("routes").inc(2)
    metrics.model.labels("deliveries", "3", "abc").set(1)
    metrics.up.labels("storage").set(0)
    reading = parse_metrics(generate_latest(registry).decode())
    assert reading.problem == "deliveries"
    assert reading.gauges["dependency_up:storage"] == 0
    grown = {name: value - before.get(name, 0.0) for name, value in reading.counters.items()}
    assert {name: value for name, value in grown.items() if value and not name.startswith("seconds:")} == {
        "requests:/predict:2xx": 2, "requests:/predict:5xx": 1, "requests:/predict:4xx": 1, "refused:overload": 1,
        "reads:routes": 7, "misses:routes": 2,
    }  # fmt: skip
    assert grown["seconds:/predict:0.005"] == 3
    assert grown["seconds:/predict:+Inf"] == 4
    assert not [name for name in grown if "livez" in name], "objectives are of predictions"


def test_invalid_exposition_is_rejected() -> None:
    with pytest.raises(PlatformError, match="Prometheus"):
        parse_metrics("<html>{\n")


@st.composite
def lives(draw: st.DrawFn) -> list[list[int]]:
    """A server's lives: the growth of one counter between samples, in each life. Every life counts something at once; a
    restart that passes the former count cannot be detected."""
    return draw(st.lists(st.lists(st.integers(0, 50), min_size=1, max_size=6), min_size=1, max_size=5))


@given(lives())
def test_growth_is_counted_once_over_restarts(grown: list[list[int]]) -> None:
    meters, at, expected, before = CounterHistory(), NOW, 0, 0
    for life in grown:
        count = 0
        for step, growth in enumerate(life):
            count += growth
            at += timedelta(minutes=5)
            # A restart shows where the first look of a life reads less than the last of the life before.
            restarted = step == 0 and count < before
            known = meters.samples and (restarted or count >= before)
            expected += (count if restarted else count - before) if known else 0
            meters = meters.add(at, {"requests:/predict:2xx": float(count)}, MONTH)
            before = count
    assert meters.since(at, MONTH).sum("requests:") == expected


def test_one_counter_that_falls_restarts_all() -> None:
    meters = CounterHistory().add(NOW, {"a": 100.0, "b": 1.0}, MONTH)
    meters = meters.add(NOW + timedelta(minutes=5), {"a": 4.0, "b": 2.0}, MONTH)
    assert meters.since(NOW + timedelta(minutes=5), DAY).values == {PROBES: 1, "a": 4, "b": 2}


def test_a_gap_between_samples_loses_nothing() -> None:
    meters = CounterHistory().add(NOW, {"a": 5.0}, MONTH)
    meters = meters.add(NOW + timedelta(minutes=5), None, MONTH)
    meters = meters.add(NOW + timedelta(minutes=10), {"a": 9.0}, MONTH)
    grown = meters.since(NOW + timedelta(minutes=10), DAY).values
    assert (grown["a"], grown[PROBES], grown[UNANSWERED]) == (4, 2, 1)


@given(st.lists(st.integers(1, 900), min_size=2, max_size=60), st.integers(1, 72 * 60))
def test_thinning_preserves_sums_and_recent_samples(gaps: list[int], asked: int) -> None:
    """The growth of a window equals that of all samples in it. It starts no later than requested, and at most one
    thinning interval earlier."""
    meters, at, count, all_looks = CounterHistory(), NOW, 0, {}
    for gap in gaps:
        at += timedelta(minutes=gap)
        count += gap
        all_looks[at] = count
        meters = meters.add(at, {"a": float(count)}, MONTH)
    length = timedelta(minutes=asked)
    grown = meters.since(at, length)
    first = at - grown.span
    assert grown.values.get("a", 0.0) == count - all_looks[first]
    wanted = max((look for look in all_looks if look <= at - length), default=min(all_looks))
    assert wanted - timedelta(hours=6) < first <= wanted


def test_a_year_of_samples_stays_small_and_reaches_a_month_back() -> None:
    meters = CounterHistory()
    for step in range(3000):
        at = NOW + step * timedelta(minutes=15)
        meters = meters.add(at, {"a": float(step)}, MONTH)
    assert len(meters.samples) < 300
    whole = meters.since(at, MONTH)
    assert MONTH <= whole.span <= MONTH + timedelta(hours=7)
    assert whole.values["a"] == pytest.approx(whole.span / timedelta(minutes=15))
    hour = meters.since(at, timedelta(hours=1))
    assert hour.span == timedelta(hours=1)


def test_an_older_sample_is_not_added() -> None:
    meters = CounterHistory().add(NOW, {"a": 5.0}, MONTH)
    assert meters.add(NOW - DAY, {"a": 1.0}, MONTH) == meters
