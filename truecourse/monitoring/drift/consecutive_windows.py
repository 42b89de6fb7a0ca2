"""The test of consecutive windows: did a window change more against the four weeks before it than past windows did?

Days that follow each other are alike, and weather and season shift them. So a window is compared with all earlier
windows of the same length, each against the four weeks before it, and not with days drawn at random. For each column
the test looks at the shares of the bins (the square root of the PSI, less its expectation under sampling error), at the
level and spread of the values, and at the level and spread of the residuals on all other columns. The residuals are the
joint check: they show that a column's relation to the others changed. Each statistic is scaled by its own past values,
and Student's t bounds the false-alarm rate over all of them (Bonferroni). Because seasons are not stationary, a finding
must also exceed the largest past change by FINDING_FACTOR.
"""

import math
from dataclasses import dataclass, replace
from datetime import date
from typing import Any, Literal

import numpy as np

from truecourse.monitoring.drift.histograms import Array, Counts
from truecourse.monitoring.drift.permutation_test import psi
from truecourse.monitoring.drift.reference_profile import TRAILING_DAYS, DailyHistograms

Aspect = Literal["shares", "level", "spread", "relation", "relation's spread"]
JOINT = ("relation", "relation's spread")
FINDING_FACTOR, CRITICAL_FACTOR = 1.6, 2.0
"""Multiples of the largest past change from which a change is a finding, and a critical one."""
MIN_REFERENCE_DAYS, MIN_WINDOWS = 7, 4
"""Minimum days before a window to compare it with (fewer than four weeks if the history is short), and minimum number
of past windows for a test."""
MIN_ROWS = 100
"""Minimum rows of a window."""
MIN_VALUES = 30
PRIOR = 4.0
"""Weight of the pooled variance of all columns, in windows: few past windows estimate a column's variance poorly."""
_TINY = 1e-9


@dataclass(frozen=True)
class Evidence:
    """The change of one column in its most changed aspect.

    `z`: in standard deviations of the past windows' changes; `times`: as a multiple of the largest past change; `size`:
    PSI, or standard deviations of the column; `p_value`: adjusted for all tests."""

    aspect: Aspect
    z: float
    times: float
    size: float
    p_value: float
    drifted: bool
    critical: bool


@dataclass(frozen=True)
class Days:
    """Consecutive days: rows counted by bins, and the moments() by day of the numeric columns `names`, (days, SUMS, p);
    None where only bins were stored."""

    histograms: DailyHistograms
    moments: Array | None = None
    names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.histograms.days)


@dataclass(frozen=True)
class WindowTestResult:
    """Evidence by column: for the column itself, and for its relation to the other columns. Empty with too little data;
    then `missing` names what is needed.

    `past`: first and last day of the past windows whose changes the window's is compared with."""

    columns: dict[str, Evidence]
    relations: dict[str, Evidence]
    missing: str = ""
    past: tuple[date, date] | None = None


def reference_days(past: int, window: int) -> int:
    """Return the number of days before each window to compare it with, given `past` days; 0 if they are too few."""
    for days in (TRAILING_DAYS, 2 * MIN_REFERENCE_DAYS, MIN_REFERENCE_DAYS):
        if past >= days + MIN_WINDOWS * window:
            return days
    return 0


def compare_windows(past: Days, now: Days, threshold: float, rate: float) -> WindowTestResult:
    """Test the window `now` against the `past` days before it (in order).

    `threshold`: the PSI that matters. Half of it counts against the days before, which already contain half of a slow
    change. `rate`: false-alarm rate over all columns."""
    window, rows = len(now), int(now.histograms.rows().sum())
    if rows < MIN_ROWS:
        return WindowTestResult({}, {}, f"{MIN_ROWS - rows} more rows needed (a window needs {MIN_ROWS})")
    before = reference_days(len(past), window)
    if not before:
        least = MIN_REFERENCE_DAYS + MIN_WINDOWS * window
        missing = f"{least - len(past)} more days of history needed (a window of {window} needs {least})"
        return WindowTestResult({}, {}, missing)
    # Windows that overlap the days before this one may have drifted with it: left out if enough others remain.
    last = max(len(past) - before, before + MIN_WINDOWS * window)
    ends = np.arange(before + window, last + 1)
    aspects = [_share_aspect(past, now, ends, before, window)]
    if past.moments is not None and now.moments is not None:
        aspects += _moment_aspects(past, now, ends, before, window)
    tested = _collect_evidence(past.histograms, aspects, (last - before) / window, threshold, rate)
    first_day, last_day = (past.histograms.days[place].astype("datetime64[D]").item() for place in (before, last - 1))
    return replace(tested, past=(first_day, last_day))


@dataclass(frozen=True)
class _Aspect:
    """One aspect by column of `names`: z, times and size as in Evidence; z is NaN with too few values."""

    name: Aspect
    names: tuple[str, ...]
    z: Array
    times: Array
    size: Array

    def required_size(self, threshold: float) -> float:
        """Return the size that matches a PSI threshold: a shift of a normal column by d standard deviations has PSI
        d²."""
        return threshold if self.name == "shares" else math.sqrt(threshold)


def _collect_evidence(
    histograms: DailyHistograms, aspects: list[_Aspect], windows: float, threshold: float, rate: float
) -> WindowTestResult:
    from scipy.special import stdtr  # all of scipy.stats takes seconds to import

    tests = 2 * sum(len(one.names) for one in aspects)
    evidence: dict[bool, dict[str, Evidence]] = {False: {}, True: {}}
    for one in aspects:
        p_values = np.minimum(1.0, tests * stdtr(windows - 1 + (0.0 if one.name == "shares" else PRIOR), -one.z))
        significant = (p_values <= rate) & (one.times > FINDING_FACTOR)
        drifted = significant & (one.size > one.required_size(threshold / 2))
        critical = drifted & (one.times > CRITICAL_FACTOR) & (one.size > one.required_size(threshold))
        by_column = evidence[one.name in JOINT]
        for i, name in enumerate(one.names):
            if np.isfinite(one.z[i]):
                figures = (float(one.z[i]), float(one.times[i]), float(one.size[i]), float(p_values[i]))
                candidate = Evidence(one.name, *figures, bool(drifted[i]), bool(critical[i]))
                by_column[name] = max(by_column.get(name, candidate), candidate, key=_evidence_rank)
    return WindowTestResult(
        {name: evidence[False][name] for name in histograms.bins if name in evidence[False]}, evidence[True]
    )


def _evidence_rank(one: Evidence) -> Any:
    return one.critical, one.drifted, one.z


def _rolling_sums(values: Array, ends: Array, before: int, window: int) -> tuple[Array, Array]:
    """Return sums over the windows that end at `ends`, and over the days before each; the first axis is days."""
    sums = np.concatenate([np.zeros_like(values[:1]), np.cumsum(values, axis=0)])
    return sums[ends] - sums[ends - window], sums[ends - window] - sums[ends - window - before]


def _share_aspect(past: Days, now: Days, ends: Array, before: int, window: int) -> _Aspect:
    histograms = past.histograms
    widths = np.diff([*histograms.starts, histograms.counts.matrix.shape[1]])
    counts = histograms.counts.matrix.astype(np.float64)

    def change(after: Array, earlier: Array) -> tuple[Array, Array, Array]:
        rows = [histograms.rows_of(part)[..., None] for part in (after, earlier)]
        chance = (widths - 1) * (1 / np.maximum(rows[0], 1) + 1 / np.maximum(rows[1], 1))
        value = psi(earlier, after, histograms.starts)
        return value, np.sqrt(np.maximum(value - chance, 0.0)), chance

    _, past_changes, past_chance = change(*_rolling_sums(counts, ends, before, window))
    size, change_now, chance = change(
        now.histograms.counts.matrix.sum(axis=0).astype(np.float64), counts[-before:].sum(axis=0)
    )
    # A window with fewer rows than past ones has more sampling error: its PSI varies like a chi-square variable.
    extra_variance = np.sqrt(2 / np.maximum(widths - 1, 1)) * np.maximum(chance - np.median(past_chance, axis=0), 0.0)
    spread = np.sqrt(past_changes.var(axis=0) + extra_variance) + math.sqrt(_TINY)
    times = change_now / (past_changes.max(axis=0) + np.sqrt(extra_variance) + _TINY)
    # A column without any value in the days before is new and has not drifted.
    last = np.append(histograms.starts[1:], counts.shape[1]) - 1
    empty = counts[-before:, last].sum(axis=0) >= histograms.rows_of(counts[-before:]).sum()
    z = np.where(empty, np.nan, (change_now - past_changes.mean(axis=0)) / spread)
    return _Aspect("shares", tuple(histograms.bins), z, times, size)


def _moment_aspects(past: Days, now: Days, ends: Array, before: int, window: int) -> list[_Aspect]:
    """Return the aspects level and spread, of values and of residuals."""
    assert past.moments is not None
    assert now.moments is not None
    after, earlier = _rolling_sums(past.moments, ends, before, window)
    this, recent = now.moments.sum(axis=0), past.moments[-before:].sum(axis=0)
    total = past.moments.sum(axis=0)
    too_few = np.minimum(this[0], recent[0]) < MIN_VALUES
    count = np.maximum(this[0], 1)
    fewer = np.maximum(1 / count - 1 / np.maximum(np.median(after[:, 0], axis=0), 1), 0.0)
    # Both values and residuals are measured in standard deviations of the values over all days.
    unit = _overall_spread(total, 1, past.moments)
    aspects = []
    mean_variance_factor = 1 / window + 1 / before
    for first, level, spread in ((1, "level", "spread"), (3, "relation", "relation's spread")):
        variance = this[first + 1] / count
        for name, statistic, chance in (
            (level, _mean, variance * fewer),
            (spread, _daily_spread, variance * fewer / 2),
        ):
            past_changes = statistic(after, first) - statistic(earlier, first)
            change = np.abs(statistic(this, first) - statistic(recent, first))
            days = statistic(past.moments, first)
            own = _shrink_variance(
                (past_changes**2).mean(axis=0), days.var(axis=0) * mean_variance_factor, (ends[-1] - before) / window
            )
            scale = np.sqrt(own + chance) + _TINY
            times = change / (np.abs(past_changes).max(axis=0) + np.sqrt(chance) + _TINY)
            z = np.where(too_few, np.nan, change / scale)
            aspects.append(_Aspect(name, past.names, z, times, change / unit))  # type: ignore[arg-type]
    return aspects


def _shrink_variance(variance: Array, expected: Array, windows: float) -> Array:
    """Shrink the variances of p columns toward the `expected` ones, scaled by their median ratio (empirical Bayes;
    Smyth, Linear models and empirical Bayes methods, 2004)."""
    usable = (expected > _TINY) & (variance > 0)
    inflation = float(np.median(variance[usable] / expected[usable])) if usable.any() else 0.0
    return np.asarray(((windows - 1) * variance + PRIOR * inflation * expected) / (windows - 1 + PRIOR))


def _mean(sums: Array, first: int) -> Array:
    return np.asarray(sums[..., first, :] / np.maximum(sums[..., 0, :], 1))


def _daily_spread(sums: Array, first: int) -> Array:
    """Return the standard deviation around the daily means."""
    return np.asarray(np.sqrt(sums[..., first + 1, :] / np.maximum(sums[..., 0, :], 1)))


def _overall_spread(total: Array, first: int, days: Array) -> Array:
    """Return the standard deviation around the overall mean."""
    count = np.maximum(total[0], 1)
    between = (days[:, 0] * (_mean(days, first) - total[first] / count) ** 2).sum(axis=0)
    return np.asarray(np.maximum(np.sqrt((total[first + 1] + between) / count), math.sqrt(_TINY)))


def concatenate(*parts: Days) -> Days:
    """Concatenate days."""
    histograms = parts[0].histograms
    days = np.concatenate([one.histograms.days for one in parts])
    counts = Counts(np.concatenate([one.histograms.counts.matrix for one in parts]))
    kept = [one.moments for one in parts if one.moments is not None]
    moments = np.concatenate(kept) if len(kept) == len(parts) else None
    return Days(DailyHistograms(histograms.bins, days, counts), moments, parts[0].names)
