"""Columns as NumPy arrays, the input of request functions and of model encoding."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

Array = np.ndarray[Any, Any]
Values = Array | Sequence[Any]
"""n values: an array as columns_of() returns it, or a sequence of Python values (None if missing, numbers finite)."""


def columns_of(frame: pa.Table, names: Iterable[str]) -> dict[str, Array]:
    """Convert Arrow columns to the arrays that request functions and encode() take.

    Numbers and booleans: float64, NaN if missing. Text: object, None if missing. Times: datetime64[us] UTC, NaT.
    """
    return {name: _array(frame[name]) for name in names}


def _array(values: pa.ChunkedArray) -> Array:
    kind = values.type
    if pa.types.is_timestamp(kind):
        return np.asarray(values.cast(pa.timestamp("us")).to_numpy(), dtype="datetime64[us]")
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return np.asarray(values.to_numpy(zero_copy_only=False) if hasattr(values, "chunks") else values, dtype=object)
    if pa.types.is_boolean(kind):
        values = values.cast(pa.int8())
    return np.asarray(values.cast(pa.float64(), safe=False).to_numpy(), dtype=np.float64)
