"""A linear model is recommended where the model is not better than the linear baseline by more than noise."""

import dataclasses
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tests.integration.test_model_card import evaluate
from tests.unit.test_training import frame, problem
from truecourse.evaluation.cards.card_sections import chapters
from truecourse.evaluation.cards.markdown import card_markdown
from truecourse.evaluation.model_evaluation import HeldOut
from truecourse.evaluation.recommendation import recommend_linear
from truecourse.modeling.training import rows_of, train
from truecourse.problem import Linear, XGBoost
from truecourse.problem.definition import Kind


def held_out(kind: Kind, timed: bool, bend: float, model: Any, rows: int = 1500) -> tuple[HeldOut, str]:
    """A model on a truth that is linear in `size`, or with `bend` also a wave."""
    spec = dataclasses.replace(problem(kind, timed), model=model)
    made, random = frame(spec, rows), np.random.default_rng(1)
    size = random.uniform(0, 9, rows)
    score = 0.2 * size + bend * np.sin(2 * size) + random.normal(0, 0.3, rows)
    labels = {"binary": score > 0.9, "multiclass": np.digitize(score, [0.6, 1.2]), "regression": score}[kind]
    for name, values in (("size", size), ("label", labels)):
        made = made.set_column(made.column_names.index(name), name, pa.array(values))
    trained = train(spec, made)
    return HeldOut(spec, trained.model, made, rows_of(made, "test")), trained.form["form"]


@pytest.mark.parametrize(("kind", "timed"), [("binary", False), ("multiclass", False), ("regression", True)])
def test_a_linear_model_is_recommended_by_the_paired_interval(kind: Kind, timed: bool, home: object) -> None:
    trees = XGBoost(rounds=80, early_stopping_rounds=10, max_depth=3, learning_rate=0.2, linear=False)
    test, form = held_out(kind, timed, 0.0, trees)
    found: Any = test.difference("linear")
    assert found["high"] > 0
    sentence = recommend_linear(test, form)
    assert "Consider model=Linear()" in sentence
    assert f"{found['low']:+.4g} to {found['high']:+.4g}" in sentence
    assert ("better on" in sentence) == (found["low"] > 0)
    test, form = held_out(kind, timed, 1.0, trees)
    found = test.difference("linear")
    assert found["high"] < 0
    assert recommend_linear(test, form) == ""


def test_a_linear_model_is_not_recommended_to_one(home: object) -> None:
    test, form = held_out("binary", False, 0.0, Linear(penalties=[1.0]))
    assert (form, recommend_linear(test, form)) == ("linear", "")


def test_without_an_interval_nothing_is_recommended(home: object) -> None:
    test, form = held_out("regression", False, 0.0, XGBoost(rounds=5, linear=False))
    assert recommend_linear(dataclasses.replace(test, rows=test.rows.slice(0, 1)), form) == ""


def test_the_recommendation_is_on_the_card(home: object) -> None:
    _, _, card = evaluate("binary")
    assert card["recommendation"] == ""
    advised = card | {"recommendation": "A linear model is as good."}
    assert "A linear model is as good." in card_markdown(advised)
    earlier = {name: part for name, part in card.items() if name != "recommendation"}
    assert [one.title for one in chapters(earlier)] == [one.title for one in chapters(advised)]
