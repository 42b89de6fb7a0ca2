"""Decision rules: the threshold or the costs by which a model's output becomes a predicted class.

The threshold of costs is the probability of the least expected cost (Elkan 2001, "The foundations of cost-sensitive
learning"). Where the validation rows show that the scores are not calibrated, it is the score at which a logistic curve
(Platt 1999) has that probability. The threshold with the least cost on these rows would follow their noise. The
other targets use order statistics of the validation scores.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from truecourse.arrays import Array
from truecourse.errors import ModelError
from truecourse.problem.decision import Decision, Target
from truecourse.problem.definition import Kind

FEWEST_OF_A_CLASS = 5
"""Validation rows of each class without which no threshold is chosen."""
_MISCALIBRATED = 9.21
"""Likelihood ratio statistic of a logistic curve to none, above which scores are recalibrated: the 99% quantile of the
chi-squared distribution with two degrees of freedom."""
_PRIOR = 1.0
"""The ridge penalty of slope - 1 and of the intercept: without it, the curve of separable classes has no maximum."""
_STEPS = 50
_CLIP = 1e-6


class DecisionRule(BaseModel):
    """How outputs become class codes. Stored in the model's contract.

    `threshold`: rows with at least this score are of the last class; exact in float32, None for several classes.
    `costs`: (k, k), by actual and then by predicted class; empty for another target. `value`: the declared share; None
    for costs. `reached`: whether the validation rows meet it. `rows`: the number of validation rows."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    target: Target
    value: float | None = None
    threshold: float | None = None
    costs: tuple[tuple[float, ...], ...] = ()
    reached: bool = True
    rows: int

    def codes(self, output: Array) -> Array:
        """Choose class codes (n,) for outputs of Model.predict(), (n,) or (n, k)."""
        if self.threshold is not None:
            return (output >= self.threshold).astype(np.int64)
        return np.asarray(expected_costs(output, self.costs).argmin(axis=1))

    @property
    def purpose(self) -> str:
        """What the rule is chosen for, in words."""
        return "the least expected cost" if self.value is None else f"{self.target} {self.value:g}"

    def sentence(self, classes: Sequence[str]) -> str:
        """Describe the rule."""
        if self.threshold is None:
            return "Predicts the class with the least expected cost."
        failure = "" if self.reached else ", which no threshold reaches"
        rows = f"chosen on {self.rows:,} validation rows for {self.purpose}{failure}"
        return f"Predicts {classes[-1]} from a score of {self.threshold:.4g}: {rows}."


def default_codes(output: Array) -> Array:
    """Choose class codes (n,) without a declared rule: the likeliest class, for two classes from a score of 0.5."""
    return (output >= 0.5).astype(np.int64) if output.ndim == 1 else output.argmax(axis=1)


def expected_costs(output: Array, costs: Sequence[Sequence[float]]) -> Array:
    """Compute the expected cost of each class (n, k); equal for a row alone and among others."""
    probabilities, total = output.astype(np.float64), np.zeros(output.shape)
    for code, by_decision in enumerate(costs):
        total += probabilities[:, [code]] * np.array(by_decision)
    return total


def cost_matrix(costs: Mapping[str, Mapping[str, float]], classes: Sequence[str]) -> Array:
    """Convert declared costs to (k, k), by actual and predicted class. Raises ModelError for unknown classes."""
    named = {*costs, *(name for row in costs.values() for name in row)}
    if unknown := sorted(named - set(classes)):
        hint = f"the classes are {', '.join(classes)}"
        raise ModelError(f"unknown class {', '.join(unknown)}", where="Decision(costs=...)", hint=hint)
    return np.array([[costs.get(actual, {}).get(decided, 0.0) for decided in classes] for actual in classes])


def row_costs(costs: Sequence[Sequence[float]], labels: Array, codes: Array) -> Array:
    """Return each row's cost (n,) from its actual and predicted class codes."""
    return np.array(costs)[labels.astype(np.int64), codes]


def choose_rule(
    decision: Decision | None, kind: Kind, classes: Sequence[str], labels: Array, output: Array
) -> DecisionRule | None:
    """Choose the rule on n rows that the model was not trained on; None if no decision is declared.

    `labels`: (n,) class codes. `output`: (n,) or (n, k). Raises ModelError for a decision that does not fit the kind,
    and for too few rows."""
    if decision is None:
        return None
    where, rows = "Decision", len(labels)
    if kind == "regression" or (kind == "multiclass" and decision.costs is None):
        hint = "declare Decision(costs=...)" if kind == "multiclass" else "leave out Problem(decision=...)"
        raise ModelError(f"{decision.target} does not apply to a {kind} label", where=where, hint=hint)
    if kind == "multiclass":
        assert decision.costs is not None
        return DecisionRule(target="costs", costs=_nested(cost_matrix(decision.costs, classes)), rows=rows)
    _require_rows(labels, classes)
    labels, scores = labels.astype(np.int64), output.astype(np.float64)
    if decision.costs is not None:
        matrix = cost_matrix(decision.costs, classes)
        threshold = calibrated_threshold(_least_cost_probability(matrix), labels, scores)
        return DecisionRule(target="costs", threshold=_exact(threshold), costs=_nested(matrix), rows=rows)
    value = getattr(decision, decision.target)
    threshold, reached = _THRESHOLDS[decision.target](labels, scores, value)
    return DecisionRule(target=decision.target, value=value, threshold=threshold, reached=reached, rows=rows)


def _require_rows(labels: Array, classes: Sequence[str]) -> None:
    counts = np.bincount(labels.astype(np.int64), minlength=len(classes))
    if counts.min() < FEWEST_OF_A_CLASS:
        few = f"{counts.min()} validation rows of class {classes[int(counts.argmin())]}"
        hint = "widen the validation split, or leave out Problem(decision=...)"
        raise ModelError(f"{few}: a threshold needs {FEWEST_OF_A_CLASS}", where="Decision", hint=hint)


def _nested(matrix: Array) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(row) for row in matrix.tolist())


def _exact(threshold: float) -> float:
    """Round to float32, in which models predict: single rows and batches then decide equally."""
    return float(np.float32(threshold))


def _least_cost_probability(costs: Array) -> float:
    """Return the probability of the last class from which predicting it costs less. Raises ModelError if there is
    none."""
    false_positive, miss = costs[0, 1] - costs[0, 0], costs[1, 0] - costs[1, 1]
    if false_positive <= 0 or miss <= 0:
        hint = "a wrong prediction must cost more than a right one, for either class"
        raise ModelError("one class is never worth predicting", where="Decision(costs=...)", hint=hint)
    return float(false_positive / (false_positive + miss))


def calibrated_threshold(probability: float, labels: Array, scores: Array) -> float:
    """Return the score from which the last class has this probability: the probability itself, unless the labels show
    that scores are not probabilities."""
    margins = _log_odds(scores)
    slope, intercept = logistic_curve(labels, margins)
    gain = _log_likelihood(labels, slope * margins + intercept) - _log_likelihood(labels, margins)
    if 2 * gain <= _MISCALIBRATED:
        return probability
    margin = (float(_log_odds(np.array([probability]))[0]) - intercept) / slope
    return float(1 / (1 + np.exp(-margin)))


def _log_likelihood(labels: Array, margins: Array) -> float:
    return float((labels * margins - np.logaddexp(0, margins)).sum())


def _log_odds(scores: Array) -> Array:
    clipped = np.clip(scores, _CLIP, 1 - _CLIP)
    return np.asarray(np.log(clipped / (1 - clipped)))


def logistic_curve(labels: Array, margins: Array) -> tuple[float, float]:
    """Fit slope and intercept by Newton's method, with a ridge penalty towards (1, 0)."""
    inputs, start = np.column_stack([margins, np.ones(len(margins))]), np.array([1.0, 0.0])
    found = start.copy()
    for _ in range(_STEPS):
        probability = 1 / (1 + np.exp(-np.clip(inputs @ found, -500, 500)))
        gradient = inputs.T @ (probability - labels) + _PRIOR * (found - start)
        curvature = (inputs * (probability * (1 - probability))[:, None]).T @ inputs + _PRIOR * np.eye(2)
        step = np.linalg.solve(curvature, gradient)
        found = found - step * min(1.0, 1 / max(float(np.abs(step).max()), 1e-12))
        if np.abs(step).max() < 1e-9:
            break
    return max(float(found[0]), 0.1), float(found[1])


def _of_capacity(labels: Array, scores: Array, share: float) -> tuple[float, bool]:
    """Return the least threshold that at most this share of the scores reaches; above all scores if there is none."""
    ordered = np.unique(scores)
    shares = 1 - np.searchsorted(np.sort(scores), ordered, side="left") / len(scores)
    fitting = ordered[shares <= share]
    if len(fitting):
        return _exact(fitting[0]), True
    return float(np.nextafter(np.float32(ordered[-1]), np.float32(2))), False


def _of_recall(labels: Array, scores: Array, share: float) -> tuple[float, bool]:
    """Return the largest threshold that this share of the positive rows reaches."""
    positive = np.sort(scores[labels == 1])[::-1]
    needed = int(np.ceil(share * len(positive) - 1e-9))
    return _exact(positive[max(needed, 1) - 1]), True


def _of_precision(labels: Array, scores: Array, share: float) -> tuple[float, bool]:
    """Return the least threshold whose positive predictions are right in this share; if none is, the most precise."""
    order = np.argsort(-scores, kind="stable")
    last = np.append(scores[order][1:] != scores[order][:-1], True)  # the last row of equal scores
    hits, count = np.cumsum(labels[order])[last], np.flatnonzero(last) + 1
    precision, thresholds = hits / count, scores[order][last]
    fitting = np.flatnonzero(precision >= share)
    place = int(fitting[-1]) if len(fitting) else int(precision.argmax())
    return _exact(thresholds[place]), bool(len(fitting))


_THRESHOLDS: Mapping[str, Any] = {"capacity": _of_capacity, "recall": _of_recall, "precision": _of_precision}
