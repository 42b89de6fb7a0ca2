"""A linear model as trees: equal to the baseline within the fitted range, explained exactly, chosen on held-out
rows."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.unit.test_training import frame, problem
from truecourse.arrays import Array
from truecourse.modeling import baselines
from truecourse.modeling.boosting import Matrices, Part, boost
from truecourse.modeling.encoding import LARGEST, Vocabulary
from truecourse.modeling.linear import join_boosters, linear_booster
from truecourse.modeling.model import Model
from truecourse.modeling.selection import LINEAR, LINEAR_AND_TREES, TREES, Choice, cross_validation, select
from truecourse.modeling.training import rows_of
from truecourse.modeling.trials import Evaluator
from truecourse.problem import XGBoost
from truecourse.problem.definition import Kind
from truecourse.statistics.metrics import losses

KINDS: tuple[Kind, ...] = ("binary", "multiclass", "regression")
PLACES = tuple("abcdefgh")
SPEC = XGBoost(rounds=150, early_stopping_rounds=15, learning_rate=0.1, max_depth=3)


def vocabulary(kind: Kind) -> Vocabulary:
    return Vocabulary(
        kinds={
            "place": "category",
            "x": "float",
            "wide": "float",
            "count": "integer",
            "flag": "boolean",
            "void": "float",
        },
        categories={"place": PLACES},
        classes={"binary": ("no", "yes"), "multiclass": ("r", "g", "b"), "regression": ()}[kind],
    )


def table(kind: Kind, rows: int = 1500, seed: int = 0, bend: float = 0.0) -> tuple[Array, Array]:
    """A linear truth with missing numbers, missing and rare categories, and an empty column; `bend`: the size of a non-
    linear part."""
    random = np.random.default_rng(seed)
    place = random.choice(8, rows, p=[0.3, 0.25, 0.2, 0.1, 0.08, 0.05, 0.01, 0.01]).astype(np.float32)
    x, wide = random.normal(size=rows), random.lognormal(3, 1, rows)
    count, flag = random.integers(0, 9, rows), random.integers(0, 2, rows)
    score = 1.2 * x + 0.3 * (count - 4) + 0.8 * flag + 0.3 * place + 0.01 * wide - 1
    score = score + bend * np.sin(3 * x) * np.where(flag, 1, -1)
    matrix = np.column_stack([place, x, wide, count, flag, np.full(rows, np.nan)]).astype(np.float32)
    matrix[random.random(rows) < 0.1, 1] = np.nan
    matrix[random.random(rows) < 0.03, 0] = np.nan
    if kind == "regression":
        return matrix, (score + random.normal(0, 0.7, rows)).astype(np.float32)
    noisy = score + random.logistic(0, 1, rows)
    labels = noisy > 0 if kind == "binary" else np.digitize(noisy, [-0.5, 1.5])
    return matrix, labels.astype(np.float32)


def fit_linear_start(kind: Kind, matrix: Array, labels: Array) -> Model:
    words = vocabulary(kind)
    template, _ = boost(
        kind, words, XGBoost(rounds=1), Matrices(words, 256).training_matrix(matrix, labels), progress=False
    )
    booster = linear_booster(kind, words, matrix, labels, template)
    assert booster is not None
    return Model(booster, words, kind)


def chosen(kind: Kind, bend: float, linear: bool | None = None, rows: int = 1500) -> Choice:
    matrix, labels = table(kind, rows, bend=bend)
    cut = rows * 3 // 4
    part = Part(matrix[:cut], labels[:cut], matrix[cut:], labels[cut:], np.arange(rows - cut))
    return select(kind, vocabulary(kind), XGBoost(**{**vars(SPEC), "linear": linear}), [part])


@pytest.fixture(params=KINDS)
def linear_and_trees(request: Any, home: object) -> tuple[Kind, Model, Array, Array]:
    """A linear model and twenty rounds of boosting on its residuals, and the rows it was fitted to."""
    kind: Kind = request.param
    matrix, labels = table(kind, bend=1.0)
    start = fit_linear_start(kind, matrix, labels)
    data = Matrices(start.vocabulary, 256).training_matrix(matrix, labels)
    data.set_base_margin(start.margin(matrix))
    trees, _ = boost(kind, start.vocabulary, XGBoost(rounds=20), data, progress=False)
    return kind, Model(join_boosters(start.booster, trees, 20), start.vocabulary, kind), matrix, labels


@pytest.mark.parametrize("kind", KINDS)
def test_the_trees_predict_like_the_linear_model(kind: Kind, home: object) -> None:
    matrix, labels = table(kind)
    model, others = fit_linear_start(kind, matrix, labels), table(kind, seed=1)[0]
    fitted = baselines.fit_linear(kind, model.vocabulary, matrix, labels)
    predicted = baselines.predict(kind, model.vocabulary, fitted, matrix)
    noise = 0.02 if kind != "regression" else 0.05 * np.std(labels - predicted)
    others[:, 1:5] = np.clip(others[:, 1:5], np.nanmin(matrix[:, 1:5], axis=0), np.nanmax(matrix[:, 1:5], axis=0))
    for rows in (matrix, others):
        wanted = baselines.compute_scores(kind, model.vocabulary, fitted, rows)
        off = wanted - model.margin(rows).reshape(wanted.shape)
        assert 0 < np.sqrt((off**2).mean()) < noise
    loss, linear = (losses(kind, labels, answers).mean() for answers in (model.predict(matrix), predicted))
    assert loss == pytest.approx(linear, rel=0.003)


def test_beyond_the_fitted_range_predictions_are_constant(home: object) -> None:
    matrix, labels = table("regression")
    model = fit_linear_start("regression", matrix, labels)
    row = np.array([[0, 0, 20, 3, 1, np.nan]], np.float32)
    ends = np.nanmin(matrix[:, 1]), np.nanmax(matrix[:, 1])
    for beyond, end in ((-LARGEST, ends[0]), (ends[0] - 5, ends[0]), (ends[1] + 5, ends[1]), (LARGEST, ends[1])):
        far, near = row.copy(), row.copy()
        far[0, 1], near[0, 1] = beyond, end
        assert model.predict(far) == model.predict(near)
    row[0, 5] = 1e6  # of a column that was never filled
    assert np.isfinite(model.predict(row)).all()
    assert model.predict(row) == model.predict(np.where(row == 1e6, np.nan, row))


def test_contributions_are_exact_and_those_of_a_linear_model(
    linear_and_trees: tuple[Kind, Model, Array, Array],
) -> None:
    kind, model, matrix, labels = linear_and_trees
    rows = table(kind, 300, seed=2)[0]
    predicted = model.contributions(rows)
    assert np.isfinite(predicted).all()
    np.testing.assert_allclose(predicted.sum(axis=-1), model.margin(rows), atol=2e-5)
    start = fit_linear_start(kind, matrix, labels)
    alone = start.contributions(rows).reshape(len(rows), -1, rows.shape[1] + 1)
    fitted = baselines.fit_linear(kind, model.vocabulary, matrix, labels)
    moved = rows.copy()
    moved[:, 3] = 0  # whatever else a row holds: one feature's part is the linear model's own
    wanted = baselines.compute_scores(kind, model.vocabulary, fitted, rows) - baselines.compute_scores(
        kind, model.vocabulary, fitted, moved
    )
    others = start.contributions(moved).reshape(alone.shape)
    np.testing.assert_allclose(alone[..., 3] - others[..., 3], wanted, atol=0.05)
    np.testing.assert_allclose(alone[..., [0, 1, 2, 4, 5, 6]], others[..., [0, 1, 2, 4, 5, 6]], atol=1e-6)


def test_one_row_and_many_compiled_or_not_are_equal_to_the_bit(
    linear_and_trees: tuple[Kind, Model, Array, Array],
) -> None:
    kind, model, matrix, _ = linear_and_trees
    matrix = np.vstack([matrix[:200], np.full((1, 6), np.nan, np.float32), np.full((1, 6), LARGEST, np.float32)])
    matrix[-1, 0] = 3
    compiled = model.compiled()
    assert compiled.forest is not None
    again = Model.load(model.ubj(), model.vocabulary, kind)
    assert again.ubj() == model.ubj()
    for margin in (False, True):

        def answer(of: Any, rows: Any, margin: bool = margin) -> Any:
            return of.margin(rows) if margin else of.predict(rows)

        batch = answer(model, matrix).tobytes()
        assert answer(compiled, matrix).tobytes() == answer(again, matrix).tobytes() == batch
        assert b"".join(answer(compiled, matrix[row : row + 1]).tobytes() for row in range(len(matrix))) == batch


@pytest.mark.parametrize("kind", KINDS)
def test_boosting_continues_from_the_linear_model(kind: Kind, home: object) -> None:
    found = chosen(kind, bend=3.0, linear=True)
    part = found.chosen.parts[0]
    loss = losses(kind, part.out_labels.astype(np.float64), found.chosen.predictions).mean()
    assert found.form == LINEAR_AND_TREES
    assert found.chosen.loss == pytest.approx(np.sqrt(loss) if kind == "regression" else loss, rel=1e-5)
    assert found.chosen.loss < found.losses[LINEAR]


@pytest.mark.parametrize("kind", KINDS)
def test_held_out_rows_choose_the_form(kind: Kind, home: object) -> None:
    straight, bent = chosen(kind, bend=0.0), chosen(kind, bend=8.0)
    assert straight.form in {LINEAR, LINEAR_AND_TREES}
    assert straight.chosen.loss < straight.losses[TREES]
    assert bent.form == TREES
    assert chosen(kind, bend=0.0, linear=False).form == TREES
    assert "trees alone" in straight.sentence
    assert "375 validation rows" in straight.sentence


def test_a_worse_linear_model_is_not_chosen_by_noise(home: object, monkeypatch: pytest.MonkeyPatch) -> None:
    def answers(alone: float, combined: float) -> Callable[..., dict[str, float]]:
        intervals = iter([alone, combined])
        return lambda *_, **__: {"value": (low := next(intervals)) + 1, "low": low, "high": low + 2}

    for alone, combined, form in (
        (0.1, -1.1, TREES),
        (0.1, -2.1, LINEAR_AND_TREES),
        (-0.1, -1.1, LINEAR_AND_TREES),
    ):
        monkeypatch.setattr("truecourse.modeling.selection.paired_difference", answers(alone, combined))
        assert chosen("binary", bend=0.5).form == form


def test_folds_repeat_byte_for_byte_and_a_class_of_one_row_is_no_obstacle(
    home: object, configure: Callable[..., None]
) -> None:
    matrix, labels = table("multiclass", 200)
    labels[labels == 2] = 1
    labels[7] = 2
    models = []
    for threads in (1, 2):
        configure(threads=threads)
        spec = XGBoost(**{**vars(SPEC), "linear": True})
        found = select("multiclass", vocabulary("multiclass"), spec, cross_validation(matrix, labels, 5)).chosen
        models.append(bytes(found.fit(spec, matrix, labels).save_raw("ubj")))
    assert models[0] == models[1]


def test_rows_of_one_class_have_no_linear_model(home: object) -> None:
    matrix, labels = table("binary", 60)
    part = Part(matrix[:40], np.zeros(40, np.float32), matrix[40:], labels[40:], np.arange(20))
    found = select("binary", vocabulary("binary"), XGBoost(rounds=5, linear=True), [part])
    assert found.form == TREES
    assert "no linear model" in found.sentence


def test_without_validation_rows_there_is_one_round_with_the_reason(home: object) -> None:
    matrix, labels = table("binary", 60)
    part = Part(matrix, labels, matrix[:0], labels[:0], np.arange(0))
    found = select("binary", vocabulary("binary"), SPEC, [part])
    assert (found.form, found.chosen.rounds) == (TREES, 1)
    assert "no validation rows to choose" in found.sentence


def test_tuning_compares_what_training_will_train(home: object) -> None:
    losses_of = {}
    for linear in (None, True):
        spec = problem("regression", timed=False, linear=linear)
        evaluate = Evaluator(spec, rows_of(frame(spec, 600), "train")).evaluate
        losses_of[linear] = [np.mean(evaluate(found)[0]) for found in ({}, {"max_bin": 16})]
    assert all(linear < trees for linear, trees in zip(losses_of[True], losses_of[None], strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_many_rows_are_sampled_and_predicted_in_batches(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sample of half the rows gives nearly the same model, and always the same one."""
    words, (matrix, labels) = vocabulary(kind), table(kind, 4000)
    whole = baselines.predict_linear(kind, words, matrix, labels, matrix)
    monkeypatch.setattr(baselines, "MOST_ROWS", 2000)
    sampled = baselines.predict_linear(kind, words, matrix, labels, matrix)
    monkeypatch.setattr(baselines, "BATCH_ROWS", 1500)
    again = baselines.predict_linear(kind, words, matrix, labels, matrix)
    assert not np.array_equal(sampled, whole)
    assert np.allclose(sampled, again, rtol=1e-12)
    same = baselines.predict_linear(kind, words, matrix, labels, matrix, np.ones(len(labels)))
    assert np.allclose(same, again, rtol=1e-3)
    assert losses(kind, labels, sampled).mean() < 1.03 * losses(kind, labels, whole).mean()
