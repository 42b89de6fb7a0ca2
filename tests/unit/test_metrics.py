"""Metrics against scikit-learn, and intervals that know that days hang together."""

import numpy as np
import pyarrow as pa
import pytest
import sklearn.metrics as reference
from hypothesis import given, settings
from hypothesis import strategies as st

from truecourse.metrics import blocks_of, losses, measure, resample, simultaneous, summary
from truecourse.slices import slices

random = np.random.default_rng(7)
ROWS = 2000
BLOCKS = np.sort(random.integers(0, 20, ROWS))
WEIGHTS = resample(BLOCKS, count=50)


def test_binary_metrics_are_scikit_learns() -> None:
    labels = (random.random(ROWS) < 0.3).astype(float)
    scores = np.clip(0.3 + 0.2 * labels + random.normal(0, 0.2, ROWS), 0.01, 0.99).round(2)  # rounding makes ties
    values = {name: samples[0] for name, samples in measure("binary", labels, scores, BLOCKS, WEIGHTS).items()}
    assert values["auc"] == pytest.approx(reference.roc_auc_score(labels, scores))
    assert values["average_precision"] == pytest.approx(reference.average_precision_score(labels, scores))
    assert values["log_loss"] == pytest.approx(reference.log_loss(labels, scores))
    assert values["brier"] == pytest.approx(reference.brier_score_loss(labels, scores))
    assert values["base_rate"] == pytest.approx(labels.mean())


def test_multiclass_metrics_are_scikit_learns() -> None:
    scores = random.dirichlet([1, 1, 1], ROWS)
    labels = np.array([random.choice(3, p=row) for row in scores]).astype(float)
    values = {name: samples[0] for name, samples in measure("multiclass", labels, scores, BLOCKS, WEIGHTS).items()}
    assert values["log_loss"] == pytest.approx(reference.log_loss(labels, scores))
    assert values["accuracy"] == pytest.approx(reference.accuracy_score(labels, scores.argmax(1)))
    assert values["macro_f1"] == pytest.approx(reference.f1_score(labels, scores.argmax(1), average="macro"))
    assert values["auc"] == pytest.approx(reference.roc_auc_score(labels, scores, multi_class="ovr"))


def test_regression_metrics_are_scikit_learns() -> None:
    labels = random.normal(1e6, 3, ROWS)
    predictions = labels + random.normal(0, 1, ROWS)
    values = {name: samples[0] for name, samples in measure("regression", labels, predictions, BLOCKS, WEIGHTS).items()}
    assert values["rmse"] == pytest.approx(reference.root_mean_squared_error(labels, predictions))
    assert values["mae"] == pytest.approx(reference.mean_absolute_error(labels, predictions))
    assert values["r2"] == pytest.approx(reference.r2_score(labels, predictions), abs=1e-6)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_a_resample_is_the_metric_of_the_repeated_rows(seed: int) -> None:
    draw = np.random.default_rng(seed)
    size = 60
    labels, blocks = draw.integers(0, 2, size).astype(float), np.append(np.arange(5), draw.integers(0, 5, size - 5))
    scores = draw.integers(1, 9, size) / 10
    weights = resample(blocks, count=3, seed=seed)
    found = measure("binary", labels, scores, blocks, weights)
    for number in range(4):
        rows = np.repeat(np.arange(size), weights[number][blocks].astype(int))
        if len(set(labels[rows])) < 2:
            assert np.isnan(found["auc"][number])
            continue
        assert found["auc"][number] == pytest.approx(reference.roc_auc_score(labels[rows], scores[rows]))
        expected = reference.average_precision_score(labels[rows], scores[rows])
        assert found["average_precision"][number] == pytest.approx(expected)
        assert found["log_loss"][number] == pytest.approx(reference.log_loss(labels[rows], scores[rows]))


def test_a_perfectly_calibrated_score_has_no_calibration_error_and_a_shifted_one_has_its_shift() -> None:
    scores = np.repeat(np.arange(1, 10) / 10, 1000)
    labels = np.concatenate([np.arange(1000) < 1000 * p for p in np.arange(1, 10) / 10]).astype(float)
    blocks = np.zeros(len(labels), dtype=int)
    error = measure("binary", labels, scores, blocks, np.ones((1, 1)))["calibration_error"][0]
    shifted = measure("binary", labels, scores + 0.05, blocks, np.ones((1, 1)))["calibration_error"][0]
    assert error == pytest.approx(0, abs=1e-9)
    assert shifted == pytest.approx(0.05)


def test_intervals_cover_the_truth_when_rows_of_a_day_hang_together() -> None:
    draw = np.random.default_rng(3)
    covered = {"days": 0, "rows": 0}
    for _ in range(60):
        day = np.repeat(np.arange(40), 50)
        labels = draw.normal(0, 1, 40)[day] + draw.normal(0, 0.3, len(day))
        for name, blocks in (("days", day), ("rows", np.arange(len(day)))):
            samples = measure("regression", labels, np.zeros(len(day)), blocks, resample(blocks, count=200))["bias"]
            figure = summary(samples)
            covered[name] += figure["low"] <= 0 <= figure["high"]
    assert covered["days"] >= 51
    assert covered["rows"] < 30


def test_of_many_equal_slices_none_differs_and_a_lone_interval_is_the_usual_one() -> None:
    draw = np.random.default_rng(5)
    alone = together = 0
    for _ in range(100):
        errors = draw.normal(0, 1, (20, 1))  # twenty slices on which the truth is 0
        samples = np.hstack([errors, errors + draw.normal(0, 1, (20, 400))])
        alone += any(summary(row)["low"] > 0 for row in samples)
        together += any(figure["low"] > 0 for figure in simultaneous(samples))
    assert alone > 25
    assert together <= 6
    sample = np.append(0.3, 0.3 + draw.normal(0, 1, 20_000))
    (lone,) = simultaneous(sample[None])
    assert lone["low"] == pytest.approx(summary(sample)["low"], abs=0.06)
    assert lone["high"] == pytest.approx(summary(sample)["high"], abs=0.06)


def test_simultaneous_intervals_of_no_difference_and_of_resamples_without_the_slice() -> None:
    samples = np.zeros((2, 101))
    samples[1, 1:] = np.where(np.arange(100) % 10, np.linspace(-1, 1, 100), np.nan)
    same, sparse = simultaneous(samples)
    assert same == {"value": 0.0, "low": 0.0, "high": 0.0}
    assert -1.2 < sparse["low"] < -0.8


def test_blocks_are_utc_days_or_rows() -> None:
    times = np.array(["2024-01-01T00:00", "2024-01-01T23:59", "2024-01-03T00:00"], "datetime64[us]")
    timed = pa.table({"decision_time": pa.array(times, pa.timestamp("us", tz="UTC"))})
    assert blocks_of(timed).tolist() == [0, 0, 1]
    assert blocks_of(pa.table({"id": ["a", "b"]})).tolist() == [0, 1]


def test_an_undefined_metric_is_none_and_an_impossible_prediction_is_finite() -> None:
    blocks = np.arange(4)
    samples = measure("binary", np.ones(4), np.full(4, 0.5), blocks, resample(blocks, count=10))
    assert summary(samples["auc"]) == {"value": None, "low": None, "high": None}
    assert np.isfinite(losses("binary", np.array([1.0]), np.array([0.0]))).all()


def test_slices_cover_each_row_once() -> None:
    labels = random.integers(0, 2, ROWS).astype(float)
    frame = pa.table(
        {
            "place": pa.array(random.choice(["a", "b", None], ROWS)),
            "size": pa.array(np.where(random.random(ROWS) < 0.1, np.nan, random.normal(0, 1, ROWS)), from_pandas=True),
            "few": pa.array(random.integers(0, 3, ROWS)),
        }
    )
    for column, names in (("place", {"a", "b", "missing"}), ("few", {"0", "1", "2"}), ("size", None)):
        found = slices("binary", frame, column, labels, np.full(ROWS, 0.5), BLOCKS, WEIGHTS)
        assert sum(part["rows"] for part in found) == ROWS
        assert len(found) == (len(names) if names else 5)
        assert names is None or {part["value"] for part in found} == names
    (part,) = [p for p in slices("binary", frame, "place", labels, labels, BLOCKS, WEIGHTS) if p["value"] == "a"]
    mask = np.array([value == "a" for value in frame["place"].to_pylist()])
    assert part["rows"] == mask.sum()
    assert part["metrics"]["base_rate"]["value"] == pytest.approx(labels[mask].mean())
