"""Cohorts: the decisions of one UTC day, stored as additive sums, so that each row is read only once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Annotated

import numpy as np
import pyarrow as pa
from pydantic import ConfigDict, Field, TypeAdapter

from truecourse.arrays import Array
from truecourse.evaluation.slices import parts_of
from truecourse.problem.definition import Kind, midnight
from truecourse.references import StoredRecord, UtcTime
from truecourse.statistics.absolute_sums import sum_of_absolutes
from truecourse.statistics.intervals import COVERAGE, UNDEFINED, Estimate
from truecourse.statistics.metrics import bounded, gaps_of, losses
from truecourse.stored_format import renamed

BINS = 40
_GROUPS = 10
_TINY = 1e-7
_LOSSES = ("loss", "expected")


class Cohort(StoredRecord):
    """Sums over the labelled decisions of one day by one model version.

    The score is P(last class) for a binary label, the probability of the predicted class for several classes, and the
    predicted value for a regression. The outcome is the label; for several classes, whether the prediction was right.

    `counted`: when the sums were computed (UTC); None for days of a baseline. `decisions`: all decisions of the day;
    `without_id`: those logged without an id, which no label can be joined to. `labelled`: rows summed.
    `loss`, `expected`: sums of the loss, and of its expectation under the scores (0 for a regression).
    `variance`: sum of the outcomes' variance under the scores. `residual`: sum of outcomes minus scores.
    `excess_squares`: sum of (loss - expected)².
    `bins`: (rows, sum of scores, sum of outcomes) by score bin. `decided`: decisions, labelled or not, by score bin.
    `confusion`: rows by actual and predicted class; empty for a model without a decision rule.
    `corrected`: labels that were delivered again with another value.
    `slices`: (rows, outcomes minus scores, loss) by column and value. `slice_bins`: the non-empty `bins` of each slice,
    each preceded by its index.
    `label_residuals`: sums of LabelResiduals.distance and .difference; `label_residual_squares`: sums of their squares.
    `turned`: by class, sums of the score statistic and of the information of LabelResiduals.flips.
    `estimate`: the mean loss, estimated before any label was known. `lag`: hours to the labels, by quartile.
    """

    model_config = ConfigDict(ser_json_inf_nan="constants")

    day: date
    counted: UtcTime | None = None
    decisions: int
    without_id: Annotated[int, renamed("without_id")] = 0
    labelled: int
    loss: float
    expected: float
    variance: float
    residual: float
    excess_squares: float = 0.0
    bins: tuple[tuple[int, float, float], ...]
    decided: tuple[int, ...] = ()
    corrected: int = 0
    confusion: tuple[tuple[int, ...], ...] = ()
    slices: dict[str, dict[str, tuple[int, float, float]]] = Field(default_factory=dict)
    slice_bins: dict[str, dict[str, tuple[tuple[int, int, float, float], ...]]] = Field(default_factory=dict)
    label_residuals: Annotated[tuple[float, float] | None, renamed("label_residuals")] = None
    label_residual_squares: Annotated[tuple[float, float], renamed("label_residual_squares")] = (0.0, 0.0)
    turned: tuple[tuple[float, float], ...] = ()
    estimate: float | None = None
    lag: tuple[float, ...] = ()


COHORTS = TypeAdapter(list[Cohort])
"""Reads and writes a year of cohorts in a tenth of the time that the json module takes."""


@dataclass(frozen=True)
class ScoredRows:
    """n labelled rows: score, outcome, loss, and the loss and variance that the score expects; each (n,)."""

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
            return cls(bounded(output), bounded(labels), loss, nothing, nothing)
        both = np.column_stack([1 - output, output]) if kind == "binary" else output
        clipped = np.clip(both, _TINY, 1)
        expected = -(clipped * np.log(clipped)).sum(axis=1)
        if kind == "binary":
            return cls(output, labels.astype(np.float64), loss, expected, output * (1 - output))
        sure = output.max(axis=1)
        return cls(sure, (output.argmax(axis=1) == labels).astype(np.float64), loss, expected, sure * (1 - sure))


def closing_time(day: date, after: timedelta) -> datetime:
    """Return when the labels of a day's decisions are complete (naive UTC)."""
    return midnight(day) + timedelta(days=1) + after


def bin_index(edges: Array, score: Array) -> Array:
    """Return the bin of each score (n,)."""
    return np.searchsorted(edges, score, side="right")


def sums_by_bin(edges: Array, scored: ScoredRows) -> tuple[tuple[int, float, float], ...]:
    place, size = bin_index(edges, scored.score), len(edges) + 1
    rows = np.bincount(place, minlength=size)
    scores, outcomes = (np.bincount(place, weights, size) for weights in (scored.score, scored.outcome))
    return tuple((int(n), float(s), float(o)) for n, s, o in zip(rows, scores, outcomes, strict=True))


def decisions_by_bin(kind: Kind, edges: Array, output: Array) -> tuple[int, ...]:
    """Count the decisions in each score bin; no labels are needed."""
    scored = ScoredRows.of(kind, np.zeros(len(output), dtype=np.int64), output)
    return tuple(np.bincount(bin_index(edges, scored.score), minlength=len(edges) + 1).tolist())


def sums_by_slice(
    frame: pa.Table, columns: Sequence[str], scored: ScoredRows
) -> dict[str, dict[str, tuple[int, float, float]]]:
    """Sum rows, outcomes minus scores, and losses by the values of each column.

    Numbers are not binned, so the slices are the same every day."""
    off = scored.outcome - scored.score
    found = {}
    for name in columns:
        parts = parts_of(frame[name].cast(pa.string()))
        found[name] = {
            value: (int(mask.sum()), float(off[mask].sum()), float(scored.loss[mask].sum())) for value, mask in parts
        }
    return found


def bins_by_slice(
    frame: pa.Table, columns: Sequence[str], scored: ScoredRows, edges: Array
) -> dict[str, dict[str, tuple[tuple[int, int, float, float], ...]]]:
    """Sum the non-empty score bins of the same slices; there are at most as many bins as rows."""
    place, size = bin_index(edges, scored.score), len(edges) + 1
    found: dict[str, dict[str, tuple[tuple[int, int, float, float], ...]]] = {}
    for name in columns:
        for value, mask in parts_of(frame[name].cast(pa.string())):
            sides = (None, scored.score[mask], scored.outcome[mask])
            rows, scores, outcomes = (np.bincount(place[mask], weights, size).tolist() for weights in sides)
            kept = ((i, int(rows[i]), round(scores[i], 6), round(outcomes[i], 6)) for i in range(size) if rows[i])
            found.setdefault(name, {})[value] = tuple(kept)
    return found


def slice_cohorts(cohorts: Sequence[Cohort], column: str, value: str) -> list[Cohort] | None:
    """Return each cohort restricted to a slice, for metrics() and calibration_curve().

    None if any cohort was stored without slice bins (by an earlier release)."""
    restricted = []
    for one in cohorts:
        rows, _, loss = one.slices.get(column, {}).get(value, (0, 0.0, 0.0))
        kept = one.slice_bins.get(column, {}).get(value, () if not rows else None)
        if kept is None:
            return None
        bins = [(0, 0.0, 0.0)] * len(one.bins)
        for place, n, score, outcome in kept:
            bins[place] = (n, score, outcome)
        restricted.append(one.model_copy(update={"labelled": rows, "loss": loss, "bins": tuple(bins), "confusion": ()}))
    return restricted


def slice_sums(cohorts: Sequence[Cohort]) -> list[tuple[str, str, Array]]:
    """List (column, value, (cohorts, 3) sums) of every slice, the largest slice of a column first."""
    zero = (0, 0.0, 0.0)
    found = []
    for column in dict.fromkeys(name for one in cohorts for name in one.slices):
        values = dict.fromkeys(value for one in cohorts for value in one.slices.get(column, {}))
        parts = [(v, np.array([one.slices.get(column, {}).get(v, zero) for one in cohorts])) for v in values]
        parts.sort(key=lambda part: (-part[1][:, 0].sum(), part[0]))
        found += [(column, value, sums) for value, sums in parts]
    return found


def metrics(kind: Kind, cohorts: Sequence[Cohort], weights: Array) -> Mapping[str, Array]:
    """Compute samples (b,) of each metric for `weights` (b, cohorts) of the days. NaN where no row has weight.

    The AUC is that of the score bins, with ties counted half. The excess loss is the loss minus its expectation under
    the scores. The calibration error is computed by calibration_error()."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return _metrics(kind, cohorts, weights)


def _metrics(kind: Kind, cohorts: Sequence[Cohort], weights: Array) -> Mapping[str, Array]:
    bins = np.array([one.bins for one in cohorts])  # (cohorts, bins, 3)
    rows, scores, outcomes = np.moveaxis(np.tensordot(weights, bins, axes=1), -1, 0)
    total = rows.sum(axis=1)
    loss, expected = (weights @ np.array([getattr(one, name) for one in cohorts]) / total for name in _LOSSES)
    if kind == "regression":
        return {"rmse": np.sqrt(loss), "bias": (scores - outcomes).sum(axis=1) / total}
    share = outcomes.sum(axis=1) / total
    if kind == "multiclass":
        return {"log_loss": loss, "excess_loss": loss - expected, "accuracy": share}
    negative = rows - outcomes
    below = np.cumsum(negative, axis=1) - negative / 2
    auc = (outcomes * below).sum(axis=1) / (outcomes.sum(axis=1) * negative.sum(axis=1))  # one class only: NaN
    return {"auc": auc, "log_loss": loss, "excess_loss": loss - expected, "base_rate": share}


def calibration_error(cohorts: Sequence[Cohort], coverage: float = COVERAGE) -> Estimate:
    """Estimate the expected calibration error over ten groups of scores, corrected for sampling noise."""
    labelled = [one for one in cohorts if one.labelled]
    if not labelled:
        return UNDEFINED
    bins = np.array([one.bins for one in labelled])  # (cohorts, bins, 3)
    groups = np.unique(np.linspace(0, bins.shape[1], _GROUPS + 1).astype(int)[:-1])
    sums = np.add.reduceat(bins[:, :, 2] - bins[:, :, 1], groups, axis=1)
    return sum_of_absolutes(*gaps_of(sums, bins[:, :, 0].sum(axis=1)), coverage=coverage)


def calibration_curve(cohorts: Sequence[Cohort]) -> list[list[float]]:
    """List (rows, mean score, mean outcome) of ten groups of scores, without empty groups."""
    sums = np.array([one.bins for one in cohorts]).sum(axis=0)
    groups = np.add.reduceat(sums, np.unique(np.linspace(0, len(sums), _GROUPS + 1).astype(int)[:-1]), axis=0)
    return [[int(n), float(s / n), float(o / n)] for n, s, o in groups if n]
