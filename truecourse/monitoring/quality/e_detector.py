"""Looking every day without crying wolf: evidence that grows only where something stays changed.

A day's figure is its usual level, what the day itself brings, which lasts in part into the next ones, and the chance of
its rows: y = level + u + e, with u an AR(1) process of standard deviation `spread` and e of variance (of a row) / rows.
What a Kalman filter did not foresee of each day (Harvey, "Forecasting, structural time series models and the Kalman
filter", 1989) has a mean of 0 and a variance of 1, however few its rows are and however many days lie between.

Each of these gives an e-value: the likelihood ratio of an upward shift, whose mean under no shift is at most 1. Their
Shiryaev-Roberts sum R = (R + 1) e is an e-detector (Shin, Ramdas & Rinaldo, "E-detectors: a nonparametric framework for
sequential change detection", 2023). With nothing changed R minus the days so far is a supermartingale, so R takes at
least c days on average until it reaches c, and reaches it within n days with a probability of at most n / c, on
whichever of these days one looks.
"""

from dataclasses import dataclass

import numpy as np

from truecourse.arrays import Array

SHIFTS = (0.5, 1.0, 2.0, 4.0)
"""In standard deviations of a day; they share the evidence equally."""
_MEMORY, _MEMORY_DAYS, _MOST = 0.3, 10, 0.85
_FEWEST = 7
_ROUNDS = 10
WILD = 2.5
_CUT = 0.978
"""The variance of a standard normal that is cut there."""


@dataclass(frozen=True)
class Series:
    """n days in order. `day`: days since any first one; `value`: the figure of each, NaN where it has none; `noise`:
    the variance that the chance of its rows gives it."""

    day: Array
    value: Array
    noise: Array

    def __neg__(self) -> "Series":
        return Series(self.day, -self.value, self.noise)

    def minus(self, values: Array) -> "Series":
        return Series(self.day, self.value - values, self.noise)


@dataclass(frozen=True)
class DailyVariation:
    """How a figure moves from day to day while nothing changes: its mean, the spread between days that their rows do
    not explain, how much of a deviation lasts into the next day, and how far the mean itself may be off (one standard
    error)."""

    mean: float
    spread: float
    memory: float
    error: float
    days: int

    @classmethod
    def of(cls, series: Series) -> "DailyVariation | None":
        """None for fewer than seven days.

        Days weigh by what they tell, 1 / (spread² + noise), and one that lies farther off than WILD standard deviations
        counts as if it lay there (Huber's estimate): a storm is no spread. Few days tell little of the spread, so it is
        taken wider (the upper end of an 80% interval, normal approximation), and of the memory, which pairs of
        consecutive days tell, so 0.3 has a say in it and it is taken one standard error longer."""
        told = np.isfinite(series.value)
        day, value, noise = series.day[told], series.value[told], series.noise[told]
        if len(value) < _FEWEST:
            return None
        mean = float(np.median(value))
        square = float((1.48 * np.median(np.abs(value - mean))) ** 2) or float(value.var())
        for _ in range(_ROUNDS):
            total = np.maximum(square + noise, 1e-24)
            weight, most = 1 / total, WILD * np.sqrt(total)
            off = np.clip(value - mean, -most, most)
            mean += float(weight @ off / weight.sum())
            square = float(np.maximum(weight @ (off**2 / _CUT - noise) / weight.sum(), 0.0))
        pairs = np.diff(day) == 1
        both = np.sqrt(weight[1:] * weight[:-1])[pairs]
        seen = float(both @ (off[1:] * off[:-1])[pairs]) / max(float(both.sum()) * square, 1e-300) if square else 0.0
        count = int(pairs.sum()) if square else 0
        likely = np.clip((count * seen + _MEMORY_DAYS * _MEMORY) / (count + _MEMORY_DAYS), 0.0, _MOST)
        memory = float(min(likely + np.sqrt((1 - likely**2) / (count + _MEMORY_DAYS)), _MOST))
        lasting = square * (1 + memory) / (1 - memory) if count else square
        error = float(np.sqrt(weight**2 @ (lasting + noise)) / weight.sum())
        wider = 1 + 1.28 / np.sqrt(2 * len(value))
        return cls(mean, max(np.sqrt(square) * wider, 1e-12), memory, error, len(value))

    def standardised(self, series: Series, level: Array | float) -> Array:
        """(n,) what is new of each day beyond the level, in standard deviations; 0 of a day that has no figure."""
        off, state, last = series.value - level, 0.0, series.day[0] if len(series.day) else 0
        square, found = self.spread**2, np.zeros(len(off))
        variance = square
        for n, (day, value, noise) in enumerate(zip(series.day, off, series.noise, strict=True)):
            kept = self.memory ** float(day - last) if n else 0.0
            state, variance, last = kept * state, kept**2 * variance + (1 - kept**2) * square, day
            if np.isfinite(value):
                total = variance + noise
                found[n] = (value - state) / np.sqrt(total)
                gain = variance / total
                state, variance = state + gain * (value - state), (1 - gain) * variance
        return found


def e_values(z: Array, most: float | Array) -> Array:
    """(shifts, n): each mean is at most 1 where z has a mean of at most 0 and normal tails, or lighter ones.

    most: a wilder day counts as this many standard deviations, one number or (n,). Cutting the top keeps the bound, and
    decides how many days it takes: at 2.5 three or four, whatever a single day was like."""
    shifts = np.array(SHIFTS)[:, None]
    return np.asarray(np.exp(shifts * np.minimum(z, most) - shifts**2 / 2))


def mean_e_values(z: Array, most: float) -> Array:
    """(shifts,) by how much the mean of e-values of usual days exceeds 1, one standard error added: what heavier tails
    than normal ones, as of storms, take from the evidence of every day."""
    found = e_values(z, most)
    return np.asarray(np.maximum(found.mean(axis=1) + found.std(axis=1) / np.sqrt(max(len(z), 1)), 1.0))


def e_detector(z: Array, most: float | Array, usual: Array | float = 1.0) -> Array:
    """(n,): evidence that at some day, not known which, the mean of z went above 0. `most` is that of e_values(), which
    are divided by `usual`."""
    evidence, total = np.zeros(len(SHIFTS)), np.empty(len(z))
    for day, ratio in enumerate((e_values(z, most) / np.reshape(usual, (-1, 1))).T):
        evidence = np.minimum((evidence + 1) * ratio, 1e12)
        total[day] = evidence.mean()
    return total
