"""The report of a decision rule on test rows: confusion matrix, cost, precision and recall, with intervals."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from truecourse.arrays import Array
from truecourse.modeling.decisions import DecisionRule, default_codes, row_costs
from truecourse.modeling.model import Model
from truecourse.statistics.intervals import COVERAGE, UNDEFINED, Estimate, Scale, estimate

DecisionMetrics = dict[str, Estimate]
DECISION_LABELS = {
    "cost": "Cost per row", "default_cost": "Cost per row of the likeliest class",
    "cost_difference": "Difference of both costs", "precision": "Precision", "recall": "Recall",
    "positive_share": "Share predicted positive",
}  # fmt: skip


def decision_report(model: Model, labels: Array, output: Array, blocks: Array, in_time: bool) -> dict[str, Any] | None:
    """Report what the model's rule decides on n rows, beside the likeliest class; None for a model without a rule.

    `labels`: (n,) class codes. `output`: of Model.predict(). `blocks`: (n,) of rows that are not independent; `in_time`
    if these are days. {"rule": DecisionRule as JSON, "sentence", "classes", "confusion" and "default_confusion": counts
    by actual and then by predicted class, "metrics": {"cost" and "default_cost" per row, "cost_difference" of both,
    "precision", "recall", "positive_share": {"value", "low", "high"}}}. Costs only where they are declared; precision,
    recall and share only for two classes."""
    rule, classes = model.decision, model.vocabulary.classes
    if rule is None or not len(labels):
        return None
    codes, default = rule.codes(output), default_codes(output)
    return {
        "rule": rule.model_dump(mode="json"),
        "sentence": rule.sentence(classes),
        "classes": list(classes),
        "confusion": confusion(labels, codes, len(classes)),
        "default_confusion": confusion(labels, default, len(classes)),
        "metrics": _costs(rule, labels, codes, default, blocks, in_time)
        | (_rates(labels, codes, blocks, in_time) if len(classes) == 2 else {}),
    }


def decided_codes(model: Model, output: Array) -> Array:
    """Choose class codes (n,) by the model's rule, or the likeliest class. `output`: a classifier's, (n,) or (n, k)."""
    return default_codes(output) if model.decision is None else model.decision.codes(output)


def confusion(labels: Array, codes: Array, count: int) -> list[list[int]]:
    """Count rows by actual and then by predicted class, (k, k)."""
    pairs = np.bincount(labels.astype(np.int64) * count + codes, minlength=count * count)
    found: list[list[int]] = pairs.reshape(count, count).tolist()
    return found


def cost_difference(
    costs: Sequence[Sequence[float]], labels: Array, codes: tuple[Array, Array], blocks: Array, in_time: bool,
    coverage: float = COVERAGE,
) -> Estimate:  # fmt: skip
    """Compute the cost per row of the first decisions minus that of the second, paired by row."""
    first, second = (row_costs(costs, labels, one) for one in codes)
    return ratio(first - second, np.ones(len(labels)), blocks, in_time, coverage=coverage)


def ratio(
    values: Array, weights: Array, blocks: Array, in_time: bool, scale: Scale = "plain", coverage: float = COVERAGE
) -> Estimate:
    """Compute sum(values) / sum(weights) over rows with its interval, linearised (the delta method)."""
    total = float(weights.sum())
    if not total:
        return UNDEFINED
    value = float(values.sum()) / total
    place = np.unique(blocks, return_inverse=True)[1]
    sums = np.bincount(place, weights=values - value * weights)
    return estimate(value, sums * len(sums) / total, scale, in_time, coverage)


def _costs(
    rule: DecisionRule, labels: Array, codes: Array, default: Array, blocks: Array, in_time: bool
) -> DecisionMetrics:
    if not rule.costs:
        return {}
    rows = np.ones(len(labels))
    cost, default_cost = (ratio(row_costs(rule.costs, labels, c), rows, blocks, in_time) for c in (codes, default))
    difference = cost_difference(rule.costs, labels, (codes, default), blocks, in_time)
    return {"cost": cost, "default_cost": default_cost, "cost_difference": difference}


def _rates(labels: Array, codes: Array, blocks: Array, in_time: bool) -> DecisionMetrics:
    actual, decided = (labels == 1).astype(np.float64), codes.astype(np.float64)
    hits, rows = actual * decided, np.ones(len(labels))
    return {
        "precision": ratio(hits, decided, blocks, in_time, "share"),
        "recall": ratio(hits, actual, blocks, in_time, "share"),
        "positive_share": ratio(decided, rows, blocks, in_time, "share"),
    }
