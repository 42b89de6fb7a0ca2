"""Bins of columns, learned from a reference, and counts of rows by block and bin, the input of drift tests."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, Literal, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

Array: TypeAlias = np.ndarray[Any, Any]
Edges: TypeAlias = Array | tuple[str, ...]

MAX_CATEGORIES = 30
RARE = 0.005
"""Categories with a smaller share of the reference count as `other`."""
FEW_EDGES = 32
_SAMPLE = 1 << 16
MISSING, OTHER = "missing", "other"


@dataclass(frozen=True)
class Bins:
    """The bins of one column, learned from the reference.

    Numbers are binned between quantiles. Values below the range have a bin of their own only if many rows share the
    lowest value (a constant, a zero). Categories are the commonest values, and `other` for rare or unseen ones. No bin
    is empty by construction, because any window would then look new, and permutations less so. `missing` is always
    last.
    """

    kind: Literal["number", "category"]
    edges: Edges

    @cached_property
    def labels(self) -> tuple[str, ...]:
        if isinstance(self.edges, tuple):
            return (*self.edges, OTHER, MISSING)
        e = [f"{edge if abs(edge) > 1e-300 else 0:.4g}" for edge in self.edges]  # below 0 is -5e-324
        if not e:
            return ("any", MISSING)
        first = f"below {e[0]}" if e[0] in e[1:2] else f"up to {e[0]}"
        return (first, *(b if a == b else f"{a} to {b}" for a, b in pairwise(e)), f"above {e[-1]}", MISSING)

    def codes(self, values: pa.ChunkedArray) -> Array:
        """The bin of each of n values, int64."""
        missing = len(self.labels) - 1
        if isinstance(self.edges, tuple):
            found = pc.index_in(values.cast(pa.string()), pa.array(self.edges, pa.string()))
            codes = pc.if_else(pc.is_null(values), missing, pc.fill_null(found, len(self.edges)))
            return np.asarray(codes.to_numpy(), dtype=np.int64)
        found = to_numbers(values)
        codes = _edges_below(found, self.edges)
        codes[np.isnan(found)] = missing
        return codes


def _edges_below(values: Array, edges: Array) -> Array:
    """Count the sorted edges below each value, (n,) int64. With few edges, comparing each with all values takes a third
    of the time of a binary search."""
    if len(edges) > FEW_EDGES:
        return np.asarray(np.searchsorted(edges, values, side="left"))
    below = np.zeros(len(values), dtype=np.int8)
    for edge in edges:
        below += values > edge
    return below.astype(np.int64)


def to_numbers(values: pa.ChunkedArray) -> Array:
    """Convert to float64, NaN where missing."""
    kind = pa.int8() if pa.types.is_boolean(values.type) else values.type
    return np.asarray(values.cast(kind).cast(pa.float64(), safe=False).to_numpy(), dtype=np.float64)


def learn_bins(reference: pa.Table, columns: list[str], bins: int = 10) -> dict[str, Bins]:
    """Learn bins of the reference's columns: categories for text, `bins` quantiles for everything else."""
    return {name: _learn(reference[name], bins) for name in columns}


def _learn(values: pa.ChunkedArray, bins: int) -> Bins:
    if pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
        present = values.drop_null()
        counted = [(-item["counts"], item["values"]) for item in pc.value_counts(present).to_pylist()]
        common = [name for count, name in sorted(counted) if -count >= RARE * len(present)]
        return Bins("category", tuple(common[:MAX_CATEGORIES]))
    found = to_numbers(values)
    found = found[~np.isnan(found)]
    if len(found) == 0:
        return Bins("number", np.empty(0))
    sample = np.sort(found[:: len(found) // _SAMPLE + 1])
    edges = np.unique(sample[np.linspace(0, len(sample) - 1, bins + 1).astype(np.int64)[1:-1]])
    # Many rows share the lowest value: values below it are new and get a bin of their own.
    with np.errstate(over="ignore"):  # nothing lies below the smallest double
        low = [np.nextafter(edges[0], -np.inf)] if edges[0] == found.min() else []
    return Bins("number", np.concatenate([low, edges]))


@dataclass(frozen=True)
class Counts:
    """Number of rows by block and bin, (blocks, all bins of all columns) int64. Counts of the same bins are
    additive."""

    matrix: Array

    @classmethod
    def of(cls, bins: Mapping[str, Bins], frame: pa.Table, blocks: Array) -> "Counts":
        """`blocks`: the block of each row, from 0."""
        height = int(blocks.max()) + 1 if len(blocks) else 0
        parts = []
        for name, binning in bins.items():
            width = len(binning.labels)
            cells = np.bincount(blocks * width + binning.codes(frame[name]), minlength=height * width)
            parts.append(cells.reshape(height, width))
        return cls(np.concatenate(parts, axis=1))


def number_days(times: pa.ChunkedArray) -> Array:
    """Number the UTC day of each row, from 0 without gaps."""
    days = times.cast(pa.timestamp("us")).to_numpy().astype("datetime64[D]")
    return np.asarray(np.unique(days, return_inverse=True)[1], dtype=np.int64)
