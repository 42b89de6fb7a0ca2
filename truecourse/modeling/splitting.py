"""The splits of a frame into training, validation and test rows.

Random splits are by a hash of the row's id, stratified for small classes. Each row has a permanent hash between 0 and
1, of its id and the seed. In a large class, hashes below `test` are test rows and the next ones are validation rows,
independently of other rows. In a class of fewer than SMALL rows, exact shares are taken in order of the hashes;
otherwise a class of ten rows would have no test row in one of ten tables. Rows near such a boundary may change sides
while the class grows (3% of the rows when 150 become 300). Models are never compared on rows that either was trained
on: paired_comparison.unseen_rows() excludes them by id.

A time split moves with the present: a model trained today is evaluated on the most recent closed days, not on fixed
dates in the past.

The training rows are split again: for tuning, in rolling-origin folds in time or hashed folds without time; for the
choice of the boosting rounds on few rows, in parts stratified by label.
"""

import dataclasses
import hashlib
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from truecourse.arrays import Array, columns_of
from truecourse.errors import ModelError
from truecourse.modeling.encoding import label_text
from truecourse.problem import Problem, RandomSplit, TimeSplit
from truecourse.problem.definition import Kind
from truecourse.references import naive_utc

if TYPE_CHECKING:
    from truecourse.modeling.snapshot import Manifest

SMALL = 1000
"""With this many rows, a hash gives a share of 0.2 with a standard deviation of 0.013."""
_PARTS = 5
"""Quantiles of the label by which a small regression is stratified."""
FOLDS = 3
_HORIZON = 1 / 6
"""The share of the training period that each rolling-origin fold scores."""
_FEW_MOMENTS = 60
"""With fewer moments of decision, such as first days of months, rolling-origin folds are cut between them."""


def unit_hashes(ids: Iterable[object], salt: str) -> Array:
    """Hash each id to a number in [0, 1), independently of other ids; (n,) float64."""
    digests = (hashlib.sha256(f"{salt}:{id}".encode()).digest() for id in ids)
    return np.fromiter((int.from_bytes(digest[:8], "big") / 2**64 for digest in digests), dtype=np.float64)


def random_split(split: RandomSplit, kind: Kind, ids: pa.ChunkedArray, labels: pa.ChunkedArray) -> pa.Array:
    """Assign "train", "validate" or "test" to each of n rows.

    A class of three or more rows has rows in all parts; of two rows one trains and one tests; a single row trains."""
    place, strata = unit_hashes(ids.to_pylist(), str(split.seed)), _strata(kind, labels)
    sides = np.empty(len(place), dtype=object)
    for stratum in np.unique(strata):
        rows = np.flatnonzero(strata == stratum)
        if len(rows) < SMALL:
            rows = rows[np.lexsort((rows, place[rows]))]
            test, validate = shares(len(rows), split)
            sides[rows] = ["test"] * test + ["validate"] * validate + ["train"] * (len(rows) - test - validate)
        else:
            here = place[rows]
            sides[rows] = np.where(
                here < split.test, "test", np.where(here < split.test + split.validate, "validate", "train")
            )
    return pa.array(sides, pa.string())


def shares(rows: int, split: RandomSplit) -> tuple[int, int]:
    """Return the numbers of test and validation rows of a stratum. At least one row is left for training."""
    if rows < 3:
        return rows - 1, 0
    test = max(1, int(split.test * rows + 0.5))
    validate = max(1, int((split.test + split.validate) * rows + 0.5) - test)
    while test + validate >= rows:
        test, validate = (test - 1, validate) if test >= validate else (test, validate - 1)
    return test, validate


def _strata(kind: Kind, labels: pa.ChunkedArray) -> Array:
    """Return (n,) the class number of each row; for a small regression, the quantile number of its label."""
    if kind != "regression":
        codes = label_text(labels).combine_chunks().dictionary_encode(null_encoding="encode").indices
        return np.asarray(codes.to_numpy())
    values = np.asarray(labels.cast(pa.float64()).to_numpy(), dtype=np.float64)
    if len(values) >= SMALL or len(values) < 3 * _PARTS:
        return np.zeros(len(values), dtype=np.int64)
    ranks = np.argsort(np.argsort(values, kind="stable"), kind="stable")
    return np.asarray(ranks * _PARTS // len(values))


def problem_at(problem: Problem, at: datetime) -> Problem:
    """Return the problem with its time split shifted to `at` (UTC if naive), by the periods of `Retraining`.

    Test rows are the last whole days whose cohorts are closed at `at`. All times of one day give the same split. A
    problem with a random split is returned unchanged: its new rows fall into all parts."""
    if not isinstance(problem.split, TimeSplit):
        return problem
    moment, policy = naive_utc(at), problem.monitoring.retraining
    assert moment is not None
    test_until = (moment - problem.label.closes_after).date()
    validate_until = test_until - policy.test
    train_until = validate_until - policy.validate
    split = TimeSplit(
        train_from=train_until - policy.history if policy.history else None,
        train_until=train_until,
        validate_until=validate_until,
        test_until=test_until,
    )
    return dataclasses.replace(problem, split=split)


def problem_of(problem: Problem, manifest: "Manifest") -> Problem:
    """Return the problem with the split that the manifest's snapshot was built with."""
    return dataclasses.replace(problem, split=manifest.split) if manifest.split else problem


def folds(problem: Problem, rows: pa.Table) -> list[tuple[Array, Array]]:
    """Return FOLDS pairs of masks over training rows: (rows to fit, rows to score).

    With time: expanding windows, each scored on the period after it. The embargo of a window is the label's delay: it
    has only rows whose label was known at its end, at `known_at`, or else `closes_after` after the decision. Without
    time: parts by a hash of the id. Raises ModelError where a part is empty."""
    masks = _rolling(problem, rows) if isinstance(problem.split, TimeSplit) else _hashed(rows, problem.split.seed)
    if any(not fit.any() or not score.any() for fit, score in masks):
        hint = "train on more rows, or on a longer period"
        raise ModelError("too few training rows for tuning", where=f"problem {problem.name}", hint=hint)
    return masks


def _rolling(problem: Problem, rows: pa.Table) -> list[tuple[Array, Array]]:
    decided = columns_of(rows, ["decision_time"])["decision_time"]
    known = decided + np.timedelta64(problem.label.closes_after // timedelta(microseconds=1), "us")
    if "known_at" in rows.column_names:
        known = columns_of(rows, ["known_at"])["known_at"]
    if len(np.unique(decided)) < _FEW_MOMENTS:
        return _rolling_moments(decided, known)
    first, last = decided.min(), decided.max()
    step = np.timedelta64(int((last - first) / np.timedelta64(1, "us") * _HORIZON), "us")
    ends = [last - step * (FOLDS - fold) for fold in range(FOLDS)]
    return [((known <= end) & (decided <= end), (decided > end) & (decided <= end + step)) for end in ends]


def _rolling_moments(decided: Array, known: Array) -> list[tuple[Array, Array]]:
    """Return rolling-origin folds for few moments of decision: a window ends with the labels that are known at the
    first moment that it is scored on."""
    moments = np.unique(decided)
    size = max(1, int(len(moments) * _HORIZON))
    masks = []
    for fold in range(FOLDS):
        begin = len(moments) - size * (FOLDS - fold)
        scored = moments[max(begin, 0) : max(begin + size, 0)]
        start = scored[0] if len(scored) else moments[0]
        masks.append(((known <= start) & (decided < start), np.isin(decided, scored)))
    return masks


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
