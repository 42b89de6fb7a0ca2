"""Values that training never saw: new categories, and numbers that lie off the scale they were always read from."""

from collections import Counter
from collections.abc import Mapping
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from truecourse.monitoring.drift.histograms import Array, numbers
from truecourse.monitoring.drift.unit_changes import CONVERSIONS
from truecourse.references import Reference

SeenValues: TypeAlias = Mapping[str, pa.Array | Array]
"""Every value that training saw, by column: of text, and of numbers that take few values."""

MAX_NUMBERS = 2048
"""A number with no more values than this is read off a scale, and one beside its marks is worth a look."""
MAX_CATEGORIES = 20_000
_REPEATED = 20
"""So many rows a value, on average, make a scale."""
_NEAR = 1e-6
_TOLD_APART = 5
"""So many new categories of a column are told apart; what is known of already hides no other."""


class UnseenValues(Reference):
    """A column's values that training never saw. `rows`: how many have one. `like`: the commonest of new categories;
    of numbers the conversion of units that would bring most of them back to known values, empty where there is none.
    `alike`: how many rows that is; `values`: the same of the commonest ones."""

    rows: int
    like: str
    alike: int
    values: dict[str, int] = Field(default_factory=dict)

    def split(self) -> "list[UnseenValues]":
        """One for each of the commonest, the commonest first."""
        values = self.values or {self.like: self.alike}
        return [UnseenValues(rows=self.rows, like=like, alike=alike) for like, alike in values.items()]

    def rows_like(self, like: str) -> int:
        """How many rows have this one."""
        return self.values.get(like, self.alike if like == self.like else 0)


def seen_values(frame: pa.Table, columns: list[str]) -> SeenValues:
    found = {name: _known(frame[name]) for name in columns}
    return {name: values for name, values in found.items() if values is not None}


def _known(values: pa.ChunkedArray) -> pa.Array | Array | None:
    if pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
        names = pc.unique(values.drop_null().cast(pa.string()))
        return names if len(names) <= MAX_CATEGORIES else None
    present = numbers(values)
    distinct = np.unique(present[np.isfinite(present)])
    few = 1 < len(distinct) <= min(MAX_NUMBERS, len(present) // _REPEATED)
    return distinct if few else None


class UnseenCounter:
    """Values that training never saw, counted part by part."""

    def __init__(self, known: SeenValues) -> None:
        self._known = known
        self._rows: Counter[str] = Counter()
        self._alike: dict[str, Counter[str]] = {}

    def add(self, rows: pa.Table) -> None:
        for name, values in self._known.items():
            if name in rows.column_names:
                count, alike = _new(values, rows[name]) if isinstance(values, pa.Array) else _off(values, rows[name])
                self._rows[name] += count
                self._alike.setdefault(name, Counter()).update(alike)

    @property
    def counts(self) -> dict[str, UnseenValues]:
        """By column, where there are any."""
        return {name: _strange(count, self._alike[name]) for name, count in self._rows.items() if count}


def count_unseen(known: SeenValues, rows: pa.Table) -> dict[str, UnseenValues]:
    """By column, where there are any."""
    tally = UnseenCounter(known)
    tally.add(rows)
    return tally.counts


def _strange(count: int, alike: Counter[str]) -> UnseenValues:
    like = max(alike, key=lambda name: alike[name])
    values = {name: rows for name, rows in alike.most_common(_TOLD_APART) if rows}
    return UnseenValues(rows=count, like=like if alike[like] else "", alike=alike[like], values=values)


def _new(known: pa.Array, values: pa.ChunkedArray) -> tuple[int, dict[str, int]]:
    """How many there are, and how often each: of very many the commonest, so that memory is bounded."""
    present = values.drop_null().cast(pa.string())
    new = present.filter(pc.invert(pc.is_in(present, known)))
    counted = sorted((-item["counts"], item["values"]) for item in pc.value_counts(new).to_pylist())
    return len(new), {value: -count for count, value in counted[:MAX_CATEGORIES]}


def _off(known: Array, values: pa.ChunkedArray) -> tuple[int, dict[str, int]]:
    """How many lie off the scale, and how many of them each conversion would bring back."""
    read = numbers(values)
    odd = read[np.isfinite(read)]
    odd = odd[~_among(known, odd)]
    if not len(odd):
        return 0, {}
    back = {name: int(_among(known, (odd - offset) / factor).sum()) for name, (factor, offset) in CONVERSIONS.items()}
    return len(odd), back


def _among(known: Array, values: Array) -> Array:
    """Which of the values are known, but for the last digits that a conversion leaves."""
    place = np.searchsorted(known, values).clip(1, len(known) - 1)
    gap = np.minimum(np.abs(known[place] - values), np.abs(known[place - 1] - values))
    return np.asarray(gap <= _NEAR * np.maximum(np.abs(values), 1))
