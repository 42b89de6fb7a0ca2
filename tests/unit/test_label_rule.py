"""A changed label rule is distinguished from concept drift, for every kind of problem, on its first day."""

from collections.abc import Sequence
from datetime import timedelta

import numpy as np
import pyarrow as pa
import pytest

from benchmarks.truth import quality as truth_quality
from tests.closed_cohorts import FIRST, cohort_of
from truecourse.arrays import Array
from truecourse.modeling.encoding import Vocabulary
from truecourse.monitoring.quality.cohorts import Cohort, ScoredRows
from truecourse.monitoring.quality.degradation import Alarm, find_alarms, threshold
from truecourse.monitoring.quality.label_model import LabelModel, label_residuals
from truecourse.problem.definition import Kind
from truecourse.problem.monitoring import QualityWatch

CLASSES = {"binary": 2, "multiclass": 3, "regression": 0}
KINDS: tuple[Kind, ...] = ("binary", "multiclass", "regression")
A_DAY, TURNED = 400, 0.4


def world(kind: Kind, n: int, random: np.random.Generator, moved: float = 0.0) -> tuple[Array, Array]:
    """Predictions of the label model for n rows, and labels that follow them. `moved`: drift of the world towards the
    last class (a regression: up)."""
    if kind == "regression":
        predicted = random.normal(moved, 1.0, n)
        return predicted, predicted + random.normal(0, 0.5, n)
    shares = random.dirichlet([0.2] * (CLASSES[kind] - 1) + [0.2 + moved], n)
    labels = (shares.cumsum(axis=1) < random.random(n)[:, None]).sum(axis=1)
    return (shares[:, 1] if kind == "binary" else shares), labels


def apply_new_rule(kind: Kind, labels: Array, random: np.random.Generator, share: float = TURNED) -> Array:
    """Labels by another rule: a share of the last class becomes the class before it (a regression: all change by
    0.6)."""
    if kind == "regression":
        return labels + 0.6
    last = CLASSES[kind] - 1
    return np.where((labels == last) & (random.random(len(labels)) < share), last - 1, labels)


def cohort(kind: Kind, day: int, predicted: Array, labels: Array) -> Cohort:
    """The model, which decided earlier, is half as certain as the label model."""
    if kind == "regression":
        output = 0.5 * predicted
    elif kind == "binary":
        output = 0.25 + 0.5 * predicted
    else:
        output = 0.5 * predicted + 0.5 / CLASSES[kind]
    scored, residuals = ScoredRows.of(kind, labels, output), label_residuals(kind, predicted, labels)
    return cohort_of(
        scored,
        day,
        bins=((len(labels), scored.score.sum(), scored.outcome.sum()),),
        **residuals.sums(np.arange(len(labels))),
    )


def detect_shifts(kind: Kind, days: Sequence[Cohort]) -> list[Alarm]:
    """The findings after 30 usual days."""
    reference, rows = days[:30], sum(one.labelled for one in days[:30])
    loss = sum(one.loss for one in reference) / rows
    scale = loss if kind == "regression" else sum(one.variance for one in reference) / rows
    return find_alarms(reference, reference, days[30:], QualityWatch(), float(np.sqrt(scale)), loss, CLASSES[kind])


def history(kind: Kind, seed: int, clean: int, planted: int = 0) -> list[Cohort]:
    random, days = np.random.default_rng(seed), []
    for day in range(30 + clean + planted):
        predicted, labels = world(kind, A_DAY, random)
        days.append(cohort(kind, day, predicted, apply_new_rule(kind, labels, random) if day >= 30 + clean else labels))
    return days


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_label_rule_is_detected_on_its_first_day_without_false_alarms(kind: Kind) -> None:
    for seed in range(10):
        days = history(kind, seed, clean=60, planted=1)
        assert detect_shifts(kind, days[:-1]) == []
        alarms = {alarm.stream: alarm for alarm in detect_shifts(kind, days)}
        assert alarms["turned"].since == FIRST + timedelta(days=90)
        if kind != "regression":
            assert alarms["turned"].direction == CLASSES[kind] - 1
            assert alarms["turned"].size == pytest.approx(TURNED, abs=0.15)
        assert alarms["turned"].evidence >= threshold(QualityWatch(), CLASSES[kind])


@pytest.mark.parametrize("kind", KINDS)
def test_concept_drift_is_no_new_label_rule(kind: Kind) -> None:
    random = np.random.default_rng(5)
    days = [cohort(kind, day, *world(kind, A_DAY, random, moved=0.6 * (day >= 60))) for day in range(75)]
    streams = {alarm.stream for alarm in detect_shifts(kind, days)}
    assert streams or kind == "multiclass"
    assert streams <= {"residual", "loss"}


@pytest.mark.parametrize("kind", KINDS)
def test_a_small_clean_cohort_is_no_new_label_rule(kind: Kind) -> None:
    for seed in range(20):
        random = np.random.default_rng(seed)
        days = [cohort(kind, day, *world(kind, A_DAY, random)) for day in range(50)]
        days.append(cohort(kind, 50, *world(kind, 10, random)))
        assert not {"labels", "turned"} & {alarm.stream for alarm in detect_shifts(kind, days)}


def test_benchmark_results_with_storms_hold() -> None:
    """A short version of `make bench-truth`: a slightly moved threshold, a loss a fifth higher, and small cohorts."""
    for seed in range(3):
        assert truth_quality.found(seed, "label rule", 10, {"moved": truth_quality.MOVED})
        assert truth_quality.found(seed, "concept drift", 15, {"noise": truth_quality.NOISE})
        assert truth_quality.clean(seed, 0.4, days=120) == []
        assert truth_quality.clean(seed, 0.3, small=True, days=60) == []


@pytest.mark.parametrize("kind", ["binary", "multiclass"])
def test_labels_that_follow_the_label_model_do_not_contradict_it(kind: Kind) -> None:
    random = np.random.default_rng(1)
    predicted, labels = world(kind, 200_000, random)
    clean = label_residuals(kind, predicted, labels)
    assert clean.distance.mean() == pytest.approx(0, abs=0.003)
    assert (clean.flips[..., 0].mean(axis=0) <= 0.02).all()
    other = label_residuals(kind, predicted, apply_new_rule(kind, labels, random, 0.1))
    last = CLASSES[kind] - 1
    before, after = (alarms.flips.sum(axis=0)[:, 0] / alarms.flips.sum(axis=0)[:, 1] for alarms in (clean, other))
    assert after[last] - before[last] == pytest.approx(0.1, abs=0.02)
    assert abs(after[0] - before[0]) < 0.03 if kind == "multiclass" else True


def test_a_rarely_certain_class_gives_no_result() -> None:
    """Two such rows a day: one surprise would look like half of the class's labels."""
    random = np.random.default_rng(2)
    days = []
    for day in range(120):
        predicted, labels = world("binary", A_DAY, random)
        rare = np.where(predicted > 0.5, np.where(np.cumsum(predicted > 0.5) <= 2, predicted, 1 - predicted), predicted)
        labels = (random.random(A_DAY) < rare).astype(np.int64)
        days.append(cohort("binary", day, rare, labels))
    assert max(one.turned[1][1] for one in days) < 100
    assert detect_shifts("binary", days) == []


def test_the_label_model_learns_three_classes_from_features_and_label_delay() -> None:
    random, n = np.random.default_rng(4), 6000
    hint, hours = random.normal(size=n), random.uniform(1, 24, n)
    labels = (hours > 8).astype(np.int64) + (hours > 16)
    decided = np.datetime64("2024-01-01T00:00:00", "us") + np.arange(n) * np.timedelta64(60, "s")
    known = decided + (hours * 3600e6).astype("timedelta64[us]")
    rows = pa.table({"decision_time": decided, "known_at": known})
    vocabulary = Vocabulary(kinds={"hint": "float"}, categories={}, classes=("early", "late", "never"))
    matrix = hint[:, None].astype(np.float32)
    label_model = LabelModel.fit("multiclass", vocabulary, matrix, rows, labels)
    assert label_model == LabelModel.fit("multiclass", vocabulary, matrix, rows, labels)
    assert np.abs(label_model.residuals("multiclass", matrix, rows, labels).distance).mean() < 0.02
    swapped = label_model.residuals("multiclass", matrix, rows, np.where(labels == 2, 1, labels))
    shares = swapped.flips.sum(axis=0)[:, 0] / swapped.flips.sum(axis=0)[:, 1]
    assert shares[2] > 0.9
    assert shares[:2].max() < 0.05
