"""95% intervals of figures over blocks that follow each other in time, and are few, and hang together.

A figure is known by its value and its influence series: n numbers, one a block in order of time, whose mean is the
error of the figure to first order (the infinitesimal jackknife: Efron 1982, ch. 6). The interval is that of the mean
of a first-order autoregressive series, with or without noise of each block's own, whose correlation is not known:
Student's t for each correlation, averaged over what the series says of it (Zellner 1971, ch. 4). Of independent blocks
it is hardly wider than Student's own, and it is wider the more one block tells of the next, and the fewer there are.
The coverage in simulation is `make bench-truth`. A percentile interval of whole days, drawn one by one, covers 81%
where the correlation of successive days is .4, as that of the flights' loss is.

Blocks that have no influence at all, for they hold none of the figure's rows, are not counted.
"""

from functools import lru_cache
from math import exp, lgamma, pi, sqrt
from typing import Literal

import numpy as np

from truecourse.arrays import Array

COVERAGE = 0.95

Estimate = dict[str, float | None]
"""{"value", "low", "high"}: an estimate and its interval; None where it is undefined, or nothing tells how far off."""
UNDEFINED: Estimate = {"value": None, "low": None, "high": None}
Scale = Literal["plain", "positive", "share"]
_FAR = 50.0


def _models() -> tuple[Array, Array, Array]:
    """(k,) each: the correlation of successive blocks, the share of their variance that is noise of their own, and
    the prior probability, which leans a little to high correlations: of few blocks these are seen least."""
    r, noise = (grid.ravel() for grid in np.meshgrid(np.arange(-0.9, 0.91, 0.1), [0.0, 0.3]))
    prior = np.where(noise > 0, 0.25, 0.75) * (1 - r) ** -0.05
    return r, noise, prior / prior.sum()


_MODELS = _models()
_DRAWS, _CANDIDATES = 1000, 64


def half_width(influence: Array, coverage: float = COVERAGE, successive: bool = True) -> float:
    """How far the interval reaches on either side of the value; NaN where fewer than two blocks have influence.
    `successive`: blocks are in order of time; else they are known to be independent, as rows dealt out at random."""
    size, series = len(influence), influence[influence != 0]
    if not len(series) and size > 1:
        return 0.0
    if not successive and len(series) > 1:
        width = _quantile(len(series) - 1, coverage) * float(series.std(ddof=1)) / sqrt(len(series))
        return width * len(series) / size
    return float(half_widths(series[:, None], coverage)[0]) * len(series) / size


def half_widths(influence: Array, coverage: float = COVERAGE) -> Array:
    """(m,) half_width() of each column of (n, m), in which every block counts."""
    count = len(influence)
    if count < 2:
        return np.full(influence.shape[1], np.nan)
    return _reach(*_posterior(influence - influence.mean(axis=0)), count - 1, coverage)


def _posterior(off: Array) -> tuple[Array, Array, Array]:
    """For columns of deviations (n, m), by model of their correlation: (k, m) its probability, and the centre and scale
    of the mean's t distribution."""
    gain, spread, regressor, log_spread = _filter(len(off))
    r, information = _MODELS[0][:, None], (regressor**2 / spread).sum(axis=0)[:, None]
    squares = np.zeros((len(r), off.shape[1]))
    cross, expected = squares.copy(), squares.copy()
    for place, now in enumerate(off):
        innovation = now - expected
        squares += innovation**2 / spread[place][:, None]
        cross += innovation * (regressor[place] / spread[place])[:, None]
        expected = r * (expected + gain[place][:, None] * innovation)
    residual = np.maximum(squares - cross**2 / information, 0)
    with np.errstate(divide="ignore"):
        likelihood = -log_spread[:, None] / 2 - np.log(information) / 2 - (len(off) - 1) / 2 * np.log(residual)
    likelihood = np.where(np.isfinite(likelihood), likelihood, 0.0) + np.log(_MODELS[2])[:, None]
    weight = np.exp(likelihood - likelihood.max(axis=0))
    return weight / weight.sum(axis=0), cross / information, np.sqrt(residual / (len(off) - 1) / information)


@lru_cache(maxsize=64)
def _filter(count: int) -> tuple[Array, Array, Array, Array]:
    """The Kalman filter of each of k models over so many blocks: (count, k) gains, variances of the innovations, and
    the innovations of a constant 1; (k,) the sum of the variances' logarithms."""
    r, noise, _ = _MODELS
    gains, spreads, regressors = (np.empty((count, len(r))) for _ in range(3))
    uncertain, constant = 1 - noise, np.zeros(len(r))
    for place in range(count):
        spreads[place], regressors[place] = uncertain + noise, 1 - constant
        gains[place] = uncertain / spreads[place]
        constant = r * (constant + gains[place] * regressors[place])
        uncertain = r**2 * uncertain * (1 - gains[place]) + (1 - noise) * (1 - r**2)
    return gains, spreads, regressors, np.log(spreads).sum(axis=0)


def _reach(weight: Array, centre: Array, scale: Array, freedom: int, coverage: float) -> Array:
    """(m,) The r for which each of m mixtures of k t distributions (k, m) lies in -r to r with this probability."""
    from scipy.special import stdtr

    weight = np.where(weight > 1e-9, weight, 0.0)
    weight, constant = weight / weight.sum(axis=0), ~scale.any(axis=0)
    scale = np.where(scale > 0, scale, np.finfo(float).tiny)
    # Newton's method, from where no part has the probability: the probability is concave in r, so it comes from below.
    reach = np.where(weight > 0, scale, np.inf).min(axis=0) * _quantile(freedom, coverage)
    for _ in range(50):
        ends = (reach - centre) / scale, (-reach - centre) / scale
        within = (weight * (stdtr(freedom, ends[0]) - stdtr(freedom, ends[1]))).sum(axis=0)
        density = (weight * (_density(freedom, ends[0]) + _density(freedom, ends[1])) / scale).sum(axis=0)
        step = np.where(constant, 0.0, (coverage - within) / np.where(density > 0, density, 1.0))
        reach = reach + step
        if (np.abs(step) <= 1e-6 * reach).all():
            break
    return np.where(constant, 0.0, reach)


def _density(freedom: int, place: Array) -> Array:
    """Of Student's t."""
    return np.asarray(_norm(freedom) * (1 + place**2 / freedom) ** (-(freedom + 1) / 2))


@lru_cache(maxsize=512)
def _norm(freedom: int) -> float:
    return exp(lgamma((freedom + 1) / 2) - lgamma(freedom / 2)) / sqrt(freedom * pi)


@lru_cache(maxsize=512)
def _quantile(freedom: int, coverage: float) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(freedom, (1 + coverage) / 2))


def estimate(
    value: float, influence: Array, scale: Scale = "plain", successive: bool = True, coverage: float = COVERAGE
) -> Estimate:
    """`scale`: on which the interval is as far to either side: on the logarithm of a "positive" figure, on the log-odds
    of a "share". Both keep to their bounds, and reach farther to the side on which figures are spread farther."""
    if not np.isfinite(value):
        return UNDEFINED
    half = half_width(influence, coverage, successive) if np.isfinite(influence).all() else float("nan")
    if not np.isfinite(half):
        return {"value": float(value), "low": None, "high": None}
    if scale == "positive" and value > 0:
        factor = exp(min(half / value, _FAR))
        low, high = value / factor, value * factor
    elif scale == "share" and 0 < value < 1:
        factor = exp(min(half / (value * (1 - value)), _FAR))
        low, high = (value * by / (1 - value + value * by) for by in (1 / factor, factor))
    else:
        low, high = value - half, value + half
    return {"value": float(value), "low": float(low), "high": float(high)}


def difference(one: Estimate, other: Estimate) -> Estimate:
    """Of two figures from samples that are independent, and its interval from theirs (the method of variance estimates
    recovery, Zou & Donner 2008)."""
    if one["value"] is None or other["value"] is None:
        return UNDEFINED
    value = one["value"] - other["value"]
    if one["low"] is None or one["high"] is None or other["low"] is None or other["high"] is None:
        return {"value": value, "low": None, "high": None}
    down = np.hypot(one["value"] - one["low"], other["high"] - other["value"])
    up = np.hypot(one["high"] - one["value"], other["value"] - other["low"])
    return {"value": value, "low": float(value - down), "high": float(value + up)}


def simultaneous(values: Array, *influences: Array) -> list[Estimate]:
    """Intervals of m values that hold for all of them at once: of twenty equal slices, a 95% interval for each by
    itself would find one that differs.

    Each is as much wider as the largest of m deviations is than one alone (the sup-t band, Montiel Olea &
    Plagborg-Møller 2019), drawn with normal multipliers of the blocks. `influences`: (m, n) of each of the samples,
    independent of each other, that the values come from; NaN for a value that is undefined."""
    halves = np.sqrt(sum(np.array([half_width(row) for row in side]) ** 2 for side in influences))
    random, drawn = np.random.default_rng(0), np.zeros((_DRAWS, len(values)))
    errors = np.zeros(len(values))
    for side in influences:
        scaled = np.nan_to_num(side) / side.shape[1]
        drawn += random.standard_normal((_DRAWS, side.shape[1])) @ scaled.T
        errors += (scaled**2).sum(axis=1)
    largest = np.max(np.abs(drawn) / np.where(errors > 0, np.sqrt(errors), np.inf), axis=1)
    widened = halves * max(float(np.quantile(largest, COVERAGE)) / _quantile(10**6, COVERAGE), 1.0)
    return [
        {"value": float(value), "low": float(value - half), "high": float(value + half)}
        if np.isfinite([value, half]).all()
        else {"value": float(value) if np.isfinite(value) else None, "low": None, "high": None}
        for value, half in zip(values, widened, strict=True)
    ]


def sum_of_absolutes(gaps: Array, influence: Array, coverage: float = COVERAGE) -> Estimate:
    """The sum of the sizes of B numbers, without the size that their errors alone would have, and its interval.

    gaps: (B,). influence: (n, B). The sum of sizes of what is only noise is never 0: the estimate is the sum for which
    what was found is the median, and the interval holds those sums for which it lies among the likeliest 95% (Crow &
    Gardner 1959), and those up to what errors may hide that cancel gaps (one-sided, for that is the side that errs).
    Errors are drawn along the principal components of the influence, each as wide as its own interval
    says. A regression's bias is B = 1."""
    found = float(np.abs(gaps).sum())
    if not np.isfinite(found):
        return UNDEFINED
    noise = _noise(influence)
    if noise is None:
        return {"value": found, "low": None, "high": None}
    pattern = gaps / found if found else gaps
    most = found + float(np.quantile(np.abs(noise).sum(axis=1), 0.999))
    candidates = np.linspace(0, most, _CANDIDATES) if most else np.zeros(1)
    sums = sum(np.abs(candidates[:, None] * gap + errors) for gap, errors in zip(pattern, noise.T, strict=True))
    sums = np.sort(sums, axis=1)
    kept = int(np.ceil(coverage * _DRAWS))
    widths = sums[:, kept - 1 :] - sums[:, : _DRAWS - kept + 1]
    start = widths.argmin(axis=1)
    each = np.arange(len(sums))
    held = (sums[each, start] <= found) & (found <= sums[each, start + kept - 1])
    inside = candidates[held] if held.any() else candidates[:1]
    value = float(np.interp(found, sums[:, [_DRAWS // 2 - 1, _DRAWS // 2]].mean(axis=1), candidates)) if most else 0.0
    hidden = float(np.quantile(np.abs(gaps + noise).sum(axis=1), coverage))
    low, high = float(inside.min()), max(float(inside.max()), hidden)
    return {"value": min(max(value, low), high), "low": low, "high": high}


def noise_bias(gaps: Array, influence: Array) -> float:
    """By how much the sum of the sizes of B gaps is larger, in the mean, for the errors they were found with."""
    noise = _noise(influence)
    return 0.0 if noise is None else float(np.abs(gaps + noise).sum(axis=1).mean() - np.abs(gaps).sum())


def _noise(influence: Array) -> Array | None:
    """(draws, B) errors of B numbers, from their influence (n, B); None where too few blocks tell."""
    if len(influence) < 2:
        return None
    _, _, axes = np.linalg.svd(influence - influence.mean(axis=0), full_matrices=False)
    halves = half_widths(influence @ axes.T)
    if not np.isfinite(halves).all():
        return None
    drawn = np.random.default_rng(0).standard_normal((_DRAWS, len(axes)))
    drawn = (drawn - drawn.mean(axis=0)) / drawn.std(axis=0)
    return np.asarray((drawn * halves / _quantile(10**6, COVERAGE)) @ axes)
