"""Predictions and explanations from feature columns, with the same code for requests and batches."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from truecourse.arrays import Array, Values
from truecourse.errors import ModelError
from truecourse.modeling.decisions import DecisionRule, default_codes
from truecourse.modeling.encoding import FeatureKind, json_number
from truecourse.modeling.model import Model
from truecourse.problem.definition import Kind

Columns = Mapping[str, Values]
_NOT_FINITE, _ROLL_BACK = "the model's output is not a finite number", "roll back to the previous version"


@dataclass(frozen=True)
class Scores:
    """Scores of n rows: `output` of Model.predict(), `predicted` labels (n,), and attributions() if requested.

    `bounds`: lower and upper (n,), of a model with intervals."""

    output: Array
    predicted: Array
    attributions: tuple[Array, Array, Array] | None
    bounds: tuple[Array, Array] | None = None


def scores(model: Model, columns: Columns, explain: bool) -> Scores:
    matrix = model.vocabulary.encode(columns)
    output = model.predict(matrix)
    labels = predicted_labels(model.kind, model.vocabulary.classes, output, model.decision)
    bounds = None if model.interval is None else model.interval.bounds(matrix, output)
    return Scores(output, labels, attributions(model, matrix) if explain else None, bounds)


def predicted_labels(kind: Kind, classes: tuple[str, ...], output: Array, rule: DecisionRule | None = None) -> Array:
    """Convert a model's output to (n,) predicted class names, or a regression's values.

    `rule`: of the model; None for the likeliest class (binary: threshold 0.5)."""
    if kind == "regression":
        return output
    codes = default_codes(output) if rule is None else rule.codes(output)
    names: Array = np.array(classes, dtype=object)[codes]
    return names


def predict_rows(model: Model, columns: Columns, matrix: Array) -> list[dict[str, Any]]:
    """Return for each row its score (or scores by class), prediction, bounds, and missing and unknown features.

    Raises ModelError if an output is not finite."""
    kind, classes, rule = model.kind, model.vocabulary.classes, model.decision
    rows: list[dict[str, Any]] = []
    output = model.predict(matrix)
    for numbers in output.tolist():
        several = kind == "multiclass"
        if not (all(map(math.isfinite, numbers)) if several else math.isfinite(numbers)):
            raise ModelError(_NOT_FINITE, hint=_ROLL_BACK)
        scores = {"scores": dict(zip(classes, numbers, strict=True))} if several else {"score": numbers}
        label = predicted_label(kind, classes, numbers, rule)
        rows.append({**scores, "prediction": label, "missing": [], "unknown": []})
    if model.interval is not None:
        for row, lower, upper in zip(
            rows, *(side.tolist() for side in model.interval.bounds(matrix, output)), strict=True
        ):
            row |= {"lower": lower, "upper": upper}
    features, kinds = model.vocabulary.features, model.vocabulary.kinds
    first = model.vocabulary.first_columns
    for i, j in _missing(matrix if first is None else matrix[:, first]):
        name = features[j]
        missing = kinds[name] != "category" or columns[name][i] is None  # else a category without a code: unknown
        rows[i]["missing" if missing else "unknown"].append(name)
    return rows


def _missing(matrix: Array) -> Iterable[tuple[int, int]]:
    """Return the positions (row, column) of NaN."""
    if len(matrix) == 1:  # a NumPy call takes as long for one row as for a hundred
        return [(0, j) for j, number in enumerate(matrix[0].tolist()) if number != number]
    return zip(*(places.tolist() for places in np.isnan(matrix).nonzero()), strict=True)


def predicted_label(kind: Kind, classes: tuple[str, ...], output: Any, rule: DecisionRule | None = None) -> Any:
    """Convert one row's output to its predicted label; `output`: a number, or one number per class."""
    if rule is not None:
        return classes[int(rule.codes(np.array([output]))[0])]
    if kind == "binary":
        return classes[output >= 0.5]
    return classes[output.index(max(output))] if kind == "multiclass" else output


def attributions(model: Model, matrix: Array) -> tuple[Array, Array, Array]:
    """Compute base values (n,), margins (n,) and exact SHAP contributions (n, d), float64.

    Base and contributions add up to the margin, which equals Model.margin() within float32. For multiclass: those of
    the predicted class. Raises ModelError if a contribution is not finite."""
    shap = model.contributions(matrix).astype(np.float64)
    if not np.isfinite(shap).all():  # JSON has neither NaN nor infinity
        raise ModelError(_NOT_FINITE, hint=_ROLL_BACK)
    if model.kind == "multiclass":
        shap = shap[np.arange(len(matrix)), model.margin(matrix).argmax(axis=1)]
    return shap[:, -1], shap.sum(axis=1), shap[:, :-1]


def explanations(model: Model, columns: Columns, matrix: Array) -> list[dict[str, Any]]:
    """Return for each row the base, the margin, and every feature's value and contribution, largest first."""
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
    """Convert a feature's n encoded values back to JSON values: category text, integers, booleans, None for missing."""
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
