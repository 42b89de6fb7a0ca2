"""Evaluation of a model on rows it was not trained on: metrics with intervals, baselines, the champion, slices."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from truecourse.arrays import Array
from truecourse.errors import ModelError
from truecourse.evaluation.decision_report import decision_report
from truecourse.evaluation.gates import Evidence, Sample
from truecourse.evaluation.interval_report import interval_report
from truecourse.evaluation.paired_comparison import Champion, FeatureLookup, compare, unchanged
from truecourse.evaluation.slices import FEWEST_ROWS, slices
from truecourse.modeling import baselines
from truecourse.modeling.model import Model
from truecourse.modeling.training import matrix_of, rows_of
from truecourse.modeling.weights import row_weights, weighting_columns
from truecourse.problem import Problem, SliceFloor
from truecourse.statistics.intervals import Estimate
from truecourse.statistics.metrics import blocks_of, loss, measure, paired_difference

Metrics = dict[str, dict[str, Estimate]]
_EXPLAINED = 1000


@dataclass(frozen=True)
class HeldOut:
    """A model and rows it was not trained on. None of these results is used to choose the model."""

    problem: Problem
    model: Model
    trained: pa.Table
    """The frame of the snapshot that the model was trained on."""
    rows: pa.Table
    lookup: FeatureLookup = unchanged

    @cached_property
    def matrix(self) -> Array:
        return matrix_of(self.model.vocabulary, self.lookup(self.rows))

    @cached_property
    def labels(self) -> Array:
        return self.model.vocabulary.labels(self.rows)

    @cached_property
    def blocks(self) -> Array:
        return blocks_of(self.rows)

    @property
    def fitted_sides(self) -> tuple[str, ...]:
        """The sides of the split that the model and the baselines are fitted to."""
        return ("train", "validate") if self.problem.model.refit else ("train",)

    @cached_property
    def fitted_labels(self) -> Array:
        return self.model.vocabulary.labels(rows_of(self.trained.select(["label", "split"]), *self.fitted_sides))

    @cached_property
    def core_predictions(self) -> dict[str, Array]:
        """Predictions of "model" and "constant", for gates; they are quick to compute."""
        kind, vocabulary = self.problem.kind, self.model.vocabulary
        constant = baselines.predict_constant(kind, vocabulary, self.fitted_labels, len(self.rows), self._weights)
        return {"model": self.model.predict(self.matrix), "constant": constant}

    @cached_property
    def predictions(self) -> dict[str, Array]:
        """`core_predictions` and "linear", which takes seconds to fit."""
        vocabulary = self.model.vocabulary
        matrix = matrix_of(vocabulary, self.trained, *self.fitted_sides)
        return self.core_predictions | {
            "linear": baselines.predict_linear(
                self.problem.kind, vocabulary, matrix, self.fitted_labels, self.matrix, self._weights
            )
        }

    @cached_property
    def _weights(self) -> Array | None:
        """The weights of the fitted rows: those of the model and of the baselines."""
        weighting = self.trained.select(weighting_columns(self.problem, self.trained))
        return row_weights(self.problem, self.model.vocabulary, rows_of(weighting, *self.fitted_sides))

    @cached_property
    def explained(self) -> tuple[Array, Array]:
        """At most 1,000 evenly spaced rows, (n,) positions, and their SHAP values, (n, d), multiclass (n, k, d)."""
        chosen = np.unique(np.linspace(0, len(self.matrix) - 1, _EXPLAINED).astype(int))
        return chosen, self.model.contributions(self.matrix[chosen])[..., :-1]

    @cached_property
    def contributions(self) -> dict[str, float]:
        """The mean absolute SHAP value of each feature over the explained rows, of a multiclass model over its classes
        too. Units: those of the margin (log-odds, or the label's)."""
        values = np.abs(self.explained[1])
        means = values.reshape(-1, values.shape[-1]).mean(axis=0)
        return {name: float(mean) for name, mean in zip(self.model.vocabulary.features, means, strict=True)}

    def difference(self, baseline: str) -> Estimate:
        """Compute the model's loss minus that of "constant" or "linear", paired by row."""
        outputs = self.core_predictions if baseline in self.core_predictions else self.predictions
        in_time = "decision_time" in self.rows.column_names
        return paired_difference(
            self.problem.kind, self.labels, outputs["model"], outputs[baseline], self.blocks, in_time
        )

    @cached_property
    def decision(self) -> dict[str, Any] | None:
        """The report of the model's decision rule; None if it has none."""
        in_time = "decision_time" in self.rows.column_names
        return decision_report(self.model, self.labels, self.core_predictions["model"], self.blocks, in_time)

    @cached_property
    def interval(self) -> dict[str, Any] | None:
        """The report of the model's intervals; None if it has none."""
        rule = self.model.interval
        if rule is None or not len(self.labels):
            return None
        bounds = rule.bounds(self.matrix, self.core_predictions["model"])
        in_time = "decision_time" in self.rows.column_names
        columns = [name for name in self.problem.monitoring.slices if name in self.rows.column_names]
        return interval_report(rule, self.labels, bounds, self.blocks, in_time, self.rows, columns)

    @cached_property
    def sample(self) -> Sample:
        vocabulary, blocks = self.model.vocabulary, len(np.unique(self.blocks))
        if not vocabulary.classes:
            return Sample(len(self.rows), blocks)
        trained, tested = (
            np.bincount(labels.astype(np.int64), minlength=len(vocabulary.classes)).tolist()
            for labels in (self.fitted_labels, self.labels)
        )
        classes = zip(vocabulary.classes, zip(trained, tested, strict=True), strict=True)
        return Sample(len(self.rows), blocks, dict(classes))

    def metrics(self, predictions: Mapping[str, Array]) -> Metrics:
        """Compute {model: {metric: {"value", "low", "high"}}}."""
        kind = self.problem.kind
        return {name: measure(kind, self.labels, output, self.blocks) for name, output in predictions.items()}

    def slices(self) -> list[dict[str, Any]]:
        """Compute metrics by slice, for the columns that monitoring and the gates name."""
        columns = dict.fromkeys(self.problem.monitoring.slices, FEWEST_ROWS)
        for gate in self.problem.gates:
            if isinstance(gate, SliceFloor):
                columns[gate.column] = min(columns.get(gate.column, FEWEST_ROWS), gate.rows)
        absent = [name for name in columns if name not in self.rows.column_names]
        if absent:
            hint = "name request fields or features in Monitoring(slices=...) and SliceFloor(...)"
            raise ModelError(f"no column {', '.join(absent)}", where=f"problem {self.problem.name}: slices", hint=hint)
        rest = (self.labels, self.core_predictions["model"], self.blocks)
        kind = self.problem.kind
        return [part for name, fewest in columns.items() for part in slices(kind, self.rows, name, *rest, fewest)]


def collect_evidence(
    test: HeldOut, metrics: Metrics, parts: list[dict[str, Any]], champion: Champion | None
) -> Evidence:
    """Collect what the gates check. `champion`: None if there is none, or if it is the model itself."""
    comparison = compare(test.problem, test.rows, test.model, champion, test.lookup) if champion else None
    constant = loss(test.problem.kind, test.labels, test.core_predictions["constant"])
    measured = metrics["model"] | {
        name: one for found in (test.decision, test.interval) if found for name, one in found["metrics"].items()
    }
    return Evidence(test.problem.metric, measured, test.difference, constant, parts, test.sample, comparison)
