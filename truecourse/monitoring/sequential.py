"""Looking every day without crying wolf: evidence that grows only where something stays changed.

Each day's statistic, standardised against its usual level, spread and memory, gives an e-value: the likelihood ratio
of an upward shift, whose mean under no shift is at most 1. Their Shiryaev-Roberts sum R = (R + 1) e is an e-detector
(Shin, Ramdas & Rinaldo, "E-detectors: a nonparametric framework for sequential change detection", 2023). With nothing
changed R minus the days so far is a supermartingale, so R takes at least c days on average until it reaches c, and
reaches it within n days with a probability of at most n / c, on whichever of these days one looks.
"""

from dataclasses import dataclass

import numpy as np

from truecourse.encoding import Array

SHIFTS = (0.5, 1.0, 2.0, 4.0)
"""In standard deviations of a day; they share the evidence equally."""
_MEMORY, _MEMORY_DAYS = 0.3, 10
_FEWEST = 7


@dataclass(frozen=True)
class Usual:
    """How a statistic moves from day to day while nothing changes: its mean, the spread of what the day before does not
    tell, and how much of a deviation lasts into the next day."""

    mean: float
    spread: float
    memory: float
    days: int

    @classmethod
    def of(cls, values: Array) -> "Usual | None":
        """From (n,) consecutive days; None for fewer than seven. Few days tell little of the spread, so it is taken
        wider (the upper end of an 80% interval, normal approximation), and of the memory, so 0.3 has a say in it."""
        values = values[np.isfinite(values)]
        if len(values) < _FEWEST:
            return None
        off = values - np.median(values)
        seen = float(off[1:] @ off[:-1] / max(off @ off, 1e-300))
        memory = float(np.clip((len(off) * seen + _MEMORY_DAYS * _MEMORY) / (len(off) + _MEMORY_DAYS), 0.0, 0.8))
        innovations = off[1:] - memory * off[:-1]
        spread = float(innovations.std()) * (1 + 1.28 / np.sqrt(2 * len(values)))
        return cls(float(np.median(values)), max(spread, 1e-12), memory, len(values))

    def standardised(self, values: Array, level: Array | float, tolerance: float = 0.0) -> Array:
        """What is new of each day beyond `level + tolerance`, in standard deviations."""
        off = np.nan_to_num(values - level - tolerance)
        before = np.concatenate([[0.0], off[:-1]])
        return np.asarray((off - self.memory * before) / self.spread)


def e_values(z: Array, most: float) -> Array:
    """(shifts, n): each mean is at most 1 where z has a mean of at most 0 and normal tails, or lighter ones.

    most: a wilder day counts as this many standard deviations. Cutting the top keeps the bound, also where tails are
    heavier, and decides how many days it takes: at 2.5 three or four, whatever a single day was like."""
    shifts = np.array(SHIFTS)[:, None]
    return np.asarray(np.exp(shifts * np.minimum(z, most) - shifts**2 / 2))


def e_detector(z: Array, most: float) -> Array:
    """(n,): evidence that at some day, not known which, the mean of z went above 0. `most` is that of e_values()."""
    evidence, total = np.zeros(len(SHIFTS)), np.empty(len(z))
    for day, ratio in enumerate(e_values(z, most).T):
        evidence = np.minimum((evidence + 1) * ratio, 1e12)
        total[day] = evidence.mean()
    return total
