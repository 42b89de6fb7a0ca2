"""Booster.inplace_predict, and its contributions, without their Python: the same calls into the same library, for
matrices of a few rows.

There the library takes 60 µs and what surrounds it in Python twice as long: it looks for a dozen kinds of input, and
writes JSON that is always the same. The answers are equal bit for bit, which a test holds against 100,000 rows.
"""

import ctypes
from typing import Any

import numpy as np

from truecourse.arrays import Array
from truecourse.errors import ModelError

_CONFIG = (
    b'{"type":%d,"training":false,"iteration_begin":0,"iteration_end":0,"missing":NaN,"strict_shape":false,'
    b'"cache_id":0}'
)
_VALUE, _MARGIN = _CONFIG % 0, _CONFIG % 1
_CONTRIBUTIONS = b'{"type":2,"training":false,"iteration_begin":0,"iteration_end":0,"strict_shape":false}'
_DMATRIX = b'{"missing":NaN,"nthread":1,"data_split_mode":0}'
_MATRIX = b'{"data":[%d,true],"shape":[%d,%d],"strides":null,"typestr":"<f4","version":3}'


class NativeBooster:
    """Predictions of one booster. Safe for threads, as inplace_predict is: the result is copied before another call
    of the same thread could overwrite it."""

    def __init__(self, booster: Any) -> None:
        from xgboost.core import _LIB

        self._booster = booster  # it owns the handle
        self._handle = booster.handle
        self._library = _LIB
        self._none = ctypes.c_void_p()

    def predict(self, matrix: Array, margin: bool = False) -> Array:
        """`matrix`: (n, d) float32, C-contiguous, NaN where a value is missing. Raises ModelError if XGBoost does."""
        config = _MARGIN if margin else _VALUE
        return self._found(self._library.XGBoosterPredictFromDense, _described(matrix), config, self._none)

    def contributions(self, matrix: Array) -> Array:
        """`matrix` as predict() takes it; (n, d + 1) float32, or (n, k, d + 1) of k classes. Raises ModelError if
        XGBoost does."""
        rows = ctypes.c_void_p()
        self._check(self._library.XGDMatrixCreateFromDense(_described(matrix), _DMATRIX, ctypes.byref(rows)))
        try:
            return self._found(self._library.XGBoosterPredictFromDMatrix, rows, _CONTRIBUTIONS)
        finally:
            self._library.XGDMatrixFree(rows)

    def _found(self, call: Any, rows: Any, config: bytes, *more: Any) -> Array:
        shape, dims = ctypes.POINTER(ctypes.c_uint64)(), ctypes.c_uint64()
        found = ctypes.POINTER(ctypes.c_float)()
        to = ctypes.byref(shape), ctypes.byref(dims), ctypes.byref(found)
        self._check(call(self._handle, rows, config, *more, *to))
        values = np.empty(shape[: dims.value], dtype=np.float32)
        ctypes.memmove(values.__array_interface__["data"][0], found, values.nbytes)
        return values

    def _check(self, failed: int) -> None:
        if failed:
            why = self._library.XGBGetLastError().decode().splitlines()[0]
            raise ModelError(f"the model does not predict: {why}")


def _described(matrix: Array) -> bytes:
    assert matrix.dtype == np.float32
    assert matrix.flags.c_contiguous
    return _MATRIX % (matrix.__array_interface__["data"][0], *matrix.shape)
