"""Metrics by the values of a column, to find where a model is weaker than its average."""

from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from truecourse.arrays import Array, columns_of
from truecourse.problem.definition import Kind
from truecourse.statistics.metrics import measure

FEWEST_ROWS = 30
_DISTINCT = 12
_PARTS = 4


def slices(
    kind: Kind,
    frame: pa.Table,
    column: str,
    labels: Array,
    predictions: Array,
    blocks: Array,
    fewest: int = FEWEST_ROWS,
) -> list[dict[str, Any]]:
    """Compute [{"column", "value", "rows", "metrics": {name: {"value", "low", "high"}}}], the largest slice first.

    A number with many values is cut at its quartiles. Slices below `fewest` rows are left out.
    """
    found = []
    for value, mask in parts_of(frame[column]):
        rows = int(mask.sum())
        if rows < max(fewest, 1):
            continue
        metrics = measure(kind, labels[mask], predictions[mask], blocks[mask])
        found.append({"column": column, "value": value, "rows": rows, "metrics": metrics})
    return sorted(found, key=lambda item: (-item["rows"], item["value"]))


def parts_of(values: pa.ChunkedArray) -> list[tuple[str, Array]]:
    """Return (name, mask) of each slice."""
    if pa.types.is_floating(values.type) or pa.types.is_integer(values.type):
        distinct = pc.count_distinct(values).as_py()
        if distinct > _DISTINCT:
            return _quartiles(columns_of(pa.table({"it": values}), ["it"])["it"])
    codes = values.combine_chunks().dictionary_encode(null_encoding="encode")
    names, places = codes.dictionary.to_pylist(), codes.indices.to_numpy()
    return [("missing" if name is None else str(name), places == code) for code, name in enumerate(names)]


def _quartiles(values: Array) -> list[tuple[str, Array]]:
    edges = np.unique(np.nanquantile(values, np.linspace(0, 1, _PARTS + 1)))
    place = np.clip(np.searchsorted(edges, values, side="left") - 1, 0, max(len(edges) - 2, 0))
    present = ~np.isnan(values)
    parts = [
        (f"{low:g} to {high:g}", present & (place == number)) for number, (low, high) in enumerate(pairwise(edges))
    ]
    return [*parts, ("missing", ~present)]
