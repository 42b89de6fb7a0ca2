"""Drift of a window against a reference: binned counts, PSI, and a permutation of whole days.

Rows of one day resemble each other (weather, a strike), so tests that take rows as independent alarm when nothing has
changed. Here whole blocks (UTC days; for data with no time, runs of rows) change sides, which keeps what ties them
together, and the largest statistic over all columns is compared with its own permutations (Westfall and Young,
Resampling-Based Multiple Testing, 1993), so that the chance of any false alarm is the one that was set.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from truecourse.errors import FeatureError
from truecourse.monitoring.drift.histograms import Array, Bins, Counts, day_blocks, learn_bins

PERMUTATIONS = 999
MAX_BLOCKS = 4000
"""Blocks a side for data with no time: what a permutation of rows costs is bounded."""


def psi(reference: Array, window: Array, starts: Array) -> Array:
    """Population stability index of columns whose bins begin at `starts`: (…, bins) counts give (…, columns).

    sum((w - r) * ln(w / r)) over shares; half a row is added to every bin, so that an empty one is finite. Both shares
    of a column sum to 1, so the logarithms of its totals cancel, and ln(w / r) is that of the counts."""
    before, after = reference + 0.5, window + 0.5
    ratio = np.log(after / before)
    sides = [np.add.reduceat(n * ratio, starts, axis=-1) / np.add.reduceat(n, starts, axis=-1) for n in (after, before)]
    return np.asarray(sides[0] - sides[1])


@dataclass(frozen=True)
class ColumnDrift:
    """`p_value` is adjusted for all columns tested together. Shares are of rows, by bin."""

    name: str
    kind: Literal["number", "category"]
    psi: float
    p_value: float
    drifted: bool
    labels: tuple[str, ...]
    reference: tuple[float, ...]
    window: tuple[float, ...]

    @property
    def missing(self) -> tuple[float, float]:
        """The share of missing values, in the reference and in the window."""
        return self.reference[-1], self.window[-1]


@dataclass(frozen=True)
class Drift:
    """Columns, the most changed first. `least_p` is the smallest p-value that so few blocks can give: above the
    false-alarm rate, no alarm is possible and `decidable` is false."""

    columns: tuple[ColumnDrift, ...]
    blocks: tuple[int, int]
    rows: tuple[int, int]
    least_p: float
    decidable: bool

    @property
    def drifted(self) -> tuple[ColumnDrift, ...]:
        return tuple(column for column in self.columns if column.drifted)


def compare(
    reference: pa.Table,
    window: pa.Table,
    columns: list[str],
    *,
    time: str | None = None,
    bins: int = 10,
    threshold: float = 0.1,
    false_alarm_rate: float = 0.05,
    permutations: int = PERMUTATIONS,
    seed: int = 0,
) -> Drift:
    """Drift of `window` against `reference`. A column has drifted if its adjusted p-value is at most
    `false_alarm_rate` and its PSI is above `threshold`. `time`: the column whose UTC days stay together; None
    permutes rows. Raises FeatureError where either side is empty."""
    for side, frame in (("reference", reference), ("window", window)):
        if len(frame) == 0:
            raise FeatureError(f"the {side} has no rows", where="drift", hint="widen it")
    profile = learn_bins(reference, columns, bins)
    before, after = _counted(profile, reference, window, time)
    found = compare_counts(profile, before, after, threshold, false_alarm_rate, permutations, seed)
    return replace(found, rows=(len(reference), len(window)))


def compare_counts(
    bins: Mapping[str, Bins],
    before: Counts,
    after: Counts,
    threshold: float,
    false_alarm_rate: float,
    permutations: int = PERMUTATIONS,
    seed: int = 0,
) -> Drift:
    """Drift of counted blocks against other counted blocks, by the same bins. Neither side may be empty."""
    starts = first_bins(bins)
    value, p_values = permutation_test(before, after, starts, permutations, seed)
    splits = math.comb(len(before.matrix) + len(after.matrix), len(after.matrix))
    least = max(1 / (permutations + 1), 1 / splits)
    decidable = least <= false_alarm_rate
    drifted = decidable & (p_values <= false_alarm_rate) & (value > threshold)
    return describe_drift(bins, before, after, p_values, drifted, least, decidable)


def describe_drift(
    bins: Mapping[str, Bins],
    before: Counts,
    after: Counts,
    p_values: Array,
    drifted: Array,
    least: float = 0.0,
    decidable: bool = True,
) -> Drift:
    """The shares of both sides with what a test said of each column, in the order of `bins`."""
    starts = first_bins(bins)
    sums = [side.matrix.sum(axis=0).astype(np.float64) for side in (before, after)]
    value = psi(sums[0], sums[1], starts)
    found = []
    for i, (name, binning) in enumerate(bins.items()):
        place = slice(starts[i], starts[i] + len(binning.labels))
        shares = [_shares(side[place]) for side in sums]
        told = float(value[i]), float(p_values[i]), bool(drifted[i])
        found.append(ColumnDrift(name, binning.kind, *told, binning.labels, *shares))
    found.sort(key=lambda column: (not column.drifted, -column.psi, column.name))
    width = len(next(iter(bins.values())).labels)
    rows = (int(before.matrix[:, :width].sum()), int(after.matrix[:, :width].sum()))
    return Drift(tuple(found), (len(before.matrix), len(after.matrix)), rows, least, decidable)


def first_bins(bins: Mapping[str, Bins]) -> Array:
    """Where each column's bins begin in a matrix of counts."""
    return np.cumsum([0, *(len(one.labels) for one in bins.values())])[:-1]


def _shares(counts: Array) -> tuple[float, ...]:
    return tuple((counts / counts.sum()).tolist())


def _counted(bins: Mapping[str, Bins], reference: pa.Table, window: pa.Table, time: str | None) -> list[Counts]:
    if time is not None:
        return [Counts.of(bins, frame, day_blocks(frame[time])) for frame in (reference, window)]
    # Blocks of equally many rows on both sides are exchangeable when rows are; the reference is thinned to fit.
    size = max(1, min(len(reference), len(window)) // 100)
    counted = []
    for frame in (reference, window):
        step = len(frame) // (size * MAX_BLOCKS) + 1
        rows = frame.take(pa.array(np.arange(0, len(frame), step))) if step > 1 else frame
        rows = rows.slice(0, max(1, len(rows) // size) * size)
        counted.append(Counts.of(bins, rows, np.arange(len(rows)) // size))
    return counted


def permutation_test(
    reference: Counts, window: Counts, starts: Array, permutations: int = PERMUTATIONS, seed: int = 0
) -> tuple[Array, Array]:
    """PSI of each column, and its p-value adjusted for all of them (single-step maximum).

    Columns differ in how much their days differ: the logarithm of each PSI is put on the scale of its own
    permutations before the maximum is taken, so that a noisy column does not drown the others."""
    blocks = np.concatenate([reference.matrix, window.matrix]).astype(np.float64)
    height, taken = len(blocks), len(window.matrix)
    random = np.random.default_rng(seed)
    chosen = np.zeros((permutations + 1, height))
    chosen[0, height - taken :] = 1
    ranks = random.random((permutations, height)).argpartition(taken - 1, axis=1)[:, :taken]
    np.put_along_axis(chosen[1:], ranks, 1.0, axis=1)
    inside = chosen @ blocks
    statistic = psi(blocks.sum(axis=0) - inside, inside, starts)
    scaled = np.log(np.maximum(statistic, 1e-12))
    spread = scaled.std(axis=0)
    scaled = np.where(spread > 1e-9, (scaled - scaled.mean(axis=0)) / np.maximum(spread, 1e-9), -np.inf)
    largest = np.sort(scaled.max(axis=1))
    # The observed split is one of the permutations: the p-value counts it, and is never 0.
    at_least = len(largest) - np.searchsorted(largest, scaled[0] - 1e-9, side="left")
    return statistic[0], at_least / len(largest)


def default_window(newest: Any, length: timedelta) -> tuple[Any, Any]:
    """The last `length` before the end of the newest moment's UTC day (naive), so that its days are whole ones; less
    than a day ends at that moment itself."""
    end = newest + timedelta(microseconds=1)
    if length >= timedelta(days=1):
        end = newest.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)
    return end - length, end
