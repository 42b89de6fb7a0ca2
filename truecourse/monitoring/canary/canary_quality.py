"""The canary's quality: the challenger's loss compared with the champion's, on predictions whose labels are known.

Predictions of the same step are compared, because a hash assigns entities to one of the models at random within a step.
Days differ in difficulty, so predictions of different steps are not comparable. At the last step the champion has no
traffic; labels of earlier steps still arrive then. A decision counts once its labels are complete
(Label(closes_after=...)), because labels that come early are a biased sample.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from truecourse.arrays import Array
from truecourse.data.arrow_types import UTC_TIME
from truecourse.errors import NotFound
from truecourse.modeling.encoding import label_text
from truecourse.monitoring.canary.service_level import ALPHA, TESTS, Step, StepResult, entity_groups, request_times
from truecourse.monitoring.predictions.labels import read_known_labels
from truecourse.problem import Problem
from truecourse.problem.promotion import BeatsChampion
from truecourse.references import Window, naive_utc
from truecourse.storage.delta_tables import Tables

FIRST = 50
"""Labelled predictions of the challenger at the first evaluation; each later one has twice as many."""
MAX_LOOKS = 12
ROLES = ("champion", "challenger")
_EPSILON = 1e-7
_EPOCH = datetime.fromtimestamp(0, UTC)


def evaluate_quality(problem: Problem, step: Step, tables: Tables, records: pa.Table, at: datetime) -> StepResult:
    """Evaluate the challenger's quality: roll back or wait. Only the service level increases traffic.

    `records`: the prediction log since `step.canary_started`. `at` (UTC): labels known by then are used."""
    rows = labelled(problem, tables, records, at)
    sides = pa.array([step.champion.model_sha256, step.challenger.model_sha256])
    rows = rows.filter(pc.is_in(rows["model_sha256"], sides))
    if not len(rows):
        return StepResult("wait", "", figures={"quality": {"labelled": 0}})
    is_challenger = pc.equal(rows["model_sha256"], step.challenger.model_sha256).to_numpy()
    given = request_times(rows)
    answers = Labelled(
        given, step_numbers(given, step.starts), entity_groups(problem, rows), is_challenger, losses(problem, rows)
    )
    failure, figures = compare_losses(problem, answers, ALPHA / TESTS)
    if failure:
        return StepResult("roll back", failure, "quality", {"quality": figures})
    success = (
        f"its quality is no worse on {figures['evaluated']} labelled predictions" if "evaluated" in figures else ""
    )
    return StepResult("wait", success, figures={"quality": figures})


def labelled(problem: Problem, tables: Tables, records: pa.Table, at: datetime) -> pa.Table:
    """Return the logged predictions whose label is known at `at` (UTC), with the column `label`."""
    given = pc.and_(pc.is_valid(records["id"]), pc.is_null(records["error"]))
    rows = records.filter(pc.and_(given, pc.is_in(records["role"], pa.array(ROLES))))
    window = Window()
    if problem.has_time:
        closed = pa.scalar(at - problem.label.closes_after, UTC_TIME)
        rows = rows.filter(pc.fill_null(pc.less_equal(rows["decision_time"], closed), False))
        if len(rows):
            bounds = pc.min_max(rows["decision_time"]).as_py()
            last = bounds["max"] + timedelta(microseconds=1)
            window = Window(start=naive_utc(bounds["min"]), end=naive_utc(last))
    nothing = rows.slice(0, 0).append_column("label", pa.array([], pa.string()))
    if not len(rows):
        return nothing
    try:
        known = read_known_labels(problem, tables, rows["id"], window, at)
    except NotFound:  # the problem has no tables yet
        return nothing
    labels = pl.DataFrame(
        {"id": pl.Series(known["id"].cast(pa.string())), "label": pl.Series(label_text(known["label"]))}
    )
    joined = pl.DataFrame(rows).join(labels.unique("id"), on="id", how="inner", maintain_order="left")
    return joined.to_arrow(compat_level=pl.CompatLevel.oldest())


def losses(problem: Problem, rows: pa.Table) -> Array:
    """Return the log loss (n,) of each labelled prediction; for a regression its squared error."""
    if problem.kind == "regression":
        return np.asarray((rows["label"].cast(pa.float64()).to_numpy() - rows["score"].to_numpy()) ** 2)
    if problem.kind == "multiclass":
        pairs = zip(rows["scores"].to_pylist(), rows["label"].to_pylist(), strict=True)
        probability = np.array([json.loads(scores).get(label, 0.0) for scores, label in pairs])
    else:  # the score is that of the last class, which is predicted from 0.5 on
        larger = np.maximum(rows["score"].to_numpy(), 1 - rows["score"].to_numpy())
        correct = pc.equal(rows["prediction"], rows["label"]).to_numpy()
        probability = np.where(correct, larger, 1 - larger)
    return np.asarray(-np.log(np.clip(probability, _EPSILON, 1)))


@dataclass(frozen=True)
class Labelled:
    """n labelled predictions of both models; each field is (n,).

    `at`: time in microseconds. `step`, `group`: numbers. `is_challenger`: whether the challenger made it."""

    at: Array
    step: Array
    group: Array
    is_challenger: Array
    loss: Array

    def part(self, rows: Array) -> "Labelled":
        return Labelled(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))

    def shared(self) -> "Labelled":
        """Return the predictions of those steps in which both models have some."""
        both = [step for step in np.unique(self.step) if len(set(self.is_challenger[self.step == step])) == 2]
        return self.part(np.isin(self.step, both))


def compare_losses(problem: Problem, answers: Labelled, alpha: float) -> tuple[str, dict[str, Any]]:
    """Test whether the challenger's loss is higher; return why, or an empty string, and the figures.

    The probability of a false alarm is `alpha` over all evaluations: evaluation k spends alpha / (k (k + 1)). It uses a
    fixed number of the challenger's first predictions, and the champion's until the same time, so repeating it gives
    the same result."""
    answers = answers.shared()
    given = np.sort(answers.at[answers.is_challenger])
    figures: dict[str, Any] = {"labelled": len(given)}
    if len(given) < FIRST:
        return "", figures
    look = min(int(np.log2(len(given) / FIRST)) + 1, MAX_LOOKS)
    answers = answers.part(answers.at <= given[FIRST * 2 ** (look - 1) - 1]).shared()
    level = alpha / (look * (look + 1))
    sides = (answers.is_challenger, ~answers.is_challenger)
    challenger, champion = (float(answers.loss[side].mean()) for side in sides)
    worse, p_value = difference(answers, _margin(problem, champion), int(np.ceil(2 / level)))
    count, others = (int(side.sum()) for side in sides)
    figures |= {"evaluated": count, "rival": others, "difference": worse, "p": p_value}
    if p_value > level:
        return "", figures
    metric = "mean squared error" if problem.kind == "regression" else "log loss"
    values = f"{challenger:.4g} on {count} labelled predictions, the champion's {champion:.4g} on {others}"
    return f"its quality is worse: its {metric} is {values} of the same time", figures


def difference(answers: Labelled, margin: float, permutations: int, seed: int = 0) -> tuple[float, float]:
    """Return the challenger's mean loss minus the champion's, stratified by step, and its p-value.

    The null hypothesis is that the challenger is worse by at most `margin`. Permutation test: it permutes, within each
    step, which groups of entities are the challenger's."""
    random, total, weight = np.random.default_rng(seed), np.zeros(permutations + 1), 0.0
    allowed = 0.0
    for step in np.unique(answers.step):
        part = answers.part(answers.step == step)
        blocks, place = np.unique(2 * part.group + part.is_challenger, return_inverse=True)
        count = np.bincount(place).astype(np.float64)
        loss = np.bincount(place, part.loss - margin * part.is_challenger)
        challenger = (blocks % 2).astype(bool)
        drawn = np.zeros((permutations + 1, len(blocks)))
        drawn[0, challenger] = 1
        taken = int(challenger.sum())
        ranks = random.random((permutations, len(blocks))).argpartition(taken - 1, axis=1)[:, :taken]
        np.put_along_axis(drawn[1:], ranks, 1.0, axis=1)
        inside, sums = drawn @ count, drawn @ loss
        off = sums / inside - (loss.sum() - sums) / (count.sum() - inside)
        share = count[challenger].sum()
        total, weight = total + share * off, weight + share
        allowed += share * margin
    # The observed split is one of the permutations: the p-value counts it, and is never 0.
    p_value = float(np.mean(total >= total[0] - 1e-12))
    return float((total[0] + allowed) / weight), p_value


def _margin(problem: Problem, champion: float) -> float:
    """Return the margin that the gates allow, in units of a row's loss. `champion`: the champion's mean loss."""
    gates = [gate for gate in problem.gates if isinstance(gate, BeatsChampion) and gate.metric == "loss"]
    allowed = max((gate.margin for gate in gates), default=0.0)
    return (np.sqrt(champion) + allowed) ** 2 - champion if problem.kind == "regression" else allowed


def step_numbers(at: Array, starts: Sequence[datetime]) -> Array:
    """Return each prediction's step number. `at`: microseconds; `starts`: when each step started, oldest first."""
    started = np.array([(moment - _EPOCH) // timedelta(microseconds=1) for moment in starts])
    return np.searchsorted(started, at, side="right")
