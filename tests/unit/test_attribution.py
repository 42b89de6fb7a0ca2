"""Compiled contributions equal XGBoost's, up to its rounding, for every kind of model, depth and input."""

import logging
from itertools import combinations
from math import factorial
from typing import Any

import numpy as np
import pytest
import xgboost

from tests.unit.test_direct_prediction import CATEGORIES, OBJECTIVES, TYPES, booster, inputs
from truecourse.arrays import Array
from truecourse.modeling.compiled_forest import Forest, compile_forest


def explaining(model: Any) -> Any:
    forest = compile_forest(model)
    assert forest is not None
    assert forest.attributions is not None
    return forest.attributions


def trained(objective: str, rows: int = 3000, trees: int = 6, **options: Any) -> Any:
    matrix = inputs(rows, seed=1, codes=CATEGORIES)
    labels = np.random.default_rng(2).integers(0, 4 if objective.startswith("multi") else 2, rows)
    data = xgboost.DMatrix(matrix, labels, feature_types=TYPES, enable_categorical=True)
    return xgboost.train({"objective": objective, "nthread": 1, **OBJECTIVES[objective], **options}, data, trees)


def xgboost_contributions(model: Any, matrix: Array) -> Array:
    rows = xgboost.DMatrix(matrix, feature_types=TYPES, enable_categorical=True)
    found: Array = model.predict(rows, pred_contribs=True)
    return found.reshape(len(matrix), -1, matrix.shape[1] + 1)


@pytest.mark.parametrize("depth", [1, 2, 6, 11])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_contributions_equal_xgboosts_and_sum_to_the_margin(objective: str, depth: int) -> None:
    model = trained(objective, max_depth=depth)
    matrix = inputs(60, seed=3, codes=CATEGORIES + 5)
    found, wanted = explaining(model)(matrix), xgboost_contributions(model, matrix)
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).max() < 3e-5 * max(1.0, np.abs(wanted).max())
    margin = model.predict(
        xgboost.DMatrix(matrix, feature_types=TYPES, enable_categorical=True), output_margin=True
    ).reshape(len(matrix), -1)
    assert np.abs(found.sum(axis=2) - margin).max() < 3e-5 * max(1.0, np.abs(margin).max())


def test_a_feature_repeated_on_a_path_counts_once() -> None:
    """Expected values follow Shapley's definition, over all subsets of the two features."""
    random = np.random.default_rng(7)
    matrix = random.normal(size=(400, 2)).astype(np.float32)
    data = xgboost.DMatrix(matrix, np.sin(3 * matrix[:, 0]) + matrix[:, 1])
    model = xgboost.train({"max_depth": 6, "nthread": 1, "base_score": 0.5}, data, 1)
    forest = compile_forest(model)
    assert forest is not None
    found = explaining(model)(matrix[:20])[:, 0]
    for row, parts in zip(matrix[:20], found, strict=True):
        for feature in range(2):
            others = [other for other in range(2) if other != feature]
            share = 0.0
            for size in range(len(others) + 1):
                for known in combinations(others, size):
                    weight = factorial(size) * factorial(1 - size) / factorial(2)
                    share += weight * (mean(model, row, {*known, feature}) - mean(model, row, set(known)))
            assert abs(share - parts[feature]) < 1e-5


def mean(model: Any, row: Array, known: set[int]) -> float:
    """The expected output of the single tree for a row of which only some features are known."""
    nodes = model.trees_to_dataframe().set_index("ID")

    def below(place: str) -> float:
        node = nodes.loc[place]
        if node.Feature == "Leaf":
            return float(node.Gain)
        feature = int(node.Feature[1:])
        if feature in known:
            return below(node.Yes if row[feature] < np.float32(node.Split) else node.No)
        yes, no = nodes.loc[node.Yes].Cover, nodes.loc[node.No].Cover
        return float((yes * below(node.Yes) + no * below(node.No)) / (yes + no))

    return below("0-0")


def test_single_rows_equal_a_batch() -> None:
    attributions, matrix = explaining(booster("multi:softprob")), inputs(50, seed=4, codes=CATEGORIES)
    alone = np.concatenate([attributions(matrix[i : i + 1]) for i in range(50)])
    assert alone.tobytes() == attributions(matrix).tobytes()


def test_a_model_without_splits_has_no_contributions() -> None:
    matrix = np.zeros((10, len(TYPES)), np.float32)
    model = xgboost.train({"nthread": 1}, xgboost.DMatrix(matrix, np.arange(10), feature_types=TYPES), 2)
    found = explaining(model)(matrix)
    assert not found[:, :, :-1].any()
    assert np.abs(found - xgboost_contributions(model, matrix)).max() < 1e-5


def test_contributions_fall_back_to_xgboost_when_they_differ(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import truecourse.modeling.shap_values

    made = truecourse.modeling.shap_values.Attributions.__call__
    monkeypatch.setattr(
        truecourse.modeling.shap_values.Attributions, "__call__", lambda self, matrix: made(self, matrix) + 0.001
    )
    with caplog.at_level(logging.WARNING):
        forest = compile_forest(booster("binary:logistic"))
    assert isinstance(forest, Forest)
    assert forest.attributions is None
    assert "XGBoost itself explains" in caplog.text
