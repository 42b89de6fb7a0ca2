"""Coverage of the intervals of the calibration error, and of its paired difference, at known true values.

A simulation has days of rows as in compare.py: the effect of a day is a first-order autoregressive process. The true
chance of a row averages over the day effects. A prediction is the true chance with its log-odds moved by a constant
("one-sided": all gaps have one sign) or spread around the base rate's ("overconfident": gaps of both signs), as far as
the calibration error requires. The true error of the ten equally filled bins is computed by quadrature.
"""

from collections.abc import Callable
from functools import lru_cache
from itertools import product

import numpy as np
from scipy.optimize import brentq
from scipy.special import logit, ndtri

from benchmarks.harness import Row
from benchmarks.truth.compare import CORRELATIONS, DAYS, LEAST, MOST, covers, days, sigmoid, tolerance
from truecourse.arrays import Array
from truecourse.statistics.absolute_sums import sum_of_absolutes
from truecourse.statistics.metrics import calibration_difference, gaps

_A_DAY, _EFFECT, _BINS = 400, 0.6, 10
RATES, ERRORS = (0.05, 0.2, 0.5), (0.0, 0.01, 0.03, 0.06)
_ENDS: dict[str, Callable[[list[float]], float]] = {"lowest": min, "highest": max}
_KNOWN = ndtri((np.arange(20_000) + 0.5) / 20_000)
"""Quantiles of the known part of the log-odds, around its mean."""


def rows(quick: bool) -> list[Row]:
    trials, found = 20 if quick else 150, []
    for kind, rate, error in _cases():
        covered = [coverage(kind, rate, error, *cell, trials) for cell in product(DAYS, CORRELATIONS)]
        found += _limits(
            f"calibration error of {error:g} ({kind}), base rate {rate:g}",
            covered,
            trials,
            one_sided=kind == "one-sided" and error > 0,
        )
    covered = [difference_coverage(*cell, trials) for cell in product(DAYS, CORRELATIONS)]
    what = "coverage, difference of calibration errors of 0.06 and 0.03, day effects as large"
    return [
        *found,
        Row(what=f"{what}: lowest of nine cells", value=min(covered), unit="%",
            limit=round(LEAST - tolerance(LEAST, trials), 1), sense="at least"),
        Row(what=f"{what}: highest", value=max(covered), unit="%"),
    ]  # fmt: skip


def _cases() -> list[tuple[str, float, float]]:
    one_sided = [("one-sided", rate, error) for rate, error in product(RATES, ERRORS)]
    return [*one_sided, *(("overconfident", 0.5, error) for error in ERRORS[1:])]


def _limits(what: str, covered: list[float], trials: int, one_sided: bool = True) -> list[Row]:
    """The lowest and the highest coverage of nine cells, of 14, 28 and 61 days at correlations of 0, .4 and .7.

    At gaps of both signs, any interval covers more: docs/explanation/statistics.md. At a true value of 0 it can only be
    too high."""
    cells = [f"{count} days at {correlation:g}" for count, correlation in product(DAYS, CORRELATIONS)]
    at = {name: cells[covered.index(of(covered))] for name, of in _ENDS.items()}
    low, high = LEAST - tolerance(LEAST, trials), MOST + tolerance(MOST, trials)
    return [
        Row(what=f"coverage, {what}: lowest of nine cells ({at['lowest']})", value=min(covered), unit="%",
            limit=round(low, 1), sense="at least"),
        Row(what=f"coverage, {what}: highest ({at['highest']})", value=max(covered), unit="%",
            limit=round(high, 1) if one_sided else 100.0),
    ]  # fmt: skip


def chance(log_odds: Array) -> Array:
    """The chance of a positive, averaged over the day effects."""
    places, weights = np.polynomial.hermite_e.hermegauss(21)
    return np.asarray(
        sum(w * sigmoid(log_odds + _EFFECT * e) for e, w in zip(places, weights / weights.sum(), strict=True))
    )


@lru_cache(maxsize=32)
def model(kind: str, rate: float, error: float) -> tuple[float, Callable[[Array], Array], float]:
    """The mean log-odds for this base rate, the prediction for each log-odds, and the true calibration error."""
    mean = brentq(lambda middle: float(chance(middle + _KNOWN).mean()) - rate, -8, 8)
    true = chance(mean + _KNOWN)

    def predict(chances: Array, size: float) -> Array:
        middle = logit(rate)
        return sigmoid(logit(chances) + (size if kind == "one-sided" else size * (logit(chances) - middle)))

    def error_of(size: float) -> float:
        return float(np.abs((true - predict(true, size)).reshape(_BINS, -1).sum(axis=1)).sum()) / len(true)

    size = brentq(lambda size: error_of(size) - error, 0, 6) if error else 0.0
    places = np.linspace(mean - 6, mean + 6, 2001)
    table = predict(chance(places), size)
    return mean, lambda log_odds: np.interp(log_odds, places, table), error


def simulate(
    random: np.random.Generator, count: int, correlation: float, kind: str, rate: float, errors: tuple[float, ...]
) -> tuple[Array, list[Array]]:
    """Labels, and predictions of models with these calibration errors."""
    models = [model(kind, rate, error) for error in errors]
    known = random.normal(models[0][0], 1.0, (count, _A_DAY))
    labels = random.random(known.shape) < sigmoid(known + _EFFECT * days(random, count, correlation)[:, None])
    return labels.astype(np.float64).ravel(), [predict(known.ravel()) for _, predict, _ in models]


def coverage(kind: str, rate: float, error: float, count: int, correlation: float, trials: int) -> float:
    """Percentage of intervals of the calibration error that cover the true value."""
    random = np.random.default_rng([count, int(10 * correlation), int(100 * rate), int(100 * error)])
    held, blocks = 0, np.repeat(np.arange(count), _A_DAY)
    for _ in range(trials):
        labels, (predictions,) = simulate(random, count, correlation, kind, rate, (error,))
        held += covers(sum_of_absolutes(*gaps("binary", labels, predictions, blocks)), error)
    return 100 * held / trials


def difference_coverage(count: int, correlation: float, trials: int) -> float:
    """Percentage of intervals of the paired difference of two calibration errors that cover the true value."""
    random, held = np.random.default_rng([count, int(10 * correlation), 1]), 0
    blocks = np.repeat(np.arange(count), _A_DAY)
    for _ in range(trials):
        labels, (one, other) = simulate(random, count, correlation, "one-sided", 0.2, (0.06, 0.03))
        held += covers(calibration_difference("binary", labels, one, other, blocks), 0.03)
    return 100 * held / trials
