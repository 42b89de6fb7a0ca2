"""Monitoring and statistics of any finite numbers, single rows and constant columns: no warning, which is an error in
tests, and no figure that JSON cannot hold."""

import json
from datetime import date, timedelta

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from truecourse.arrays import Array
from truecourse.monitoring.drift import unseen_values
from truecourse.monitoring.drift.consecutive_windows import Days, compare_windows
from truecourse.monitoring.drift.histograms import Counts, learn_bins
from truecourse.monitoring.drift.reference_profile import DailyHistograms
from truecourse.monitoring.drift.relations import Relations, moments
from truecourse.monitoring.drift.unit_changes import CONVERSIONS, UnitChange
from truecourse.monitoring.quality.cohorts import COHORTS, Cohort, ScoredRows, calibration_error, metrics, sums_by_bin
from truecourse.monitoring.quality.degradation import find_alarms
from truecourse.monitoring.quality.label_model import label_residuals
from truecourse.problem.monitoring import QualityWatch
from truecourse.statistics.absolute_sums import sum_of_absolutes
from truecourse.statistics.intervals import estimate, half_width, simultaneous
from truecourse.statistics.metrics import calibration_difference, losses, measure, paired_difference, weightings

MOST, LEAST = float(np.finfo(float).max), 5e-324
numbers = st.one_of(
    st.sampled_from([0.0, LEAST, -LEAST, 1e-160, 1.0, 3.0, 1e155, -1e200, 1e308, MOST, -MOST]),
    st.floats(allow_nan=False, allow_infinity=False),
)
few = settings(max_examples=40, deadline=None, derandomize=True)


def columns(count: int, most: int = 12) -> st.SearchStrategy[list[Array]]:
    """`count` columns of equal length, at least one row."""
    rows = st.lists(st.tuples(*[numbers] * count), min_size=1, max_size=most)
    return rows.map(lambda found: [np.array(column, dtype=np.float64) for column in zip(*found, strict=True)])


@few
@given(columns(3), st.integers(1, 4))
@example([np.array([1e308, -1e308]), np.array([-1e308, MOST]), np.zeros(2)], 2)
def test_metrics_and_comparisons_of_any_numbers_are_json(found: list[Array], days: int) -> None:
    labels, model, other = found
    blocks = np.arange(len(labels)) % days
    figures = [
        measure("regression", labels, model, blocks),
        paired_difference("regression", labels, model, other, blocks),
        paired_difference("regression", labels, model, other, blocks, successive=False),
        calibration_difference("regression", labels, model, other, blocks),
    ]
    assert json.loads(json.dumps(figures, allow_nan=False)) == figures


@few
@given(numbers, columns(1))
@example(LEAST, [np.array([1e308, -1e308, MOST])])
@example(1.0, [np.array([0.0])])
def test_intervals_of_any_influence_hold_the_value(value: float, found: list[Array]) -> None:
    (series,) = found
    for scale in ("plain", "positive", "share"):
        for successive in (True, False):
            one = estimate(value, series, scale, successive)  # type: ignore[arg-type]
            assert one["value"] == value
            assert one["low"] is None or one["low"] <= value <= one["high"]  # type: ignore[operator]
    simultaneous(series, np.column_stack([series, -series, series / 2]))
    sum_of_absolutes(series[:1], series[:, None])


@pytest.mark.parametrize("factor", [1e-200, 1e-100, 1e100, 1e200])
def test_an_interval_is_as_long_in_any_unit(factor: float) -> None:
    series = np.random.default_rng(0).standard_normal(20)
    assert half_width(factor * series) == pytest.approx(factor * half_width(series), rel=1e-9)
    one, other = (estimate(0.0, unit * series) for unit in (1.0, factor))
    assert other["high"] == pytest.approx(factor * one["high"], rel=1e-9)  # type: ignore[operator]


def frame(found: list[Array]) -> pa.Table:
    at = np.datetime64("2024-01-01", "us") + np.arange(len(found[0])).astype("timedelta64[D]")
    names = {f"c{place}": pa.array(column) for place, column in enumerate(found)}
    return pa.table({**names, "at": pa.array(at, pa.timestamp("us", tz="UTC"))})


@few
@given(columns(2, 20), columns(2, 20), numbers)
@example([np.array([-MOST, MOST]), np.zeros(2)], [np.array([LEAST]), np.array([-MOST])], MOST)
def test_drift_of_any_numbers_is_tested(reference: list[Array], window: list[Array], constant: float) -> None:
    before, now = (frame([*side, np.full(len(side[0]), constant)]) for side in (reference, window))
    bins = learn_bins(before, ["c0", "c1", "c2"])
    relations, seen = Relations.learn(before, bins, "at"), unseen_values.seen_values(before, list(bins))
    unseen_values.count_unseen(seen, now)

    def days(rows: pa.Table, first: str, count: int) -> Days:
        counted = Counts.of(bins, rows, np.zeros(len(rows), dtype=np.int64)).matrix
        histograms = DailyHistograms(
            bins, np.datetime64(first, "D") + np.arange(count), Counts(np.repeat(20 * counted, count, axis=0))
        )
        return Days(
            histograms, moments(np.repeat(20 * relations.sums(rows, "at")[None], count, axis=0)), relations.names
        )

    compare_windows(days(before, "2024-01-01", 70), days(now, "2024-05-01", 7), 0.1, 0.05)
    for rows in (before[:0], now[:1]):
        Counts.of(bins, rows, np.zeros(len(rows), dtype=np.int64))
        moments(relations.sums(rows, "at"))
    for change in CONVERSIONS.values():
        UnitChange(*change)(reference[0])


@few
@given(columns(2))
@example([np.array([1e308, 1e308]), np.array([-1e308, -1e308])])
@example([np.ones(3), np.ones(3)])
def test_cohorts_of_any_numbers_are_stored_and_tested(found: list[Array]) -> None:
    labels, predicted = found
    scored, residuals = ScoredRows.of("regression", labels, predicted), label_residuals("regression", predicted, labels)
    rows = len(labels)
    days = [
        Cohort(
            day=date(2024, 1, 1) + timedelta(days=day), decisions=rows, labelled=rows, loss=float(scored.loss.sum()),
            expected=0.0, variance=0.0, residual=float((scored.outcome - scored.score).sum()),
            excess_squares=float((scored.loss**2).sum()), bins=sums_by_bin(np.unique(scored.score), scored),
            **residuals.sums(np.arange(rows)),
        )
        for day in range(12)
    ]  # fmt: skip
    assert COHORTS.validate_json(COHORTS.dump_json(days)) == days
    metrics("regression", days, weightings(np.arange(12)))
    calibration_error(days)
    loss = float(losses("regression", labels, predicted).mean())
    find_alarms(days[:8], days[:8], days[8:], QualityWatch(), loss**0.5, loss, 0)
