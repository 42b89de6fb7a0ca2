"""Realised decisions of closed cohorts: cost, precision and recall, and the threshold that would have cost least."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from truecourse.arrays import Array
from truecourse.evaluation.decision_report import confusion, decided_codes, ratio
from truecourse.modeling.decisions import DecisionRule
from truecourse.modeling.model import Model
from truecourse.monitoring.findings import Finding
from truecourse.monitoring.quality.cohorts import Cohort
from truecourse.statistics.intervals import COVERAGE, Estimate

Confusion = tuple[tuple[int, ...], ...]
FEWEST_COHORTS = 7
"""Closed cohorts without which thresholds are not compared."""


def count_decisions(model: Model, labels: Array, output: Array) -> Confusion:
    """Count rows by actual and then by predicted class, (k, k); empty for a model without a decision rule."""
    if model.decision is None:
        return ()
    counts = confusion(labels, decided_codes(model, output), len(model.vocabulary.classes))
    return tuple(map(tuple, counts))


def decision_metrics(rule: DecisionRule, cohorts: Sequence[Cohort]) -> dict[str, Estimate]:
    """Compute the cost per row, and for two classes precision, recall and share of positives, over days.

    Costs only where they are declared. Cohorts without a confusion matrix, of an earlier release, are left out."""
    counted = _counted(cohorts)
    if not counted:
        return {}
    counts = np.array([one.confusion for one in counted], dtype=np.float64)  # (cohorts, actual, predicted)
    days, rows = np.arange(len(counts)), counts.sum(axis=(1, 2))
    found = {}
    if rule.costs:
        found["cost"] = ratio((counts * np.array(rule.costs)).sum(axis=(1, 2)), rows, days, in_time=True)
    if counts.shape[1] == 2:
        hits, positive, decided = counts[:, 1, 1], counts[:, 1].sum(axis=1), counts[:, :, 1].sum(axis=1)
        sides = {"precision": (hits, decided), "recall": (hits, positive), "positive_share": (decided, rows)}
        found |= {name: ratio(*side, days, in_time=True, scale="share") for name, side in sides.items()}
    return found


def compare_thresholds(rule: DecisionRule, edges: Array, cohorts: Sequence[Cohort]) -> dict[str, Any] | None:
    """Compare the rule's threshold with the edge of the score bins that would have cost least on these cohorts.

    {"threshold", "best", "saving": cost per row of the rule minus that of the best}. The interval of the saving holds
    for all edges simultaneously (Bonferroni), as the best is chosen among them. None without a threshold of costs, and
    for fewer than FEWEST_COHORTS."""
    counted = _counted(cohorts)
    if rule.threshold is None or not rule.costs or not len(edges) or len(counted) < FEWEST_COHORTS:
        return None
    costs = np.array(rule.costs)
    bins = np.array([one.bins for one in counted])  # (cohorts, bins, 3)
    positive = bins[:, :, 2]
    by_class = np.stack([bins[:, :, 0] - positive, positive], axis=-1)
    as_negative, as_positive = by_class @ costs[:, 0], by_class @ costs[:, 1]
    below, above = np.cumsum(as_negative, axis=1)[:, :-1], as_positive.sum(axis=1, keepdims=True)
    by_edge = below + above - np.cumsum(as_positive, axis=1)[:, :-1]  # (cohorts, edges)
    best = int(by_edge.sum(axis=0).argmin())
    actual = (np.array([one.confusion for one in counted]) * costs).sum(axis=(1, 2))
    rows, coverage = bins[:, :, 0].sum(axis=1), 1 - (1 - COVERAGE) / len(edges)
    saving = ratio(actual - by_edge[:, best], rows, np.arange(len(rows)), in_time=True, coverage=coverage)
    return {"threshold": rule.threshold, "best": float(edges[best]), "saving": saving}


def find_threshold_drift(compared: dict[str, Any] | None) -> list[Finding]:
    """Return a warning if another threshold would have cost less beyond noise."""
    if compared is None or compared["saving"]["low"] is None or compared["saving"]["low"] <= 0:
        return []
    saving = compared["saving"]
    message = f"A threshold of {compared['best']:.4g} would have cost {saving['value']:.4g} less per row than "
    message += f"{compared['threshold']:.4g} on the closed cohorts: {saving['low']:.4g} to {saving['high']:.4g} less "
    message += "(95% interval for all thresholds). Training chooses the threshold again."
    return [
        Finding(
            check="quality", subject="threshold", cause="threshold drift", page=False, sentence=message,
            figures=compared,
        )
    ]  # fmt: skip


def _counted(cohorts: Sequence[Cohort]) -> list[Cohort]:
    return [one for one in cohorts if one.labelled and one.confusion]
