"""Streams: daily figures of closed cohorts that are tested for a lasting shift, joined over model versions.

A version's figure is standardised by its own baseline, so it gives e-values of its own. On a day that several versions
served, the weighted mean of their e-values counts: a mean of e-values is an e-value, however they depend on each other
(Vovk & Wang, "E-values: calibration, combination and applications", 2021). So the joined stream has the same bound on
false alarms as that of one version. Each cohort counts once, and a promotion discards no evidence.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from truecourse.arrays import Array
from truecourse.monitoring.quality.e_detector import (
    SHIFTS,
    DailyVariation,
    Series,
    accumulate,
    e_values,
    mean_e_values,
)

RECENT = 28
"""Days whose median is the level of label residuals: the season changes it, which is no new label rule."""
_RECOVERY_DAYS = 7
"""Days whose median decides whether a shift is over."""


class Shift(NamedTuple):
    """A shift within n days: index of its first day, mean size since then, and the evidence."""

    start: int
    size: float
    evidence: float


class CriticalShift(NamedTuple):
    """A shift that reached the practical size. `day`: index of the first day on which it did. `end`: index of the day
    when it was over; n while it lasts; -1 if it lasts but is below the practical size again."""

    day: int
    end: int
    shift: Shift


@dataclass(frozen=True)
class Stream:
    """A daily figure of one version that is tested for an upward shift.

    `before`, `days`: the figure in the baseline period and on the n days tested. `size`: (n,) the quantity that must
    have a practical size, at least `least`, and its level before. `clip`: where a day is clipped, in standard
    deviations. `recent`: whether the level is the median of the last weeks, because the season changes it."""

    name: str
    direction: int
    before: Series
    days: Series
    size: tuple[Array, float]
    least: float
    clip: float | Array
    recent: bool = False

    def critical_shifts(self, top: float) -> list[CriticalShift]:
        """List every shift that had a practical size on some day, as evaluated at the end of each day.

        `top`: the evidence that is required."""
        joined = JoinedStream.of([self])
        return joined.critical_shifts(top) if joined else []

    def evidence(self, usual: DailyVariation | None) -> tuple[Array, Array, Array]:
        """Return e-values (shifts, n), the quantity that must have a practical size (n,), and its level (n,).

        `usual`: the variation in the baseline period. If it is None, the e-values are 1: no evidence either way."""
        values, plain = self.size
        sizes = levels(self.before.value, self.days.value) if self.recent else np.full(len(values), plain)
        values = np.where(np.isfinite(values), values, sizes)
        if usual is None or not len(values):
            return np.ones((len(SHIFTS), len(values))), values, sizes
        # The level is estimated from few days; its standard error is counted in the model's favour.
        z = usual.standardised(self.days, sizes if self.recent else usual.mean + usual.error)
        clip = np.broadcast_to(self.clip, (len(values),))
        tails = mean_e_values(usual.standardised(self.before, usual.mean), float(np.min(clip)))
        return e_values(z, clip) / tails[:, None], values, sizes

    def precision(self) -> Array:
        """Return 1 / variance of the sampling noise (n,); 0 for a day without a value."""
        usable = np.isfinite(self.days.value) & np.isfinite(self.days.noise)
        return np.where(usable, 1 / np.maximum(np.where(usable, self.days.noise, 1.0), 1e-24), 0.0)


@dataclass(frozen=True)
class JoinedStream:
    """One figure over the n days of k versions.

    `day`: (n,) day numbers. `e_values`: (shifts, n). `weights`: (k, n) of the versions in each day; they sum to 1.
    `values`, `levels`: (k, n) the quantity that must have a practical size, at least `least`, and its level; NaN
    without a cohort."""

    day: Array
    e_values: Array
    weights: Array
    values: Array
    levels: Array
    least: float

    @classmethod
    def of(cls, streams: Sequence[Stream]) -> "JoinedStream | None":
        """Join the streams of the same figure; None if no version has a usable baseline.

        Versions that served on the same day are weighted by the precision of their figures."""
        usual = [DailyVariation.of(one.before) for one in streams]
        if not any(usual):
            return None
        day = np.unique(np.concatenate([one.days.day for one in streams]))
        shape = len(streams), len(day)
        weights, values, level = np.zeros(shape), np.full(shape, np.nan), np.full(shape, np.nan)
        ratios = np.ones((len(streams), len(SHIFTS), len(day)))
        for number, (one, variation) in enumerate(zip(streams, usual, strict=True)):
            places = np.searchsorted(day, one.days.day)
            ratios[number][:, places], values[number, places], level[number, places] = one.evidence(variation)
            weights[number, places] = one.precision()
        weights = np.where(weights.any(axis=0), weights, np.isfinite(level))
        weights = weights / weights.sum(axis=0)
        joined = (weights[:, None, :] * ratios).sum(axis=0)
        return cls(day, joined, weights, values, level, streams[0].least)

    def lasting_shift(self, top: float) -> Shift | None:
        """Return the shift that lasts on the last day, if any. `top`: the evidence that is required."""
        shifts = self.critical_shifts(top)
        return shifts[-1].shift if shifts and shifts[-1].end == len(self.day) else None

    def critical_shifts(self, top: float) -> list[CriticalShift]:
        """List every shift as Stream.critical_shifts() does."""
        shifts = []
        for start, first, end in self._episodes(top):
            so_far = np.cumsum(self._excess(start)[: end - start]) / np.arange(1, end - start + 1)
            critical = np.flatnonzero(so_far[first - start :] >= self.least)
            if len(critical):
                evidence = float(accumulate(self.e_values[:, start:end]).max())
                lasts_until = end if so_far[-1] >= self.least else -1
                shift = Shift(start, float(so_far[-1]), evidence)
                shifts.append(CriticalShift(first + int(critical[0]), lasts_until, shift))
        return shifts

    def streams_since(self, start: int) -> list[int]:
        """Return the indices of the streams with a cohort on the day with index `start` or later."""
        return np.flatnonzero(np.isfinite(self.levels[:, start:]).any(axis=1)).tolist()

    def _episodes(self, top: float) -> Iterator[tuple[int, int, int]]:
        """Yield each shift: (its first day, the day its evidence reached `top`, the day it was over or n).

        After a shift is over, evidence is collected anew."""
        begin, n = 0, len(self.day)
        while begin < n:
            reached = np.flatnonzero(accumulate(self.e_values[:, begin:]) >= top)
            if not len(reached):
                return
            first = begin + int(reached[0])
            start = begin + _onset(self.e_values[:, begin : first + 1])
            excess = self._excess(start)
            last_days = ((day, excess[max(first, day - _RECOVERY_DAYS + 1) - start : day + 1 - start])
                         for day in range(first, n))  # fmt: skip
            end = next((day for day, part in last_days if np.median(part) <= self.least), n)
            yield start, first, end
            begin = end + 1

    def _excess(self, start: int) -> Array:
        """Return by how much the quantity exceeds its level on the days from `start` on.

        Each version's days are compared with its level on its first of these days: a moving level would absorb a shift
        that lasts."""
        present = np.isfinite(self.levels[:, start:])
        own = np.where(present, self.levels[:, start:], 0.0)
        level = own[np.arange(len(own)), present.argmax(axis=1)]
        excess = np.where(present, self.values[:, start:] - level[:, None], 0.0)
        return np.asarray((self.weights[:, start:] * excess).sum(axis=0))


def levels(before: Array, values: Array) -> Array:
    """Return the median (n,) of the RECENT days before each day, without days that have no value."""
    both = np.concatenate([before, values])
    recent = [both[max(0, n - RECENT) : n] for n in range(len(before), len(both))]
    finite = [days[np.isfinite(days)] for days in recent]
    return np.array([np.median(days) if len(days) else 0.0 for days in finite])


def _onset(evidence: Array) -> int:
    """Return the most likely first day of a shift that lasts to the last day, over all sizes in SHIFTS."""
    since = np.log(evidence)[:, ::-1].cumsum(axis=1)[:, ::-1]
    return int(since.max(axis=0).argmax())
