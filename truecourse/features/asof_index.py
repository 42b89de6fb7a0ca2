"""Point-in-time join by an index, for many small queries: built once, searched by binary search.

For each key, the newest known row changes in steps, when a newer row becomes known. The result of asof_join() with
`filter_by_created` is the last step at or before the decision.
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
"""The missing value by kind of array, as in columns_of()."""


@dataclass(frozen=True)
class AsOfIndex:
    """The history of the newest known row of each key.

    `codes`: the number of each key. `moments`: times at which a row became known, ascending. `places`: key and time of
    each step as one number, ascending. `rows`: the newest row from each step on. `values`, `event`: by row."""

    codes: Mapping[tuple[Any, ...], int]
    moments: Array
    places: Array
    rows: Array
    event: Array
    values: Mapping[str, Array]

    @classmethod
    def of(cls, features: pa.Table, keys: Sequence[str]) -> "AsOfIndex":
        """Build the index of a feature table's rows. Rows with a null key or time are ignored."""
        for name in (*keys, EVENT, CREATED):
            features = features.filter(pc.is_valid(features[name])) if features[name].null_count else features
        event, created = columns_of(features, [EVENT, CREATED]).values()
        names = [name for name in features.column_names if name not in (*keys, EVENT, CREATED)]
        codes: dict[tuple[Any, ...], int] = {}
        key_values = zip(*(features[name].to_pylist() for name in keys), strict=True)
        code = np.fromiter((codes.setdefault(key, len(codes)) for key in key_values), np.int64, len(features))
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
        """Look up n keys at n times (datetime64[us] UTC). Return the values by feature and their event times, NaT if no
        row was known or it is older than `ttl` (inclusive; zero is unlimited)."""
        code = np.array([self.codes.get(key, -1) for key in keys], np.int64)
        first = code * (len(self.moments) + 1)
        wanted = first + np.searchsorted(self.moments, times, side="right")
        step = np.searchsorted(self.places, wanted, side="right") - 1
        known = (code >= 0) & (step >= 0) & ~np.isnat(times)
        known[known] &= self.places[step[known]] > first[known]
        row = self.rows[step[known]]
        if ttl:
            fresh = times[known] - self.event[row] <= np.timedelta64(ttl, "us")
            known[known], row = fresh, row[fresh]
        features = {name: _scatter(known, values, row) for name, values in self.values.items()}
        return features, _scatter(known, self.event, row)


def _scatter(known: Array, values: Array, rows: Array) -> Array:
    scattered = np.full(len(known), _MISSING[values.dtype.kind], dtype=values.dtype)
    scattered[known] = values[rows]
    return scattered
