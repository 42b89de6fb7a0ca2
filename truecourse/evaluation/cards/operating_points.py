"""What a model's predictions mean at each threshold: the positions of the slider on the card."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from truecourse.arrays import Array
from truecourse.problem.definition import Kind

_STEPS = 100
_MOST_CLASSES = 12
OTHERS = "others"


def operating_points(
    kind: Kind, classes: Sequence[str], labels: Array, output: Array, threshold: float = 0.5
) -> dict[str, Any]:
    """Compute what the card's slider shows, for n labels and the outputs of Model.predict().

    binary: {"thresholds", "true_positives", "false_positives": one number for each, "positives", "negatives", "start":
    the position of `threshold`}; a score at or above the threshold is predicted positive. multiclass: {"thresholds",
    "answered", "right": counts of rows whose likeliest class has at least this probability, "rows", "start",
    "confusion": confusion_matrix()}. regression: {"tolerances", "within": counts of rows whose absolute error is at
    most this, "rows", "start"}."""
    if kind == "regression":
        return _tolerances(np.abs(labels.astype(np.float64) - output.astype(np.float64)))
    if kind == "multiclass":
        return _confidences(labels.astype(np.int64), output) | {"confusion": confusion_matrix(classes, labels, output)}
    scores, positive = output.astype(np.float64), labels > 0
    thresholds = _grid(scores, threshold)
    counts = {"true_positives": positive, "false_positives": ~positive}
    return {
        "thresholds": thresholds.tolist(),
        **{name: _at_least(scores[side], thresholds) for name, side in counts.items()},
        "positives": int(positive.sum()),
        "negatives": int((~positive).sum()),
        "start": int(np.argmin(np.abs(thresholds - threshold))),
    }


def confusion_matrix(classes: Sequence[str], labels: Array, output: Array) -> dict[str, Any]:
    """Count rows by actual and then by predicted class: {"classes", "counts"}. Beyond 12 classes the rarest are one,
    "others"."""
    actual, predicted = labels.astype(np.int64), output.argmax(axis=1)
    names, place = list(classes), np.arange(len(classes))
    if len(classes) > _MOST_CLASSES:
        order = np.argsort(-np.bincount(actual, minlength=len(classes)), kind="stable")
        kept = np.sort(order[: _MOST_CLASSES - 1])
        place = np.full(len(classes), len(kept))
        place[kept] = np.arange(len(kept))
        names = [*(classes[code] for code in kept), OTHERS]
    counts = np.zeros((len(names), len(names)), dtype=np.int64)
    np.add.at(counts, (place[actual], place[predicted]), 1)
    return {"classes": names, "counts": counts.tolist()}


def _grid(scores: Array, threshold: float) -> Array:
    """Return even thresholds, and quantiles of the scores: many where scores are dense."""
    quantiles = np.quantile(scores, np.linspace(0, 1, _STEPS + 1))
    return np.unique([*np.round(np.concatenate([np.linspace(0, 1, _STEPS + 1), quantiles]), 4), threshold])


def _at_least(values: Array, thresholds: Array) -> list[int]:
    """Count values at or above each threshold, compared in float32, as predictions are."""
    places = np.searchsorted(np.sort(values.astype(np.float32)), thresholds.astype(np.float32), side="left")
    counts: list[int] = (len(values) - places).tolist()
    return counts


def _confidences(labels: Array, output: Array) -> dict[str, Any]:
    confidence, right = output.max(axis=1).astype(np.float64), output.argmax(axis=1) == labels
    thresholds = np.round(np.linspace(0, 1, _STEPS + 1), 4)
    answered, correct = _at_least(confidence, thresholds), _at_least(confidence[right], thresholds)
    return {
        "thresholds": thresholds.tolist(), "answered": answered, "right": correct, "rows": len(labels), "start": 0,
    }  # fmt: skip


def _tolerances(errors: Array) -> dict[str, Any]:
    tolerances = np.unique(np.quantile(errors, np.linspace(0, 1, _STEPS + 1)))
    within: list[int] = np.searchsorted(np.sort(errors), tolerances, side="right").tolist()
    return {"tolerances": tolerances.tolist(), "within": within, "rows": len(errors), "start": len(tolerances) // 2}
