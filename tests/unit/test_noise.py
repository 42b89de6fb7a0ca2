"""A model of pure noise is not promoted, however few test rows there are; a good one is, even on a small table."""

import numpy as np
import pytest

from truecourse.arrays import Array
from truecourse.evaluation.gates import Evidence, Sample, apply_gates
from truecourse.problem import BeatsBaseline, NotWorseThanLinear
from truecourse.problem.definition import Kind
from truecourse.statistics.metrics import loss, paired_difference

TRIALS = 120


def result(kind: Kind, labels: Array, model: Array, constant: Array, linear: Array) -> tuple[str, str]:
    """The results of BeatsBaseline and NotWorseThanLinear on independent rows."""
    rows, predictions = np.arange(len(labels)), {"constant": constant, "linear": linear}
    classes = {} if kind == "regression" else {str(c): (50, int((labels == c).sum())) for c in (0, 1)}
    evidence = Evidence(
        metric="log_loss",
        metrics={},
        differences=lambda name: paired_difference(kind, labels, model, predictions[name], rows, successive=False),
        constant=loss(kind, labels, constant),
        slices=[],
        sample=Sample(len(labels), len(labels), classes),
    )
    first, second = apply_gates((BeatsBaseline(), NotWorseThanLinear()), evidence)
    return first["result"], second["result"]


@pytest.mark.parametrize("rows", [1, 2, 5, 10, 30, 100])
@pytest.mark.parametrize(("base", "spread"), [(0.5, 0.2), (0.5, 0.01), (0.2, 0.05), (0.05, 0.02)])
def test_noise_beats_the_baseline_in_at_most_5_percent(rows: int, base: float, spread: float) -> None:
    random, passed = np.random.default_rng(rows), 0
    for _ in range(TRIALS):
        labels = (random.random(rows) < base).astype(np.float64)
        constant = np.full(rows, base)
        model = np.clip(base + random.normal(0, spread, rows), 0.001, 0.999)
        outcome, _ = result("binary", labels, model, constant, constant)
        passed += outcome == "passed"
        assert outcome == "unknown" or rows >= 30
    assert passed <= 0.05 * TRIALS


@pytest.mark.parametrize("rows", [1, 2, 5, 10, 30, 100])
def test_noise_of_a_skewed_regression_passes_as_rarely(rows: int) -> None:
    random, passed = np.random.default_rng(rows), 0
    for _ in range(TRIALS):
        labels = random.lognormal(0, 1, rows)
        constant = np.full(rows, np.exp(0.5))
        model = constant + random.normal(0, 0.3, rows)
        passed += result("regression", labels, model, constant, constant)[0] == "passed"
    assert passed <= 0.05 * TRIALS


@pytest.mark.parametrize(("rows", "least"), [(30, 0.75), (70, 0.95)])
def test_a_good_model_passes_on_a_small_table(rows: int, least: float) -> None:
    """The log losses of the model and of the linear baseline correspond to an AUC of about 0.9."""
    random, passed = np.random.default_rng(0), 0
    for _ in range(TRIALS):
        margin = random.normal(0, 3, rows)
        labels = (random.random(rows) < 1 / (1 + np.exp(-margin))).astype(np.float64)
        model, linear = (1 / (1 + np.exp(-margin - random.normal(0, 0.3, rows))) for _ in range(2))
        passed += result("binary", labels, model, np.full(rows, 0.5), linear) == ("passed", "passed")
    assert passed >= least * TRIALS


def test_a_model_that_is_worse_than_a_linear_one_fails() -> None:
    random = np.random.default_rng(1)
    margin = random.normal(0, 2, 300)
    labels = (random.random(300) < 1 / (1 + np.exp(-margin))).astype(np.float64)
    linear, model = 1 / (1 + np.exp(-margin)), 1 / (1 + np.exp(-margin - random.normal(0, 1, 300)))
    assert result("binary", labels, model, np.full(300, 0.5), linear) == ("passed", "failed")
