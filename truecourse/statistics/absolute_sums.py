"""Sums of absolute values of estimates, such as the calibration error: their intervals, and those of their differences.

Noise makes such a sum too large, and moves its parts through zero, so that a linear approximation does not describe it.
Errors are simulated instead. `make bench-truth` prints the coverage in simulation.
"""

from itertools import product

import numpy as np

from truecourse.arrays import Array
from truecourse.statistics.intervals import (
    COVERAGE,
    LONGEST,
    MOST_SKEWED,
    UNDEFINED,
    Estimate,
    estimate,
    half_widths,
    pooled_half_widths,
    skewness_of_mean,
    student_quantile,
    unskewed,
)

_DRAWS, _CANDIDATES = 1000, 24
_LEAST_SUM = 0.16
"""Quantile of the sum of noise below which a sum says no more: one standard deviation, as in power-constrained limits
(Cowan, Cranmer, Gross & Vitells 2011). A luckily small sum would else have an interval of length 0."""


def sum_of_absolutes(gaps: Array, influence: Array, coverage: float = COVERAGE) -> Estimate:
    """Estimate the sum of the absolute values of B numbers, corrected for the bias due to noise, with its interval.

    `gaps`: (B,), B of about ten at most. `influence`: (n, B). Noise alone makes the observed sum positive. The estimate
    is the sum for which the observed one is the median. The interval holds the sums for which the observed one is among
    the likeliest 95% (Crow & Gardner 1959). For each candidate sum, errors are simulated around the numbers of that sum
    which are close to the observed ones (hybrid resampling: Chuang & Lai 2000, Statistica Sinica 10). For the upper
    limit, an observed sum below the usual noise counts as that (Cowan et al. 2011). A regression's bias has B = 1."""
    with np.errstate(over="ignore"):
        observed = float(np.abs(gaps).sum())
    if not np.isfinite(observed):
        return UNDEFINED
    noise = _noise(influence)
    if noise is None:
        return {"value": observed, "low": None, "high": None}
    # Both are divided by the largest size, so that no sum of them overflows.
    unit = max(float(np.abs(gaps).max()), float(np.abs(noise).max()), np.finfo(float).tiny)
    gaps, noise, observed = gaps / unit, noise / unit, observed / unit
    least, span = np.quantile(np.abs(noise).sum(axis=1), [_LEAST_SUM, 0.999]).tolist()
    candidates = np.append(np.linspace(max(observed - span, 0.0), observed, _CANDIDATES, endpoint=False),
                           np.linspace(observed, observed + span, _CANDIDATES))  # fmt: skip
    limits = (np.maximum.accumulate(part) for part in _sums_of(_numbers_of(candidates, gaps, noise), noise, coverage))
    sums = max(observed, least), observed, observed
    high, value, low = (float(np.interp(at, part, candidates)) * unit for at, part in zip(sums, limits, strict=True))
    return {"value": min(max(value, low), high), "low": low, "high": high}


def _numbers_of(sums: Array, gaps: Array, noise: Array) -> Array:
    """Return (m, B) numbers whose absolute values have these sums (m,).

    For less than the observed sum the gaps are scaled down. For more, they are the likeliest numbers given the gaps:
    the closest in the metric of the noise's covariance, over all patterns of signs."""
    observed, covariance = float(np.abs(gaps).sum()), noise.T @ noise / len(noise)
    signs = np.array(list(product((-1.0, 1.0), repeat=len(gaps))))
    variance, missing = ((signs @ covariance) * signs).sum(axis=1), sums[:, None] - signs @ gaps
    variance = np.maximum(variance, 1e-18)
    chosen = np.argmin(missing / np.sqrt(variance), axis=1)
    moved = (missing[np.arange(len(sums)), chosen] / variance[chosen])[:, None] * (signs @ covariance)[chosen]
    smaller = sums[:, None] * (gaps / observed if observed else gaps)
    return np.where(sums[:, None] < observed, smaller, gaps + moved)


def _sums_of(numbers: Array, noise: Array, coverage: float) -> tuple[Array, Array, Array]:
    """Simulate the observed sums of (m, B) numbers with noise; returns (m,) lower limits, medians and upper limits.

    The shortest limits under symmetric noise have the same probability below and above them under the skewed noise:
    the shortest ones under skewed noise would leave out its longer tail."""
    draws = [
        sum(np.abs(numbers[:, [place]] + sign * noise[:, place]) for place in range(numbers.shape[1]))
        for sign in (1, -1)
    ]
    sums, both = np.sort(draws[0], axis=1), np.sort(np.hstack(draws), axis=1)
    kept, each = int(np.ceil(coverage * both.shape[1])), np.arange(len(sums))
    start = (both[:, kept - 1 :] - both[:, : both.shape[1] - kept + 1]).argmin(axis=1)
    middle = sums[:, [_DRAWS // 2 - 1, _DRAWS // 2]].mean(axis=1)
    return sums[each, start // 2], middle, sums[each, (start + kept - 1) // 2]


def difference_of_absolutes(
    one: tuple[Array, Array], other: tuple[Array, Array], coverage: float = COVERAGE
) -> Estimate:
    """Estimate the difference of two sums of absolute values from the same blocks, each corrected for the bias due to
    noise, with its interval.

    `one`, `other`: (B,) numbers and their influence (n, B). Noise that moves numbers through zero changes both sums. So
    the interval holds the middle part (`coverage`) of the differences that the common noise gives around the observed
    numbers (the percentile method: Efron 1982, ch. 10), and also the interval of the linear approximation."""
    with np.errstate(over="ignore"):
        sums = [float(np.abs(gaps).sum()) for gaps, _ in (one, other)]
    value = sums[0] - sums[1]
    if not np.isfinite(value):
        return UNDEFINED
    noise = _noise(np.hstack([one[1], other[1]]))
    if noise is None:
        return {"value": value, "low": None, "high": None}
    size = len(one[0])
    drawn = np.abs(one[0] + noise[:, :size]).sum(axis=1) - np.abs(other[0] + noise[:, size:]).sum(axis=1)
    drawn = np.where(np.abs(drawn) > 1e-12 * max(*sums, float(np.abs(noise).max())), drawn, 0.0)  # rounding errors
    low, high = np.quantile(drawn, [(1 - coverage) / 2, (1 + coverage) / 2]).tolist()
    off = [influence @ np.sign(gaps) for gaps, influence in (one, other)]
    change = np.where(np.abs(off[0] - off[1]) > 1e-12, off[0] - off[1], 0.0)
    linear = estimate(2 * value - float(drawn.mean()), change, coverage=coverage)
    if linear["low"] is None or linear["high"] is None:
        return {**linear, "low": None, "high": None}
    return {"value": linear["value"], "low": min(low, linear["low"]), "high": max(high, linear["high"])}


def _noise(influence: Array) -> Array | None:
    """Simulate (draws, B) errors of B numbers from their influence (n, B); None where there are too few blocks.

    What moves with the sum of the numbers (the bias of a day) has the width and skewness of the sum's own interval. The
    principal components of the rest have one common correlation: ten of them tell it better than each does."""
    if len(influence) < 2:
        return None
    unit = float(np.abs(influence).max(initial=np.finfo(float).tiny))
    if not np.isfinite(unit):
        return None
    off = influence / unit  # so that no power of it overflows
    off = off - off.mean(axis=0)
    total = off.sum(axis=1)
    common = off.T @ total / (total @ total) if total @ total > 1e-18 * (off**2).sum() else np.zeros(off.shape[1])
    rest = off - np.outer(total, common)
    axes = np.linalg.svd(rest, full_matrices=False)[2]
    series = np.column_stack([total, rest @ axes.T])
    halves = np.append(half_widths(total[:, None]), pooled_half_widths(series[:, 1:]))
    error = halves / student_quantile(10**6, COVERAGE)
    drawn = np.random.default_rng(0).standard_normal((_DRAWS, len(error)))
    drawn = (drawn - drawn.mean(axis=0)) / drawn.std(axis=0)
    if len(off) > 2:
        skewness = np.clip(skewness_of_mean(series, error), -MOST_SKEWED, MOST_SKEWED)
        drawn = np.clip(unskewed(drawn, skewness), -LONGEST * np.abs(drawn), LONGEST * np.abs(drawn))
    with np.errstate(over="ignore"):
        noise = np.asarray((drawn * error) @ np.vstack([common, axes]) * unit)
    return noise if np.isfinite(noise).all() else None
