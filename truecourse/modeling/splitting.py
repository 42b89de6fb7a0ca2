"""Random splits: by a hash of the row's id, and stratified where that alone would leave it to luck.

A row's place between 0 and 1 is a hash of its id and the seed, and the same for ever. Of a large class of the label the
places below `test` test and the next ones validate, whatever other rows there are. Of a class of fewer than SMALL rows
exact shares are taken, in the order of the places: luck would leave a class of ten without a test row in one of ten
tables. There the edge lies at a row and not at a number, so that a row beside it may change sides while the class grows
(3% of the rows when 150 become 300). No version is ever compared on rows that it, or its rival, learned from:
comparison.unseen() leaves them out by their ids.
"""

import hashlib
from collections.abc import Iterable

import numpy as np
import pyarrow as pa

from truecourse.arrays import Array
from truecourse.modeling.encoding import label_text
from truecourse.problem import RandomSplit
from truecourse.problem.definition import Kind

SMALL = 1000
"""Of so many rows, a hash leaves a share of 0.2 within 0.013, one standard deviation."""
_PARTS = 5
"""A small regression is stratified by so many quantiles of its label."""


def unit_hashes(ids: Iterable[object], salt: str) -> Array:
    """(n,) float64 from 0 up to 1: each id's place, the same whatever other ids there are."""
    digests = (hashlib.sha256(f"{salt}:{id}".encode()).digest() for id in ids)
    return np.fromiter((int.from_bytes(digest[:8], "big") / 2**64 for digest in digests), dtype=np.float64)


def random_split(split: RandomSplit, kind: Kind, ids: pa.ChunkedArray, labels: pa.ChunkedArray) -> pa.Array:
    """ "train", "validate" or "test" for each of n rows.

    Every class of three rows or more has one on each side, of two one trains and one tests, and one alone trains."""
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
    """How many of a stratum's rows test, and how many validate. The others train, one at least."""
    if rows < 3:
        return rows - 1, 0
    test = max(1, int(split.test * rows + 0.5))
    validate = max(1, int((split.test + split.validate) * rows + 0.5) - test)
    while test + validate >= rows:
        test, validate = (test - 1, validate) if test >= validate else (test, validate - 1)
    return test, validate


def _strata(kind: Kind, labels: pa.ChunkedArray) -> Array:
    """(n,) the number of each row's class; of a small regression, of the quantile that its label lies in."""
    if kind != "regression":
        codes = label_text(labels).combine_chunks().dictionary_encode(null_encoding="encode").indices
        return np.asarray(codes.to_numpy())
    values = np.asarray(labels.cast(pa.float64()).to_numpy(), dtype=np.float64)
    if len(values) >= SMALL or len(values) < 3 * _PARTS:
        return np.zeros(len(values), dtype=np.int64)
    ranks = np.argsort(np.argsort(values, kind="stable"), kind="stable")
    return np.asarray(ranks * _PARTS // len(values))
