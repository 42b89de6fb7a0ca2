"""Comparison of models on the same rows: metrics, differences to the first one with intervals, flipped predictions."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from truecourse.arrays import Array
from truecourse.evaluation.paired_comparison import Pair
from truecourse.html import number
from truecourse.modeling.decisions import DecisionRule
from truecourse.modeling.prediction import predicted_labels
from truecourse.problem import Problem
from truecourse.statistics.absolute_sums import sum_of_absolutes
from truecourse.statistics.intervals import COVERAGE, Estimate, estimate
from truecourse.statistics.metrics import blocks_of, gaps, influence, samples, summary
from truecourse.wording import with_unit

Conclusion = Literal["better", "worse", "within noise", "unknown"]
_LISTED = 5
"""Most flipped predictions that are listed."""
_MOVED = 0.1
"""Standard deviations of the label by which a regression's prediction counts as flipped."""


@dataclass(frozen=True)
class SharedRows:
    """Rows that no model was trained on, and the predictions of k models for them. The first model is the reference.

    `labels`: (n,), as Vocabulary.labels(). `outputs`: k arrays, as Model.predict(). `classes`: of the label. `rules`:
    the models' decision rules; empty for the likeliest class."""

    problem: Problem
    rows: pa.Table
    labels: Array
    outputs: Sequence[Array]
    classes: tuple[str, ...] = ()
    rules: Sequence[DecisionRule | None] = ()

    @property
    def in_time(self) -> bool:
        return "decision_time" in self.rows.column_names

    @cached_property
    def blocks(self) -> Array:
        return np.asarray(np.unique(blocks_of(self.rows), return_inverse=True)[1])

    @property
    def days(self) -> int | None:
        """The number of days; None for rows without time."""
        return len(np.unique(self.blocks)) if self.in_time else None

    @cached_property
    def _samples(self) -> list[dict[str, Array]]:
        labels = self.labels.astype(np.float64)
        found = [samples(self.problem.kind, labels, output.astype(np.float64), self.blocks) for output in self.outputs]
        return [{name: values for name, values in one.items() if name != "base_rate"} for one in found]

    def metrics(self) -> list[dict[str, Estimate]]:
        """Compute every metric of each model with its 95% interval."""
        kind, found = self.problem.kind, []
        for output, one in zip(self.outputs, self._samples, strict=True):
            metrics = {name: summary(values, name) for name, values in one.items()}
            if kind != "regression":
                metrics["calibration_error"] = sum_of_absolutes(*gaps(kind, self.labels, output, self.blocks))
            found.append(metrics)
        return found

    def values(self, place: int) -> dict[str, float | None]:
        """Return the value of every metric but the calibration error of one model; None where it is undefined."""
        return {name: float(v[0]) if np.isfinite(v[0]) else None for name, v in self._samples[place].items()}

    def pair(self, place: int) -> Pair:
        """Pair one model with the reference. Differences are the model's minus the reference's."""
        return Pair(self.problem, self.labels, self.outputs[place], self.outputs[0], self.in_time)

    def differences(self, place: int, coverage: float = COVERAGE) -> dict[str, Estimate]:
        """Compute the difference of every metric to the reference, with paired intervals.

        The loss has the interval of the gates (Pair.loss), all others that of each block's influence."""
        pair = self.pair(place)
        found = {
            name: _difference(values - self._samples[0][name], self.in_time, coverage)
            for name, values in self._samples[place].items()
        }
        return found | {
            self.problem.metric: pair.loss(self.blocks, coverage),
            "calibration_error": pair.calibration(self.blocks, coverage),
        }

    def slices(self, place: int, coverage: float = COVERAGE) -> list[dict[str, Any]]:
        """Compare the loss by slice: {"column", "value", "rows", "difference"}, with simultaneous intervals."""
        return list(self.pair(place).slices(self.rows, self.blocks, coverage))

    def flipped(self, place: int) -> dict[str, Any]:
        """Count the rows with another predicted class than the reference's, by which of both is right.

        {"count", "by", "first"}: `first` are the ids of those that moved most. Of a regression: the rows whose
        prediction moved by more than a tenth of the label's standard deviation."""
        ids, sides = self.rows["id"].to_pylist(), (self.outputs[0], self.outputs[place])
        moved = np.abs(sides[1] - sides[0]).reshape(len(ids), -1).max(axis=1)
        predicted, truth = self._predicted((0, place))
        if self.problem.kind == "regression":
            chosen = moved > _MOVED * float(np.std(self.labels))
            errors = [np.abs(output - self.labels) for output in sides]
            by = Counter(np.where(errors[1] < errors[0], "nearer", "farther")[chosen].tolist())
        else:
            chosen = np.array([a != b for a, b in zip(*predicted, strict=True)], dtype=bool)
            by = Counter(_outcome(predicted[0][i], predicted[1][i], truth[i]) for i in np.flatnonzero(chosen))
        order = [int(i) for i in np.argsort(-moved, kind="stable") if chosen[i]]
        first = [
            {"id": ids[i], "label": truth[i], "from": predicted[0][i], "to": predicted[1][i]} for i in order[:_LISTED]
        ]
        return {"count": len(order), "by": dict(by), "first": first}

    def _predicted(self, places: Sequence[int]) -> tuple[list[list[Any]], list[Any]]:
        """The predicted labels of both models, and the true labels."""
        rules = self.rules or [None] * len(self.outputs)
        predicted = [
            predicted_labels(self.problem.kind, self.classes, self.outputs[one], rules[one]).tolist() for one in places
        ]
        if self.problem.kind == "regression":
            return predicted, self.labels.tolist()
        return predicted, [self.classes[int(code)] for code in self.labels]


def _difference(values: Array, in_time: bool, coverage: float) -> Estimate:
    return estimate(float(values[0]), influence(values), successive=in_time, coverage=coverage)


def _outcome(before: Any, after: Any, truth: Any) -> str:
    return "right now" if after == truth else "wrong now" if before == truth else "wrong in both"


def conclude(difference: Estimate) -> Conclusion:
    """Tell whether a model's loss differs from the reference's by more than noise: by whether its interval has zero."""
    low, high = difference["low"], difference["high"]
    if low is None or high is None:
        return "unknown"
    return "better" if high < 0 else "worse" if low > 0 else "within noise"


def describe_conclusion(problem: Problem, model: str, reference: str, difference: Estimate) -> str:
    """Describe a difference of the loss: which model is better, by how much, and whether that is more than noise."""
    conclusion, metric = conclude(difference), problem.metric.replace("_", " ")
    value, low, high = (difference[end] for end in ("value", "low", "high"))
    if value is None or low is None or high is None:
        return f"{model} and {reference}: the difference of the {metric} is undefined"
    unit = with_unit("", problem.label_unit)
    figures = f"{_signed(value)} ({_signed(low)} to {_signed(high)}){f' {unit}' if unit else ''}"
    if conclusion == "within noise":
        return f"{model} does not differ from {reference} by more than noise: {metric} {figures}"
    return f"{model} is {conclusion} than {reference} by more than noise: {metric} {figures}"


def _signed(value: float) -> str:
    return f"{'+' if value >= 0 else '-'}{number(abs(value), 4)}"
