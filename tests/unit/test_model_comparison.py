"""Models are called different if they are, and equal models are not: with and without time, for each kind of label."""

import dataclasses
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.problems.deliveries.problem import PROBLEM
from truecourse.arrays import Array
from truecourse.evaluation.model_comparison import SharedRows, conclude, describe_conclusion
from truecourse.evaluation.multiple_comparisons import FALSE_DIFFERENCES, coverage_of_each
from truecourse.problem import Monitoring
from truecourse.problem.definition import Kind
from truecourse.statistics.intervals import estimate

DAYS, A_DAY = 40, 25
START = datetime(2024, 1, 1, 12, tzinfo=UTC)


def simulate(
    random: np.random.Generator, kind: Kind, noise: tuple[float, ...], in_time: bool, a_day: int = A_DAY
) -> SharedRows:
    """Models that know the label's distribution but for their own noise, of which half is that of a day.

    `noise`: of each model; equal numbers make equal models."""
    count = DAYS * a_day
    days = np.repeat(np.arange(DAYS), a_day)
    known = random.standard_normal((count, 3)) + 0.4 * random.standard_normal((DAYS, 3))[days]

    def disturbed(size: float) -> Array:
        own = random.standard_normal((count, 3)) + random.standard_normal((DAYS, 3))[days]
        return np.asarray(known + size * own / np.sqrt(2))

    def output(scores: Array) -> Array:
        if kind == "regression":
            return np.asarray(scores[:, 0])
        if kind == "binary":
            return np.asarray(1 / (1 + np.exp(-scores[:, 0])))
        odds = np.exp(scores)
        return np.asarray(odds / odds.sum(axis=1, keepdims=True))

    truth = output(known)
    if kind == "regression":
        labels = truth + random.standard_normal(count)
    elif kind == "binary":
        labels = (random.random(count) < truth).astype(float)
    else:
        labels = (random.random((count, 1)) > truth.cumsum(axis=1)).sum(axis=1).clip(0, 2).astype(float)
    columns = {"id": pa.array([str(i) for i in range(count)]), "depot": pa.array(np.array(["n", "s"])[days % 2])}
    if in_time:
        columns["decision_time"] = pa.array([START + timedelta(days=int(day)) for day in days])
    problem = dataclasses.replace(PROBLEM, kind=kind, monitoring=Monitoring(slices=["depot"]))
    outputs = [output(disturbed(size)) for size in noise]
    return SharedRows(problem, pa.table(columns), labels, outputs, () if kind == "regression" else ("a", "b", "c"))


def conclusions(shared: SharedRows) -> list[str]:
    others = len(shared.outputs) - 1
    coverage = coverage_of_each(others)
    return [conclude(shared.pair(place).loss(shared.blocks, coverage)) for place in range(1, others + 1)]


@pytest.mark.parametrize(
    ("kind", "in_time", "models"),
    [
        ("binary", True, 2),
        ("regression", True, 2),
        ("regression", False, 2),
        ("multiclass", False, 2),
        ("binary", True, 5),
    ],
)
def test_at_most_five_of_a_hundred_equal_models_are_called_different(kind: Kind, in_time: bool, models: int) -> None:
    random, different = np.random.default_rng([models, in_time]), 0
    for _ in range(200):
        found = conclusions(simulate(random, kind, (0.5,) * models, in_time, 5))
        different += set(found) != {"within noise"}
    assert different <= 10


@pytest.mark.parametrize(("kind", "in_time"), [("binary", True), ("regression", False), ("multiclass", True)])
def test_a_better_model_is_called_better_and_a_worse_one_worse(kind: Kind, in_time: bool) -> None:
    random, right = np.random.default_rng(1), 0
    for _ in range(20):
        right += conclusions(simulate(random, kind, (0.9, 0.1, 1.8), in_time, 60)) == ["better", "worse"]
    assert right >= 18


@given(st.floats(-2, 2), st.floats(0.01, 1), st.integers(2, 30))
def test_a_conclusion_needs_an_interval_without_zero(value: float, spread: float, blocks: int) -> None:
    influence = spread * np.resize([1.0, -1.0], blocks)
    difference = estimate(value, influence)
    conclusion = conclude(difference)
    assert (conclusion == "better") == (difference["high"] is not None and difference["high"] < 0)
    assert (conclusion == "worse") == (difference["low"] is not None and difference["low"] > 0)
    sentence = describe_conclusion(PROBLEM, "version 2", "version 1", difference)
    assert ("by more than noise" in sentence) == (conclusion != "unknown")
    assert ("does not differ" in sentence) == (conclusion == "within noise")


def test_a_single_block_gives_no_conclusion() -> None:
    assert conclude(estimate(0.3, np.array([0.1]))) == "unknown"


def test_each_further_model_widens_the_intervals() -> None:
    assert coverage_of_each(1) == 1 - FALSE_DIFFERENCES
    levels = [1 - coverage_of_each(others) for others in range(1, 8)]
    assert levels == sorted(levels, reverse=True)
    assert [others * level for others, level in enumerate(levels, 1)] == pytest.approx([FALSE_DIFFERENCES] * 7)
    shared = simulate(np.random.default_rng(3), "binary", (0.5, 0.5), True)
    assert shared.differences(1, 0.9)["log_loss"] == shared.pair(1).loss(shared.blocks, 0.9), "as in the conclusion"
    widths = [
        [shared.differences(1, c)[name] for name in ("auc", "log_loss", "calibration_error")]
        + [part["difference"] for part in shared.slices(1, c)]
        for c in (coverage_of_each(1), coverage_of_each(8))
    ]
    for near, far in zip(*widths, strict=True):
        assert far["low"] < near["low"] < near["high"] < far["high"]
