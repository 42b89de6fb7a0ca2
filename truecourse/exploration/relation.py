"""How much of the label each column explains alone, and how a column shifts over time.

Both use bins: twenty quantile bins of numbers and times, the fifty most frequent values of categories, and one bin for
missing values.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from truecourse.arrays import Array
from truecourse.exploration.columns import FARTHEST
from truecourse.exploration.records import Interval
from truecourse.exploration.source import Column, Source
from truecourse.statistics.intervals import estimate
from truecourse.statistics.metrics import bounded, random_blocks

_BINS, _CATEGORIES = 20, 50
_FOLDS = 5
_PRIOR = 10.0
"""Rows with the mean label that each bin is given, so that rare bins do not overfit."""
LEAST_ROWS = 50


@dataclass(frozen=True)
class Target:
    """The label of the labelled rows of the sample: (n, k) numbers, one column for each class of a class label.

    `rows`: (n,) their places in the sample. `blocks`: (n,) the day of each row, or a random block without time."""

    values: Array
    rows: Array
    blocks: Array
    has_time: bool


def target(source: Source) -> Target | None:
    """The label for relations; None without one, for a constant, for text of more than 50 classes, or for few rows."""
    roles = source.roles
    if not roles.label or roles.kind is None:
        return None
    column = source.column(roles.label)
    values = source.values(column)
    rows = np.flatnonzero(pc.is_valid(values).to_numpy(zero_copy_only=False))
    if len(rows) < LEAST_ROWS:
        return None
    held = values.take(pa.array(rows))
    if roles.kind == "regression":
        numbers = bounded(held.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False))[:, None]
    else:
        codes = pc.dictionary_encode(held).indices.to_numpy()
        if not 1 < codes.max() + 1 <= _CATEGORIES:
            return None
        numbers = np.eye(codes.max() + 1)[codes]
    if not np.isfinite(numbers).all() or not (numbers.std(axis=0) > 0).any():
        return None
    days = _days(source)
    if days is None or len(np.unique(days[rows])) < 10:
        return Target(numbers, rows, random_blocks(len(rows)), False)
    return Target(numbers, rows, np.unique(days[rows], return_inverse=True)[1], True)


def _days(source: Source) -> Array | None:
    """The day of each row of the sample by the time of the decision; None without one in every row."""
    if not source.roles.time:
        return None
    times = source.values(source.column(source.roles.time))
    return None if times.null_count else np.asarray(times.cast(pa.int64()).to_numpy()) // 86_400_000_000


def bins(source: Source, column: Column) -> Array:
    """The bin of each row of the sample, from 0."""
    values = source.values(column)
    absent = pc.is_null(values, nan_is_null=True).to_numpy(zero_copy_only=False)
    if column.form == "category":
        codes = pc.fill_null(pc.dictionary_encode(values).indices, -1).to_numpy(zero_copy_only=False).astype(np.int64)
        counts = np.bincount(codes[~absent]) if (~absent).any() else np.zeros(1, np.int64)
        place = np.full(len(counts), _CATEGORIES)
        often = np.argsort(-counts, kind="stable")[:_CATEGORIES]
        place[often] = np.arange(len(often))
        found = np.where(absent, 0, place[np.maximum(codes, 0)])
    else:
        kind = pa.int64() if column.form == "time" else pa.float64()
        numbers = pc.fill_null(values.cast(kind, safe=False), 0).to_numpy(zero_copy_only=False).astype(np.float64)
        numbers = np.clip(numbers, -FARTHEST, FARTHEST)
        held = numbers[~absent]
        edges = np.unique(np.quantile(held, np.linspace(0, 1, _BINS + 1)[1:-1])) if len(held) else np.zeros(0)
        found = np.searchsorted(edges, numbers, side="left")
    return np.asarray(np.where(absent, found.max(initial=0) + 1, found))


def explained(target: Target, bins: Array) -> Interval | None:
    """The share of the label's squared error that the bins' means explain out of fold, with its 95% interval.

    Folds are made of whole blocks. The interval is that of a ratio of sums over blocks (delta method)."""
    places = bins[target.rows]
    fold = np.random.default_rng(0).permutation(target.blocks.max() + 1)[target.blocks] % _FOLDS
    size = int(places.max()) + 1
    cells = fold * size + places
    totals = np.bincount(cells, minlength=_FOLDS * size).reshape(_FOLDS, size).astype(float)
    residual, baseline = np.zeros(len(places)), np.zeros(len(places))
    for values in target.values.T:
        sums = np.bincount(cells, values, _FOLDS * size).reshape(_FOLDS, size)
        other_rows, other_sums = totals.sum(axis=0) - totals, sums.sum(axis=0) - sums
        mean = other_sums.sum(axis=1, keepdims=True) / np.maximum(other_rows.sum(axis=1, keepdims=True), 1)
        fitted = (other_sums + _PRIOR * mean) / (other_rows + _PRIOR)
        residual += (values - fitted[fold, places]) ** 2
        baseline += (values - mean[fold, 0]) ** 2
    by_block = [np.bincount(target.blocks, part) for part in (residual, baseline)]
    whole = by_block[1].sum()
    if not whole > 0:
        return None
    ratio = by_block[0].sum() / whole
    influence = -(by_block[0] - ratio * by_block[1]) * len(by_block[0]) / whole
    found = estimate(float(1 - ratio), influence, successive=target.has_time)
    if found["value"] is None:
        return None
    return Interval(value=found["value"], low=found["low"], high=found["high"])


def shift(source: Source, bins: Array) -> float | None:
    """The population stability index of the bins between the first and the last third of the rows by time.

    None without a time of every row, or with fewer than 100 rows in a third."""
    days = _days(source)
    if days is None or len(days) < 300 or days.min() == days.max():
        return None
    order = np.argsort(days, kind="stable")
    third = len(order) // 3
    size = int(bins.max()) + 1
    before, after = (np.bincount(bins[part], minlength=size) + 0.5 for part in (order[:third], order[-third:]))
    one, other = before / before.sum(), after / after.sum()
    return float(((other - one) * np.log(other / one)).sum())
