"""Daily sums give the metrics of their rows for every kind of problem; a lasting loss differs from a storm."""

import json
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pytest

from tests.closed_cohorts import FIRST, cohort_of
from truecourse.arrays import Array
from truecourse.monitoring.quality.cohorts import (
    COHORTS,
    Cohort,
    ScoredRows,
    bins_by_slice,
    calibration_curve,
    calibration_error,
    metrics,
    slice_cohorts,
    slice_sums,
    sums_by_bin,
    sums_by_slice,
)
from truecourse.monitoring.quality.degradation import Alarm, find_alarms
from truecourse.problem.definition import Kind
from truecourse.problem.monitoring import QualityWatch
from truecourse.statistics.metrics import measure, samples, weightings

EDGES = np.linspace(0, 1, 41)[1:-1]


def rows(kind: Kind, n: int, random: np.random.Generator, off: float = 0.0) -> tuple[Array, Array]:
    """Labels and the scores of a good model; `off` shifts the labels, in probability or in value."""
    scores = random.random(n)
    if kind == "regression":
        return scores + random.normal(off, 0.3, n), scores
    if kind == "binary":
        return (random.random(n) < np.clip(scores + off, 0, 1)).astype(np.int64), scores
    output = random.dirichlet([0.5, 0.5, 0.5], n)
    drawn = (output.cumsum(axis=1) < random.random(n)[:, None]).sum(axis=1)
    return np.where(random.random(n) < abs(off), random.integers(0, 3, n), drawn), output


def cohort(kind: Kind, day: int, labels: Array, output: Array) -> Cohort:
    scored = ScoredRows.of(kind, labels, output)
    side = pa.table({"side": np.where(np.arange(len(labels)) % 3 == 0, "left", "right")})
    return cohort_of(
        scored,
        day,
        bins=sums_by_bin(EDGES, scored),
        slices=sums_by_slice(side, ["side"], scored),
        slice_bins=bins_by_slice(side, ["side"], scored, EDGES),
    )


@pytest.mark.parametrize("kind", ["binary", "multiclass", "regression"])
def test_sums_of_days_give_the_metrics_of_their_rows(kind: Kind) -> None:
    random = np.random.default_rng(0)
    day_rows = [rows(kind, 400, random) for _ in range(12)]
    days = [cohort(kind, number, *one) for number, one in enumerate(day_rows)]
    labels, output = (np.concatenate(side) for side in zip(*day_rows, strict=True))
    blocks = np.repeat(np.arange(12), 400)
    truth, found = samples(kind, labels, output, blocks), metrics(kind, days, weightings(np.arange(12)))
    assert len(set(found) & set(truth)) >= 1 + (kind != "regression")
    for name in set(found) & set(truth):
        close = {"auc": 2e-3}.get(name, 1e-9)  # of score bins
        signed = np.abs(found[name]) if name == "bias" else found[name]
        np.testing.assert_allclose(signed, np.abs(truth[name]), atol=close)
    if kind != "regression":
        whole, binned = measure(kind, labels, output, blocks)["calibration_error"], calibration_error(days)
        assert [binned[end] for end in ("value", "low", "high")] == pytest.approx(
            [whole[end] for end in ("value", "low", "high")], abs=2e-2
        )
    assert sum(part[0] for part in calibration_curve(days)) == len(labels)
    sums = {value: part.sum(axis=0) for _, value, part in slice_sums(days)}
    assert sums["left"][0] + sums["right"][0] == len(labels)
    assert sums["left"][2] + sums["right"][2] == pytest.approx(sum(one.loss for one in days))


@pytest.mark.parametrize("kind", ["binary", "multiclass", "regression"])
def test_a_slice_has_the_metrics_of_its_own_rows(kind: Kind) -> None:
    random = np.random.default_rng(0)
    day_rows = [rows(kind, 900, random) for _ in range(6)]
    days = [cohort(kind, number, *one) for number, one in enumerate(day_rows)]
    part = slice_cohorts(days, "side", "left")
    assert part is not None
    labels, output = (np.concatenate([one[::3] for one in side]) for side in zip(*day_rows, strict=True))
    truth = samples(kind, labels, output, np.repeat(np.arange(6), 300))
    found = metrics(kind, part, weightings(np.arange(6)))
    for name in set(found) & set(truth):
        close = {"auc": 4e-3}.get(name, 1e-6)  # of score bins
        signed = np.abs(found[name]) if name == "bias" else found[name]
        np.testing.assert_allclose(signed, np.abs(truth[name]), atol=close)
    assert sum(one[0] for one in calibration_curve(part)) == 1800
    assert slice_cohorts([one.model_copy(update={"slice_bins": {}}) for one in days], "side", "left") is None


def test_a_day_without_a_slice_counts_for_nothing_in_it() -> None:
    random = np.random.default_rng(0)
    days = [cohort("binary", day, *rows("binary", 300, random)) for day in range(3)]
    gone = {name: {"side": {"right": getattr(days[0], name)["side"]["right"]}} for name in ("slices", "slice_bins")}
    part = slice_cohorts([days[0].model_copy(update=gone), *days[1:]], "side", "left")
    assert part is not None
    assert [one.labelled for one in part] == [0, 100, 100]
    whole, without = (
        metrics("binary", part, np.array([[1, 1, 1], [0, 1, 1], [1, 0, 0]])),
        metrics("binary", part[1:], np.array([[1, 1]])),
    )
    assert whole["auc"][:2] == pytest.approx(np.repeat(without["auc"], 2))
    assert np.isnan(whole["auc"][2])


def alarms_after(kind: Kind, shifts: Sequence[float], seed: int) -> list[Alarm]:
    """The alarms after 30 usual days and then days whose labels are shifted by `off`."""
    random = np.random.default_rng(seed)
    days = [cohort(kind, day, *rows(kind, 300, random, off)) for day, off in enumerate((*[0.0] * 30, *shifts))]
    reference = days[:30]
    count = sum(one.labelled for one in reference)
    loss = sum(one.loss for one in reference) / count
    scale = loss if kind == "regression" else sum(one.variance for one in reference) / count
    classes = {"binary": 2, "multiclass": 3, "regression": 0}[kind]
    return find_alarms(reference, reference, days[30:], QualityWatch(), float(np.sqrt(scale)), loss, classes)


@pytest.mark.parametrize("kind", ["binary", "multiclass", "regression"])
def test_a_lasting_shift_raises_an_alarm_and_a_past_one_does_not(kind: Kind) -> None:
    assert not any(alarms_after(kind, [0.0] * 60, seed) for seed in range(5))
    for seed in range(5):
        (first, *_) = alarms_after(kind, [0.0] * 30 + [0.4] * 10, seed)
        assert abs((first.since - FIRST).days - 60) <= 2
    assert not any(alarms_after(kind, [0.0] * 20 + [0.4] + [0.0] * 20, seed) for seed in range(5))
    assert not any(alarms_after(kind, [0.4] * 10 + [0.0] * 20, seed) for seed in range(5))


def test_cohorts_survive_json_even_with_nan() -> None:
    days = [cohort("binary", day, *rows("binary", 200, np.random.default_rng(day))) for day in range(3)]
    days.append(days[0].model_copy(update={"loss": float("nan"), "lag": (1.5, float("nan"), float("inf"))}))
    kept = COHORTS.dump_json(days)
    back = COHORTS.validate_json(kept)
    assert back[:3] == days[:3]
    assert repr(back) == repr(days)  # NaN is not equal to itself
    assert repr([Cohort.model_validate(one) for one in json.loads(kept)]) == repr(days)  # as earlier versions read them
