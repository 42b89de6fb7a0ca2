"""Coverage of confidence intervals, and false differences between equal models, in simulations with a known truth.

A simulation has days of rows. The effect of a day on its rows (on mean loss and share of positives) is a first-order
autoregressive process with a correlation of 0, .4 or .7 from day to day; flights have .41 in the log loss. The true
value of a metric is its value over ten thousand days. 92 to 97 of 100 intervals must cover it.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np

from benchmarks.harness import Row
from truecourse.arrays import Array
from truecourse.evaluation.model_comparison import conclude
from truecourse.evaluation.multiple_comparisons import coverage_of, coverage_of_each
from truecourse.problem.definition import Kind
from truecourse.statistics.intervals import Estimate, estimate
from truecourse.statistics.metrics import (
    calibration_difference,
    loss,
    loss_samples,
    paired_difference,
    random_blocks,
    roc_auc,
    summary,
    weightings,
)

DAYS, CORRELATIONS = (14, 28, 61), (0.0, 0.4, 0.7)
LEAST, MOST = 92.0, 97.0
"""Limits of coverage in percent, before the tolerance for simulation noise: see tolerance()."""
_A_DAY = 400
_FEW_A_DAY = 100
_TRUTH = 10_000


def days(random: np.random.Generator, count: int, correlation: float) -> Array:
    """(count,) values of a stationary AR(1) process of variance 1."""
    noise = random.standard_normal(count) * np.sqrt(1 - correlation**2)
    noise[0] = random.standard_normal()
    for place in range(1, count):
        noise[place] += correlation * noise[place - 1]
    return np.asarray(noise)


def simulate_binary(random: np.random.Generator, effects: Array) -> tuple[Array, Array]:
    """Labels and predictions of 400 rows per day.

    A day of effect e adds 0.6 e to the log-odds, which the model does not know. The model's own log-odds separate the
    classes with an AUC of .75, and are overconfident."""
    known = random.normal(-0.7, 1.0, (len(effects), _A_DAY))
    labels = random.random(known.shape) < sigmoid(known + 0.6 * effects[:, None])
    predictions = sigmoid(1.6 * known)
    return labels.astype(np.float64).ravel(), predictions.ravel()


def simulate_regression(random: np.random.Generator, effects: Array) -> tuple[Array, Array]:
    """Labels and predictions with errors whose scale depends on the day, and a bias of .3."""
    off = random.standard_normal((len(effects), _A_DAY)) * np.exp(0.2 * effects[:, None]) + 0.3
    return np.zeros(off.size), -off.ravel()


def sigmoid(values: Array) -> Array:
    odds: Array = np.exp(-values)
    return np.asarray(1 / (1 + odds), dtype=np.float64)


SIMULATIONS: dict[str, tuple[Kind, Callable[..., tuple[Array, Array]], tuple[str, ...]]] = {
    "binary": ("binary", simulate_binary, ("auc", "log_loss", "brier")),
    "regression": ("regression", simulate_regression, ("rmse",)),
}


@lru_cache(maxsize=8)
def truth(name: str) -> dict[str, float]:
    """The true metrics, over ten thousand days. They do not depend on the correlation of the days."""
    kind, simulate, metrics = SIMULATIONS[name]
    random = np.random.default_rng(1)
    labels, predictions = simulate(random, random.standard_normal(_TRUTH))
    found = estimates(kind, labels, predictions, np.repeat(np.arange(20), len(labels) // 20), metrics)
    return {metric: float(found[metric]["value"] or 0) for metric in metrics}


def estimates(
    kind: Kind, labels: Array, predictions: Array, blocks: Array, metrics: Sequence[str]
) -> dict[str, Estimate]:
    """The estimates of measure(), for these metrics only."""
    weights, found = weightings(blocks), {}
    for name in metrics:
        if name == "auc":
            found[name] = summary(roc_auc(labels, predictions, blocks, weights), name)
        elif name == "brier":
            found[name] = summary(loss_samples("regression", labels, predictions, blocks, weights) ** 2, name)
        else:
            found[name] = summary(loss_samples(kind, labels, predictions, blocks, weights), name)
    return found


def coverage(name: str, count: int, correlation: float, trials: int) -> dict[str, float]:
    """Percentage of intervals that cover the true value, by metric."""
    kind, simulate, metrics = SIMULATIONS[name]
    random, true = np.random.default_rng([count, int(10 * correlation)]), truth(name)
    covered, blocks = dict.fromkeys(metrics, 0), np.repeat(np.arange(count), _A_DAY)
    for _ in range(trials):
        labels, predictions = simulate(random, days(random, count, correlation))
        found = estimates(kind, labels, predictions, blocks, metrics)
        for metric in metrics:
            covered[metric] += covers(found[metric], true[metric])
    return {metric: 100 * times / trials for metric, times in covered.items()}


def covers(figure: Estimate, value: float) -> bool:
    low, high = figure["low"], figure["high"]
    return low is not None and high is not None and low <= value <= high


def equal_models(random: np.random.Generator, count: int, correlation: float, models: int) -> tuple[Array, list[Array]]:
    """Labels, and predictions of `models` equally good models, each with its own day effects and its own noise."""
    effects = days(random, count, correlation)
    known = random.normal(-0.7, 1.0, (count, _FEW_A_DAY))
    labels = random.random(known.shape) < sigmoid(known + 0.4 * effects[:, None])
    predictions = []
    for _ in range(models):
        own = 0.25 * days(random, count, correlation)[:, None] + random.normal(0, 0.3, known.shape)
        predictions.append(sigmoid(known + own).ravel())
    return labels.astype(np.float64).ravel(), predictions


def false_promotions(count: int, correlation: float, trials: int) -> float:
    """Percentage of versions as good as the champion that a gate would call better."""
    random, better = np.random.default_rng([7, count, int(10 * correlation)]), 0
    blocks = np.repeat(np.arange(count), _FEW_A_DAY)
    for _ in range(trials):
        labels, (model, champion) = equal_models(random, count, correlation, 2)
        high = paired_difference("binary", labels, model, champion, blocks)["high"]
        better += high is not None and high < 0
    return 100 * better / trials


def best_of_five(count: int, correlation: float, trials: int, corrected: bool = True) -> float:
    """Percentage of trials that promote one of five versions, all as good as the champion."""
    random, promoted = np.random.default_rng([10, count, int(10 * correlation)]), 0
    blocks = np.repeat(np.arange(count), _FEW_A_DAY)
    for _ in range(trials):
        labels, (champion, *models) = equal_models(random, count, correlation, 6)
        highs = [
            paired_difference("binary", labels, one, champion, blocks, coverage=coverage_of(k if corrected else 1))[
                "high"
            ]
            for k, one in enumerate(models, 1)
        ]
        promoted += any(high is not None and high < 0 for high in highs)
    return 100 * promoted / trials


def called_different(count: int, correlation: float, trials: int, models: int) -> float:
    """Percentage of comparisons by `compare` of equally good models that call any of them different."""
    random, different = np.random.default_rng([11, count, int(10 * correlation), models]), 0
    blocks, coverage = np.repeat(np.arange(count), _FEW_A_DAY), coverage_of_each(models - 1)
    for _ in range(trials):
        labels, (reference, *others) = equal_models(random, count, correlation, models)
        losses = [paired_difference("binary", labels, one, reference, blocks, coverage=coverage) for one in others]
        different += any(conclude(loss) in ("better", "worse") for loss in losses)
    return 100 * different / trials


def calibration_alarms(count: int, correlation: float, trials: int) -> float:
    """Percentage of versions as well calibrated as the champion that a gate would call worse calibrated."""
    random, worse = np.random.default_rng([8, count, int(10 * correlation)]), 0
    blocks = np.repeat(np.arange(count), _FEW_A_DAY)
    for _ in range(trials):
        labels, (model, champion) = equal_models(random, count, correlation, 2)
        low = calibration_difference("binary", labels, model, champion, blocks)["low"]
        worse += low is not None and low > 0
    return 100 * worse / trials


def without_time(rows: int, trials: int) -> float:
    """coverage() of the log loss of independent rows, in a file sorted by the label."""
    random, covered = np.random.default_rng([9, rows]), 0
    true = None
    for _ in range(trials):
        labels, predictions = simulate_binary(random, np.zeros(max(rows // _A_DAY, 1)))
        order = np.argsort(labels[:rows], kind="stable")
        labels, predictions = labels[order], predictions[order]
        true = _without_days() if true is None else true
        covered += covers(
            summary(loss_samples("binary", labels, predictions, b := random_blocks(rows), weightings(b)), "log_loss"),
            true,
        )
    return 100 * covered / trials


@lru_cache(maxsize=1)
def _without_days() -> float:
    labels, predictions = simulate_binary(np.random.default_rng(1), np.zeros(_TRUTH))
    return loss("binary", labels, predictions)


def rows(quick: bool) -> list[Row]:
    trials, found = 60 if quick else 500, []
    for name, (_, _, metrics) in SIMULATIONS.items():
        for count in DAYS:
            for correlation in CORRELATIONS:
                covered = coverage(name, count, correlation, trials)
                for metric in metrics:
                    found += _between(f"{name}: {metric} of {count} days, correlation {correlation:g}", covered[metric],
                                      trials)  # fmt: skip
    for count in DAYS:
        for correlation in CORRELATIONS:
            value = skewed(count, correlation, 4 * trials)
            found += _between(f"mean of skewed days, {count} days, correlation {correlation:g}", value, 4 * trials)
    found += _between("log loss of 300 rows without time, sorted by label", without_time(300, 4 * trials), 4 * trials)
    for what, alarms in (("better", false_promotions), ("worse calibrated", calibration_alarms)):
        for count in DAYS:
            for correlation in CORRELATIONS:
                about = f"equal models of which one is {what}, {count} days, correlation {correlation:g}"
                value = alarms(count, correlation, 2 * trials)
                found.append(Row(what=about, value=value, unit="%", limit=round(2.5 + tolerance(2.5, 2 * trials), 1)))
    for count in DAYS:
        for models in (2, 5):
            about = f"comparison of {models} equal models that calls one different, {count} days"
            value = called_different(count, 0.4, 2 * trials, models)
            found.append(Row(what=about, value=value, unit="%", limit=5.0))
    for count in DAYS:
        value, plain = (best_of_five(count, 0.4, 2 * trials, corrected) for corrected in (True, False))
        limit = round(5 + tolerance(5, 2 * trials), 1)
        found.append(Row(what=f"one of five equal models promoted, {count} days", value=value, unit="%", limit=limit))
        found.append(Row(what=f"the same without correction for tries, {count} days", value=plain, unit="%"))
    return found


def skewed(count: int, correlation: float, trials: int) -> float:
    """Percent of intervals that cover the mean of log-normal days (skewness 3.3), as gains on stormy days are."""
    random, held = np.random.default_rng([count, int(10 * correlation), 7]), 0
    for _ in range(trials):
        series = np.exp(0.75 * days(random, count, correlation))
        held += covers(estimate(float(series.mean()), series - series.mean()), np.exp(0.75**2 / 2))
    return 100 * held / trials


def _between(what: str, value: float, trials: int) -> list[Row]:
    low, high = LEAST - tolerance(LEAST, trials), MOST + tolerance(MOST, trials)
    return [
        Row(what=f"coverage, {what}", value=value, unit="%", limit=round(low, 1), sense="at least"),
        Row(what=f"coverage, upper limit, {what}", value=value, unit="%", limit=round(high, 1)),
    ]


def tolerance(percent: float, trials: int) -> float:
    """Two standard errors of a percentage estimated from `trials` trials."""
    return float(2 * np.sqrt(percent * (100 - percent) / trials))
