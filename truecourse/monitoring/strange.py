"""Values that training never saw: new categories, and numbers that lie off the scale they were always read from."""

from collections.abc import Mapping
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from truecourse.monitoring.bins import Array, numbers
from truecourse.references import Reference
from truecourse.replay.changes import CONVERSIONS

Known: TypeAlias = Mapping[str, pa.Array | Array]
"""Every value that training saw, by column: of text, and of numbers that take few values."""

MAX_NUMBERS = 2048
"""A number with no more values than this is read off a scale, and one beside its marks is worth a look."""
MAX_CATEGORIES = 20_000
_REPEATED = 20
"""So many rows a value, on average, make a scale."""
_NEAR = 1e-6


class Strange(Reference):
    """A column's values that training never saw. `rows`: how many have one. `like`: the commonest of new categories;
    of numbers the conversion of units that would bring most of them back to known values, empty where there is none.
    `alike`: how many rows that is."""

    rows: int
    like: str
    alike: int


def known(frame: pa.Table, columns: list[str]) -> Known:
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


def strange(known: Known, rows: pa.Table) -> dict[str, Strange]:
    """By column, where there are any."""
    found = {name: _strange(values, rows[name]) for name, values in known.items() if name in rows.column_names}
    return {name: one for name, one in found.items() if one is not None}


def _strange(known: pa.Array | Array, values: pa.ChunkedArray) -> Strange | None:
    if isinstance(known, pa.Array):
        present = values.drop_null().cast(pa.string())
        new = present.filter(pc.invert(pc.is_in(present, known)))
        if len(new) == 0:
            return None
        counted = sorted((-item["counts"], item["values"]) for item in pc.value_counts(new).to_pylist())
        return Strange(rows=len(new), like=counted[0][1], alike=-counted[0][0])
    read = numbers(values)
    odd = read[np.isfinite(read)]
    odd = odd[~_among(known, odd)]
    if len(odd) == 0:
        return None
    back = {name: int(_among(known, (odd - offset) / factor).sum()) for name, (factor, offset) in CONVERSIONS.items()}
    like = max(back, key=lambda name: back[name])
    return Strange(rows=len(odd), like=like if back[like] else "", alike=back[like])


def _among(known: Array, values: Array) -> Array:
    """Which of the values are known, but for the last digits that a conversion leaves."""
    place = np.searchsorted(known, values).clip(1, len(known) - 1)
    gap = np.minimum(np.abs(known[place] - values), np.abs(known[place - 1] - values))
    return np.asarray(gap <= _NEAR * np.maximum(np.abs(values), 1))
