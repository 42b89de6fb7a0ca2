"""Two models on the same rows, which neither has learned from: paired differences with their intervals."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from truecourse.arrays import Array
from truecourse.errors import ModelError
from truecourse.evaluation.slices import FEWEST_ROWS, parts_of
from truecourse.evaluation.tries import coverage_of
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

FEWEST_BLOCKS = 7
"""Fewer days (rows, without time) are no sample to draw from: the interval would be too narrow, one day's has no width.
Seven have every weekday once."""


@dataclass(frozen=True)
class Comparison:
    """A model minus the champion: {"value", "low", "high"}, for each of which less is better. `reason`: why the two
    cannot be compared, and then there are no figures."""

    champion: int
    reason: str = ""
    rows: int = 0
    tries: int = 1
    """The how-manieth version that was compared with the champion on these rows; the loss is held to more for more."""
    days: int | None = None
    """None where rows have no time, and are drawn one by one."""
    loss: Estimate | None = None
    calibration: Estimate | None = None
    slices: tuple[dict[str, Any], ...] = ()
    """{"column", "value", "rows", "difference"}; the intervals hold for all of them at once."""


FeatureLookup = Callable[[pa.Table], pa.Table]
"""Gives rows the features of a model's own definition. Raises ModelError that names those it cannot give."""


def first_try(rows: pa.Table) -> int:
    return 1


def unchanged(rows: pa.Table) -> pa.Table:
    return rows


@dataclass(frozen=True)
class Champion:
    """The version in office, its model, the frame of the snapshot it was trained on, and what gives it its features."""

    version: int
    model: Model
    frame: pa.Table
    lookup: FeatureLookup = unchanged
    count_tries: Callable[[pa.Table], int] = first_try
    """The how-manieth version is compared with it on some rows: truecourse/evaluation/tries.py."""


def unseen_rows(problem: Problem, rows: pa.Table, *trained: pa.Table) -> pa.Table:
    """The rows from which no model learned that was trained on one of these frames, be it only when to stop.

    Where the split is by time, they also come after all that any of them learned from: an earlier row that was left
    out then, for its label came late, is no fair sample, and a model knows the days around it."""
    for frame in trained:
        learned = rows_of(frame, "train", "validate")
        rows = rows.filter(pc.invert(pc.is_in(rows["id"], learned["id"].combine_chunks())))
        if isinstance(problem.split, TimeSplit) and "decision_time" in learned.column_names and len(learned):
            rows = rows.filter(pc.greater(rows["decision_time"], pc.max(learned["decision_time"])))
    return rows


def obstacle(rows: pa.Table, model: Model, champion: Model) -> str:
    """Why the champion cannot be compared with the model on these rows; empty if it can."""
    absent = absent_inputs(champion, rows)
    if absent:
        return f"its inputs {', '.join(absent[:5])} are not in this snapshot"
    if champion.vocabulary.classes != model.vocabulary.classes:
        return "it knows other classes"
    return shortage(rows)


def absent_inputs(model: Model, rows: pa.Table) -> list[str]:
    return [name for name in model.vocabulary.features if name not in rows.column_names]


def shortage(rows: pa.Table) -> str:
    """What is said of rows that are too few to compare anything on; empty if they are not."""
    found = len(np.unique(blocks_of(rows))) if _timed(rows) else len(rows)
    if found >= FEWEST_BLOCKS:
        return ""
    unit = "days" if _timed(rows) else "rows"
    return f"closed cohorts of {found} {unit} are left that were not learned from, and {FEWEST_BLOCKS} are needed"


def _timed(rows: pa.Table) -> bool:
    return "decision_time" in rows.column_names


def compare(
    problem: Problem, rows: pa.Table, model: Model, rival: Champion, lookup: FeatureLookup = unchanged
) -> Comparison:
    """On those of the rows that the rival did not learn from either, each on features of its own definition. The caller
    sees to it that the model did not learn from them. `lookup`: what gives the model its features."""
    rows = unseen_rows(problem, rows, rival.frame)
    try:
        mine, theirs = lookup(rows), rival.lookup(rows)
    except ModelError as error:
        return Comparison(rival.version, error.what)
    reason = obstacle(theirs, model, rival.model)
    if reason:
        return Comparison(rival.version, reason)
    blocks, labels = blocks_of(rows), model.vocabulary.labels(rows)
    said = [m.predict(matrix_of(m.vocabulary, side)) for m, side in ((model, mine), (rival.model, theirs))]
    pair = Pair(problem, labels, said[0], said[1], _timed(rows))
    tries = rival.count_tries(rows)
    return Comparison(
        rival.version,
        rows=len(rows),
        tries=tries,
        days=len(np.unique(blocks)) if _timed(rows) else None,
        loss=pair.loss(blocks, coverage_of(tries)),
        calibration=pair.calibration(blocks),
        slices=pair.slices(rows, blocks),
    )


@dataclass(frozen=True)
class Pair:
    """The labels of some rows, and what each model predicts for them. Figures are of the differences."""

    problem: Problem
    labels: Array
    model: Array
    champion: Array
    in_time: bool = True
    """Whether blocks are days in order of time, and not rows dealt out."""

    def loss(self, blocks: Array, coverage: float = COVERAGE) -> Estimate:
        return paired_difference(
            self.problem.kind, self.labels, self.model, self.champion, blocks, self.in_time, coverage
        )

    def calibration(self, blocks: Array) -> Estimate:
        return calibration_difference(self.problem.kind, self.labels, self.model, self.champion, blocks)

    def slices(self, rows: pa.Table, blocks: Array) -> tuple[dict[str, Any], ...]:
        """The loss on every slice of enough rows and days."""
        found: list[dict[str, Any]] = []
        samples: list[Array] = []
        weights = weightings(blocks)
        for column in self.problem.monitoring.slices:
            for value, mask in parts_of(rows[column]):
                if mask.sum() < FEWEST_ROWS or len(np.unique(blocks[mask])) < FEWEST_BLOCKS:
                    continue
                model, champion = (
                    loss_samples(self.problem.kind, self.labels[mask], said[mask], blocks[mask], weights)
                    for said in (self.model, self.champion)
                )
                samples.append(model - champion)
                found.append({"column": column, "value": value, "rows": int(mask.sum())})
        if not found:
            return ()
        drawn = np.array(samples)
        figures = simultaneous(drawn[:, 0], influence(drawn))
        return tuple(part | {"difference": figure} for part, figure in zip(found, figures, strict=True))
