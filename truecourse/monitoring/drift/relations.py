"""Relations between columns: each number's regression on all other columns, and sums of values and residuals by day.

A column's own values say when its level or spread moves; its residuals, when it no longer goes with the others, also
where every column by itself looks as ever. Coefficients come from the inverse of one covariance matrix (partial
regression; Lauritzen, Graphical Models, 1996), of deviations from the mean of four weeks, so that a common season is no
relation. Sums are fixed-point integers, which are the same however the rows were split into parts.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from truecourse.monitoring.drift.histograms import Array, Bins, numbers

SUMS = 5
"""By column: rows with a value, sum and sum of squares of the values, the same of the residuals."""
ROWS_A_DAY = 5000
"""About so many rows of a day are summed up, evenly spread: more would not make a mean much surer."""
_FITTED = 50_000
_RARE, _LEAST_SPREAD, _RIDGE, _WEEKS = 0.005, 0.02, 1e-3, 28
_POINT, _FARTHEST = 10_000, 30.0
_DAY = 86_400.0


@dataclass(frozen=True)
class Relations:
    """p numbers, `names`, with the `center` and `scale` (p,) of their values; `sparse`: those whose being missing says
    something of the others; `categories` of texts. `weights`: (inputs, p); inputs are numbers, missing marks,
    categories and the time of day and week."""

    names: tuple[str, ...]
    center: Array
    scale: Array
    mean: Array
    sparse: tuple[str, ...]
    categories: Mapping[str, tuple[str, ...]]
    weights: Array

    @classmethod
    def learn(cls, rows: pa.Table, bins: Mapping[str, Bins], moment: str) -> Self:
        """From the rows that a model was fitted to; `moment` names the column of their decision times."""
        rows = rows.take(pa.array(np.arange(0, len(rows), len(rows) // _FITTED + 1)))
        names = tuple(name for name, one in bins.items() if one.kind == "number")
        told = [_scale(numbers(rows[name])) for name in names]
        center, scale = (np.array([pair[i] for pair in told], dtype=np.float64) for i in (0, 1))
        categories = {name: one.edges for name, one in bins.items() if isinstance(one.edges, tuple)}
        found = cls(names, center, scale, np.zeros(len(names)), (), categories, np.empty((0, 0)))
        values = found.values(rows)
        there = ~np.isnan(values)
        mean = np.where(there, values, 0).sum(axis=0) / np.maximum(there.sum(axis=0), 1)
        rare = (~there).mean(axis=0)
        sparse = tuple(name for name, share in zip(names, rare, strict=True) if _RARE < share < 1)
        found = cls(names, center, scale, mean, sparse, categories, np.empty((0, 0)))
        weights = _weights(found.inputs(rows, values, moment), rows, moment, len(names))
        return replace(found, weights=weights)

    def values(self, rows: pa.Table) -> Array:
        """(n, p): the inverse hyperbolic sine of the distance from the center, which is linear there and keeps far
        values in bounds. NaN where missing."""
        read = [numbers(rows[name]) for name in self.names]
        if not read:
            return np.empty((len(rows), 0))
        return np.clip(np.arcsinh((np.column_stack(read) - self.center) / self.scale), -_FARTHEST, _FARTHEST)

    def inputs(self, rows: pa.Table, values: Array, moment: str) -> Array:
        """(n, inputs)."""
        filled = np.where(np.isnan(values), 0.0, values - self.mean)
        places = [self.names.index(name) for name in self.sparse]
        parts = [filled, np.isnan(values[:, places]).astype(np.float64)]
        for name, known in self.categories.items():
            found = pc.fill_null(pc.index_in(rows[name].cast(pa.string()), pa.array(known, pa.string())), -1).to_numpy()
            parts.append((found[:, None] == np.arange(len(known))).astype(np.float64))
        seconds = rows[moment].cast(pa.timestamp("us")).to_numpy().astype("datetime64[s]").astype(np.int64) / _DAY
        day, week = 2 * np.pi * (seconds % 1), 2 * np.pi * ((seconds % 7) / 7)
        turns = [
            f(k * angle) for angle, most in ((day, 3), (week, 2)) for k in range(1, most + 1) for f in (np.sin, np.cos)
        ]
        return np.column_stack([*parts, *turns])

    def sums(self, rows: pa.Table, moment: str) -> Array:
        """(SUMS, p) int64."""
        values = self.values(rows)
        if not values.size:
            return np.zeros((SUMS, len(self.names)), dtype=np.int64)
        there = ~np.isnan(values)
        residuals = self.inputs(rows, values, moment) @ self.weights
        parts = [there.sum(axis=0)]
        for of in (values, residuals):
            kept = np.where(there, of, 0.0)
            parts += [
                np.rint(kept * _POINT).astype(np.int64).sum(axis=0),
                np.rint(kept**2 * _POINT).astype(np.int64).sum(axis=0),
            ]
        return np.stack(parts).astype(np.int64)

    def to_document(self) -> dict[str, Any]:
        """JSON, that read() takes."""
        arrays = {name: getattr(self, name).tolist() for name in ("center", "scale", "mean", "weights")}
        return arrays | {
            "names": self.names,
            "sparse": self.sparse,
            "categories": {n: list(c) for n, c in self.categories.items()},
        }

    @classmethod
    def from_document(cls, document: dict[str, Any]) -> Self:
        names = tuple(document["names"])
        center, scale, mean = (np.array(document[name], dtype=np.float64) for name in ("center", "scale", "mean"))
        weights = np.array(document["weights"], dtype=np.float64).reshape(-1, len(names))
        categories = {name: tuple(known) for name, known in document["categories"].items()}
        return cls(names, center, scale, mean, tuple(document["sparse"]), categories, weights)


class RowSampler:
    """About ROWS_A_DAY of `rows` rows, evenly spread, whatever the sizes of the parts that they come in."""

    def __init__(self, rows: int) -> None:
        self._step, self._read = max(1, rows // ROWS_A_DAY), 0

    def take(self, part: pa.Table) -> pa.Table:
        first = -self._read % self._step
        self._read += len(part)
        return part if self._step == 1 else part.take(pa.array(np.arange(first, len(part), self._step)))


def moments(sums: Array) -> Array:
    """(..., SUMS, p) sums as float64: of values and residuals the sums, and sums of squares around each line's own
    mean."""
    count = np.maximum(sums[..., 0, :], 1).astype(np.float64)
    found = sums.astype(np.float64)
    found[..., 1:, :] /= _POINT
    for first in (1, 3):
        found[..., first + 1, :] = np.maximum(found[..., first + 1, :] - found[..., first, :] ** 2 / count, 0.0)
    return found


def _scale(values: Array) -> tuple[float, float]:
    """Median, and the standard deviation that a normal distribution with the same 10% and 90% quantiles has."""
    present = values[np.isfinite(values)]
    if not len(present):
        return 0.0, 1.0
    low, middle, high = np.quantile(present, [0.1, 0.5, 0.9]).tolist()
    scale = max((high - low) / 2.563, float(present.std()) / 3)
    return middle, scale if scale > 0 and np.isfinite(scale) else 1.0


def _weights(inputs: Array, rows: pa.Table, moment: str, count: int) -> Array:
    """(inputs, count): residuals are inputs @ weights."""
    days = rows[moment].cast(pa.timestamp("us")).to_numpy().astype("datetime64[D]").astype(np.int64)
    group = (days - (days.min() if len(days) else 0)) // _WEEKS
    sizes = np.maximum(np.bincount(group), 1)
    for place in range(inputs.shape[1]):
        inputs[:, place] -= (np.bincount(group, inputs[:, place]) / sizes)[group]
    scale = np.maximum(inputs.std(axis=0), _LEAST_SPREAD)
    inputs /= scale
    precision = np.linalg.inv(inputs.T @ inputs / max(len(inputs), 1) + _RIDGE * np.eye(len(scale)))
    weights = precision / np.diag(precision) / scale[:, None] * scale
    return np.asarray(weights[:, :count])
