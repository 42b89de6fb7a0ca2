"""The direct call and the compiled walk equal Booster.inplace_predict bit for bit, for every kind of model and
input."""

import json
import logging
import sys
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import xgboost

from truecourse.arrays import Array
from truecourse.errors import ModelError
from truecourse.modeling.compiled_forest import Forest, compile_forest
from truecourse.modeling.encoding import Vocabulary
from truecourse.modeling.forest_kernel import walk
from truecourse.modeling.model import Model
from truecourse.modeling.xgboost_native import NativeBooster, StockBooster, open_booster
from truecourse.problem.definition import Kind

TYPES = ["q"] * 5 + ["int"] * 2 + ["i"] + ["c"] * 4
CATEGORIES, ROWS = 30, 100_000
OBJECTIVES = {
    "binary:logistic": {}, "multi:softprob": {"num_class": 4}, "reg:squarederror": {}
}  # fmt: skip


def inputs(rows: int, seed: int, codes: int) -> Array:
    """A float32 matrix with a tenth of the values missing, like unknown categories; category codes below `codes`."""
    random = np.random.default_rng(seed)
    matrix = random.normal(size=(rows, len(TYPES))).astype(np.float32)
    matrix[:, 5:8] = random.integers(0, 2, (rows, 3))
    matrix[:, 8:] = random.integers(0, codes, (rows, 4))
    matrix[random.random(matrix.shape) < 0.1] = np.nan
    return matrix


def compiled_forest(model: Any) -> Forest:
    forest = compile_forest(model)
    assert forest is not None
    return forest


def booster(objective: str) -> Any:
    matrix = inputs(3000, seed=1, codes=CATEGORIES)
    labels = np.random.default_rng(2).integers(0, 4 if objective.startswith("multi") else 2, 3000)
    data = xgboost.DMatrix(matrix, labels, feature_types=TYPES, enable_categorical=True)
    return xgboost.train({"objective": objective, "max_depth": 6, "nthread": 1, **OBJECTIVES[objective]}, data, 30)


@pytest.mark.parametrize("predictor", [NativeBooster, compiled_forest])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_bit_is_equal_on_100_000_rows(objective: str, predictor: Any) -> None:
    model = booster(objective)
    direct, matrix = predictor(model), inputs(ROWS, seed=3, codes=CATEGORIES + 5)  # and codes that no tree has met
    matrix[:1000:10, :8] = np.float32(3e38)
    matrix[5:1000:10, :8] = np.float32(-3e38)
    matrix[:1000:50, 8:] = 1e7
    for margin, kind in ((False, "value"), (True, "margin")):
        wanted = np.asarray(model.inplace_predict(matrix, predict_type=kind, validate_features=False))
        whole = direct.predict(matrix, margin)
        assert (whole.shape, whole.dtype) == (wanted.shape, np.float32)
        assert whole.tobytes() == wanted.tobytes()
        parts = [direct.predict(matrix[i : i + 50], margin) for i in range(0, ROWS, 50)]
        assert np.concatenate(parts).tobytes() == wanted.tobytes()
        alone = [direct.predict(matrix[i : i + 1], margin) for i in range(500)]
        assert np.concatenate(alone).tobytes() == wanted[:500].tobytes()


@pytest.mark.parametrize("predictor", [NativeBooster, StockBooster])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_contributions_are_equal_to_the_bit(objective: str, predictor: Any) -> None:
    model = booster(objective)
    direct, matrix = predictor(model), inputs(300, seed=5, codes=CATEGORIES + 5)
    rows = xgboost.DMatrix(matrix, feature_types=TYPES, enable_categorical=True)
    wanted = model.predict(rows, pred_contribs=True)
    whole = direct.contributions(matrix)
    assert (whole.shape, whole.dtype) == (wanted.shape, np.float32)
    assert whole.tobytes() == wanted.tobytes()
    assert np.concatenate([direct.contributions(matrix[i : i + 1]) for i in range(300)]).tobytes() == wanted.tobytes()


@pytest.mark.parametrize("predictor", [NativeBooster, compiled_forest])
def test_threads_do_not_share_results(predictor: Any) -> None:
    model = booster("multi:softprob")
    direct, matrix = predictor(model), inputs(400, seed=4, codes=CATEGORIES)
    wanted = model.inplace_predict(matrix, validate_features=False)
    wrong: list[Any] = []

    def run(offset: int) -> None:
        mine = range(offset, 400, 4)
        wrong.extend(i for i in mine if not np.array_equal(direct.predict(matrix[i : i + 1])[0], wanted[i]))

    threads = [threading.Thread(target=run, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_matrix_of_another_width_is_an_error() -> None:
    with pytest.raises(ModelError, match="12 features, the matrix 13"):
        compiled_forest(booster("binary:logistic")).predict(np.zeros((1, len(TYPES) + 1), dtype=np.float32))
    for predictor in (NativeBooster, StockBooster):
        with pytest.raises(ModelError, match="prediction failed"):
            predictor(booster("binary:logistic")).predict(np.zeros((1, len(TYPES) + 1), dtype=np.float32))
        with pytest.raises(ModelError, match="prediction failed"):
            predictor(booster("binary:logistic")).contributions(np.zeros((1, len(TYPES) + 1), dtype=np.float32))


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_python_interface_predicts_if_the_patch_is_left_out(objective: str, configure: Callable[..., None]) -> None:
    model, matrix = booster(objective), inputs(300, seed=6, codes=CATEGORIES + 5)
    native = open_booster(model)
    configure(skipped_patches="xgboost_library")
    stock = open_booster(model)
    assert (type(native), type(stock)) == (NativeBooster, StockBooster)
    for margin in (False, True):
        found, wanted = stock.predict(matrix, margin), native.predict(matrix, margin)
        assert (found.shape, found.dtype) == (wanted.shape, np.float32)
        assert found.tobytes() == wanted.tobytes()
    assert compile_forest(model) is not None, "it is compared with XGBoost's predictions"


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_trees_that_a_row_walks_are_counted(objective: str) -> None:
    trained = booster(objective)
    kind: Kind = "multiclass" if "multi" in objective else "binary"
    words = Vocabulary(kinds={}, categories={}, classes=tuple("0123") if kind == "multiclass" else ("0", "1"))
    assert Model(trained, words, kind).trees == len(trained.get_dump())


@pytest.mark.parametrize(
    "parameters",
    [{"booster": "dart", "rate_drop": "0.5", "one_drop": "1"}, {"objective": "count:poisson"}, {"booster": "gblinear"}],
    ids=["dart", "another objective", "linear"],
)
def test_unsupported_trees_fall_back_to_xgboost(parameters: dict[str, str]) -> None:
    matrix = inputs(500, seed=1, codes=CATEGORIES)
    data = xgboost.DMatrix(matrix[:, :5], matrix[:, 5] == 1)
    trained = xgboost.train({"objective": "binary:logistic", "nthread": 1, **parameters}, data, 3)
    assert compile_forest(trained) is None


@pytest.mark.parametrize("rows", [range(1, 8), range(8, 1000)])
def test_a_walk_that_differs_in_a_bit_falls_back_to_xgboost(
    rows: range, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    predict, trained = Forest.predict, booster("binary:logistic")

    def corrupted_predictions(self: Forest, matrix: Array, margin: bool = False) -> Array:
        answer = predict(self, matrix, margin)
        if len(matrix) in rows:
            answer[-1] = np.nextafter(answer[-1], np.float32(2))
        return answer

    monkeypatch.setattr(Forest, "predict", corrupted_predictions)
    with caplog.at_level(logging.WARNING):
        assert compile_forest(trained) is None
    assert "predictions differ" in caplog.text


def test_a_split_at_infinity_is_walked() -> None:
    largest = np.finfo(np.float32).max
    matrix = np.full((400, 1), largest, np.float32)
    matrix[::2] = np.nan
    trained = xgboost.train(
        {"objective": "binary:logistic", "nthread": 1}, xgboost.DMatrix(matrix, np.arange(400) % 2), 3
    )
    assert b"Infinity" in trained.save_raw("json")
    assert np.array_equal(
        compiled_forest(trained).predict(matrix), trained.inplace_predict(matrix, validate_features=False)
    )


def test_matrices_of_any_layout_are_walked_alike() -> None:
    forest, matrix = compiled_forest(booster("binary:logistic")), inputs(50, seed=8, codes=CATEGORIES)
    fixed = matrix.copy()
    fixed.flags.writeable = False
    known = len(walk.signatures)
    for other in (fixed, np.asfortranarray(matrix), matrix.astype(np.float64), np.repeat(matrix, 2, axis=0)[::2]):
        assert np.array_equal(forest.predict(other), forest.predict(matrix))
    assert forest.predict(matrix[:0]).shape == (0,)
    assert len(walk.signatures) == known, "nothing is compiled while a request waits"


def test_trees_with_invalid_indices_are_rejected(caplog: pytest.LogCaptureFixture) -> None:
    saved = json.loads(booster("multi:softprob").save_raw("json"))

    class Altered:
        def __init__(self, name: str, value: str) -> None:
            self.document = json.loads(json.dumps(saved))
            self.document["learner"]["learner_model_param"] |= {name: value}

        def save_raw(self, kind: str) -> bytes:
            return json.dumps(self.document).encode()

    for name, value in {"num_feature": "3", "num_class": "2"}.items():
        learner = Altered(name, value)
        learner.document["learner"]["learner_model_param"]["base_score"] = "[5E-1]"
        caplog.clear()
        assert compile_forest(learner) is None
        assert "unsupported kind" in caplog.text


def test_without_a_compiler_xgboost_predicts(monkeypatch: pytest.MonkeyPatch) -> None:
    trained = booster("binary:logistic")
    words = Vocabulary(kinds={}, categories={}, classes=("0", "1"))
    monkeypatch.setitem(sys.modules, "truecourse.modeling.forest_kernel", None)
    monkeypatch.delattr("truecourse.modeling.forest_kernel", raising=False)
    model = Model(trained, words, "binary").compiled()
    assert model.forest is None
    matrix = inputs(20, seed=6, codes=CATEGORIES)
    assert np.array_equal(model.predict(matrix), trained.inplace_predict(matrix, validate_features=False))


def test_a_compiled_model_predicts_by_its_forest(monkeypatch: pytest.MonkeyPatch) -> None:
    trained = booster("reg:squarederror")
    model = Model(trained, Vocabulary(kinds={}, categories={}), "regression").compiled()
    matrix = inputs(20, seed=6, codes=CATEGORIES)
    wanted = trained.inplace_predict(matrix, validate_features=False)
    monkeypatch.setattr(NativeBooster, "predict", None)
    assert np.array_equal(model.predict(matrix), wanted)
    assert np.array_equal(model.margin(matrix), wanted)
