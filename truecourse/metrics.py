"""Metrics on test rows, with intervals from a day-block bootstrap.

Rows of one day share its weather, its rush, its incident; resampling rows would pretend they are independent and give
intervals too narrow. Whole UTC days are drawn instead, with replacement (Efron & Tibshirani 1993, ch. 8). Every metric
is computed for all resamples at once from sums by day, so that it costs one pass over the rows.

Samples are arrays (resamples + 1,): the first value is the metric itself, the others its resamples.
"""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from truecourse.encoding import Array, columns_of
from truecourse.problem import Kind
from truecourse.ranking import average_precision, roc_auc

RESAMPLES = 400
COVERAGE = 0.95
_EPSILON = 1e-7
_BINS = 10
HIGHER_IS_BETTER = frozenset({"auc", "average_precision", "accuracy", "macro_f1", "r2"})
_IN_LABEL_UNITS = frozenset({"rmse", "mae", "bias"})
Samples = Mapping[str, Array]


def unit_of(metric: str, label_unit: str) -> str:
    """What a metric is counted in: the label's unit, nats, or nothing (a share, or a number from 0 to 1)."""
    if metric in _IN_LABEL_UNITS:
        return label_unit
    return "nats" if metric == "log_loss" else ""


def blocks_of(frame: pa.Table) -> Array:
    """The number of each row's block from 0: its UTC day of decision, or, without time, the row itself."""
    if "decision_time" not in frame.column_names:
        return np.arange(len(frame))
    day = columns_of(frame, ["decision_time"])["decision_time"].astype("datetime64[D]")
    return np.asarray(np.unique(day, return_inverse=True)[1])


def resample(blocks: Array, count: int = RESAMPLES, seed: int = 0) -> Array:
    """(count + 1, number of blocks) float64: how often each block is drawn. The first row is the data as it is."""
    size = int(blocks.max()) + 1
    drawn = np.random.default_rng(seed).multinomial(size, np.full(size, 1 / size), size=count)
    return np.vstack([np.ones(size), drawn])


def measure(kind: Kind, labels: Array, predictions: Array, blocks: Array, weights: Array) -> dict[str, Array]:
    """Samples of every metric of the kind of problem.

    labels (n,): 0/1, class codes, or values. predictions: P(last class) (n,), P(class) (n, k), or values (n,).
    """
    labels, predictions = labels.astype(np.float64), predictions.astype(np.float64)
    function = {"binary": _binary, "multiclass": _multiclass, "regression": _regression}[kind]
    with np.errstate(divide="ignore", invalid="ignore"):  # a resample may hold one class only: NaN, not an error
        return function(labels, predictions, blocks, weights)


def losses(kind: Kind, labels: Array, predictions: Array) -> Array:
    """(n,) each row's loss: log loss, or the squared error."""
    predictions = predictions.astype(np.float64)
    if kind == "regression":
        return np.asarray((labels - predictions) ** 2)
    if kind == "binary":
        predictions = np.column_stack([1 - predictions, predictions])
    chosen = np.take_along_axis(predictions, labels.astype(np.int64)[:, None], axis=1)[:, 0]
    return np.asarray(-np.log(np.clip(chosen, _EPSILON, 1)))


def loss_samples(kind: Kind, labels: Array, predictions: Array, blocks: Array, weights: Array) -> Array:
    """Samples of the metric that models are compared by: mean log loss, or the root mean squared error."""
    mean = _mean(losses(kind, labels, predictions), blocks, weights)
    return np.sqrt(mean) if kind == "regression" else mean


def paired(
    kind: Kind, labels: Array, model: Array, other: Array, blocks: Array, bootstrap: bool = True
) -> dict[str, float | None]:
    """{"value", "low", "high"}: how much larger the loss of a model is than another's on the same rows, and its 95%
    interval, wide enough for few rows: the wider of Student's t on the sums of whole blocks, and of the bootstrap.
    bootstrap=False: Student's t alone, which needs no 400 numbers a block.

    The percentiles of a bootstrap alone are too narrow for few blocks, and of one block they have no width. Of the RMSE
    the differences are linearised in each row's squared error (the delta method)."""
    from scipy.stats import t

    losses_of = [losses(kind, labels, said).astype(np.float64) for said in (model, other)]
    means = [loss.mean() for loss in losses_of]
    if kind == "regression":
        roots = [max(np.sqrt(mean), _EPSILON) for mean in means]
        value = roots[0] - roots[1]
        off = [(loss - mean) / (2 * root) for loss, mean, root in zip(losses_of, means, roots, strict=True)]
    else:
        value, off = means[0] - means[1], [loss - mean for loss, mean in zip(losses_of, means, strict=True)]
    sums = np.bincount(blocks, weights=off[0] - off[1])
    count, rows = len(sums), len(labels)
    if count < 2 or not np.isfinite(value):
        return {"value": float(value) if np.isfinite(value) else None, "low": None, "high": None}
    half = t.ppf(1 - (1 - COVERAGE) / 2, count - 1) * np.sqrt(count / (count - 1) * (sums**2).sum()) / rows
    if not bootstrap:
        return {"value": float(value), "low": float(value - half), "high": float(value + half)}
    weights = resample(blocks)
    with np.errstate(divide="ignore", invalid="ignore"):
        model_samples, other_samples = (loss_samples(kind, labels, said, blocks, weights) for said in (model, other))
        drawn = summary(model_samples - other_samples)
    lows, highs = [value - half], [value + half]
    if drawn["low"] is not None and drawn["high"] is not None:
        lows, highs = [*lows, drawn["low"]], [*highs, drawn["high"]]
    return {"value": float(value), "low": float(min(lows)), "high": float(max(highs))}


def summary(samples: Array) -> dict[str, float | None]:
    """{"value", "low", "high"}: the metric and its 95% interval (percentiles); None where it is undefined."""
    value, drawn = samples[0], samples[1:][np.isfinite(samples[1:])]
    if not np.isfinite(value) or not len(drawn):
        return {"value": float(value) if np.isfinite(value) else None, "low": None, "high": None}
    tail = (1 - COVERAGE) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return {"value": float(value), "low": float(low), "high": float(high)}


def simultaneous(samples: Array) -> list[dict[str, float | None]]:
    """summary() of m samples (m, resamples + 1) whose intervals hold for all m at once.

    Each is its value and as many of its own standard errors either way as the largest of m deviations stays within in
    95% of the resamples (the sup-t band, Montiel Olea & Plagborg-Møller 2019): of twenty equal slices, a 95% interval
    for each by itself would find one that differs."""
    values, drawn = samples[:, :1], samples[:, 1:]
    errors = np.nanstd(drawn, axis=1, keepdims=True)
    deviations = np.abs(drawn - values) / np.where(errors > 0, errors, np.inf)
    width = np.quantile(np.nanmax(deviations, axis=0, initial=0), COVERAGE) * errors[:, 0]
    figures = zip(values[:, 0], values[:, 0] - width, values[:, 0] + width, strict=True)
    return [{"value": float(value), "low": float(low), "high": float(high)} for value, low, high in figures]


def calibration_samples(kind: Kind, labels: Array, predictions: Array, blocks: Array, weights: Array) -> Array:
    """Samples of how far predictions are off as a whole: the expected calibration error of the probability of the last
    class (multiclass: of the class chosen), or the size of a regression's bias."""
    labels, predictions = labels.astype(np.float64), predictions.astype(np.float64)
    if kind == "regression":
        return np.abs(_mean(predictions - labels, blocks, weights))
    if kind == "multiclass":
        labels, predictions = (labels == predictions.argmax(axis=1)).astype(np.float64), predictions.max(axis=1)
    return _calibration_error(labels, predictions, blocks, weights)


def _binary(labels: Array, predictions: Array, blocks: Array, weights: Array) -> dict[str, Array]:
    return {
        "auc": roc_auc(labels, predictions, blocks, weights),
        "log_loss": loss_samples("binary", labels, predictions, blocks, weights),
        "brier": _mean((labels - predictions) ** 2, blocks, weights),
        "average_precision": average_precision(labels, predictions, blocks, weights),
        "calibration_error": calibration_samples("binary", labels, predictions, blocks, weights),
        "base_rate": _mean(labels, blocks, weights),
    }


def _multiclass(labels: Array, predictions: Array, blocks: Array, weights: Array) -> dict[str, Array]:
    codes, classes = labels.astype(np.int64), range(predictions.shape[1])
    chosen = predictions.argmax(axis=1)
    scores = [_f1(codes == c, chosen == c, blocks, weights) for c in classes]
    areas = [roc_auc((codes == c).astype(np.float64), predictions[:, c], blocks, weights) for c in classes]
    return {
        "log_loss": loss_samples("multiclass", labels, predictions, blocks, weights),
        "accuracy": _mean(codes == chosen, blocks, weights),
        "macro_f1": np.mean(scores, axis=0),
        "auc": np.mean(areas, axis=0),
        "calibration_error": calibration_samples("multiclass", labels, predictions, blocks, weights),
    }


def _regression(labels: Array, predictions: Array, blocks: Array, weights: Array) -> dict[str, Array]:
    mean = _mean(labels, blocks, weights)
    squared = _mean((labels - predictions) ** 2, blocks, weights)
    centred = labels - labels.mean()  # the variance from sums of squares would lose digits far from zero
    variance = _mean(centred**2, blocks, weights) - _mean(centred, blocks, weights) ** 2
    return {
        "rmse": np.sqrt(squared),
        "mae": _mean(np.abs(labels - predictions), blocks, weights),
        "r2": 1 - squared / variance,
        "bias": _mean(predictions, blocks, weights) - mean,
    }


def _sums(values: Array, blocks: Array, weights: Array) -> Array:
    return np.asarray(weights @ np.bincount(blocks, weights=values, minlength=weights.shape[1]))


def _mean(values: Array, blocks: Array, weights: Array) -> Array:
    return np.asarray(_sums(values, blocks, weights) / _sums(np.ones(len(values)), blocks, weights))


def _f1(true: Array, said: Array, blocks: Array, weights: Array) -> Array:
    """2 TP / (true + said); 0 for a class that is neither there nor said, as scikit-learn has it."""
    both = _sums(true & said, blocks, weights)
    either = _sums(true, blocks, weights) + _sums(said, blocks, weights)
    return np.where(either > 0, 2 * both / np.maximum(either, 1), 0.0)


def _calibration_error(labels: Array, predictions: Array, blocks: Array, weights: Array) -> Array:
    """Expected calibration error over ten bins of equally many predictions (Naeini et al. 2015)."""
    edges = np.quantile(predictions, np.linspace(0, 1, _BINS + 1)[1:-1])
    place = np.searchsorted(edges, predictions, side="right")
    gaps = [_sums((labels - predictions) * (place == number), blocks, weights) for number in range(_BINS)]
    return np.asarray(np.abs(gaps).sum(axis=0) / _sums(np.ones(len(labels)), blocks, weights))
