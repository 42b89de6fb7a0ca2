"""The point-in-time join for many small questions: a history made ready once, and asked by binary search.

For each key the newest row known changes in steps, at the moments when a newer one becomes known. What asof_join()
finds with `filter_by_created` is the last step at or before the decision: rows that are older than it are older still.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from truecourse.arrays import Array, columns_of
from truecourse.features.asof import CREATED, EVENT

_MISSING: Mapping[str, Any] = {"O": None, "f": np.nan, "M": np.datetime64("NaT")}
"""By kind of array, as columns_of() has it."""


@dataclass(frozen=True)
class AsOfIndex:
    """`codes`: the number of each key. `moments`: when anything became known, rising. `places`: of each step, its key
    and moment as one number, rising; `rows`: the row that was the newest from then on. `values` and `event` by row."""

    codes: Mapping[tuple[Any, ...], int]
    moments: Array
    places: Array
    rows: Array
    event: Array
    values: Mapping[str, Array]

    @classmethod
    def of(cls, features: pa.Table, keys: Sequence[str]) -> "AsOfIndex":
        """`features`: rows of a feature table; one with a null key or time is never found."""
        for name in (*keys, EVENT, CREATED):
            features = features.filter(pc.is_valid(features[name])) if features[name].null_count else features
        event, created = columns_of(features, [EVENT, CREATED]).values()
        names = [name for name in features.column_names if name not in (*keys, EVENT, CREATED)]
        codes: dict[tuple[Any, ...], int] = {}
        told = zip(*(features[name].to_pylist() for name in keys), strict=True)
        code = np.fromiter((codes.setdefault(key, len(codes)) for key in told), np.int64, len(features))
        newest = np.lexsort((created, event))
        rank = np.empty(len(features), np.int64)
        rank[newest] = np.arange(len(features))
        known = np.maximum(event, created)
        order = np.lexsort((rank, known, code))
        best = np.maximum.accumulate(code[order] * len(features) + rank[order]) % max(len(features), 1)
        moments = np.unique(known)
        places = code[order] * (len(moments) + 1) + np.searchsorted(moments, known[order]) + 1
        return cls(codes, moments, places, newest[best], event, columns_of(features, names))

    def at(self, keys: Sequence[tuple[Any, ...]], times: Array, ttl: timedelta) -> tuple[dict[str, Array], Array]:
        """Values by feature of n keys at n moments (datetime64[us] UTC), and their event times: NaT where there is
        none that was known and is not older than the ttl (inclusive; zero is unlimited)."""
        code = np.array([self.codes.get(key, -1) for key in keys], np.int64)
        first = code * (len(self.moments) + 1)
        asked = first + np.searchsorted(self.moments, times, side="right")
        step = np.searchsorted(self.places, asked, side="right") - 1
        there = (code >= 0) & (step >= 0) & ~np.isnat(times)
        there[there] &= self.places[step[there]] > first[there]
        row = self.rows[step[there]]
        if ttl:
            fresh = times[there] - self.event[row] <= np.timedelta64(ttl, "us")
            there[there], row = fresh, row[fresh]
        found = {name: _where(there, values, row) for name, values in self.values.items()}
        return found, _where(there, self.event, row)


def _where(there: Array, values: Array, rows: Array) -> Array:
    found = np.full(len(there), _MISSING[values.dtype.kind], dtype=values.dtype)
    found[there] = values[rows]
    return found
