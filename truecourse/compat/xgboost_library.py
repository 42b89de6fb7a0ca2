"""XGBoost's loaded C library, which predictions of a few rows call directly.

What: `xgboost.core._LIB` and a booster's `handle` are used with functions of XGBoost's C API, which is documented.
Why: the library takes 60 µs for a row; Booster.inplace_predict's Python code takes twice as long.
Without it: predictions that no compiled trees make go through `Booster.inplace_predict`, with equal results.
"""

from typing import Any

from truecourse.compat.patch import Patch

PATCH = Patch(
    module=__name__,
    checked={"xgboost": ("3.2.0", "3.4.1")},
    changes="calls XGBoost's C API through xgboost.core._LIB",
    reason="Booster.inplace_predict takes three times as long for one row",
    upstream="https://github.com/dmlc/xgboost/issues/12311",
    without="predictions that no compiled trees make take about three times as long",
)
FUNCTIONS = (
    "XGBGetLastError", "XGBoosterPredictFromDMatrix", "XGBoosterPredictFromDense", "XGDMatrixCreateFromDense",
    "XGDMatrixFree",
)  # fmt: skip
"""The functions of the C API that are called."""


def library() -> Any:
    """The loaded library; its functions return 0 unless they fail."""
    from xgboost.core import _LIB

    return _LIB
