"""Calibration of a classifier's scores on validation rows, kept in the booster itself.

Two classes: a logistic curve of the margin (Platt 1999). Several: one factor for all scores (temperature scaling, Guo
et al. 2017). Both only multiply margins and add a constant, and a booster's margin is a sum of leaf values. So leaf
values are scaled and a constant tree is added: predictions, contributions and serving need no other code.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from truecourse.arrays import Array
from truecourse.modeling.decisions import FEWEST_OF_A_CLASS, logistic_curve
from truecourse.modeling.linear import scale_booster
from truecourse.modeling.splitting import stratified_parts
from truecourse.problem.definition import Kind
from truecourse.statistics.metrics import loss

if TYPE_CHECKING:
    import xgboost

_FOLDS = 5
_FACTORS = (0.05, 20.0)
"""Limits of the factor of several classes."""


@dataclass(frozen=True)
class Curve:
    """Calibrated margins: slope * margin + intercept. With more than two classes the intercept is 0."""

    slope: float
    intercept: float

    def outputs(self, margins: Array) -> Array:
        """Compute the probabilities, as Model.predict() does, of margins (n,) or (n, k)."""
        scaled = self.slope * margins.astype(np.float64) + self.intercept
        if scaled.ndim == 1:
            return np.asarray(np.exp(-np.logaddexp(0, -scaled)))
        powers = np.exp(scaled - scaled.max(axis=1, keepdims=True))
        return np.asarray(powers / powers.sum(axis=1, keepdims=True))


@dataclass(frozen=True)
class Calibration:
    """The curve, or None if it is not applied, and why.

    `outputs`: of the validation rows, each by a curve that was fitted to the others; empty without a curve."""

    curve: Curve | None
    sentence: str
    document: dict[str, Any] = field(default_factory=dict)
    outputs: Array = field(default_factory=lambda: np.empty(0))

    def apply(self, booster: "xgboost.Booster") -> "xgboost.Booster":
        """Return the booster with calibrated margins."""
        return booster if self.curve is None else scale_booster(booster, self.curve.slope, self.curve.intercept)


def choose_calibration(kind: Kind, labels: Array, margins: Array) -> Calibration:
    """Fit a curve to n validation rows, and apply it if it lowers the log loss of rows that it was not fitted to.

    `labels`: (n,) class codes. `margins`: (n,) or (n, k), by models that were not trained on the rows."""
    classes = 2 if margins.ndim == 1 else margins.shape[1]
    codes = labels.astype(np.int64)
    if not len(codes) or np.bincount(codes, minlength=classes).min() < FEWEST_OF_A_CLASS:
        return Calibration(None, f"not calibrated: fewer than {FEWEST_OF_A_CLASS} validation rows of a class")
    parts, outputs = stratified_parts(labels, _FOLDS), np.empty(margins.shape)
    for part in range(_FOLDS):
        out = parts == part
        outputs[out] = fit_curve(codes[~out], margins[~out]).outputs(margins[out])
    before, after = (loss(kind, labels, one) for one in (Curve(1.0, 0.0).outputs(margins), outputs))
    figures = f"log loss {after:.4f} on validation rows that the curve was not fitted to, {before:.4f} without"
    document = {"losses": {"none": before, "logistic": after}}
    if after >= before:
        return Calibration(None, f"not calibrated: {figures}", document)
    curve = fit_curve(codes, margins)
    values = document | {"slope": curve.slope, "intercept": curve.intercept}
    return Calibration(curve, f"calibrated: {figures}", values, outputs.astype(np.float32))


def fit_curve(codes: Array, margins: Array) -> Curve:
    """Fit the curve with the least log loss to n rows."""
    if margins.ndim == 1:
        return Curve(*logistic_curve(codes, margins.astype(np.float64)))
    from scipy.optimize import minimize_scalar

    def mean_loss(logarithm: float) -> float:
        return loss("multiclass", codes, Curve(float(np.exp(logarithm)), 0.0).outputs(margins))

    found = minimize_scalar(mean_loss, bounds=np.log(_FACTORS).tolist(), method="bounded", options={"xatol": 1e-4})
    return Curve(float(np.exp(round(float(found.x), 3))), 0.0)
