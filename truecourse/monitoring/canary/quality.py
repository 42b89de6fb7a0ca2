"""Whether a canary answers worse than the champion, as labels come: from the prediction log and the labels alone.

Held against each other are answers that both gave at the same time: those of one step, over which the entities were
dealt out by a hash. Days differ in how hard they are, so an answer of another step says nothing, and at the last step
there is nobody to compare with; labels of the steps before come then still. A decision counts once its labels are
complete (Label(closes_after=...)), for those that come early are no fair sample.
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
from truecourse.monitoring.predictions.labels import known_labels
from truecourse.problem import Problem
from truecourse.problem.promotion import BeatsChampion
from truecourse.references import Window, naive_utc
from truecourse.storage.tables import Tables

FIRST = 50
"""So many labelled answers of the challenger are looked at first, and twice as many each time after."""
MAX_LOOKS = 12
ROLES = ("champion", "challenger")
_EPSILON = 1e-7
_EPOCH = datetime.fromtimestamp(0, UTC)


def evaluate_quality(problem: Problem, step: Step, tables: Tables, records: pa.Table, at: datetime) -> StepResult:
    """`records`: the prediction log from `step.began` on. `at` (UTC): until when labels count. It never asks to widen:
    that takes requests, whether they have labels or not."""
    rows = labelled(problem, tables, records, at)
    sides = pa.array([step.champion.model_sha256, step.challenger.model_sha256])
    rows = rows.filter(pc.is_in(rows["model_sha256"], sides))
    if not len(rows):
        return StepResult("wait", "", figures={"quality": {"labelled": 0}})
    mine = pc.equal(rows["model_sha256"], step.challenger.model_sha256).to_numpy()
    given = request_times(rows)
    answers = Labelled(
        given, step_numbers(given, step.moves), entity_groups(problem, rows), mine, losses(problem, rows)
    )
    fault, figures = compare_losses(problem, answers, ALPHA / TESTS)
    if fault:
        return StepResult("withdraw", fault, "quality", {"quality": figures})
    well = f"its answers are no worse on {figures['judged']} that have labels" if "judged" in figures else ""
    return StepResult("wait", well, figures={"quality": figures})


def labelled(problem: Problem, tables: Tables, records: pa.Table, at: datetime) -> pa.Table:
    """The answers among the records of a log whose label is known at `at` (UTC), and `label` with them."""
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
        known = known_labels(problem, tables, rows["id"], window, at)
    except NotFound:  # no table of this problem was ever written
        return nothing
    labels = pl.DataFrame(
        {"id": pl.Series(known["id"].cast(pa.string())), "label": pl.Series(label_text(known["label"]))}
    )
    joined = pl.DataFrame(rows).join(labels.unique("id"), on="id", how="inner", maintain_order="left")
    return joined.to_arrow(compat_level=pl.CompatLevel.oldest())


def losses(problem: Problem, rows: pa.Table) -> Array:
    """(n,) the log loss of each labelled answer, or its squared error."""
    if problem.kind == "regression":
        return np.asarray((rows["label"].cast(pa.float64()).to_numpy() - rows["score"].to_numpy()) ** 2)
    if problem.kind == "multiclass":
        said = zip(rows["scores"].to_pylist(), rows["label"].to_pylist(), strict=True)
        chance = np.array([json.loads(scores).get(label, 0.0) for scores, label in said])
    else:  # the score is that of the last class, which is predicted from a half on
        likelier = np.maximum(rows["score"].to_numpy(), 1 - rows["score"].to_numpy())
        right = pc.equal(rows["prediction"], rows["label"]).to_numpy()
        chance = np.where(right, likelier, 1 - likelier)
    return np.asarray(-np.log(np.clip(chance, _EPSILON, 1)))


@dataclass(frozen=True)
class Labelled:
    """n labelled answers of both sides. `at`: microseconds; `step`, `group`: numbers; `mine`: the challenger's."""

    at: Array
    step: Array
    group: Array
    mine: Array
    loss: Array

    def part(self, rows: Array) -> "Labelled":
        return Labelled(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))

    def shared(self) -> "Labelled":
        """Of the steps at which both gave answers."""
        both = [step for step in np.unique(self.step) if len(set(self.mine[self.step == step])) == 2]
        return self.part(np.isin(self.step, both))


def compare_losses(problem: Problem, answers: Labelled, alpha: float) -> tuple[str, dict[str, Any]]:
    """What is wrong, empty if nothing is, and the figures. The chance of a false alarm is `alpha` over all looks: the
    look k takes alpha / (k (k + 1)) of it. A look takes the first so many of the challenger's answers, and the
    champion's of the same time: asked as often as one likes, the same answers give the same verdict."""
    answers = answers.shared()
    given = np.sort(answers.at[answers.mine])
    figures: dict[str, Any] = {"labelled": len(given)}
    if len(given) < FIRST:
        return "", figures
    look = min(int(np.log2(len(given) / FIRST)) + 1, MAX_LOOKS)
    answers = answers.part(answers.at <= given[FIRST * 2 ** (look - 1) - 1]).shared()
    level = alpha / (look * (look + 1))
    mine, theirs = (float(answers.loss[side].mean()) for side in (answers.mine, ~answers.mine))
    worse, p_value = difference(answers, _margin(problem, theirs), int(np.ceil(2 / level)))
    count = int(answers.mine.sum())
    figures |= {"judged": count, "rival": int((~answers.mine).sum()), "difference": worse, "p": p_value}
    if p_value > level:
        return "", figures
    what = "mean squared error" if problem.kind == "regression" else "log loss"
    sides = f"{mine:.4g} on {count} labelled answers, the champion's {theirs:.4g} on {figures['rival']}"
    return f"it answers worse: its {what} is {sides} of the same time", figures


def difference(answers: Labelled, margin: float, permutations: int, seed: int = 0) -> tuple[float, float]:
    """The challenger's mean loss minus the champion's, step by step, and how likely so much or more is if it is worse
    by no more than `margin`: by permuting which groups of entities are the challenger's, within each step."""
    random, total, weight = np.random.default_rng(seed), np.zeros(permutations + 1), 0.0
    plain = 0.0
    for step in np.unique(answers.step):
        part = answers.part(answers.step == step)
        blocks, place = np.unique(2 * part.group + part.mine, return_inverse=True)
        count = np.bincount(place).astype(np.float64)
        loss = np.bincount(place, part.loss - margin * part.mine)
        theirs = (blocks % 2).astype(bool)
        drawn = np.zeros((permutations + 1, len(blocks)))
        drawn[0, theirs] = 1
        taken = int(theirs.sum())
        ranks = random.random((permutations, len(blocks))).argpartition(taken - 1, axis=1)[:, :taken]
        np.put_along_axis(drawn[1:], ranks, 1.0, axis=1)
        inside, sums = drawn @ count, drawn @ loss
        off = sums / inside - (loss.sum() - sums) / (count.sum() - inside)
        share = count[theirs].sum()
        total, weight = total + share * off, weight + share
        plain += share * margin
    # The observed split is one of the permutations: the p-value counts it, and is never 0.
    p_value = float(np.mean(total >= total[0] - 1e-12))
    return float((total[0] + plain) / weight), p_value


def _margin(problem: Problem, rival: float) -> float:
    """What the gates allow, in units of the loss of a row. `rival`: the champion's mean loss."""
    allowed = max((gate.margin for gate in problem.gates if isinstance(gate, BeatsChampion)), default=0.0)
    return (np.sqrt(rival) + allowed) ** 2 - rival if problem.kind == "regression" else allowed


def step_numbers(at: Array, moves: Sequence[datetime]) -> Array:
    """At which step each answer was given. `at`: microseconds; `moves`: when each step began, oldest first."""
    began = np.array([(moment - _EPOCH) // timedelta(microseconds=1) for moment in moves])
    return np.searchsorted(began, at, side="right")
