"""A model on rows it never saw: metrics with intervals, beside baselines and the champion, and by slices."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa

from truecourse import baselines
from truecourse.encoding import Array
from truecourse.errors import ModelError
from truecourse.gates import Evidence
from truecourse.metrics import blocks_of, loss_samples, measure, resample, summary
from truecourse.model import Model
from truecourse.problem import Problem, SliceFloor
from truecourse.slices import FEWEST_ROWS, slices
from truecourse.training import matrix_of, rows_of

_SLICE_RESAMPLES = 150


@dataclass(frozen=True)
class HeldOut:
    """A model's test rows. Nothing here is used for choosing."""

    problem: Problem
    model: Model
    frame: pa.Table
    """The whole snapshot."""

    @cached_property
    def rows(self) -> pa.Table:
        return rows_of(self.frame, "test")

    @cached_property
    def matrix(self) -> Array:
        return matrix_of(self.model.vocabulary, self.rows)

    @cached_property
    def labels(self) -> Array:
        return self.model.vocabulary.labels(self.rows)

    @cached_property
    def blocks(self) -> Array:
        return blocks_of(self.rows)

    @cached_property
    def weights(self) -> Array:
        return resample(self.blocks)

    @cached_property
    def predictions(self) -> dict[str, Array]:
        """By model: "model", "constant" and "linear", the baselines fitted to the rows that the model was."""
        kind, vocabulary = self.problem.kind, self.model.vocabulary
        sides = ("train", "validate") if self.problem.model.refit else ("train",)
        fitted = rows_of(self.frame, *sides)
        matrix, labels = matrix_of(vocabulary, fitted), vocabulary.labels(fitted)
        return {
            "model": self.model.predict(self.matrix),
            "constant": baselines.constant(kind, vocabulary, labels, len(self.rows)),
            "linear": baselines.linear(kind, vocabulary, matrix, labels, self.matrix),
        }

    def metrics(self) -> dict[str, dict[str, dict[str, float | None]]]:
        """{model: {metric: {"value", "low", "high"}}}."""
        return {
            name: {metric: summary(samples) for metric, samples in self._measure(predictions).items()}
            for name, predictions in self.predictions.items()
        }

    def _measure(self, predictions: Array) -> dict[str, Array]:
        return measure(self.problem.kind, self.labels, predictions, self.blocks, self.weights)

    def loss(self, predictions: Array) -> Array:
        """Samples of the loss, on the same resamples for every model: differences are paired."""
        return loss_samples(self.problem.kind, self.labels, predictions, self.blocks, self.weights)

    def slices(self) -> list[dict[str, Any]]:
        """By the columns that monitoring and the gates name."""
        columns = dict.fromkeys(self.problem.monitoring.slices, FEWEST_ROWS)
        for gate in self.problem.gates:
            if isinstance(gate, SliceFloor):
                columns[gate.column] = min(columns.get(gate.column, FEWEST_ROWS), gate.rows)
        absent = [name for name in columns if name not in self.rows.column_names]
        if absent:
            cure = "name request fields or features in Monitoring(slices=...) and SliceFloor(...)"
            raise ModelError(f"no column {', '.join(absent)}", where=f"problem {self.problem.name}: slices", cure=cure)
        weights = self.weights[: _SLICE_RESAMPLES + 1]
        rest = (self.labels, self.predictions["model"], self.blocks, weights)
        kind = self.problem.kind
        return [part for name, fewest in columns.items() for part in slices(kind, self.rows, name, *rest, fewest)]


def evidence(
    test: HeldOut, metrics: Mapping[str, Any], parts: list[dict[str, Any]], number: int | None, champion: Model | None
) -> Evidence:
    """What the gates judge. `champion`: version `number`'s model, None if this is it or there is none."""
    losses = {name: test.loss(test.predictions[name]) for name in ("model", "constant")}
    reason = ""
    if champion is not None:
        reason = incomparable(test, champion)
        if not reason:
            losses["champion"] = test.loss(champion.predict(matrix_of(champion.vocabulary, test.rows)))
    elif number is not None:
        losses["champion"] = losses["model"]
    return Evidence(test.problem.metric, metrics["model"], losses, parts, number, reason)


def incomparable(test: HeldOut, champion: Model) -> str:
    """Why a champion cannot score these test rows; empty if it can."""
    absent = [name for name in champion.vocabulary.features if name not in test.rows.column_names]
    if absent:
        return f"its inputs {', '.join(absent[:5])} are not in this snapshot"
    if champion.vocabulary.classes != test.model.vocabulary.classes:
        return "it knows other classes"
    return ""
