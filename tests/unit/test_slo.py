"""Invariants of error budgets, burn rates, alerts and quantiles."""

import math
from datetime import timedelta

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from truecourse.monitoring.health.slo import (
    ALERTS,
    LEAST_BAD,
    RequestCounts,
    budget_left,
    burn_rate,
    count_up_to,
    fires,
    quantile,
)

MONTH = timedelta(days=30)
objectives = st.floats(0.5, 0.9999)
counts = st.tuples(st.integers(0, 10**6), st.integers(0, 10**6)).map(lambda c: RequestCounts(max(c), min(c)))


def test_the_burn_rates_equal_the_sre_workbooks() -> None:
    assert [(alert.long, alert.short, round(alert.rate(MONTH), 9), alert.page) for alert in ALERTS] == [
        (timedelta(hours=1), timedelta(minutes=5), 14.4, True),
        (timedelta(hours=6), timedelta(minutes=30), 6.0, True),
        (timedelta(days=3), timedelta(hours=6), 1.0, False),
    ]


@given(st.lists(counts, min_size=1, max_size=20), objectives)
def test_burnt_and_remaining_budget_sum_to_one(parts: list[RequestCounts], objective: float) -> None:
    """The burn rates of parts, weighted by requests, average to that of the whole."""
    whole = RequestCounts(sum(part.total for part in parts), sum(part.bad for part in parts))
    assume(whole.total)
    burnt = sum(burn_rate(part, objective) * part.total for part in parts) / whole.total
    assert burnt == pytest.approx(burn_rate(whole, objective))
    assert budget_left(whole, objective) == pytest.approx(1 - burnt)


@given(objectives, st.integers(1, 10**6))
def test_a_burn_rate_of_one_spends_the_budget_exactly(objective: float, total: int) -> None:
    at_objective = RequestCounts(total, total * (1 - objective))
    assert burn_rate(at_objective, objective) == pytest.approx(1)
    assert budget_left(at_objective, objective) == pytest.approx(0, abs=1e-9)


def test_no_requests_burn_nothing() -> None:
    assert burn_rate(RequestCounts(0, 0), 0.999) == 0
    assert budget_left(RequestCounts(0, 0), 0.999) == 1


@given(st.sampled_from(ALERTS), objectives, st.integers(0, 10**5), st.integers(1, 10**5), counts)
def test_an_alert_never_stops_because_more_failed(
    alert: object, objective: float, bad: int, more: int, short: RequestCounts
) -> None:
    total = 10**6
    chosen = next(one for one in ALERTS if one is alert)
    if fires(chosen, RequestCounts(total, bad), short, objective, MONTH):
        assert fires(chosen, RequestCounts(total, bad + more), short, objective, MONTH)


def test_an_alert_needs_both_windows_and_more_than_chance() -> None:
    fast, failing, well = ALERTS[0], RequestCounts(1000, 20), RequestCounts(80, 0)
    assert fires(fast, failing, RequestCounts(80, 2), 0.999, MONTH)
    assert not fires(fast, failing, well, 0.999, MONTH), "it is over"
    assert not fires(fast, RequestCounts(1000, 14), RequestCounts(80, 2), 0.999, MONTH), (
        "a burn rate of 14 is below 14.4"
    )
    assert not fires(fast, RequestCounts(LEAST_BAD - 1, LEAST_BAD - 1), RequestCounts(2, 2), 0.999, MONTH), (
        "four requests"
    )


def test_an_hour_does_not_stand_for_three_days() -> None:
    slow = ALERTS[2]
    hour = RequestCounts(1000, 20, covered=1 / 72)
    assert not fires(slow, hour, hour, 0.999, MONTH)
    assert fires(slow, RequestCounts(1000, 80, covered=1 / 72), hour, 0.999, MONTH), "80 times faster for 1/72 of it"
    assert fires(slow, RequestCounts(1000, 20, covered=1.2), hour, 0.999, MONTH)


@given(st.lists(st.floats(0, 40), min_size=1, max_size=200), st.floats(0.01, 1))
def test_a_quantile_lies_in_the_bucket_that_the_exact_one_lies_in(values: list[float], share: float) -> None:
    bounds = [0.001, 0.01, 0.1, 1.0, 10.0, math.inf]
    buckets = [(bound, float(sum(value <= bound for value in values))) for bound in bounds]
    exact = float(np.quantile(values, share, method="inverted_cdf"))
    place = next(i for i, bound in enumerate(bounds) if exact <= bound)
    found = quantile(buckets, share)
    assert found is not None
    lower = bounds[place - 1] if place else 0.0
    assert lower <= found + 1e-12
    assert found <= (bounds[place] if place < len(bounds) - 1 else lower) + 1e-12


def test_quantiles_of_nothing_and_bounds_between_buckets() -> None:
    assert quantile([], 0.5) is None
    assert quantile([(0.1, 0.0), (math.inf, 0.0)], 0.5) is None
    buckets = [(0.1, 5.0), (0.2, 8.0), (math.inf, 9.0)]
    assert count_up_to(buckets, 0.2) == 8
    assert count_up_to(buckets, 0.15) == 5, "between two bounds, the lower counts"
    assert count_up_to(buckets, 0.05) == 0
