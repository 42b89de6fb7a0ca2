"""Values absent from training: new categories, and numbers off the grid of values in training."""

from collections import Counter
from collections.abc import Mapping
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from truecourse.monitoring.drift.histograms import Array, to_numbers
from truecourse.monitoring.drift.unit_changes import CONVERSIONS
from truecourse.references import Reference

SeenValues: TypeAlias = Mapping[str, pa.Array | Array]
"""All values in training by column, for text columns and for numbers with few distinct values."""

MAX_NUMBERS = 2048
"""A number with at most this many distinct values counts as one on a grid, whose new values are tracked."""
MAX_CATEGORIES = 20_000
_ROWS_PER_VALUE = 20
"""Minimum average rows per distinct value of such a number."""
_TOLERANCE = 1e-6
_MAX_SEPARATE = 5
"""How many new categories of a column are counted separately, so that a known one does not hide another."""


class UnseenValues(Reference):
    """A column's values that are absent from training.

    `rows`: number of rows with one. `like`: the commonest new category; for numbers the unit conversion that explains
    most of them, empty if none does. `alike`: number of rows with it; `values`: the same for the commonest ones."""

    rows: int
    like: str
    alike: int
    values: dict[str, int] = Field(default_factory=dict)

    def split(self) -> "list[UnseenValues]":
        """Return one record per value, the commonest first."""
        values = self.values or {self.like: self.alike}
        return [UnseenValues(rows=self.rows, like=like, alike=alike) for like, alike in values.items()]

    def rows_like(self, like: str) -> int:
        """Return the number of rows with the value `like`."""
        return self.values.get(like, self.alike if like == self.like else 0)


def seen_values(frame: pa.Table, columns: list[str]) -> SeenValues:
    values_by_column = {name: _training_values(frame[name]) for name in columns}
    return {name: values for name, values in values_by_column.items() if values is not None}


def _training_values(values: pa.ChunkedArray) -> pa.Array | Array | None:
    if pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
        names = pc.unique(values.drop_null().cast(pa.string()))
        return names if len(names) <= MAX_CATEGORIES else None
    present = to_numbers(values)
    distinct = np.unique(present[np.isfinite(present)])
    is_grid = 1 < len(distinct) <= min(MAX_NUMBERS, len(present) // _ROWS_PER_VALUE)
    return distinct if is_grid else None


class UnseenCounter:
    """Counts values absent from training, part by part."""

    def __init__(self, known: SeenValues) -> None:
        self._known = known
        self._rows: Counter[str] = Counter()
        self._alike: dict[str, Counter[str]] = {}

    def add(self, rows: pa.Table) -> None:
        for name, values in self._known.items():
            if name in rows.column_names:
                count, alike = (
                    _count_new_categories(values, rows[name])
                    if isinstance(values, pa.Array)
                    else _count_off_grid(values, rows[name])
                )
                self._rows[name] += count
                self._alike.setdefault(name, Counter()).update(alike)

    @property
    def counts(self) -> dict[str, UnseenValues]:
        """Unseen values by column, where there are any."""
        return {name: _summarize(count, self._alike[name]) for name, count in self._rows.items() if count}


def count_unseen(known: SeenValues, rows: pa.Table) -> dict[str, UnseenValues]:
    """Count unseen values by column, where there are any."""
    tally = UnseenCounter(known)
    tally.add(rows)
    return tally.counts


def _summarize(count: int, alike: Counter[str]) -> UnseenValues:
    like = max(alike, key=lambda name: alike[name])
    values = {name: rows for name, rows in alike.most_common(_MAX_SEPARATE) if rows}
    return UnseenValues(rows=count, like=like if alike[like] else "", alike=alike[like], values=values)


def _count_new_categories(known: pa.Array, values: pa.ChunkedArray) -> tuple[int, dict[str, int]]:
    """Count new categories, in all and each; only the commonest ones are listed, to bound memory."""
    present = values.drop_null().cast(pa.string())
    new = present.filter(pc.invert(pc.is_in(present, known)))
    counted = sorted((-item["counts"], item["values"]) for item in pc.value_counts(new).to_pylist())
    return len(new), {value: -count for count, value in counted[:MAX_CATEGORIES]}


def _count_off_grid(known: Array, values: pa.ChunkedArray) -> tuple[int, dict[str, int]]:
    """Count values off the grid, and how many of them each unit conversion explains."""
    all_values = to_numbers(values)
    unseen = all_values[np.isfinite(all_values)]
    unseen = unseen[~_is_among(known, unseen)]
    if not len(unseen):
        return 0, {}
    explained = {
        name: int(_is_among(known, (unseen - offset) / factor).sum()) for name, (factor, offset) in CONVERSIONS.items()
    }
    return len(unseen), explained


def _is_among(known: Array, values: Array) -> Array:
    """Return which values are in `known`, within the rounding error of a conversion."""
    place = np.searchsorted(known, values).clip(1, len(known) - 1)
    gap = np.minimum(np.abs(known[place] - values), np.abs(known[place - 1] - values))
    return np.asarray(gap <= _TOLERANCE * np.maximum(np.abs(values), 1))
