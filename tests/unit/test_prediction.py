"""Values are shown as written and as JSON; non-finite numbers are left out."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import xgboost
from hypothesis import example, given
from hypothesis import strategies as st

from truecourse.errors import ModelError
from truecourse.modeling.encoding import LARGEST, FeatureKind, Vocabulary
from truecourse.modeling.model import Model
from truecourse.modeling.prediction import (
    explanations,
    original_values,
    predict_rows,
    predicted_label,
    predicted_labels,
)

NAN, INF, MOST = float("nan"), float("inf"), float(LARGEST)


@pytest.mark.parametrize(
    ("kind", "values", "expected"),
    [
        ("float", [1.5, 2.0, NAN, INF, -INF], [1.5, 2.0, None, MOST, -MOST]),
        ("integer", [3.0, 2.5, NAN, INF], [3, 2.5, None, MOST]),
        ("boolean", [1.0, 0.0, NAN], [True, False, None]),
    ],
)
def test_numbers_are_whole_missing_or_finite(kind: FeatureKind, values: list[float], expected: list[Any]) -> None:
    found = original_values(kind, np.array(values))
    assert found == expected
    assert list(map(type, found)) == list(map(type, expected))
    assert json.loads(json.dumps(found, allow_nan=False)) == expected


def test_categories_are_shown_unchanged() -> None:
    assert original_values("category", np.array(["north", None, ""], dtype=object)) == ["north", None, ""]


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("float", (1.5, None)),
        ("integer", (2**60 + 1, None)),
        ("boolean", (True, None)),
        ("category", ("north", None)),
    ],
)
def test_python_values_are_shown_unchanged(kind: FeatureKind, values: tuple[Any, ...]) -> None:
    assert original_values(kind, values) == values


@given(st.lists(st.lists(st.floats(0, 1, width=32), min_size=3, max_size=3), min_size=1, max_size=5))
@example([[0.5, 0.25, 0.5]])
@example([[0.5, 0.5, 0.25]])
def test_single_row_prediction_equals_batch_prediction(outputs: list[list[float]]) -> None:
    several = np.array(outputs, dtype=np.float32)
    for kind, classes, output in (
        ("multiclass", ("a", "b", "c"), several),
        ("binary", ("0", "1"), several[:, 0]),
        ("regression", (), several[:, 0]),
    ):
        together = predicted_labels(kind, classes, output).tolist()  # type: ignore[arg-type]
        assert [predicted_label(kind, classes, row) for row in output.tolist()] == together  # type: ignore[arg-type]


def overflowing() -> Model:
    """A regression whose two trees return the largest number, so that their sum overflows."""
    values = np.linspace(0, 1, 20, dtype=np.float32).reshape(-1, 1)
    rows = xgboost.DMatrix(values, values[:, 0], feature_names=["x"], feature_types=["q"])
    trained = xgboost.train({"objective": "reg:squarederror", "max_depth": 1}, rows, 2)
    document = json.loads(trained.save_raw("json"))
    for tree in document["learner"]["gradient_booster"]["model"]["trees"]:
        leaves = [i for i, child in enumerate(tree["left_children"]) if child == -1]
        for i in leaves:
            tree["split_conditions"][i] = tree["base_weights"][i] = 3e38
    booster = xgboost.Booster(model_file=bytearray(json.dumps(document).encode()))
    return Model(booster, Vocabulary(kinds={"x": "float"}, categories={}), "regression")


@pytest.mark.parametrize("of", [predict_rows, explanations])
def test_a_model_with_nan_output_is_an_error(of: Callable[..., object]) -> None:
    model, values = overflowing(), np.array([0.5])
    with pytest.raises(ModelError, match="not a finite number"):
        of(model, {"x": values}, model.vocabulary.encode({"x": values}))
