"""Metrics compared with scikit-learn, and intervals for autocorrelated days."""

import numpy as np
import pyarrow as pa
import pytest
import sklearn.metrics as reference
from hypothesis import given, settings
from hypothesis import strategies as st

from truecourse.evaluation.slices import slices
from truecourse.statistics.absolute_sums import difference_of_absolutes, sum_of_absolutes
from truecourse.statistics.intervals import (
    Estimate,
    difference,
    estimate,
    half_width,
    simultaneous,
)
from truecourse.statistics.metrics import (
    average_precision,
    blocks_of,
    gaps,
    influence,
    losses,
    measure,
    roc_auc,
    samples,
)

random = np.random.default_rng(7)
ROWS = 2000
BLOCKS = np.sort(random.integers(0, 20, ROWS))


def values_of(figures: dict[str, Estimate]) -> dict[str, float | None]:
    return {name: figure["value"] for name, figure in figures.items()}


def test_binary_metrics_are_scikit_learns() -> None:
    labels = (random.random(ROWS) < 0.3).astype(float)
    scores = np.clip(0.3 + 0.2 * labels + random.normal(0, 0.2, ROWS), 0.01, 0.99).round(2)  # rounding makes ties
    values = values_of(measure("binary", labels, scores, BLOCKS))
    assert values["auc"] == pytest.approx(reference.roc_auc_score(labels, scores))
    assert values["average_precision"] == pytest.approx(reference.average_precision_score(labels, scores))
    assert values["log_loss"] == pytest.approx(reference.log_loss(labels, scores))
    assert values["brier"] == pytest.approx(reference.brier_score_loss(labels, scores))
    assert values["base_rate"] == pytest.approx(labels.mean())


def test_multiclass_metrics_are_scikit_learns() -> None:
    scores = random.dirichlet([1, 1, 1], ROWS)
    labels = np.array([random.choice(3, p=row) for row in scores]).astype(float)
    values = values_of(measure("multiclass", labels, scores, BLOCKS))
    assert values["log_loss"] == pytest.approx(reference.log_loss(labels, scores))
    assert values["accuracy"] == pytest.approx(reference.accuracy_score(labels, scores.argmax(1)))
    assert values["macro_f1"] == pytest.approx(reference.f1_score(labels, scores.argmax(1), average="macro"))
    assert values["auc"] == pytest.approx(reference.roc_auc_score(labels, scores, multi_class="ovr"))


def test_regression_metrics_are_scikit_learns() -> None:
    labels = random.normal(1e6, 3, ROWS)
    predictions = labels + random.normal(0, 1, ROWS)
    values = values_of(measure("regression", labels, predictions, BLOCKS))
    assert values["rmse"] == pytest.approx(reference.root_mean_squared_error(labels, predictions))
    assert values["mae"] == pytest.approx(reference.mean_absolute_error(labels, predictions))
    assert values["r2"] == pytest.approx(reference.r2_score(labels, predictions), abs=1e-6)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_a_weighted_metric_is_the_metric_of_the_repeated_rows(seed: int) -> None:
    draw = np.random.default_rng(seed)
    size = 60
    labels, blocks = draw.integers(0, 2, size).astype(float), np.append(np.arange(5), draw.integers(0, 5, size - 5))
    scores = draw.integers(1, 9, size) / 10
    weights = np.vstack([np.ones(5), draw.multinomial(5, [0.2] * 5, size=3)])
    areas, precisions = (how(labels, scores, blocks, weights) for how in (roc_auc, average_precision))
    for number in range(4):
        rows = np.repeat(np.arange(size), weights[number][blocks].astype(int))
        if len(set(labels[rows])) < 2:
            assert np.isnan(areas[number])
            continue
        assert areas[number] == pytest.approx(reference.roc_auc_score(labels[rows], scores[rows]))
        assert precisions[number] == pytest.approx(reference.average_precision_score(labels[rows], scores[rows]))


@pytest.mark.parametrize("kind", ["binary", "regression"])
def test_influence_equals_the_effect_of_one_more_day(kind: str) -> None:
    """With very many days, one more day changes the metric by its influence."""
    draw = np.random.default_rng(1)
    labels = draw.integers(0, 2, 4000).astype(float)
    scores = np.clip(0.4 + 0.3 * labels + draw.normal(0, 0.2, 4000), 0.01, 0.99)
    days = np.arange(4000) // 10
    more = np.append(np.arange(4000), np.arange(70, 80))  # day 7 twice
    for name, before in samples(kind, labels, scores, days).items():  # type: ignore[arg-type]
        after = samples(kind, labels[more], scores[more], days[more])[name][0]  # type: ignore[arg-type]
        assert after - before[0] == pytest.approx(influence(before)[7] / 400, rel=0.03, abs=1e-9)
        assert influence(before).mean() == pytest.approx(0, abs=1e-4)


def test_a_perfectly_calibrated_score_has_no_calibration_error_and_a_shifted_one_has_its_shift() -> None:
    scores = np.repeat(np.arange(1, 10) / 10, 1000)
    labels = np.concatenate([np.arange(1000) < 1000 * p for p in np.arange(1, 10) / 10]).astype(float)
    blocks = np.zeros(len(labels), dtype=int)
    assert np.abs(gaps("binary", labels, scores, blocks)[0]).sum() == pytest.approx(0, abs=1e-9)
    assert np.abs(gaps("binary", labels, scores + 0.05, blocks)[0]).sum() == pytest.approx(0.05)


def test_the_calibration_error_of_a_true_score_has_no_chance_part() -> None:
    """The mean size of ten gaps that are only noise is never 0, so it is not an estimate."""
    draw, held, plain, found = np.random.default_rng(4), 0, [], []
    for _ in range(40):
        scores = draw.uniform(0.05, 0.95, 900)
        labels = (draw.random(900) < scores).astype(float)
        figure = measure("binary", labels, scores, np.arange(900) // 30)["calibration_error"]
        held += figure["low"] == 0
        plain.append(np.abs(gaps("binary", labels, scores, np.arange(900) // 30)[0]).sum())
        found.append(figure["value"])
    assert held >= 35
    assert np.mean(plain) > 0.03
    assert np.median([value for value in found if value is not None]) < 0.012


@pytest.mark.parametrize("level", [0.0, 4.0])
@pytest.mark.parametrize("correlation", [0.0, 0.7])
def test_intervals_of_the_calibration_error_cover_its_truth_and_miss_it_at_times(
    level: float, correlation: float
) -> None:
    """Ten gaps with a common day effect and noise of their own; the true sum is 0, or four times the noise of a day's
    mean. More cases: benchmarks/truth/calibration.py."""
    draw, count = np.random.default_rng(3), 28
    true, below, above = level / np.sqrt(count), 0, 0
    for _ in range(120):
        common = draw.standard_normal(count)
        for place in range(1, count):
            common[place] = correlation * common[place - 1] + np.sqrt(1 - correlation**2) * common[place]
        days = common[:, None] / 10 + 0.05 * draw.standard_normal((count, 10)) + true / 10
        figure = sum_of_absolutes(days.mean(axis=0), days - days.mean(axis=0))
        below, above = below + (true < (figure["low"] or 0)), above + ((figure["high"] or 0) < true)
    assert 1 <= below + above <= 14
    assert above == 0 if not level else above


def test_intervals_of_a_difference_cover_it_where_noise_moves_gaps_through_zero() -> None:
    """Biases of 1.5 and 0.5 of the noise of a mean, which both share. The linear interval covers in under half."""
    draw, count, missed = np.random.default_rng(5), 28, 0
    noise = 1 / np.sqrt(count)
    for _ in range(100):
        days = draw.standard_normal((count, 1))
        off = days - days.mean(axis=0)
        found = difference_of_absolutes((days.mean(axis=0) + 1.5 * noise, off), (days.mean(axis=0) + 0.5 * noise, off))
        missed += not (found["low"] or 0) - 1e-9 <= noise <= (found["high"] or 0) + 1e-9
    assert missed <= 8


def test_the_interval_of_a_regressions_bias_is_that_of_its_mean() -> None:
    """Far from 0 the size of a single gap is the gap itself, whatever its sign."""
    series = np.random.default_rng(6).standard_exponential(40) + 3
    for sign in (1, -1):
        off = sign * (series - series.mean())
        whole, one = (
            sum_of_absolutes(np.array([sign * series.mean()]), off[:, None]),
            estimate(sign * series.mean(), off),
        )
        ends = sorted(abs(one[side] or 0) for side in ("low", "high"))
        assert [whole["low"], whole["high"]] == pytest.approx(ends, abs=0.06 * (ends[1] - ends[0]))


@pytest.mark.parametrize(("correlation", "days"), [(0.0, 14), (0.4, 28), (0.7, 61)])
def test_intervals_cover_the_truth_with_autocorrelated_days(correlation: float, days: int) -> None:
    """The coverage is 90 to 98.5% in 400 trials. A bootstrap of whole days covers 81% at .4: see
    benchmarks/truth/compare.py."""
    draw, held = np.random.default_rng(5), 0
    for _ in range(400):
        series = draw.normal(0, 1, days)
        series[1:] *= np.sqrt(1 - correlation**2)
        for place in range(1, days):
            series[place] += correlation * series[place - 1]
        held += int(abs(series.mean()) <= half_width(series - series.mean()))
    assert 360 <= held <= 394


def test_intervals_of_differences_follow_the_skewness_of_the_days() -> None:
    """A model that is a little better on 13 of 14 days, and much better on a stormy one, is not shown to be worse."""
    gains = np.array([7, 5, 1, 14, 5, 39, 149, 43, -1, 5, 4, 11, 5, 4]) / -1000
    off = gains - gains.mean()
    found, mirrored = estimate(gains.mean(), off), estimate(-gains.mean(), -off)
    assert (found["low"], found["high"]) == pytest.approx((-0.124, 0.007), abs=5e-4)
    assert (mirrored["low"], mirrored["high"]) == pytest.approx((-0.007, 0.124), abs=5e-4)
    assert gains.mean() + half_width(off) > 0.03
    even = estimate(0.0, np.array([-2.0, -1, 1, 2]))
    assert even["high"] == pytest.approx(-even["low"])  # type: ignore[operator]


def test_intervals_of_skewed_days_err_on_both_sides_alike() -> None:
    """600 trials of 28 log-normal days with a correlation of .4; 6% of symmetric intervals lie below the truth."""
    draw, below, above = np.random.default_rng(6), 0, 0
    for _ in range(600):
        state = draw.normal(0, 1, 28)
        state[1:] *= np.sqrt(1 - 0.4**2)
        for place in range(1, 28):
            state[place] += 0.4 * state[place - 1]
        days = np.exp(0.75 * state)
        found = estimate(days.mean(), days - days.mean())
        below += found["high"] < np.exp(0.75**2 / 2)  # type: ignore[operator]
        above += found["low"] > np.exp(0.75**2 / 2)  # type: ignore[operator]
    assert below <= 25
    assert above <= 25


def test_intervals_of_losses_of_two_weeks_cover_the_truth() -> None:
    """500 trials of 14 log-normal days with a correlation of .7. Uniform prior and symmetric intervals cover 91%."""
    draw, held = np.random.default_rng(8), 0
    for _ in range(500):
        state = draw.normal(0, 1, 14)
        state[1:] *= np.sqrt(1 - 0.7**2)
        for place in range(1, 14):
            state[place] += 0.7 * state[place - 1]
        days = np.exp(0.5 * state)
        found = estimate(days.mean(), days - days.mean(), "positive")
        held += found["low"] <= np.exp(0.5**2 / 2) <= found["high"]  # type: ignore[operator]
    assert 460 <= held <= 485


def test_one_day_has_no_interval_and_two_have_a_wide_one() -> None:
    labels, scores = np.array([1.0, 2, 3, 5]), np.array([1.5, 2, 3, 4])
    one = measure("regression", labels, scores, np.zeros(4, dtype=int))["rmse"]
    assert one["value"] is not None
    assert (one["low"], one["high"]) == (None, None)
    two = measure("regression", labels, scores, np.array([0, 0, 1, 1]))["bias"]
    assert two["high"] - two["low"] > 3  # type: ignore[operator]


def test_simultaneous_intervals_of_equal_slices_do_not_differ() -> None:
    draw = np.random.default_rng(5)
    alone = together = 0
    for _ in range(60):
        series = draw.normal(0, 1, (20, 40))  # twenty slices on which the truth is 0
        means = series.mean(axis=1)
        off = series - means[:, None]
        alone += any(mean > half_width(row) for mean, row in zip(means, off, strict=True))
        together += any(figure["low"] > 0 for figure in simultaneous(means, off))  # type: ignore[operator]
    assert alone > 15
    assert together <= 5
    (lone,) = simultaneous(means[:1], off[:1])
    assert lone["high"] == pytest.approx(means[0] + half_width(off[0]), rel=0.06)


def test_simultaneous_intervals_of_no_difference_and_of_a_figure_that_is_undefined() -> None:
    off = np.zeros((2, 40))
    off[1] = np.nan
    same, undefined = simultaneous(np.array([0.0, np.nan]), off)
    assert same == {"value": 0.0, "low": 0.0, "high": 0.0}
    assert undefined == {"value": None, "low": None, "high": None}


def test_the_difference_of_two_samples_is_as_uncertain_as_both_together() -> None:
    figures: list[Estimate] = [{"value": v, "low": v - w, "high": v + w} for v, w in ((5.0, 3.0), (1.0, 4.0))]
    one, other = figures
    assert difference(one, other) == {"value": 4.0, "low": -1.0, "high": 9.0}
    assert difference(one, {"value": None, "low": None, "high": None})["value"] is None


def test_blocks_are_utc_days_or_random_groups_of_rows() -> None:
    times = np.array(["2024-01-01T00:00", "2024-01-01T23:59", "2024-01-03T00:00"], "datetime64[us]")
    timed = pa.table({"decision_time": pa.array(times, pa.timestamp("us", tz="UTC"))})
    assert blocks_of(timed).tolist() == [0, 0, 1]
    alone = blocks_of(pa.table({"id": [str(n) for n in range(50)]}))
    assert sorted(alone) == list(range(50))
    assert alone.tolist() != sorted(alone)  # a file may be sorted by its labels
    many = np.bincount(blocks_of(pa.table({"id": [str(n) for n in range(1000)]})))
    assert many.tolist() == [5] * 200


def test_an_undefined_metric_is_none_and_an_impossible_prediction_is_finite() -> None:
    figures = measure("binary", np.ones(4), np.full(4, 0.5), np.arange(4))
    assert figures["auc"] == {"value": None, "low": None, "high": None}
    assert np.isfinite(losses("binary", np.array([1.0]), np.array([0.0]))).all()


def test_slices_cover_each_row_once() -> None:
    labels = random.integers(0, 2, ROWS).astype(float)
    frame = pa.table(
        {
            "place": pa.array(random.choice(np.array(["a", "b", None]), ROWS)),
            "size": pa.array(np.where(random.random(ROWS) < 0.1, np.nan, random.normal(0, 1, ROWS)), from_pandas=True),
            "few": pa.array(random.integers(0, 3, ROWS)),
        }
    )
    for column, names in (("place", {"a", "b", "missing"}), ("few", {"0", "1", "2"}), ("size", None)):
        found = slices("binary", frame, column, labels, np.full(ROWS, 0.5), BLOCKS)
        assert sum(part["rows"] for part in found) == ROWS
        assert len(found) == (len(names) if names else 5)
        assert names is None or {part["value"] for part in found} == names
    (part,) = [p for p in slices("binary", frame, "place", labels, labels, BLOCKS) if p["value"] == "a"]
    mask = np.array([value == "a" for value in frame["place"].to_pylist()])
    assert part["rows"] == mask.sum()
    assert part["metrics"]["base_rate"]["value"] == pytest.approx(labels[mask].mean())
