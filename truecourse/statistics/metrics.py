"""Metrics on test rows, with intervals that allow for dependence within and between days.

Rows of one day are not independent (weather, traffic, incidents). They are summed by UTC day, and a metric's interval
comes from each day's influence on it (truecourse/statistics/intervals.py). Every metric accepts weights of the days, so
that one pass over the rows gives the metric, and the metric with each day's weight slightly increased.

Samples are arrays (n + 1,): the metric, and the metric with the weight of each of n blocks slightly increased.
"""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from truecourse.arrays import Array, columns_of
from truecourse.problem.definition import Kind
from truecourse.statistics.absolute_sums import difference_of_absolutes, sum_of_absolutes
from truecourse.statistics.intervals import COVERAGE, UNDEFINED, Estimate, Scale, estimate
from truecourse.wording import with_unit

_STEP = 1e-4
"""The relative increase of a block's weight."""
_GROUPS = 200
"""The number of random blocks for rows without time."""
_EPSILON = 1e-7
_FARTHEST = 1e70
_BINS = 10
HIGHER_IS_BETTER = frozenset({"auc", "average_precision", "accuracy", "macro_f1", "r2"})
_IN_LABEL_UNITS = frozenset({"rmse", "mae", "bias"})
_SCALES: Mapping[str, Scale] = {
    **dict.fromkeys(("auc", "average_precision", "accuracy", "macro_f1", "base_rate"), "share"),
    **dict.fromkeys(("log_loss", "brier", "rmse", "mae"), "positive"),
}


def unit_of(metric: str, label_unit: str) -> str:
    """Return a metric's unit: the label's unit, nats, or "" (a share, or a number from 0 to 1)."""
    if metric in _IN_LABEL_UNITS:
        return label_unit
    return "nats" if metric == "log_loss" else ""


def metric_label(metric: str, label_unit: str) -> str:
    """Return a metric's name for pages, with its unit: "log loss, nats"."""
    return with_unit(metric.replace("_", " "), unit_of(metric, label_unit))


def bounded(values: Array) -> Array:
    """Return values of a label or prediction as float64, those beyond ±1e70 as that: the sums of the fourth powers of
    any number of them are doubles too."""
    return np.clip(values.astype(np.float64), -_FARTHEST, _FARTHEST)


def blocks_of(frame: pa.Table) -> Array:
    """Number each row's block from 0: its UTC day of decision in order of time, or one of 200 random blocks without
    time."""
    if "decision_time" not in frame.column_names:
        return random_blocks(len(frame))
    day = columns_of(frame, ["decision_time"])["decision_time"].astype("datetime64[D]")
    return np.asarray(np.unique(day, return_inverse=True)[1])


def random_blocks(rows: int) -> Array:
    """Assign rows without time to 200 random blocks; returns (rows,) block numbers."""
    return np.random.default_rng(0).permutation(rows) % _GROUPS


def weightings(blocks: Array) -> Array:
    """Return (n + 1, n) float64 weights of n blocks: all 1, then each block in turn slightly increased."""
    size = int(blocks.max()) + 1 if len(blocks) else 0
    return np.vstack([np.ones(size), np.ones((size, size)) + _STEP * np.eye(size)])


def influence(samples: Array) -> Array:
    """Compute the influence (..., n) of each block from samples (..., n + 1); its mean is the estimate's error."""
    with np.errstate(invalid="ignore"):  # of an infinite metric, such as the R² of constant labels, it is undefined
        change = (samples[..., 1:] - samples[..., :1]) * (samples.shape[-1] - 1) / _STEP
    # Differences within rounding errors are no influence.
    tiny = 1e-9 * (1 + np.abs(samples[..., :1])) * (samples.shape[-1] - 1)
    return np.where(np.abs(change) > tiny, change, 0.0)


def measure(kind: Kind, labels: Array, predictions: Array, blocks: Array) -> dict[str, Estimate]:
    """Compute every metric for the kind of problem with its 95% interval.

    `labels` (n,): 0/1, class codes, or values. `predictions`: P(last class) (n,), P(class) (n, k), or values (n,).
    """
    labels, predictions = bounded(labels), bounded(predictions)
    blocks = np.unique(blocks, return_inverse=True)[1]  # in a slice, not every day has rows
    metrics = {name: summary(values, name) for name, values in samples(kind, labels, predictions, blocks).items()}
    if kind == "regression":
        return metrics
    names = list(metrics)
    metrics["calibration_error"] = sum_of_absolutes(*gaps(kind, labels, predictions, blocks))
    last = ["base_rate"] if "base_rate" in metrics else []
    return {name: metrics[name] for name in [*(n for n in names if n not in last), "calibration_error", *last]}


def samples(kind: Kind, labels: Array, predictions: Array, blocks: Array) -> dict[str, Array]:
    """Compute samples of all metrics but the calibration error, which is not smooth in the weights."""
    function = {"binary": _binary, "multiclass": _multiclass, "regression": _regression}[kind]
    with np.errstate(divide="ignore", invalid="ignore"):  # with one class only, the AUC is NaN
        return function(bounded(labels), bounded(predictions), blocks, weightings(blocks))


def losses(kind: Kind, labels: Array, predictions: Array) -> Array:
    """Compute each row's loss (n,): log loss, or the squared error."""
    predictions = bounded(predictions)
    if kind == "regression":
        return np.asarray((bounded(labels) - predictions) ** 2)
    if kind == "binary":
        predictions = np.column_stack([1 - predictions, predictions])
    chosen = np.take_along_axis(predictions, labels.astype(np.int64)[:, None], axis=1)[:, 0]
    return np.asarray(-np.log(np.clip(chosen, _EPSILON, 1)))


def loss_samples(kind: Kind, labels: Array, predictions: Array, blocks: Array, weights: Array) -> Array:
    """Compute samples of the metric that models are compared by: mean log loss, or root mean squared error."""
    mean = _mean(losses(kind, labels, predictions), blocks, weights)
    return np.sqrt(mean) if kind == "regression" else mean


def loss(kind: Kind, labels: Array, predictions: Array) -> float:
    """Compute the metric that models are compared by: mean log loss, or root mean squared error."""
    mean = float(losses(kind, labels, predictions).mean())
    return float(np.sqrt(mean)) if kind == "regression" else mean


def paired_difference(
    kind: Kind,
    labels: Array,
    model: Array,
    other: Array,
    blocks: Array,
    successive: bool = True,
    coverage: float = COVERAGE,
    weights: Array | None = None,
) -> Estimate:
    """Compute the difference of two models' losses on the same rows, model minus other, with its interval.

    The RMSE's differences are linearised in each row's squared error (the delta method). `successive`: blocks are days
    in order of time, not random blocks of rows. `weights`: of the rows in the mean loss, (n,)."""
    if not len(labels):
        return UNDEFINED
    sides = [losses(kind, labels, output).astype(np.float64) for output in (model, other)]
    if weights is not None:
        sides = [side * (weights / weights.mean()) for side in sides]
    return difference_of_losses(kind, sides[0], sides[1], blocks, successive, coverage)


def difference_of_losses(
    kind: Kind, model: Array, other: Array, blocks: Array, successive: bool = True, coverage: float = COVERAGE
) -> Estimate:
    """Compute paired_difference() from each row's loss by both models, (n,) each, as losses() returns them."""
    means = [one.mean() for one in (model, other)]
    if kind == "regression":
        roots = [max(np.sqrt(mean), _EPSILON) for mean in means]
        value = roots[0] - roots[1]
        off = [(one - mean) / (2 * root) for one, mean, root in zip((model, other), means, roots, strict=True)]
    else:
        value, off = means[0] - means[1], [one - mean for one, mean in zip((model, other), means, strict=True)]
    sums = np.bincount(np.unique(blocks, return_inverse=True)[1], weights=off[0] - off[1])
    return estimate(float(value), sums * len(sums) / len(model), successive=successive, coverage=coverage)


def summary(samples: Array, name: str = "") -> Estimate:
    """Compute the metric `name` and its 95% interval from its samples; None where it is undefined."""
    return estimate(float(samples[0]), influence(samples), _SCALES.get(name, "plain"))


def gaps(kind: Kind, labels: Array, predictions: Array, blocks: Array) -> tuple[Array, Array]:
    """Compute calibration gaps: (B,) sums of label minus prediction in each of B bins, divided by all rows, and their
    influence (n, B).

    The absolute gaps add up to the expected calibration error over ten equally filled bins (Naeini et al. 2015) of the
    probability of the last class (multiclass: of the predicted class). A regression has one bin: its gap is the
    bias."""
    labels, predictions = bounded(labels), bounded(predictions)
    if kind == "multiclass":
        labels, predictions = (labels == predictions.argmax(axis=1)).astype(np.float64), predictions.max(axis=1)
    cuts = np.linspace(0, 1, _BINS + 1)[1:-1] if kind != "regression" else np.zeros(0)
    place = np.searchsorted(np.quantile(predictions, cuts), predictions, side="right")
    size, bins = int(blocks.max()) + 1, len(cuts) + 1
    sums = np.bincount(blocks * bins + place, weights=labels - predictions, minlength=size * bins).reshape(size, bins)
    return gaps_of(sums, np.bincount(blocks, minlength=size))


def gaps_of(sums: Array, rows: Array) -> tuple[Array, Array]:
    """Compute gaps() from each block's sums of labels minus predictions by bin, (n, B), and its rows, (n,)."""
    values = sums.sum(axis=0) / rows.sum()
    return values, (sums - values * rows[:, None]) * (len(rows) / rows.sum())


def calibration_difference(
    kind: Kind, labels: Array, model: Array, other: Array, blocks: Array, coverage: float = COVERAGE
) -> Estimate:
    """Compute the difference of two models' calibration errors (regression: absolute biases) on the same rows, with its
    interval, each corrected for the bias due to noise."""
    blocks = np.unique(blocks, return_inverse=True)[1]
    sides = [gaps(kind, labels, output, blocks) for output in (model, other)]
    return difference_of_absolutes(sides[0], sides[1], coverage)


def _binary(labels: Array, predictions: Array, blocks: Array, weights: Array) -> dict[str, Array]:
    return {
        "auc": roc_auc(labels, predictions, blocks, weights),
        "log_loss": loss_samples("binary", labels, predictions, blocks, weights),
        "brier": _mean((labels - predictions) ** 2, blocks, weights),
        "average_precision": average_precision(labels, predictions, blocks, weights),
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
    }


def _regression(labels: Array, predictions: Array, blocks: Array, weights: Array) -> dict[str, Array]:
    mean = _mean(labels, blocks, weights)
    squared = _mean((labels - predictions) ** 2, blocks, weights)
    centred = labels - labels.mean()  # uncentred sums of squares would lose digits far from zero
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


def _f1(true: Array, predicted: Array, blocks: Array, weights: Array) -> Array:
    """Compute 2 TP / (true + predicted); 0 for a class that neither occurs nor is predicted, as in scikit-learn."""
    both = _sums(true & predicted, blocks, weights)
    either = _sums(true, blocks, weights) + _sums(predicted, blocks, weights)
    return np.where(either > 0, 2 * both / np.maximum(either, 1), 0.0)


def roc_auc(labels: Array, scores: Array, blocks: Array, weights: Array) -> Array:
    """Compute the AUC (b,) for block weights (b, blocks): P(a positive scores above a negative), ties counted half.

    NaN for one class."""
    # Correctly ranked pairs are counted once for each pair of blocks (of the positive, of the negative), then weighted.
    group = np.unique(scores, return_inverse=True)[1]
    positive, count = labels > 0, weights.shape[1]
    right = np.empty((count, count))
    for number in range(count):
        negative = np.bincount(group[~positive & (blocks == number)], minlength=int(group.max()) + 1)
        below = np.cumsum(negative) - negative / 2
        right[:, number] = np.bincount(blocks[positive], weights=below[group[positive]], minlength=count)
    pairs = [weights @ np.bincount(blocks[side], minlength=count) for side in (positive, ~positive)]
    total = pairs[0] * pairs[1]
    ranked = ((weights @ right) * weights).sum(axis=1)
    return np.asarray(np.divide(ranked, total, out=np.full(len(weights), np.nan), where=total > 0))


def average_precision(labels: Array, scores: Array, blocks: Array, weights: Array) -> Array:
    """Compute the average precision (b,) for block weights (b, blocks), as scikit-learn does."""
    order = np.argsort(scores, kind="stable")
    ordered, positive, block = scores[order], labels[order] > 0, blocks[order]
    group = np.concatenate([[0], np.cumsum(ordered[1:] != ordered[:-1])])
    size = int(group[-1]) + 1
    places = [(group[side], block[side]) for side in (positive, ~positive)]
    samples = np.empty(len(weights))
    for number, row in enumerate(weights):
        counted = [np.bincount(groups, weights=row[blocks], minlength=size) for groups, blocks in places]
        samples[number] = _area(*counted) if all(side.sum() for side in counted) else np.nan
    return samples


def _area(positive: Array, negative: Array) -> float:
    """Compute average precision from weights by distinct score, ascending."""
    found, all_above = np.cumsum(positive[::-1]), np.cumsum((positive + negative)[::-1])
    precision = np.divide(found, all_above, out=np.zeros_like(found), where=all_above > 0)
    return float(positive[::-1] @ precision / positive.sum())
