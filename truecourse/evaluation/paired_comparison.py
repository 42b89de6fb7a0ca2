"""Paired comparison of two models on rows that neither was trained on: differences with intervals."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from truecourse.arrays import Array
from truecourse.errors import ModelError
from truecourse.evaluation.decision_report import cost_difference, decided_codes
from truecourse.evaluation.multiple_comparisons import coverage_of
from truecourse.evaluation.slices import FEWEST_ROWS, parts_of
from truecourse.modeling.model import Model
from truecourse.modeling.training import matrix_of, rows_of
from truecourse.problem import Problem, TimeSplit
from truecourse.statistics.intervals import COVERAGE, Estimate, simultaneous
from truecourse.statistics.metrics import (
    blocks_of,
    calibration_difference,
    influence,
    loss_samples,
    paired_difference,
    weightings,
)
from truecourse.wording import counted

FEWEST_BLOCKS = 7
"""With fewer days (rows, without time) the interval would be too narrow. Seven days have every weekday once."""


@dataclass(frozen=True)
class Comparison:
    """Differences of a model to the champion, {"value", "low", "high"}; negative is better.

    `reason`: why the two cannot be compared; there are then no figures."""

    champion: int
    reason: str = ""
    rows: int = 0
    tries: int = 1
    """Versions compared with the champion on these rows so far; the more, the wider the interval of the loss."""
    days: int | None = None
    """None where rows have no time."""
    loss: Estimate | None = None
    calibration: Estimate | None = None
    cost: Estimate | None = None
    """Of the decisions, per row, by the model's costs; None for a model without costs."""
    slices: tuple[dict[str, Any], ...] = ()
    """{"column", "value", "rows", "difference"}; the intervals are simultaneous."""
    pair: "Pair | None" = field(default=None, repr=False, compare=False)
    """The predictions that were compared."""
    blocks: Array | None = field(default=None, repr=False, compare=False)
    """The block of each compared row."""


FeatureLookup = Callable[[pa.Table], pa.Table]
"""Replaces rows' features by those of a model's own definitions. Raises ModelError that names unavailable features."""


def first_try(rows: pa.Table) -> int:
    return 1


def unchanged(rows: pa.Table) -> pa.Table:
    return rows


@dataclass(frozen=True)
class Champion:
    """The champion's version, model, training frame, and feature lookup."""

    version: int
    model: Model
    frame: pa.Table
    lookup: FeatureLookup = unchanged
    count_tries: Callable[[pa.Table], int] = first_try
    """Counts the versions compared with it on the same rows, including this one (multiple_comparisons.py)."""


def unseen_rows(problem: Problem, rows: pa.Table, *trained: pa.Table) -> pa.Table:
    """Exclude rows of these frames that were used for training or validation.

    With a time split, rows before the last of them are excluded too: a row that was missing then because its label
    came late is not a representative sample, and the model was trained on the days around it."""
    for frame in trained:
        used = rows_of(frame, "train", "validate")
        rows = rows.filter(pc.invert(pc.is_in(rows["id"], used["id"].combine_chunks())))
        if isinstance(problem.split, TimeSplit) and "decision_time" in used.column_names and len(used):
            rows = rows.filter(pc.greater(rows["decision_time"], pc.max(used["decision_time"])))
    return rows


def obstacle(rows: pa.Table, model: Model, champion: Model) -> str:
    """Describe why the champion cannot be compared with the model on these rows; empty if it can."""
    absent = absent_inputs(champion, rows)
    if absent:
        return f"its inputs {', '.join(absent[:5])} are missing from this snapshot"
    if champion.vocabulary.classes != model.vocabulary.classes:
        return "its classes differ"
    return shortage(rows)


def absent_inputs(model: Model, rows: pa.Table) -> list[str]:
    return [name for name in model.vocabulary.features if name not in rows.column_names]


def shortage(rows: pa.Table) -> str:
    """Describe the shortage where there are too few rows for a comparison; empty if there are enough."""
    count = len(np.unique(blocks_of(rows))) if _has_time(rows) else len(rows)
    if count >= FEWEST_BLOCKS:
        return ""
    unit = "day" if _has_time(rows) else "row"
    return f"only {counted(count, unit)} with closed cohorts were not used for training, {FEWEST_BLOCKS} needed"


def _has_time(rows: pa.Table) -> bool:
    return "decision_time" in rows.column_names


def compare(
    problem: Problem, rows: pa.Table, model: Model, champion: Champion, lookup: FeatureLookup = unchanged
) -> Comparison:
    """Compare a model with the champion on the rows that the champion was not trained on, each with its own features.

    `rows`: the caller excludes rows that the model was trained on. `lookup`: returns the model's features."""
    rows = unseen_rows(problem, rows, champion.frame)
    try:
        model_rows, champion_rows = lookup(rows), champion.lookup(rows)
    except ModelError as error:
        return Comparison(champion.version, error.what)
    reason = obstacle(champion_rows, model, champion.model)
    if reason:
        return Comparison(champion.version, reason)
    blocks, labels = blocks_of(rows), model.vocabulary.labels(rows)
    sides = ((model, model_rows), (champion.model, champion_rows))
    outputs = [side.predict(matrix_of(side.vocabulary, frame)) for side, frame in sides]
    pair = Pair(problem, labels, outputs[0], outputs[1], _has_time(rows))
    tries = champion.count_tries(rows)
    return Comparison(
        champion.version,
        rows=len(rows),
        tries=tries,
        days=len(np.unique(blocks)) if _has_time(rows) else None,
        loss=pair.loss(blocks, coverage_of(tries)),
        calibration=pair.calibration(blocks),
        cost=_cost(model, champion.model, labels, outputs, blocks, (_has_time(rows), coverage_of(tries))),
        slices=pair.slices(rows, blocks),
        pair=pair,
        blocks=blocks,
    )


def _cost(
    model: Model, champion: Model, labels: Array, outputs: list[Array], blocks: Array, interval: tuple[bool, float]
) -> Estimate | None:
    """Compare the costs of both models' decisions, each by its own rule, in the model's costs."""
    if model.decision is None or not model.decision.costs:
        return None
    codes = [decided_codes(side, output) for side, output in zip((model, champion), outputs, strict=True)]
    return cost_difference(model.decision.costs, labels, (codes[0], codes[1]), blocks, *interval)


@dataclass(frozen=True)
class Pair:
    """The labels of some rows, and both models' predictions. Estimates are of the differences, model minus champion."""

    problem: Problem
    labels: Array
    model: Array
    champion: Array
    in_time: bool = True
    """Whether blocks are days in order of time, not random groups of rows."""

    def loss(self, blocks: Array, coverage: float = COVERAGE) -> Estimate:
        return paired_difference(
            self.problem.kind, self.labels, self.model, self.champion, blocks, self.in_time, coverage
        )

    def calibration(self, blocks: Array, coverage: float = COVERAGE) -> Estimate:
        return calibration_difference(self.problem.kind, self.labels, self.model, self.champion, blocks, coverage)

    def slices(self, rows: pa.Table, blocks: Array, coverage: float = COVERAGE) -> tuple[dict[str, Any], ...]:
        """Compare the loss on every slice with enough rows and days. `coverage`: of all intervals together."""
        parts: list[dict[str, Any]] = []
        samples: list[Array] = []
        weights = weightings(blocks)
        for column in self.problem.monitoring.slices:
            for value, mask in parts_of(rows[column]):
                if mask.sum() < FEWEST_ROWS or len(np.unique(blocks[mask])) < FEWEST_BLOCKS:
                    continue
                model, champion = (
                    loss_samples(self.problem.kind, self.labels[mask], output[mask], blocks[mask], weights)
                    for output in (self.model, self.champion)
                )
                samples.append(model - champion)
                parts.append({"column": column, "value": value, "rows": int(mask.sum())})
        if not parts:
            return ()
        differences = np.array(samples)
        estimates = simultaneous(differences[:, 0], influence(differences), coverage=coverage)
        return tuple(part | {"difference": estimate} for part, estimate in zip(parts, estimates, strict=True))
