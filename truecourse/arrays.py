"""Columns as NumPy arrays: what request functions and the encoding of a model take."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

Array = np.ndarray[Any, Any]
Values = Array | Sequence[Any]
"""n values: an array as columns_of() gives it, or the same as Python's own, None for a missing number, all finite."""


def columns_of(frame: pa.Table, names: Iterable[str]) -> dict[str, Array]:
    """Arrow columns as the arrays that request functions and encode() take.

    Numbers and booleans: float64 with NaN for missing; text: object with None; times: datetime64[us], UTC, with NaT.
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
