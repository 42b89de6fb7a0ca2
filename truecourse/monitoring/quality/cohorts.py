"""Cohorts: the decisions of one UTC day, counted into sums that add up, so that no row is read twice."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta

import numpy as np
import pyarrow as pa
from pydantic import ConfigDict, Field

from truecourse.arrays import Array
from truecourse.evaluation.slices import parts_of
from truecourse.problem.definition import Kind, midnight
from truecourse.references import Reference, UtcTime
from truecourse.statistics.intervals import COVERAGE, UNDEFINED, Estimate, sum_of_absolutes
from truecourse.statistics.metrics import gaps_of, losses

BINS = 40
_GROUPS = 10
_TINY = 1e-7
_LOSSES = ("loss", "expected")


class Cohort(Reference):
    """Sums over the labelled decisions of a day, by one model. `score` is P(last class), the probability of the chosen
    class (multiclass) or the predicted value; `outcome` the label, or whether the choice was right.

    `bins`: (rows, sum of scores, sum of outcomes) by score bin. `expected`: the loss that the scores themselves expect
    (0 for a regression). `variance`: of outcomes, as the scores expect it. `residual`: outcomes minus scores.
    `excess_squares`: of each row's loss minus what is expected. `hindsight`: (sum of how far labels contradict what is
    known now, beyond what it expects; sum of labels minus what it says), `hindsight_squares`: both squared by row.
    `turned`: by class, sums of the score and the information of a share of its labels that another rule
    turned (hindsight.Contradiction). `slices`: (rows, outcome minus score, loss) by column and value; `slice_bins`:
    their `bins` that are not empty, each after its place. `estimate`: the mean loss that was estimated before any label
    was there. `decided`: how many decisions, labelled or not, fell into each score bin. `corrected`: how many labels
    came again and were others.
    `lag`: hours to the labels, by quartile. `counted`: when (UTC); None for days of a yardstick.
    """

    model_config = ConfigDict(ser_json_inf_nan="constants")

    day: date
    counted: UtcTime | None = None
    decisions: int
    nameless: int = 0
    labelled: int
    loss: float
    expected: float
    variance: float
    residual: float
    excess_squares: float = 0.0
    bins: tuple[tuple[int, float, float], ...]
    decided: tuple[int, ...] = ()
    corrected: int = 0
    slices: dict[str, dict[str, tuple[int, float, float]]] = Field(default_factory=dict)
    slice_bins: dict[str, dict[str, tuple[tuple[int, int, float, float], ...]]] = Field(default_factory=dict)
    hindsight: tuple[float, float] | None = None
    hindsight_squares: tuple[float, float] = (0.0, 0.0)
    turned: tuple[tuple[float, float], ...] = ()
    estimate: float | None = None
    lag: tuple[float, ...] = ()


@dataclass(frozen=True)
class ScoredRows:
    """n labelled rows: what was said, what came, and what each cost."""

    score: Array
    outcome: Array
    loss: Array
    expected: Array
    variance: Array

    @classmethod
    def of(cls, kind: Kind, labels: Array, output: Array) -> "ScoredRows":
        loss = losses(kind, labels, output)
        if kind == "regression":
            nothing = np.zeros(len(labels))
            return cls(output, labels.astype(np.float64), loss, nothing, nothing)
        both = np.column_stack([1 - output, output]) if kind == "binary" else output
        clipped = np.clip(both, _TINY, 1)
        expected = -(clipped * np.log(clipped)).sum(axis=1)
        if kind == "binary":
            return cls(output, labels.astype(np.float64), loss, expected, output * (1 - output))
        sure = output.max(axis=1)
        return cls(sure, (output.argmax(axis=1) == labels).astype(np.float64), loss, expected, sure * (1 - sure))


def closing_time(day: date, after: timedelta) -> datetime:
    """When the labels of a day's decisions are complete, naive UTC."""
    return midnight(day) + timedelta(days=1) + after


def bin_index(edges: Array, score: Array) -> Array:
    """The bin of each score."""
    return np.searchsorted(edges, score, side="right")


def sums_by_bin(edges: Array, judged: ScoredRows) -> tuple[tuple[int, float, float], ...]:
    place, size = bin_index(edges, judged.score), len(edges) + 1
    rows = np.bincount(place, minlength=size)
    said, came = (np.bincount(place, weights, size) for weights in (judged.score, judged.outcome))
    return tuple((int(n), float(s), float(o)) for n, s, o in zip(rows, said, came, strict=True))


def decisions_by_bin(kind: Kind, edges: Array, output: Array) -> tuple[int, ...]:
    """How many decisions fell into each score bin; no label is asked."""
    judged = ScoredRows.of(kind, np.zeros(len(output), dtype=np.int64), output)
    return tuple(np.bincount(bin_index(edges, judged.score), minlength=len(edges) + 1).tolist())


def sums_by_slice(
    frame: pa.Table, columns: Sequence[str], judged: ScoredRows
) -> dict[str, dict[str, tuple[int, float, float]]]:
    """By each column's values; a number is taken as it is, so that the parts are the same every day."""
    off = judged.outcome - judged.score
    found = {}
    for name in columns:
        parts = parts_of(frame[name].cast(pa.string()))
        found[name] = {
            value: (int(mask.sum()), float(off[mask].sum()), float(judged.loss[mask].sum())) for value, mask in parts
        }
    return found


def bins_by_slice(
    frame: pa.Table, columns: Sequence[str], judged: ScoredRows, edges: Array
) -> dict[str, dict[str, tuple[tuple[int, int, float, float], ...]]]:
    """By the same values: no more numbers than rows, whatever their number."""
    place, size = bin_index(edges, judged.score), len(edges) + 1
    found: dict[str, dict[str, tuple[tuple[int, int, float, float], ...]]] = {}
    for name in columns:
        for value, mask in parts_of(frame[name].cast(pa.string())):
            sides = (None, judged.score[mask], judged.outcome[mask])
            rows, said, came = (np.bincount(place[mask], weights, size).tolist() for weights in sides)
            kept = ((i, int(rows[i]), round(said[i], 6), round(came[i], 6)) for i in range(size) if rows[i])
            found.setdefault(name, {})[value] = tuple(kept)
    return found


def slice_cohorts(cohorts: Sequence[Cohort], column: str, value: str) -> list[Cohort] | None:
    """Each cohort's rows of a slice as a cohort of its own, for metrics() and curve(); None where any was counted
    before bins of slices were kept."""
    made = []
    for one in cohorts:
        rows, _, loss = one.slices.get(column, {}).get(value, (0, 0.0, 0.0))
        kept = one.slice_bins.get(column, {}).get(value, () if not rows else None)
        if kept is None:
            return None
        bins = [(0, 0.0, 0.0)] * len(one.bins)
        for place, n, said, came in kept:
            bins[place] = (n, said, came)
        made.append(one.model_copy(update={"labelled": rows, "loss": loss, "bins": tuple(bins)}))
    return made


def slice_sums(cohorts: Sequence[Cohort]) -> list[tuple[str, str, Array]]:
    """(column, value, (cohorts, 3) sums) of every slice, the largest of a column first."""
    zero = (0, 0.0, 0.0)
    found = []
    for column in dict.fromkeys(name for one in cohorts for name in one.slices):
        values = dict.fromkeys(value for one in cohorts for value in one.slices.get(column, {}))
        parts = [(v, np.array([one.slices.get(column, {}).get(v, zero) for one in cohorts])) for v in values]
        parts.sort(key=lambda part: (-part[1][:, 0].sum(), part[0]))
        found += [(column, value, sums) for value, sums in parts]
    return found


def metrics(kind: Kind, cohorts: Sequence[Cohort], weights: Array) -> Mapping[str, Array]:
    """Samples of each metric (b,) for `weights` (b, cohorts): how much each day counts. NaN where no row does. The
    calibration error is no such metric: see calibration().

    The AUC is that of the score bins, ties counted half; the excess loss what exceeds the scores' own expectation."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return _metrics(kind, cohorts, weights)


def _metrics(kind: Kind, cohorts: Sequence[Cohort], weights: Array) -> Mapping[str, Array]:
    bins = np.array([one.bins for one in cohorts])  # (cohorts, bins, 3)
    rows, said, came = np.moveaxis(np.tensordot(weights, bins, axes=1), -1, 0)
    total = rows.sum(axis=1)
    loss, expected = (weights @ np.array([getattr(one, name) for one in cohorts]) / total for name in _LOSSES)
    if kind == "regression":
        return {"rmse": np.sqrt(loss), "bias": (said - came).sum(axis=1) / total}
    share = came.sum(axis=1) / total
    if kind == "multiclass":
        return {"log_loss": loss, "excess_loss": loss - expected, "accuracy": share}
    negative = rows - came
    below = np.cumsum(negative, axis=1) - negative / 2
    auc = (came * below).sum(axis=1) / (came.sum(axis=1) * negative.sum(axis=1))  # one class only: NaN
    return {"auc": auc, "log_loss": loss, "excess_loss": loss - expected, "base_rate": share}


def calibration_error(cohorts: Sequence[Cohort], coverage: float = COVERAGE) -> Estimate:
    """The expected calibration error over ten groups of scores, without what chance adds to it."""
    held = [one for one in cohorts if one.labelled]
    if not held:
        return UNDEFINED
    bins = np.array([one.bins for one in held])  # (cohorts, bins, 3)
    groups = np.unique(np.linspace(0, bins.shape[1], _GROUPS + 1).astype(int)[:-1])
    sums = np.add.reduceat(bins[:, :, 2] - bins[:, :, 1], groups, axis=1)
    return sum_of_absolutes(*gaps_of(sums, bins[:, :, 0].sum(axis=1)), coverage=coverage)


def calibration_curve(cohorts: Sequence[Cohort]) -> list[list[float]]:
    """(rows, mean score, mean outcome) of ten groups of scores; empty groups are left out."""
    sums = np.array([one.bins for one in cohorts]).sum(axis=0)
    groups = np.add.reduceat(sums, np.unique(np.linspace(0, len(sums), _GROUPS + 1).astype(int)[:-1]), axis=0)
    return [[int(n), float(s / n), float(o / n)] for n, s, o in groups if n]
