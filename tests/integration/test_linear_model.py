"""`Problem(model=Linear(...))`: the penalty is chosen on rows left out, and all else works as for any booster."""

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tests.unit.test_linear import KINDS
from tests.unit.test_training import frame, problem
from truecourse.authoring.checks.training_checks import model_faults
from truecourse.errors import ModelError
from truecourse.evaluation.tuning_gain import measure_gain
from truecourse.modeling import baselines
from truecourse.modeling.boosting import LOSSES, Part, parameters
from truecourse.modeling.encoding import Vocabulary
from truecourse.modeling.selection import LINEAR, select_penalty
from truecourse.modeling.training import matrix_of, rows_of, searched_model, train, with_parameters
from truecourse.problem import Linear, Problem, XGBoost
from truecourse.problem.definition import Kind
from truecourse.problem.loader import problem_document
from truecourse.statistics.metrics import loss


def linear(kind: Kind, timed: bool = True, **fields: Any) -> Problem:
    return dataclasses.replace(problem(kind, timed), model=Linear(**fields))


def baseline_losses(spec: Problem, rows: pa.Table, penalties: list[float]) -> dict[float, float]:
    """The loss on validation rows of the linear baseline fitted to training rows, by penalty."""
    vocabulary = Vocabulary.learn(spec, rows)
    fit, out = (rows_of(rows, side) for side in ("train", "validate"))
    matrix, labels = matrix_of(vocabulary, fit), vocabulary.labels(fit)
    found = {}
    for penalty in penalties:
        fitted = baselines.fit_linear(spec.kind, vocabulary, matrix, labels, penalty)
        output = baselines.predict(spec.kind, vocabulary, fitted, matrix_of(vocabulary, out))
        found[penalty] = loss(spec.kind, vocabulary.labels(out), output)
    return found


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("timed", [True, False])
def test_the_penalty_of_the_kept_model_with_the_least_validation_loss_is_chosen(
    kind: Kind, timed: bool, home: object
) -> None:
    penalties = [1e6, 1.0, 1e-2]
    spec = linear(kind, timed, penalties=penalties, refit=False)
    rows = frame(spec, rows=600)
    trained, wanted = train(spec, rows), baseline_losses(spec, rows, penalties)
    found = dict(trained.form["penalties"])
    assert found == pytest.approx(wanted, rel=0.01)  # the steps of the lines cost a little
    assert trained.form["penalty"] == min(found, key=lambda one: found[one]) != 1e6
    places, output = trained.out_of_fold
    labels = trained.model.vocabulary.labels(rows.take(places))
    assert trained.loss == found[trained.form["penalty"]] == pytest.approx(loss(kind, labels, output), rel=1e-6)
    assert (trained.form["form"], trained.rounds) == (LINEAR, 0)
    assert f"penalty {trained.form['penalty']:g}: {LOSSES[kind]}" in trained.form["sentence"]
    assert "with penalty 1e+06" in trained.form["sentence"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fields", [{}, {"folds": 3}])
def test_bytes_repeat_whatever_the_threads_and_the_order_of_penalties(
    kind: Kind, fields: dict[str, Any], home: object, configure: Callable[..., None]
) -> None:
    models = []
    for threads, penalties in ((1, [0.1, 10.0]), (3, [10.0, 0.1]), (2, [10.0, 0.1, 10.0])):
        configure(threads=threads)
        spec = linear(kind, timed=False, penalties=penalties, **fields)
        models.append(train(spec, frame(spec, rows=300)).model.ubj())
    assert len(set(models)) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_the_refit_keeps_the_penalty_and_adds_the_validation_rows(kind: Kind, home: object) -> None:
    spec = linear(kind, timed=False, penalties=[50.0])
    rows = frame(spec, rows=600)
    model = train(spec, rows).model
    both, test = rows_of(rows, "train", "validate"), matrix_of(model.vocabulary, rows_of(rows, "test"))
    matrix, labels = matrix_of(model.vocabulary, both), model.vocabulary.labels(both)
    fitted = baselines.fit_linear(kind, model.vocabulary, matrix, labels, 50.0)
    wanted = baselines.compute_scores(kind, model.vocabulary, fitted, test)
    noise = 0.03 if kind != "regression" else 0.06 * float(np.std(labels))
    assert np.sqrt(((model.margin(test).reshape(wanted.shape) - wanted) ** 2).mean()) < noise
    np.testing.assert_allclose(model.contributions(test).sum(axis=-1), model.margin(test), atol=2e-5)
    compiled = model.compiled()
    assert compiled.forest is not None
    assert compiled.predict(test).tobytes() == model.predict(test).tobytes()


@pytest.mark.parametrize("kind", KINDS)
def test_each_row_of_folds_is_predicted_by_a_model_without_it(kind: Kind, home: object) -> None:
    spec = linear(kind, timed=False, penalties=[1.0, 100.0], folds=3)
    rows = frame(spec, rows=400)
    trained = train(spec, rows)
    places, output = trained.out_of_fold
    assert sorted(places) == np.flatnonzero(rows["split"].to_numpy(zero_copy_only=False) == "validate").tolist()
    assert len(output) == len(places)
    own = trained.model.predict(matrix_of(trained.model.vocabulary, rows.take(places)))
    assert not np.array_equal(output, own)
    assert "each left out once of 3 fits" in trained.form["sentence"]


def test_without_validation_rows_the_penalty_nearest_to_one_is_taken(home: object) -> None:
    spec = linear("regression", penalties=[1000.0, 3.0, 0.01])
    trained = train(spec, rows_of(frame(spec, rows=400), "train"))
    assert trained.form["penalty"] == 3.0
    assert "no validation rows" in trained.form["sentence"]


def test_folds_that_leave_out_the_only_row_of_a_class_are_an_error(home: object) -> None:
    spec = linear("binary", timed=False, folds=3)
    rows = frame(spec, rows=300)
    codes = Vocabulary.learn(spec, rows).labels(rows)
    side = rows["split"].to_numpy(zero_copy_only=False)
    kept = (codes == 0) | (side == "test")
    kept[np.flatnonzero((codes == 1) & (side == "train"))[0]] = True
    with pytest.raises(ModelError, match="all of one class") as caught:
        train(spec, rows.filter(pa.array(kept)))
    assert "folds" in caught.value.hint


def test_parameters_survive_json_and_give_the_same_model(home: object) -> None:
    spec = linear("binary", timed=False, penalties=[0.5, 2.0], folds=3)
    recorded = json.loads(json.dumps(parameters(spec.model)))
    assert recorded == parameters(spec.model) == {"penalties": [0.5, 2.0], "refit": True, "folds": 3}
    assert with_parameters(spec.model, recorded) == spec.model
    with pytest.raises(ModelError, match="max_depth") as caught:
        with_parameters(spec.model, {"max_depth": 3})
    assert "Linear" in caught.value.hint


def test_another_kind_of_model_is_another_definition() -> None:
    documents = [problem_document(dataclasses.replace(problem(), model=model)) for model in (Linear(), XGBoost())]
    assert documents[0]["model"]["is"] == "Linear"
    assert documents[0] != documents[1]


def test_a_search_is_refused_with_a_hint() -> None:
    with pytest.raises(ModelError, match="no search space") as caught:
        searched_model(linear("binary"))
    assert "validation rows" in caught.value.hint


def test_the_checks_name_folds_that_cannot_work() -> None:
    assert not list(model_faults(linear("binary", timed=False, folds=5)))
    for fields, timed, what in (
        ({"folds": 1}, False, "one fold"),
        ({"folds": 5, "refit": False}, False, "needs refit=True"),
        ({"folds": 5}, True, "choose the penalty"),
    ):
        assert any(what in fault.what for fault in model_faults(linear("binary", timed, **fields)))


@pytest.mark.parametrize("penalties", [[], [0.0], [-1.0], [float("inf")], [float("nan")]])
def test_penalties_are_positive_numbers(penalties: list[float]) -> None:
    with pytest.raises(ValueError, match="penalties"):
        Linear(penalties=penalties)


def test_a_linear_model_is_compared_with_a_boosted_one(home: object) -> None:
    spec = linear("binary", timed=False)
    gain = measure_gain(spec, frame(spec, rows=600), XGBoost(rounds=20))
    assert gain["default"] != gain["chosen"]
    assert gain["difference"]["low"] < gain["difference"]["value"] < gain["difference"]["high"]


@pytest.mark.parametrize("penalties", [[1.0, 100.0, 10.0], [100.0, 10.0, 1.0]])
def test_of_penalties_with_equal_losses_the_greatest_is_chosen(penalties: list[float], home: object) -> None:
    words, labels = Vocabulary(kinds={"x": "float"}, categories={}, classes=()), np.arange(20, dtype=np.float32)
    same = np.ones((20, 1), np.float32)  # a feature without an effect, whatever the penalty
    part = Part(same, labels, same, labels, np.arange(20))
    assert select_penalty("regression", words, Linear(penalties=penalties), [part]).chosen.penalty == 100.0
