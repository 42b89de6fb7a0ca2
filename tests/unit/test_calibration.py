"""Calibration is part of the booster: one law for every way of predicting, chosen on rows that it was not fitted to."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.test_linear import KINDS, SPEC, table, vocabulary
from tests.unit.test_training import frame, problem
from truecourse.authoring.checks.training_checks import decision_faults
from truecourse.errors import ModelError
from truecourse.modeling.boosting import Matrices, boost
from truecourse.modeling.calibration import Curve, choose_calibration, fit_curve
from truecourse.modeling.linear import scale_booster
from truecourse.modeling.model import Model
from truecourse.modeling.training import matrix_of, rows_of, train
from truecourse.problem import Linear, Problem, Weights, XGBoost
from truecourse.problem.definition import Kind
from truecourse.problem.loader import training_document
from truecourse.statistics.metrics import loss


def distorted(kind: Kind, **model: Any) -> Problem:
    """A problem whose scores are off: of two classes by weights, of several by too large steps."""
    fields: dict[str, Any] = {"rounds": 40, "early_stopping_rounds": 100, "learning_rate": 1.0, "linear": False}
    spec = problem(kind, timed=False, **fields | {"max_depth": 6, "reg_lambda": 0.0, "folds": 0} | model)
    weights = Weights(classes={"1": 9.0}) if kind == "binary" else None
    return dataclasses.replace(spec, calibration="logistic", weights=weights)


def noisy(spec: Problem, rows: int = 900) -> pa.Table:
    """A frame of which a fifth of the labels are drawn at random."""
    made, random = frame(spec, rows), np.random.default_rng(3)
    labels = made["label"].to_numpy(zero_copy_only=False).copy()
    drawn = random.random(rows) < 0.3
    labels[drawn] = random.permutation(labels[drawn])
    return made.set_column(made.column_names.index("label"), "label", pa.array(labels))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("slope", "intercept"), [(1.0, 0.0), (0.4, -1.5), (2.5, 0.75)])
def test_a_scaled_booster_has_scaled_margins_and_contributions(
    kind: Kind, slope: float, intercept: float, home: object
) -> None:
    matrix, labels = table(kind, rows=600)
    words = vocabulary(kind)
    data = Matrices(words, 256).training_matrix(matrix, labels)
    booster, _ = boost(kind, words, dataclasses.replace(SPEC, rounds=15), data, progress=False)
    plain = Model(booster, words, kind)
    scaled = Model(scale_booster(booster, slope, intercept), words, kind)
    np.testing.assert_allclose(scaled.margin(matrix), slope * plain.margin(matrix) + intercept, atol=2e-5)
    wanted = slope * plain.contributions(matrix)
    wanted[..., -1] += intercept
    np.testing.assert_allclose(scaled.contributions(matrix), wanted, atol=2e-5)
    compiled = scaled.compiled()
    assert compiled.forest is not None
    assert compiled.predict(matrix).tobytes() == scaled.predict(matrix).tobytes()
    if kind != "regression":
        curve = Curve(slope, intercept).outputs(plain.margin(matrix))
        np.testing.assert_allclose(scaled.predict(matrix), curve, atol=1e-5)


@given(st.floats(0.3, 3), st.floats(-1.5, 1.5), st.integers(0, 1000), st.booleans())
def test_the_curve_of_the_truth_is_found(slope: float, intercept: float, seed: int, several: bool) -> None:
    random = np.random.default_rng(seed)
    margins = random.normal(0, 1.5, (4000, 3) if several else 4000)
    chances = Curve(slope, 0.0 if several else intercept).outputs(margins)
    drawn = random.random(4000)
    codes = (drawn[:, None] > chances.cumsum(axis=1)[:, :2]).sum(axis=1) if several else (drawn < chances).astype(int)
    found = fit_curve(codes, margins)
    assert found.slope == pytest.approx(slope, rel=0.25)
    assert found.intercept == pytest.approx(0.0 if several else intercept, abs=0.3)


@pytest.mark.parametrize("kind", ["binary", "multiclass"])
@pytest.mark.parametrize("folds", [0, 3])
def test_scores_that_are_off_are_calibrated_everywhere(
    kind: Kind, folds: int, home: object, configure: Callable[..., None]
) -> None:
    spec = distorted(kind, folds=folds)
    rows = noisy(spec)
    plain, trained = (train(one, rows) for one in (dataclasses.replace(spec, calibration=None), spec))
    found = trained.form["calibration"]
    assert "calibrated: log loss" in trained.form["sentence"]
    words, test = trained.model.vocabulary, rows_of(rows, "test")
    matrix, labels = matrix_of(words, test), words.labels(test)
    curve = Curve(found["slope"], found["intercept"])
    np.testing.assert_allclose(trained.model.predict(matrix), curve.outputs(plain.model.margin(matrix)), atol=1e-5)
    losses = [loss(kind, labels, one.model.predict(matrix)) for one in (trained, plain)]
    assert losses[0] < losses[1]
    places, output = trained.out_of_fold
    assert np.array_equal(places, plain.out_of_fold[0])
    own = loss(kind, words.labels(rows.take(places)), output)
    assert own == pytest.approx(found["losses"]["logistic"], rel=1e-5)
    assert own < found["losses"]["none"]
    configure(threads=3)
    assert train(spec, rows).model.ubj() == trained.model.ubj()


@pytest.mark.parametrize("model", [XGBoost(rounds=30, linear=True), Linear(penalties=[1.0])])
def test_a_linear_model_can_be_calibrated_and_good_scores_stay_as_they_are(model: Any, home: object) -> None:
    plain = dataclasses.replace(problem("binary", timed=False), model=model)
    rows = frame(plain, rows=600)
    trained = [train(one, rows) for one in (plain, dataclasses.replace(plain, calibration="logistic"))]
    losses = trained[1].form["calibration"]["losses"]
    applied = losses["logistic"] < losses["none"]
    assert (trained[0].model.ubj() != trained[1].model.ubj()) == applied
    assert ("not calibrated" in trained[1].form["sentence"]) != applied
    assert "calibration" not in trained[0].form


def test_margins_of_the_truth_are_not_calibrated_by_noise_alone() -> None:
    random, applied = np.random.default_rng(0), 0
    for _ in range(40):
        margins = random.normal(size=300)
        labels = (random.random(300) < 1 / (1 + np.exp(-margins))).astype(np.float32)
        applied += choose_calibration("binary", labels, margins).curve is not None
    assert applied < 20


def test_few_rows_of_a_class_and_regressions_are_not_calibrated(home: object) -> None:
    labels = np.array([1.0] * 4 + [0.0] * 90, np.float32)
    few = choose_calibration("binary", labels, np.linspace(-1, 1, 94))
    assert few.curve is None
    assert "fewer than 5 validation rows" in few.sentence
    assert choose_calibration("binary", labels[:0], np.empty(0)).curve is None
    spec = dataclasses.replace(problem("regression", timed=False), calibration="logistic")
    assert any("no scores" in fault.what for fault in decision_faults(spec))
    with pytest.raises(ModelError, match="no scores to calibrate"):
        train(spec, frame(spec, rows=200))


def test_a_problem_without_calibration_keeps_its_definition() -> None:
    assert "calibration" not in training_document(problem())
    assert training_document(distorted("binary"))["calibration"] == "logistic"
