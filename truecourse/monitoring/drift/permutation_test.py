"""Drift of a window against a reference: binned counts, PSI, and a permutation of whole days.

Rows of one day are alike (weather, a strike), so tests that assume independent rows give false alarms. This test
permutes whole blocks (UTC days; for data without time, runs of rows), which keeps the dependence within them. The
largest statistic over all columns is compared with its own permutation distribution (Westfall and Young,
Resampling-Based Multiple Testing, 1993), so that the family-wise false-alarm rate is the configured one.

benchmarks/monitoring/alarms.py measures false alarms and power beside Evidently's drift preset,
benchmarks/monitoring/drift.py the CPU time.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from truecourse.errors import FeatureError
from truecourse.monitoring.drift.histograms import Array, Bins, Counts, learn_bins, number_days

PERMUTATIONS = 999
MAX_BLOCKS = 4000
"""Maximum blocks per side for data without time, which bounds the cost of permutations."""


def psi(reference: Array, window: Array, starts: Array) -> Array:
    """Population stability index of columns whose bins begin at `starts`: (…, bins) counts give (…, columns).

    sum((w - r) * ln(w / r)) over shares; half a row is added to every bin, so that empty bins give finite values. Both
    shares of a column sum to 1, so the logarithms of the totals cancel, and ln(w / r) can use the counts."""
    before, after = reference + 0.5, window + 0.5
    ratio = np.log(after / before)
    sides = [np.add.reduceat(n * ratio, starts, axis=-1) / np.add.reduceat(n, starts, axis=-1) for n in (after, before)]
    return np.asarray(sides[0] - sides[1])


@dataclass(frozen=True)
class ColumnDrift:
    """Drift of one column. `p_value`: adjusted for all columns tested together. `reference`, `window`: shares of rows
    by bin."""

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
        """The shares of missing values in the reference and in the window."""
        return self.reference[-1], self.window[-1]


@dataclass(frozen=True)
class Drift:
    """Drift of all columns, the most changed first; pairs are (reference, window).

    `least_p`: the smallest p-value that the number of blocks allows. If it exceeds the false-alarm rate, no finding is
    possible and `decidable` is false."""

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
    """Test `window` for drift against `reference`. A column drifted if its adjusted p-value is at most
    `false_alarm_rate` and its PSI is above `threshold`. `time`: the time column, whose UTC days are the blocks; None
    for blocks of rows. Raises FeatureError if either side is empty."""
    for side, frame in (("reference", reference), ("window", window)):
        if len(frame) == 0:
            raise FeatureError(f"the {side} has no rows", where="drift", hint=f"widen the {side}")
    profile = learn_bins(reference, columns, bins)
    before, after = _count_blocks(profile, reference, window, time)
    result = compare_counts(profile, before, after, threshold, false_alarm_rate, permutations, seed)
    return replace(result, rows=(len(reference), len(window)))


def compare_counts(
    bins: Mapping[str, Bins],
    before: Counts,
    after: Counts,
    threshold: float,
    false_alarm_rate: float,
    permutations: int = PERMUTATIONS,
    seed: int = 0,
) -> Drift:
    """Test counted blocks against other counted blocks with the same bins. Neither side may be empty."""
    starts = first_bins(bins)
    value, p_values = permutation_test(before, after, starts, permutations, seed)
    splits = math.comb(len(before.matrix) + len(after.matrix), len(after.matrix))
    least_p = max(1 / (permutations + 1), 1 / splits)
    decidable = least_p <= false_alarm_rate
    drifted = decidable & (p_values <= false_alarm_rate) & (value > threshold)
    return describe_drift(bins, before, after, p_values, drifted, least_p, decidable)


def describe_drift(
    bins: Mapping[str, Bins],
    before: Counts,
    after: Counts,
    p_values: Array,
    drifted: Array,
    least_p: float = 0.0,
    decidable: bool = True,
) -> Drift:
    """Combine the shares of both sides with test results, given by column in the order of `bins`."""
    starts = first_bins(bins)
    sums = [side.matrix.sum(axis=0).astype(np.float64) for side in (before, after)]
    value = psi(sums[0], sums[1], starts)
    columns = []
    for i, (name, binning) in enumerate(bins.items()):
        bins_of_column = slice(starts[i], starts[i] + len(binning.labels))
        shares = [_shares(side[bins_of_column]) for side in sums]
        result = float(value[i]), float(p_values[i]), bool(drifted[i])
        columns.append(ColumnDrift(name, binning.kind, *result, binning.labels, *shares))
    columns.sort(key=lambda column: (not column.drifted, -column.psi, column.name))
    width = len(next(iter(bins.values())).labels)
    rows = (int(before.matrix[:, :width].sum()), int(after.matrix[:, :width].sum()))
    return Drift(tuple(columns), (len(before.matrix), len(after.matrix)), rows, least_p, decidable)


def first_bins(bins: Mapping[str, Bins]) -> Array:
    """Return the index of each column's first bin in a matrix of counts."""
    return np.cumsum([0, *(len(one.labels) for one in bins.values())])[:-1]


def _shares(counts: Array) -> tuple[float, ...]:
    return tuple((counts / counts.sum()).tolist())


def _count_blocks(bins: Mapping[str, Bins], reference: pa.Table, window: pa.Table, time: str | None) -> list[Counts]:
    if time is not None:
        return [Counts.of(bins, frame, number_days(frame[time])) for frame in (reference, window)]
    # Blocks of equal size on both sides are exchangeable if rows are; the reference is thinned to MAX_BLOCKS.
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
    """Compute each column's PSI and its p-value, adjusted for all columns (single-step maximum).

    The variation between days differs between columns. So the logarithm of each PSI is standardized by its own
    permutations before the maximum is taken; a noisy column then does not mask the others."""
    blocks = np.concatenate([reference.matrix, window.matrix]).astype(np.float64)
    height, window_size = len(blocks), len(window.matrix)
    random = np.random.default_rng(seed)
    in_window = np.zeros((permutations + 1, height))
    in_window[0, height - window_size :] = 1
    ranks = random.random((permutations, height)).argpartition(window_size - 1, axis=1)[:, :window_size]
    np.put_along_axis(in_window[1:], ranks, 1.0, axis=1)
    window_counts = in_window @ blocks
    statistic = psi(blocks.sum(axis=0) - window_counts, window_counts, starts)
    standardized = np.log(np.maximum(statistic, 1e-12))
    spread = standardized.std(axis=0)
    standardized = np.where(
        spread > 1e-9, (standardized - standardized.mean(axis=0)) / np.maximum(spread, 1e-9), -np.inf
    )
    maxima = np.sort(standardized.max(axis=1))
    # The observed split counts as a permutation, so the p-value is never 0.
    at_least = len(maxima) - np.searchsorted(maxima, standardized[0] - 1e-9, side="left")
    return statistic[0], at_least / len(maxima)


def default_window(newest: Any, length: timedelta) -> tuple[Any, Any]:
    """Return the last `length` up to the end of the UTC day of `newest` (naive), so that it has whole days. A window of
    less than a day ends at `newest`."""
    end = newest + timedelta(microseconds=1)
    if length >= timedelta(days=1):
        end = newest.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)
    return end - length, end
