"""Declared weights of rows, and monotone constraints: of the model, of what it is chosen by, and of its baselines."""

import dataclasses
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.test_training import frame, problem
from truecourse.authoring.checks.training_checks import monotone_faults, weight_faults
from truecourse.errors import ModelError
from truecourse.evaluation.model_evaluation import HeldOut
from truecourse.modeling import baselines
from truecourse.modeling.boosting import parameters
from truecourse.modeling.encoding import Vocabulary
from truecourse.modeling.training import matrix_of, rows_of, train, with_parameters
from truecourse.modeling.trials import Evaluator
from truecourse.modeling.weights import row_weights
from truecourse.problem import Linear, Problem, Weights, XGBoost
from truecourse.problem.definition import Kind
from truecourse.problem.loader import training_document

MODELS = (XGBoost(rounds=8, linear=False), XGBoost(rounds=8, linear=True), Linear(penalties=[1.0]))


def weighted(spec: Problem, **fields: Any) -> Problem:
    return dataclasses.replace(spec, weights=Weights(**fields))


def with_column(rows: pa.Table, name: str, values: Any) -> pa.Table:
    return rows.set_column(rows.column_names.index(name), name, pa.array(values))


@pytest.mark.parametrize(("kind", "timed"), [("binary", True), ("multiclass", False), ("regression", True)])
@pytest.mark.parametrize("model", MODELS)
def test_equal_weights_are_no_weights_and_a_factor_changes_nothing(
    kind: Kind, timed: bool, model: Any, home: object
) -> None:
    spec = dataclasses.replace(problem(kind, timed), model=model)
    rows, random = frame(spec, rows=300), np.random.default_rng(0).integers(1, 9, 300)
    weights = ([8] * 300, random, random * 4)
    equal, some, more = (train(weighted(spec, column="many"), with_column(rows, "many", one)) for one in weights)
    same = train(spec, with_column(rows, "many", weights[0]))
    assert (equal.model.ubj(), equal.curve) == (same.model.ubj(), same.curve)
    assert "weighted by many; metrics count each row once" in equal.form["sentence"]
    assert "weighted" not in same.form["sentence"]
    losses = [one.loss for one in (some, more)]
    assert losses[0] == pytest.approx(losses[1])
    assert losses[0] != train(spec, with_column(rows, "many", random)).loss


@given(st.lists(st.integers(1, 20), min_size=3, max_size=40), st.integers(1, 1000))
def test_weights_have_mean_one_and_keep_their_ratios(weights: list[int], factor: int) -> None:
    spec = weighted(problem("regression", timed=False), column="size")
    rows = pa.table({"size": [float(one * factor) for one in weights], "label": [0.0] * len(weights)})
    found = row_weights(spec, Vocabulary(kinds={}, categories={}), rows)
    assert found is not None
    np.testing.assert_allclose(found, np.array(weights) / np.mean(weights), rtol=1e-6)


@pytest.mark.parametrize("kind", ["binary", "multiclass"])
def test_balanced_classes_have_the_same_total(kind: Kind) -> None:
    spec = weighted(problem(kind, timed=False), classes="balanced")
    rows = frame(spec, rows=900)
    vocabulary = Vocabulary.learn(spec, rows)
    codes, found = vocabulary.labels(rows).astype(int), row_weights(spec, vocabulary, rows)
    assert found is not None
    totals = np.bincount(codes, weights=found)
    np.testing.assert_allclose(totals, len(rows) / len(vocabulary.classes), rtol=1e-5)
    assert len(set(np.bincount(codes))) > 1


def test_a_weight_of_two_is_a_row_that_occurs_twice(home: object) -> None:
    spec = dataclasses.replace(problem("regression", timed=False), model=Linear(penalties=[1e-6]))
    rows = frame(spec, rows=300)
    counts = np.random.default_rng(1).integers(1, 3, 300)
    places = np.repeat(np.arange(300), counts)
    vocabulary = Vocabulary.learn(spec, rows)
    matrix, labels = matrix_of(vocabulary, rows)[:, 2:4], vocabulary.labels(rows)
    numbers = Vocabulary(kinds={"many": "integer", "flag": "boolean"}, categories={})
    each = baselines.fit_linear("regression", numbers, matrix, labels, 1e-9, counts.astype(float))
    twice = baselines.fit_linear("regression", numbers, matrix[places], labels[places], 1e-9)
    np.testing.assert_allclose(each.predict(matrix), twice.predict(matrix), rtol=1e-5)
    constant = baselines.predict_constant("regression", vocabulary, labels, 1, counts)
    assert constant == pytest.approx(baselines.predict_constant("regression", vocabulary, labels[places], 1))


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("folds", [0, 3])
def test_weights_raise_the_score_of_a_class_in_model_and_baselines(model: Any, folds: int, home: object) -> None:
    spec = dataclasses.replace(problem("binary", timed=False), model=dataclasses.replace(model, folds=folds))
    rows = frame(spec, rows=600)
    means = []
    for one in (spec, weighted(spec, classes={"1": 9.0})):
        trained = train(one, rows)
        held_out = HeldOut(one, trained.model, rows, rows_of(rows, "test"))
        means.append({name: float(output.mean()) for name, output in held_out.predictions.items()})
    assert all(means[1][name] > means[0][name] + 0.1 for name in ("model", "constant", "linear"))


def test_the_search_measures_the_weighted_loss(home: object) -> None:
    spec = problem("binary", timed=False, rounds=3, linear=False)
    rows = rows_of(frame(spec, rows=600), "train")
    losses = [Evaluator(one, rows).fold(0, {})[0] for one in (spec, weighted(spec, classes={"1": 9.0}))]
    assert losses[0] != losses[1]


@pytest.mark.parametrize("value", [None, 0.0, -1.0, float("nan"), float("inf")])
def test_a_row_without_a_positive_weight_is_an_error(value: float | None, home: object) -> None:
    spec = weighted(problem("binary", timed=False), column="size")
    rows = frame(spec, rows=200)
    place = int(np.flatnonzero(rows["split"].to_numpy(zero_copy_only=False) == "train")[0])
    rows = with_column(rows, "size", [value if row == place else 1.0 for row in range(200)])
    with pytest.raises(ModelError, match=r"1 row of .* without a weight above 0") as caught:
        train(spec, rows)
    assert "leave those rows out" in caught.value.hint


def test_weights_that_do_not_fit_are_faults_and_errors(home: object) -> None:
    binary, number = (problem(kind, timed=False) for kind in ("binary", "regression"))
    labelled = dataclasses.replace(binary, label=dataclasses.replace(binary.label, classes=("0", "1")))
    for spec, what in (
        (weighted(binary, column="place"), "'place' that is a number"),
        (weighted(binary, column="absent"), "'absent'"),
        (weighted(binary, column="size"), "size may be missing"),
        (weighted(number, classes="balanced"), "no classes"),
        (weighted(labelled, classes={"2": 1.0}), "no class '2'"),
    ):
        assert any(what in fault.what for fault in weight_faults(spec))
    assert not list(weight_faults(weighted(labelled, classes={"1": 2.0}, column="many")))
    for spec, what in (
        (weighted(number, classes="balanced"), "no classes"),
        (weighted(binary, classes={"2": 1.0}), "2"),
    ):
        with pytest.raises(ModelError, match=what):
            train(spec, frame(spec, rows=200))


def test_weights_are_declared_with_values_above_zero() -> None:
    for fields in ({}, {"classes": {"1": 0.0}}, {"classes": "other"}):
        with pytest.raises(ValueError, match="Weights"):
            Weights(**fields)
    assert "weights" not in training_document(problem())
    assert training_document(weighted(problem(), column="many"))["weights"] == {"is": "Weights", "column": "many"}


@pytest.mark.parametrize("kind", ["binary", "regression"])
@pytest.mark.parametrize(("direction", "sign"), [("increasing", 1), ("decreasing", -1)])
def test_a_constrained_prediction_never_moves_against_its_direction(
    kind: Kind, direction: str, sign: int, home: object
) -> None:
    spec = problem(kind, timed=False, monotone_constraints={"size": direction, "many": direction}, rounds=20)
    rows = frame(spec, rows=800)
    trained = train(spec, rows)
    matrix = matrix_of(trained.model.vocabulary, rows_of(rows, "test"))[:40]
    for name in ("size", "many"):
        place = trained.model.vocabulary.features.index(name)
        grid = np.repeat(matrix, 50, axis=0)
        grid[:, place] = np.tile(np.linspace(-5, 2500, 50, dtype=np.float32), len(matrix))
        moves = np.diff(trained.model.margin(grid).reshape(len(matrix), 50), axis=1) * sign
        assert moves.min() >= 0
    free = train(problem(kind, timed=False), rows).model.margin(grid).reshape(len(matrix), 50)
    assert (np.diff(free, axis=1) * sign).min() < 0
    assert trained.form["form"] == "trees"
    assert "monotone constraints" in trained.form["sentence"]


def test_constraints_that_do_not_fit_are_faults_and_errors(home: object) -> None:
    for kind, name, what in (
        ("binary", "place", "'place'"),
        ("binary", "absent", "'absent'"),
        ("multiclass", "size", "no order"),
    ):
        spec = problem(kind, timed=False, monotone_constraints={name: "increasing"})  # type: ignore[arg-type]
        assert any(what in fault.what for fault in monotone_faults(spec))
        with pytest.raises(ModelError, match=r"no (number|order)"):
            train(spec, frame(spec, rows=200))
    assert not list(monotone_faults(problem("binary", monotone_constraints={"size": "decreasing"})))
    with pytest.raises(ValueError, match="linear=True"):
        XGBoost(linear=True, monotone_constraints={"size": "increasing"})


def test_constraints_survive_records_and_leave_earlier_ones_as_they_were() -> None:
    spec = XGBoost(monotone_constraints={"size": "increasing"})
    assert with_parameters(XGBoost(), parameters(spec)) == spec
    assert "monotone_constraints" not in parameters(XGBoost())
