"""The test of consecutive windows: did a window move further from the four weeks before it than such windows ever did?

Days that follow each other resemble each other, and weather and season move them: a window is held against all earlier
windows of as many days, each with the four weeks before it, and not against days drawn at random. By column the test
looks at the shares of the bins (the root of the PSI, less what chance alone makes), at level and spread of the values,
and at level and spread of the residuals on all other columns, which is the joint check: it sees a column that no longer
goes with the others. Each is put on the scale of its own past, and all of them together exceed Student's t with a
probability of the false-alarm rate at most (Bonferroni). Because seasons are not stationary, a finding must also be
further away than any past window was, by BEYOND.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from truecourse.monitoring.drift.histograms import Array, Counts
from truecourse.monitoring.drift.permutation_test import psi
from truecourse.monitoring.drift.reference_profile import TRAILING_DAYS, DailyHistograms

Aspect = Literal["shares", "level", "spread", "relation", "relation's spread"]
JOINT = ("relation", "relation's spread")
FINDING_FACTOR, CRITICAL_FACTOR = 1.6, 2.0
"""How many times further than ever before a column has to move to be a finding, and to wake somebody."""
MIN_REFERENCE_DAYS, MIN_WINDOWS = 7, 4
"""With less history the days before are fewer, SHORT at least; with fewer than so many windows nothing can be told."""
MIN_ROWS = 100
"""Rows of a window that shares and means are taken of."""
MIN_VALUES = 30
PRIOR = 4.0
"""Few windows tell little of how far a column moves: what all columns tell together counts for so many of them."""
_TINY = 1e-9


@dataclass(frozen=True)
class Evidence:
    """How far one column moved. `z`: of the aspect that moved most, in standard deviations of the past windows;
    `times`: how many times the furthest of them; `size`: PSI, or standard deviations of the column; `p_value`: adjusted
    for everything that is tested."""

    aspect: Aspect
    z: float
    times: float
    size: float
    p_value: float
    drifted: bool
    critical: bool


@dataclass(frozen=True)
class Days:
    """Consecutive days: rows counted by bins, and moments() by day, (days, SUMS, p), of the numbers `names`; None where
    only bins were kept."""

    side: DailyHistograms
    moments: Array | None = None
    names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.side.days)


@dataclass(frozen=True)
class WindowTestResult:
    """What was found, by column: of the column by itself, and of its `relations` with the others. Empty where it cannot
    be told: then `missing` says what for."""

    columns: dict[str, Evidence]
    relations: dict[str, Evidence]
    missing: str = ""


def reference_days(past: int, window: int) -> int:
    """Days before each window that it is held against, of `past` days in all; 0 where they are too few."""
    for days in (TRAILING_DAYS, 2 * MIN_REFERENCE_DAYS, MIN_REFERENCE_DAYS):
        if past >= days + MIN_WINDOWS * window:
            return days
    return 0


def compare_windows(past: Days, now: Days, threshold: float, rate: float) -> WindowTestResult:
    """`past`: the days before the window `now`, in order. `threshold`: the PSI that matters; of what creeps half is in
    the days before already, so half of it counts against them. `rate`: of false alarms, over all columns."""
    window, rows = len(now), int(now.side.rows().sum())
    if rows < MIN_ROWS:
        return WindowTestResult({}, {}, f"{MIN_ROWS - rows} more rows: a window needs {MIN_ROWS}")
    before = reference_days(len(past), window)
    if not before:
        needed = MIN_REFERENCE_DAYS + MIN_WINDOWS * window - len(past)
        return WindowTestResult(
            {},
            {},
            f"{needed} more days of history: a window of {window} needs {MIN_REFERENCE_DAYS + MIN_WINDOWS * window}",
        )
    # Windows that reach into the days that this one is held against may have drifted with it.
    last = max(len(past) - before, before + MIN_WINDOWS * window)
    ends = np.arange(before + window, last + 1)
    aspects = [_shares(past, now, ends, before, window)]
    if past.moments is not None and now.moments is not None:
        aspects += _moved(past, now, ends, before, window)
    return _judged(past.side, aspects, (last - before) / window, threshold, rate)


@dataclass(frozen=True)
class _Aspect:
    """By column of `names`: z, times and size; NaN where it cannot be told. `needs`: the size that counts, of a PSI."""

    name: Aspect
    names: tuple[str, ...]
    z: Array
    times: Array
    size: Array

    def needs(self, threshold: float) -> float:
        """A normal column that moves by d standard deviations has a PSI of d squared."""
        return threshold if self.name == "shares" else math.sqrt(threshold)


def _judged(
    side: DailyHistograms, aspects: list[_Aspect], windows: float, threshold: float, rate: float
) -> WindowTestResult:
    from scipy.special import stdtr  # all of scipy.stats takes seconds to import

    tests = 2 * sum(len(one.names) for one in aspects)
    found: dict[bool, dict[str, Evidence]] = {False: {}, True: {}}
    for one in aspects:
        p_values = np.minimum(1.0, tests * stdtr(windows - 1 + (0.0 if one.name == "shares" else PRIOR), -one.z))
        unlikely = (p_values <= rate) & (one.times > FINDING_FACTOR)
        drifted = unlikely & (one.size > one.needs(threshold / 2))
        far = drifted & (one.times > CRITICAL_FACTOR) & (one.size > one.needs(threshold))
        mine = found[one.name in JOINT]
        for i, name in enumerate(one.names):
            if np.isfinite(one.z[i]):
                figures = (float(one.z[i]), float(one.times[i]), float(one.size[i]), float(p_values[i]))
                told = Evidence(one.name, *figures, bool(drifted[i]), bool(far[i]))
                mine[name] = max(mine.get(name, told), told, key=_weight)
    return WindowTestResult({name: found[False][name] for name in side.bins if name in found[False]}, found[True])


def _weight(one: Evidence) -> Any:
    return one.critical, one.drifted, one.z


def _rolled(values: Array, ends: Array, before: int, window: int) -> tuple[Array, Array]:
    """Sums of the windows that end at `ends`, and of the days before each; days come first."""
    sums = np.concatenate([np.zeros_like(values[:1]), np.cumsum(values, axis=0)])
    return sums[ends] - sums[ends - window], sums[ends - window] - sums[ends - window - before]


def _shares(past: Days, now: Days, ends: Array, before: int, window: int) -> _Aspect:
    side = past.side
    widths = np.diff([*side.starts, side.counts.matrix.shape[1]])
    counts = side.counts.matrix.astype(np.float64)

    def moved(after: Array, earlier: Array) -> tuple[Array, Array, Array]:
        rows = [side.rows_of(part)[..., None] for part in (after, earlier)]
        chance = (widths - 1) * (1 / np.maximum(rows[0], 1) + 1 / np.maximum(rows[1], 1))
        value = psi(earlier, after, side.starts)
        return value, np.sqrt(np.maximum(value - chance, 0.0)), chance

    _, roots, usual = moved(*_rolled(counts, ends, before, window))
    size, root, chance = moved(now.side.counts.matrix.sum(axis=0).astype(np.float64), counts[-before:].sum(axis=0))
    # A smaller window than those of the past moves more by chance: its PSI has the spread of a chi-square.
    more = np.sqrt(2 / np.maximum(widths - 1, 1)) * np.maximum(chance - np.median(usual, axis=0), 0.0)
    spread = np.sqrt(roots.var(axis=0) + more) + math.sqrt(_TINY)
    times = root / (roots.max(axis=0) + np.sqrt(more) + _TINY)
    # A column with no value at all in the days before was not there yet, and has not drifted.
    last = np.append(side.starts[1:], counts.shape[1]) - 1
    empty = counts[-before:, last].sum(axis=0) >= side.rows_of(counts[-before:]).sum()
    z = np.where(empty, np.nan, (root - roots.mean(axis=0)) / spread)
    return _Aspect("shares", tuple(side.bins), z, times, size)


def _moved(past: Days, now: Days, ends: Array, before: int, window: int) -> list[_Aspect]:
    """Level and spread, of values and of residuals."""
    assert past.moments is not None
    assert now.moments is not None
    after, earlier = _rolled(past.moments, ends, before, window)
    this, recent = now.moments.sum(axis=0), past.moments[-before:].sum(axis=0)
    whole = past.moments.sum(axis=0)
    few = np.minimum(this[0], recent[0]) < MIN_VALUES
    count = np.maximum(this[0], 1)
    fewer = np.maximum(1 / count - 1 / np.maximum(np.median(after[:, 0], axis=0), 1), 0.0)
    # Values and residuals are in the same units: both are measured by the spread of the values, of all days together.
    unit = _deviation(whole, 1, past.moments)
    found = []
    alike = 1 / window + 1 / before
    for first, level, spread in ((1, "level", "spread"), (3, "relation", "relation's spread")):
        variance = this[first + 1] / count
        for name, by, chance in ((level, _mean, variance * fewer), (spread, _within, variance * fewer / 2)):
            was = by(after, first) - by(earlier, first)
            moved = np.abs(by(this, first) - by(recent, first))
            days = by(past.moments, first)
            own = _moderated((was**2).mean(axis=0), days.var(axis=0) * alike, (ends[-1] - before) / window)
            scale = np.sqrt(own + chance) + _TINY
            times = moved / (np.abs(was).max(axis=0) + np.sqrt(chance) + _TINY)
            z = np.where(few, np.nan, moved / scale)
            found.append(_Aspect(name, past.names, z, times, moved / unit))  # type: ignore[arg-type]
    return found


def _moderated(variance: Array, expected: Array, windows: float) -> Array:
    """Variances of p columns, drawn to what is `expected` of them, as far as they exceed it on the whole (an empirical
    Bayes estimate; Smyth, Linear models and empirical Bayes methods, 2004)."""
    known = (expected > _TINY) & (variance > 0)
    inflation = float(np.median(variance[known] / expected[known])) if known.any() else 0.0
    return np.asarray(((windows - 1) * variance + PRIOR * inflation * expected) / (windows - 1 + PRIOR))


def _mean(sums: Array, first: int) -> Array:
    return np.asarray(sums[..., first, :] / np.maximum(sums[..., 0, :], 1))


def _within(sums: Array, first: int) -> Array:
    """The standard deviation around the days' own means."""
    return np.asarray(np.sqrt(sums[..., first + 1, :] / np.maximum(sums[..., 0, :], 1)))


def _deviation(whole: Array, first: int, days: Array) -> Array:
    """The standard deviation around one mean."""
    count = np.maximum(whole[0], 1)
    between = (days[:, 0] * (_mean(days, first) - whole[first] / count) ** 2).sum(axis=0)
    return np.asarray(np.maximum(np.sqrt((whole[first + 1] + between) / count), math.sqrt(_TINY)))


def concatenate(*parts: Days) -> Days:
    """Days one after another."""
    side = parts[0].side
    days = np.concatenate([one.side.days for one in parts])
    counts = Counts(np.concatenate([one.side.counts.matrix for one in parts]))
    kept = [one.moments for one in parts if one.moments is not None]
    moments = np.concatenate(kept) if len(kept) == len(parts) else None
    return Days(DailyHistograms(side.bins, days, counts), moments, parts[0].names)
