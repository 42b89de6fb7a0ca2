"""Splits of the training rows: for tuning, rolling-origin folds in time or hashed folds without time; for choosing the
boosting rounds on few rows, parts stratified by label."""

import numpy as np
import pyarrow as pa

from truecourse.arrays import Array, columns_of
from truecourse.errors import ModelError
from truecourse.modeling.splitting import unit_hashes
from truecourse.problem import Problem, TimeSplit

FOLDS = 3
_HORIZON = 1 / 6
"""The share of the training period that each rolling-origin fold scores."""


def folds(problem: Problem, rows: pa.Table) -> list[tuple[Array, Array]]:
    """Return FOLDS pairs of masks over training rows: (rows to fit, rows to score).

    With time: expanding windows, each scored on the period after it; a window uses only labels known at its end.
    Without time: parts by a hash of the id. Raises ModelError where a part is empty."""
    masks = _rolling(rows) if isinstance(problem.split, TimeSplit) else _hashed(rows, problem.split.seed)
    if any(not fit.any() or not score.any() for fit, score in masks):
        hint = "train on more rows, or on a longer period"
        raise ModelError("too few training rows for tuning", where=f"problem {problem.name}", hint=hint)
    return masks


def _rolling(rows: pa.Table) -> list[tuple[Array, Array]]:
    decided = columns_of(rows, ["decision_time"])["decision_time"]
    known = columns_of(rows, ["known_at"])["known_at"] if "known_at" in rows.column_names else decided
    first, last = decided.min(), decided.max()
    step = np.timedelta64(int((last - first) / np.timedelta64(1, "us") * _HORIZON), "us")
    ends = [last - step * (FOLDS - fold) for fold in range(FOLDS)]
    return [((known <= end) & (decided <= end), (decided > end) & (decided <= end + step)) for end in ends]


def _hashed(rows: pa.Table, seed: int) -> list[tuple[Array, Array]]:
    part = (unit_hashes(rows["id"].to_pylist(), f"fold:{seed}") * FOLDS).astype(np.int64)
    return [(part != fold, part == fold) for fold in range(FOLDS)]


def stratified_parts(labels: Array, count: int) -> Array:
    """Assign each of n rows to one of `count` random parts of equal size, stratified by label; (n,) from 0.

    Each part gets its share of a rare class, or of the largest values. Equal labels in equal order give equal parts."""
    drawn = np.random.default_rng(0).permutation(len(labels))
    ordered = drawn[np.argsort(labels[drawn], kind="stable")]
    parts = np.empty(len(labels), dtype=np.int64)
    parts[ordered] = np.arange(len(labels)) % count
    return parts
