"""An e-detector: a sequential test for a lasting shift of a daily figure, with a bounded rate of false alarms.

A day's figure is modelled as y = level + u + e: u is an AR(1) process between days with standard deviation `spread`,
and e is the sampling noise of the day's rows, with variance (of a row) / rows. The one-step prediction errors of a
Kalman filter (Harvey, "Forecasting, structural time series models and the Kalman filter", 1989) have mean 0 and
variance 1, however few rows a day has and however many days are missing.

Each prediction error gives an e-value: the likelihood ratio of an upward shift, whose mean is at most 1 without a
shift. Their Shiryaev-Roberts sum R = (R + 1) e is an e-detector (Shin, Ramdas & Rinaldo, "E-detectors: a nonparametric
framework for sequential change detection", 2023). Without a change, R minus the number of days is a supermartingale.
So R takes at least c days on average to reach c, and reaches it within n days with probability at most n / c, even
when it is looked at every day.
"""

from dataclasses import dataclass

import numpy as np

from truecourse.arrays import Array

SHIFTS = (0.5, 1.0, 2.0, 4.0)
"""Sizes of shift that are tested, in standard deviations of a day; the evidence is their mean."""
_MEMORY, _MEMORY_DAYS, _MAX_MEMORY = 0.3, 10, 0.85
_FEWEST = 7
_ROUNDS = 10
WILD = 2.5
_CUT = 0.978
"""The variance of a standard normal variable that is clipped at ±WILD."""


@dataclass(frozen=True)
class Series:
    """A daily figure over n days, in order; each field is (n,).

    `day`: day number. `value`: the figure, NaN where there is none. `noise`: the variance of its sampling noise."""

    day: Array
    value: Array
    noise: Array

    def __neg__(self) -> "Series":
        return Series(self.day, -self.value, self.noise)

    def minus(self, values: Array) -> "Series":
        return Series(self.day, self.value - values, self.noise)


@dataclass(frozen=True)
class DailyVariation:
    """How a figure varies from day to day without a change.

    `mean`: its level. `spread`: standard deviation between days beyond sampling noise. `memory`: the AR(1) coefficient.
    `error`: standard error of the mean. `days`: how many days these were estimated from."""

    mean: float
    spread: float
    memory: float
    error: float
    days: int

    @classmethod
    def of(cls, series: Series) -> "DailyVariation | None":
        """Estimate the variation from a series; None for fewer than seven days with a value.

        Days are weighted by 1 / (spread² + noise). Deviations are clipped at WILD standard deviations (Huber's
        M-estimator), so that a single event does not inflate the spread. With few days both estimates are uncertain:
        the spread is set to the upper end of its 80% interval (normal approximation); the memory, estimated from pairs
        of consecutive days, is shrunk towards 0.3 and raised by one standard error."""
        has_value = np.isfinite(series.value)
        day, value, noise = series.day[has_value], series.value[has_value], series.noise[has_value]
        if len(value) < _FEWEST:
            return None
        mean = float(np.median(value))
        square = float((1.48 * np.median(np.abs(value - mean))) ** 2) or float(value.var())
        for _ in range(_ROUNDS):
            total = np.maximum(square + noise, 1e-24)
            weight, clip = 1 / total, WILD * np.sqrt(total)
            off = np.clip(value - mean, -clip, clip)
            mean += float(weight @ off / weight.sum())
            square = float(np.maximum(weight @ (off**2 / _CUT - noise) / weight.sum(), 0.0))
        pairs = np.diff(day) == 1
        both = np.sqrt(weight[1:] * weight[:-1])[pairs]
        lag1 = float(both @ (off[1:] * off[:-1])[pairs]) / max(float(both.sum()) * square, 1e-300) if square else 0.0
        count = int(pairs.sum()) if square else 0
        shrunk = np.clip((count * lag1 + _MEMORY_DAYS * _MEMORY) / (count + _MEMORY_DAYS), 0.0, _MAX_MEMORY)
        memory = float(min(shrunk + np.sqrt((1 - shrunk**2) / (count + _MEMORY_DAYS)), _MAX_MEMORY))
        long_run = square * (1 + memory) / (1 - memory) if count else square
        error = float(np.sqrt(weight**2 @ (long_run + noise)) / weight.sum())
        wider = 1 + 1.28 / np.sqrt(2 * len(value))
        return cls(mean, max(np.sqrt(square) * wider, 1e-12), memory, error, len(value))

    def standardised(self, series: Series, level: Array | float) -> Array:
        """Return the standardised one-step prediction errors (n,) around the level; 0 for a day without a value."""
        off, state, last = series.value - level, 0.0, series.day[0] if len(series.day) else 0
        square, errors = self.spread**2, np.zeros(len(off))
        variance = square
        for n, (day, value, noise) in enumerate(zip(series.day, off, series.noise, strict=True)):
            decay = self.memory ** float(day - last) if n else 0.0
            state, variance, last = decay * state, decay**2 * variance + (1 - decay**2) * square, day
            if np.isfinite(value):
                total = variance + noise
                errors[n] = (value - state) / np.sqrt(total)
                gain = variance / total
                state, variance = state + gain * (value - state), (1 - gain) * variance
        return errors


def e_values(z: Array, clip: float | Array) -> Array:
    """Compute e-values (shifts, n) of z (n,): their mean is at most 1 if z has mean at most 0 and at most normal tails.

    `clip`: z is clipped at this many standard deviations; one number or (n,). Clipping keeps the bound, and sets how
    many days a detection takes: three or four at 2.5, however large a single day is."""
    shifts = np.array(SHIFTS)[:, None]
    return np.asarray(np.exp(shifts * np.minimum(z, clip) - shifts**2 / 2))


def mean_e_values(z: Array, clip: float) -> Array:
    """Return the mean e-value (shifts,) of baseline days plus one standard error, at least 1.

    It exceeds 1 where tails are heavier than normal; e_detector() divides by it."""
    values = e_values(z, clip)
    return np.asarray(np.maximum(values.mean(axis=1) + values.std(axis=1) / np.sqrt(max(len(z), 1)), 1.0))


def e_detector(z: Array, clip: float | Array, usual: Array | float = 1.0) -> Array:
    """Return the evidence (n,) by each day that the mean of z rose above 0 on some earlier day.

    `clip`: as in e_values(). `usual`: what the e-values are divided by, see mean_e_values()."""
    return accumulate(e_values(z, clip) / np.reshape(usual, (-1, 1)))


def accumulate(ratios: Array) -> Array:
    """Return the evidence (n,) by each day, the mean over the sizes of shift, from e-values (shifts, n)."""
    evidence, total = np.zeros(len(ratios)), np.empty(ratios.shape[1])
    for day, ratio in enumerate(ratios.T):
        evidence = np.minimum((evidence + 1) * ratio, 1e12)
        total[day] = evidence.mean()
    return total
