"""From feature columns to predictions and their reasons: the same code for one request and for a batch."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from truecourse.arrays import Array, Values
from truecourse.errors import ModelError
from truecourse.modeling.encoding import FeatureKind, json_number
from truecourse.modeling.model import Model
from truecourse.problem.definition import Kind

Columns = Mapping[str, Values]
_NO_NUMBER, _BACK = "the model's output is no finite number", "roll back to the version before"


@dataclass(frozen=True)
class Scores:
    """What a model says of n rows: its output (Model.predict), what that predicts (n,), and if asked for,
    attributions()."""

    output: Array
    predicted: Array
    attributions: tuple[Array, Array, Array] | None


def scores(model: Model, columns: Columns, explain: bool) -> Scores:
    matrix = model.vocabulary.encode(columns)
    output = model.predict(matrix)
    labels = predicted_labels(model.kind, model.vocabulary.classes, output)
    return Scores(output, labels, attributions(model, matrix) if explain else None)


def predicted_labels(kind: Kind, classes: tuple[str, ...], output: Array) -> Array:
    """What a model's output says: (n,) class names, the likelier of two at 0.5, or the values of a regression."""
    if kind == "regression":
        return output
    codes = (output >= 0.5).astype(np.int64) if kind == "binary" else output.argmax(axis=1)
    names: Array = np.array(classes, dtype=object)[codes]
    return names


def predict_rows(model: Model, columns: Columns, matrix: Array) -> list[dict[str, Any]]:
    """For each row its score (or scores by class), its prediction, and which features were missing or unknown. Raises
    ModelError for a model whose output is no number."""
    kind, classes = model.kind, model.vocabulary.classes
    rows: list[dict[str, Any]] = []
    for numbers in model.predict(matrix).tolist():
        several = kind == "multiclass"
        if not (all(map(math.isfinite, numbers)) if several else math.isfinite(numbers)):
            raise ModelError(_NO_NUMBER, hint=_BACK)
        scores = {"scores": dict(zip(classes, numbers, strict=True))} if several else {"score": numbers}
        rows.append({**scores, "prediction": predicted_label(kind, classes, numbers), "missing": [], "unknown": []})
    features, kinds = model.vocabulary.features, model.vocabulary.kinds
    for i, j in _missing(matrix):
        # A category that is there and yet has no code is one that the model never saw.
        name = features[j]
        known = kinds[name] != "category" or columns[name][i] is None
        rows[i]["missing" if known else "unknown"].append(name)
    return rows


def _missing(matrix: Array) -> Iterable[tuple[int, int]]:
    """The places of NaN, by row and column."""
    if len(matrix) == 1:  # each call of NumPy takes as long for one row as for a hundred
        return [(0, j) for j, number in enumerate(matrix[0].tolist()) if number != number]
    return zip(*(places.tolist() for places in np.isnan(matrix).nonzero()), strict=True)


def predicted_label(kind: Kind, classes: tuple[str, ...], output: Any) -> Any:
    """predicted() of one row's output: a number, or one for each class."""
    if kind == "binary":
        return classes[output >= 0.5]
    return classes[output.index(max(output))] if kind == "multiclass" else output


def attributions(model: Model, matrix: Array) -> tuple[Array, Array, Array]:
    """Base values (n,), margins (n,) and exact SHAP contributions (n, d), float64. Base and contributions add up to the
    margin, which within float32 is Model.margin(). Of a multiclass model those of the predicted class."""
    shap = model.contributions(matrix).astype(np.float64)
    if not np.isfinite(shap).all():  # JSON would tell NaN and infinities as null
        raise ModelError(_NO_NUMBER, hint=_BACK)
    if model.kind == "multiclass":
        shap = shap[np.arange(len(matrix)), model.margin(matrix).argmax(axis=1)]
    return shap[:, -1], shap.sum(axis=1), shap[:, :-1]


def explanations(model: Model, columns: Columns, matrix: Array) -> list[dict[str, Any]]:
    """For each row the base, the margin, and every feature's value and contribution, the weightiest first."""
    base, margin, parts = attributions(model, matrix)
    order = np.argsort(-np.abs(parts), axis=1, kind="stable").tolist()
    names, kinds = model.vocabulary.features, model.vocabulary.kinds
    values = [original_values(kinds[name], columns[name]) for name in names]
    return [
        {
            "base": start,
            "margin": end,
            "contributions": [
                {"feature": names[j], "value": values[j][i], "contribution": shares[j]} for j in order[i]
            ],
        }
        for i, (start, end, shares) in enumerate(zip(base.tolist(), margin.tolist(), parts.tolist(), strict=True))
    ]


def original_values(kind: FeatureKind, values: Values) -> Sequence[Any]:
    """A feature's n values as a person wrote them: category text, whole numbers whole, None where one is missing."""
    if not isinstance(values, np.ndarray):
        return values
    given: list[Any] = values.tolist()
    if kind == "category":
        return given
    if kind == "float":
        return [json_number(number) for number in given]
    if kind == "boolean":
        return [None if math.isnan(number) else bool(number) for number in given]
    return [int(number) if number.is_integer() else json_number(number) for number in given]
