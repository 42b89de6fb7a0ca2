"""Relations between columns: a regression of each number on all other columns, and daily sums of values and residuals.

The sums of a column's values show drift of its level and spread. The sums of its residuals show drift of its relation
to the other columns, even where no column drifts on its own. The coefficients are partial regression coefficients from
the inverse of one covariance matrix (Lauritzen, Graphical Models, 1996), of deviations from four-week means, so that a
common season does not count as a relation. Sums are fixed-point integers, so they do not depend on how the rows were
split into parts."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from truecourse.monitoring.drift.histograms import Array, Bins, to_numbers

SUMS = 5
"""Sums per column: rows with a value; sum and sum of squares of the values; the same two of the residuals."""
ROWS_A_DAY = 5000
"""About how many rows of a day are summed, evenly spread; more would hardly improve the precision of a mean."""
_FITTED = 50_000
_RARE, _LEAST_SPREAD, _RIDGE, _WEEKS = 0.005, 0.02, 1e-3, 28
_POINT, _FARTHEST = 10_000, 30.0
_DAY = 86_400.0


@dataclass(frozen=True)
class Relations:
    """Regressions of p numeric columns `names` on all other columns.

    `center` and `scale`, (p,), standardize the values; `mean`, (p,), is that of the standardized values. `sparse`:
    columns with a missing-value indicator; `categories` by text column. `weights`: (inputs, p), where the inputs are
    numbers, missing-value indicators, category indicators, and the time of day and of week."""

    names: tuple[str, ...]
    center: Array
    scale: Array
    mean: Array
    sparse: tuple[str, ...]
    categories: Mapping[str, tuple[str, ...]]
    weights: Array

    @classmethod
    def learn(cls, rows: pa.Table, bins: Mapping[str, Bins], moment: str) -> Self:
        """Fit the regressions on training rows. `moment`: the column of their decision times."""
        rows = rows.take(pa.array(np.arange(0, len(rows), len(rows) // _FITTED + 1)))
        names = tuple(name for name, one in bins.items() if one.kind == "number")
        scales = [_scale(to_numbers(rows[name])) for name in names]
        center, scale = (np.array([pair[i] for pair in scales], dtype=np.float64) for i in (0, 1))
        categories = {name: one.edges for name, one in bins.items() if isinstance(one.edges, tuple)}
        relations = cls(names, center, scale, np.zeros(len(names)), (), categories, np.empty((0, 0)))
        values = relations.values(rows)
        is_present = ~np.isnan(values)
        mean = np.where(is_present, values, 0).sum(axis=0) / np.maximum(is_present.sum(axis=0), 1)
        missing_share = (~is_present).mean(axis=0)
        sparse = tuple(name for name, share in zip(names, missing_share, strict=True) if _RARE < share < 1)
        relations = cls(names, center, scale, mean, sparse, categories, np.empty((0, 0)))
        weights = _weights(relations.inputs(rows, values, moment), rows, moment, len(names))
        return replace(relations, weights=weights)

    def values(self, rows: pa.Table) -> Array:
        """Return standardized values, (n, p): the inverse hyperbolic sine of (value - center) / scale, which is linear
        near 0 and bounds outliers. NaN where missing."""
        columns = [to_numbers(rows[name]) for name in self.names]
        if not columns:
            return np.empty((len(rows), 0))
        with np.errstate(over="ignore"):  # beyond the range of a double is beyond the bound
            distances = (np.column_stack(columns) - self.center) / self.scale
        return np.clip(np.arcsinh(distances), -_FARTHEST, _FARTHEST)

    def inputs(self, rows: pa.Table, values: Array, moment: str) -> Array:
        """Return the regression inputs, (n, inputs)."""
        filled = np.where(np.isnan(values), 0.0, values - self.mean)
        places = [self.names.index(name) for name in self.sparse]
        parts = [filled, np.isnan(values[:, places]).astype(np.float64)]
        for name, known in self.categories.items():
            codes = pc.fill_null(pc.index_in(rows[name].cast(pa.string()), pa.array(known, pa.string())), -1).to_numpy()
            parts.append((codes[:, None] == np.arange(len(known))).astype(np.float64))
        seconds = rows[moment].cast(pa.timestamp("us")).to_numpy().astype("datetime64[s]").astype(np.int64) / _DAY
        day, week = 2 * np.pi * (seconds % 1), 2 * np.pi * ((seconds % 7) / 7)
        turns = [
            f(k * angle) for angle, most in ((day, 3), (week, 2)) for k in range(1, most + 1) for f in (np.sin, np.cos)
        ]
        return np.column_stack([*parts, *turns])

    def sums(self, rows: pa.Table, moment: str) -> Array:
        """Sum the rows, (SUMS, p) int64."""
        values = self.values(rows)
        if not values.size:
            return np.zeros((SUMS, len(self.names)), dtype=np.int64)
        is_present = ~np.isnan(values)
        residuals = self.inputs(rows, values, moment) @ self.weights
        parts = [is_present.sum(axis=0)]
        for part in (values, residuals):
            kept = np.where(is_present, part, 0.0)
            parts += [
                np.rint(kept * _POINT).astype(np.int64).sum(axis=0),
                np.rint(kept**2 * _POINT).astype(np.int64).sum(axis=0),
            ]
        return np.stack(parts).astype(np.int64)

    def to_document(self) -> dict[str, Any]:
        """Return a JSON document for from_document()."""
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
        categories = {name: tuple(values) for name, values in document["categories"].items()}
        return cls(names, center, scale, mean, tuple(document["sparse"]), categories, weights)


class RowSampler:
    """Samples about ROWS_A_DAY of `rows` rows evenly, independent of how they are split into parts."""

    def __init__(self, rows: int) -> None:
        self._step, self._read = max(1, rows // ROWS_A_DAY), 0

    def take(self, part: pa.Table) -> pa.Table:
        first = -self._read % self._step
        self._read += len(part)
        return part if self._step == 1 else part.take(pa.array(np.arange(first, len(part), self._step)))


def moments(sums: Array) -> Array:
    """Convert (..., SUMS, p) sums to float64, with sums of squares taken around the mean of each entry."""
    count = np.maximum(sums[..., 0, :], 1).astype(np.float64)
    result = sums.astype(np.float64)
    result[..., 1:, :] /= _POINT
    for first in (1, 3):
        result[..., first + 1, :] = np.maximum(result[..., first + 1, :] - result[..., first, :] ** 2 / count, 0.0)
    return result


def _scale(values: Array) -> tuple[float, float]:
    """Return the median, and the standard deviation of a normal distribution with the same 10% and 90% quantiles."""
    present = values[np.isfinite(values)]
    if not len(present):
        return 0.0, 1.0
    # Beyond the range of a double, the other of the two scales is taken.
    with np.errstate(over="ignore", invalid="ignore"):
        low, middle, high = np.quantile(present, [0.1, 0.5, 0.9]).tolist()
        scale = max((one for one in ((high - low) / 2.563, float(present.std()) / 3) if np.isfinite(one)), default=0.0)
    return middle, scale if scale > 0 else 1.0


def _weights(inputs: Array, rows: pa.Table, moment: str, count: int) -> Array:
    """Compute weights, (inputs, count), such that the residuals are inputs @ weights."""
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
