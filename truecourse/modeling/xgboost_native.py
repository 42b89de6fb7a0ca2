"""Predictions and contributions by direct calls of XGBoost's C library, for matrices of a few rows.

The library takes 60 µs; Booster.inplace_predict's Python code takes twice as long, to detect the input type and write
constant JSON. The results are equal bit for bit; a test compares 100,000 rows.
"""

import ctypes
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from truecourse.arrays import Array
from truecourse.compat import xgboost_library
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
    """Predictions of one booster. Thread-safe, as inplace_predict is: XGBoost's buffer belongs to the calling thread,
    and is copied before the next call."""

    def __init__(self, booster: Any) -> None:
        self._booster = booster  # keeps the handle alive
        self._handle = booster.handle
        self._library = xgboost_library.library()
        self._none = ctypes.c_void_p()

    def predict(self, matrix: Array, margin: bool = False) -> Array:
        """Predict `matrix`: (n, d) float32, C-contiguous, NaN where missing. Raises ModelError if XGBoost fails."""
        config = _MARGIN if margin else _VALUE
        return self._call(self._library.XGBoosterPredictFromDense, _array_interface(matrix), config, self._none)

    def contributions(self, matrix: Array) -> Array:
        """Compute contributions of `matrix` (as for predict()): (n, d + 1) float32, or (n, k, d + 1) for k classes.

        Raises ModelError if XGBoost fails."""
        rows = ctypes.c_void_p()
        self._check(self._library.XGDMatrixCreateFromDense(_array_interface(matrix), _DMATRIX, ctypes.byref(rows)))
        try:
            return self._call(self._library.XGBoosterPredictFromDMatrix, rows, _CONTRIBUTIONS)
        finally:
            self._library.XGDMatrixFree(rows)

    def _call(self, call: Any, rows: Any, config: bytes, *more: Any) -> Array:
        shape, dims = ctypes.POINTER(ctypes.c_uint64)(), ctypes.c_uint64()
        buffer = ctypes.POINTER(ctypes.c_float)()
        to = ctypes.byref(shape), ctypes.byref(dims), ctypes.byref(buffer)
        self._check(call(self._handle, rows, config, *more, *to))
        values = np.empty(shape[: dims.value], dtype=np.float32)
        ctypes.memmove(values.__array_interface__["data"][0], buffer, values.nbytes)
        return values

    def _check(self, failed: int) -> None:
        if failed:
            reason = self._library.XGBGetLastError().decode().splitlines()[0]
            raise ModelError(f"prediction failed: {reason}")


class StockBooster:
    """The same predictions by XGBoost's Python interface."""

    def __init__(self, booster: Any) -> None:
        self._booster = booster

    def predict(self, matrix: Array, margin: bool = False) -> Array:
        """Predict as NativeBooster does."""
        kind = "margin" if margin else "value"
        return self._run(lambda: self._booster.inplace_predict(matrix, predict_type=kind, validate_features=False))

    def contributions(self, matrix: Array) -> Array:
        """Compute contributions as NativeBooster does."""
        import xgboost

        rows = xgboost.DMatrix(matrix, nthread=1)
        return self._run(lambda: self._booster.predict(rows, pred_contribs=True, validate_features=False))

    def _run(self, call: Callable[[], Any]) -> Array:
        import xgboost

        try:
            return np.asarray(call(), dtype=np.float32)
        except xgboost.core.XGBoostError as error:
            raise ModelError(f"prediction failed: {str(error).splitlines()[0]}") from None


Booster: TypeAlias = NativeBooster | StockBooster


def open_booster(booster: Any) -> Booster:
    """Predictions of a booster: directly by XGBoost's library, unless that patch is left out."""
    return NativeBooster(booster) if xgboost_library.PATCH.is_active() else StockBooster(booster)


def _array_interface(matrix: Array) -> bytes:
    assert matrix.dtype == np.float32
    assert matrix.flags.c_contiguous
    return _MATRIX % (matrix.__array_interface__["data"][0], *matrix.shape)
