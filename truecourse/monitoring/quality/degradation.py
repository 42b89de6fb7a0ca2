"""The degradation test: which shifts the closed cohorts of a model show relative to its baseline, day by day.

The null hypothesis is no change at all, so a lasting shift is detected soon. A shift raises an alarm only if it also
has a practical size. The rate of false alarms is set by `QualityWatch.false_pages_a_year`.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from typing import NamedTuple

import numpy as np

from truecourse.arrays import Array
from truecourse.monitoring.quality.cohorts import Cohort
from truecourse.monitoring.quality.e_detector import DailyVariation, Series, e_detector, e_values, mean_e_values
from truecourse.problem.monitoring import QualityWatch
from truecourse.statistics.metrics import bounded

RECENT = 28
"""Days whose median is the level of label residuals: the season changes it, which is no new label rule."""
_RECOVERY_DAYS = 7
"""Days whose median decides whether a shift is over."""
_MIN_INFORMATION = 100.0
"""Information about a class's flipped share above which a single day counts more: its standard error is 0.1."""
_CLIP, _CLIP_TWO_DAYS, _CLIP_ONE_DAY = 2.5, 4.0, 5.0
"""Standard deviations at which a day's evidence is clipped. 2.5: a detection takes three or four days, because an event
such as a storm lasts two and is no drift. 4: two days, for a class's labels with enough information, because the label
model accounts for such events. 5: one day, where more labels are flipped than any event explains."""
_ONE_DAY_FACTOR = 2.5
"""A flipped share of this many times `labels_turned` is detected in one day."""
_LEAST_UNIT = 1e-70
"""The least standard deviation of labels, and the least loss, by which figures can be divided: a model without errors
in its baseline has no usual error to compare with."""
_MIN_SLOPE_DAYS = 14
"""Days needed to estimate the slope of loss on outcomes."""


@dataclass(frozen=True)
class Alarm:
    """A stream whose evidence is above the threshold.

    `since`: the most likely first day of the shift. `size`: its mean since then minus the usual level, in the stream's
    practical unit. `direction`: 1 up, -1 down; for "turned", the index of the class whose labels are flipped (for a
    regression: 0 up, 1 down)."""

    stream: str
    direction: int
    since: date
    size: float
    evidence: float


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
    """A daily figure that is tested for an upward shift.

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

    def shift(self, top: float) -> Shift | None:
        """Return the shift that lasts on the last day, if any. `top`: the evidence that is required."""
        shifts = self.critical_shifts(top)
        return shifts[-1].shift if shifts and shifts[-1].end == len(self.days.day) else None

    def critical_shifts(self, top: float) -> list[CriticalShift]:
        """List every shift that had a practical size on some day, as evaluated at the end of each day."""
        usual = DailyVariation.of(self.before)
        if usual is None:
            return []
        values, plain = self.size
        # The level is estimated from few days; its standard error is counted in the model's favour.
        level: Array = np.full(len(values), usual.mean + usual.error)
        sizes = np.full(len(values), plain)
        if self.recent:
            level = sizes = _levels(self.before.value, self.days.value)
        values = np.where(np.isfinite(values), values, sizes)
        z, clip = usual.standardised(self.days, level), np.broadcast_to(self.clip, (len(level),))
        tails = mean_e_values(usual.standardised(self.before, usual.mean), float(np.min(clip, initial=_CLIP_ONE_DAY)))
        shifts = []
        for start, first, end in _episodes(_Evidence(z, clip, tails), values, sizes, self.least, top):
            so_far = np.cumsum(values[start:end]) / np.arange(1, end - start + 1) - sizes[start]
            critical = np.flatnonzero(so_far[first - start :] >= self.least)
            if len(critical):
                evidence = float(e_detector(z[start:end], clip[start:end], tails).max())
                lasts_until = end if so_far[-1] >= self.least else -1
                shift = Shift(start, float(so_far[-1]), evidence)
                shifts.append(CriticalShift(first + int(critical[0]), lasts_until, shift))
        return shifts


def count_streams(classes: int) -> int:
    """Count the streams that are tested at once and share the rate of false alarms.

    These are: label residuals (two classes: up and down); flipped labels of each class (regression: up and down);
    outcomes above and below the scores; and loss above what the scores expect."""
    return 4 + (classes or 2) + (classes == 2)


def threshold(watch: QualityWatch, classes: int) -> float:
    """Return the evidence threshold: the least mean number of days between false alarms of one stream."""
    return 365 * count_streams(classes) / watch.false_pages_a_year


def build_streams(reference: Sequence[Cohort], usual: Sequence[Cohort], days: Sequence[Cohort], watch: QualityWatch,
                  scale: float, loss: float, classes: int) -> list[Stream]:  # fmt: skip
    """Build the streams that are tested. `usual`: the baseline days of the label model; `days`: the days to test.

    `scale`: the labels' standard deviation around the scores. `loss`: the reference's mean loss. `classes`: how many
    the label has, 0 for a regression."""
    usual = [one for one in usual if one.labelled and one.label_residuals is not None]
    labels = _of_labels(usual, days, watch, scale, classes)
    return [*labels, *_of_scores(reference, days, watch, scale, loss)]


def find_alarms(reference: Sequence[Cohort], usual: Sequence[Cohort], days: Sequence[Cohort], watch: QualityWatch,
                scale: float, loss: float, classes: int) -> list[Alarm]:  # fmt: skip
    """Find the shifts that last on the last day. Arguments as in build_streams()."""
    days, alarms = [one for one in days if one.labelled], []
    for stream in build_streams(reference, usual, days, watch, scale, loss, classes):
        shift = stream.shift(threshold(watch, classes))
        if shift is None:
            continue
        direction = stream.direction
        if stream.name == "labels" and classes != 2:
            direction = _label_direction(days[shift.start :])
        alarms.append(Alarm(stream.name, direction, days[shift.start].day, shift.size, shift.evidence))
    return alarms


def _of_scores(
    reference: Sequence[Cohort], days: Sequence[Cohort], watch: QualityWatch, scale: float, loss: float
) -> Iterator[Stream]:
    """Yield the streams of outcomes above and below the scores, and of loss."""
    reference = [one for one in reference if one.labelled]
    if min(scale, loss) < _LEAST_UNIT or not reference:
        return
    outcomes = [_series(side, lambda one: one.residual / one.labelled / scale, 1.0) for side in (reference, days)]
    for sign in (1, -1):
        before, now = outcomes if sign > 0 else (-outcomes[0], -outcomes[1])
        mean = max(_mean(before), 0.0)
        yield Stream("residual", sign, before, now, (now.value, mean), watch.calibration, _CLIP)
    rows = sum(one.labelled for one in reference)
    noise = sum(one.excess_squares for one in reference) / rows / loss**2
    lost = [_series(side, lambda one: (one.loss - one.expected) / one.labelled / loss, noise)
            for side in (reference, days)]  # fmt: skip
    # Days with more positives than predicted have a higher loss; the slope removes that part of the loss.
    slope = _slope(outcomes[0].value, lost[0].value)
    before, now = (side.minus(slope * part.value) for side, part in zip(lost, outcomes, strict=True))
    yield Stream("loss", 1, before, now, (lost[1].value, _mean(lost[0])), watch.loss, _CLIP)


def _of_labels(
    usual: Sequence[Cohort], days: Sequence[Cohort], watch: QualityWatch, scale: float, classes: int
) -> Iterator[Stream]:
    """Yield the streams of label residuals, and of flipped labels of each class."""
    if not days or not usual or not all(one.label_residuals is not None and one.turned for one in days):
        return
    unit = 1.0 if classes else scale
    if unit < _LEAST_UNIT:
        return
    place = int(classes == 2)  # two classes: the signed difference; otherwise the distance
    rows = float(sum(one.labelled for one in usual))
    squares = float(sum(one.label_residual_squares[place] for one in usual))
    sides = [_series(side, lambda one: _mean_residual(one, place) / unit, squares / rows / unit**2)
             for side in (usual, days)]  # fmt: skip
    for sign in (1, -1) if classes == 2 else (1,):
        before, now = sides if sign > 0 else (-sides[0], -sides[1])
        yield Stream("labels", sign, before, now, (now.value, 0.0), watch.labels_moved, _CLIP, recent=True)
    for number in range(len(days[0].turned)):
        before, now = (_flip_series(side, number, unit, None if classes else squares / rows) for side in (usual, days))
        far = now.value - _levels(before.value, now.value) >= _ONE_DAY_FACTOR * watch.labels_turned
        enough = np.array([one.turned[number][1] >= _MIN_INFORMATION for one in days])
        clip = np.where(enough, np.where(far, _CLIP_ONE_DAY, _CLIP_TWO_DAYS), _CLIP)
        yield Stream("turned", number, before, now, (now.value, 0.0), watch.labels_turned, clip, recent=True)


def _mean_residual(one: Cohort, place: int) -> float:
    assert one.label_residuals is not None
    return one.label_residuals[place] / one.labelled


def _series(days: Sequence[Cohort], value: Callable[[Cohort], float], noise: float) -> Series:
    """Return the daily means of `value`. `noise`: the variance of a row."""
    rows = np.array([one.labelled for one in days], dtype=np.float64)
    return Series(_day_numbers(days), bounded(np.array([value(one) for one in days])), bounded(noise / rows))


def _flip_series(days: Sequence[Cohort], place: int, unit: float, noise: float | None) -> Series:
    """Return the estimated share of a class's labels that are flipped, with variance 1 / information.

    For a regression, how far labels are above or below the prediction; `noise` is the variance of a row."""
    sums = np.array([one.turned[place] for one in days]).reshape(-1, 2)
    information = np.where(sums[:, 1] >= 1, sums[:, 1], np.nan)
    chance = np.nan_to_num((1.0 if noise is None else noise / unit**2) / information, nan=np.inf)
    return Series(_day_numbers(days), bounded(sums[:, 0] / information / unit), chance)


def _day_numbers(days: Sequence[Cohort]) -> Array:
    return np.array([one.day.toordinal() for one in days], dtype=np.float64)


def _mean(series: Series) -> float:
    """Return the mean over days, weighted by rows."""
    return float(np.average(series.value, weights=1 / np.maximum(series.noise, 1e-24)))


def _slope(outcomes: Array, lost: Array) -> float:
    """Return the slope of the daily loss on outcomes minus scores; 0 with fewer than _MIN_SLOPE_DAYS days."""
    off = outcomes - outcomes.mean()
    square = float(off @ off)
    return float(off @ lost) / square if len(off) >= _MIN_SLOPE_DAYS and square > 0 else 0.0


def _label_direction(days: Sequence[Cohort]) -> int:
    """Return 1 if labels are above the label model's predictions, -1 if below, 0 if unknown."""
    return int(np.sign(sum(one.label_residuals[1] for one in days if one.label_residuals)))


def _levels(before: Array, values: Array) -> Array:
    """Return the median (n,) of the RECENT days before each day, without days that have no value."""
    both = np.concatenate([before, values])
    recent = [both[max(0, n - RECENT) : n] for n in range(len(before), len(both))]
    finite = [days[np.isfinite(days)] for days in recent]
    return np.array([np.median(days) if len(days) else 0.0 for days in finite])


class _Evidence(NamedTuple):
    """The arguments of e_detector()."""

    z: Array
    clip: Array
    usual: Array

    def part(self, first: int, end: int) -> "_Evidence":
        return _Evidence(self.z[first:end], self.clip[first:end], self.usual)


def _episodes(
    evidence: _Evidence, values: Array, level: Array, least: float, top: float
) -> Iterator[tuple[int, int, int]]:
    """Yield each shift: (its first day, the day its evidence reached `top`, the day it was over or n).

    After a shift is over, evidence is collected anew. `values`, `level`: (n,) the quantity that must have a practical
    size, at least `least`, and its level."""
    begin, n = 0, len(values)
    while begin < n:
        reached = np.flatnonzero(e_detector(*evidence.part(begin, n)) >= top)
        if not len(reached):
            return
        first = begin + int(reached[0])
        start = begin + _onset(evidence.part(begin, first + 1))
        # The comparison uses the level before the shift: a moving level would absorb a shift that lasts.
        normal = level[start] + least
        medians = ((day, np.median(values[max(first, day - _RECOVERY_DAYS + 1) : day + 1])) for day in range(first, n))
        end = next((day for day, median in medians if median <= normal), n)
        yield start, first, end
        begin = end + 1


def _onset(evidence: _Evidence) -> int:
    """Return the most likely first day of a shift that lasts to the last day, over all sizes in SHIFTS."""
    since = np.log(e_values(evidence.z, evidence.clip) / evidence.usual[:, None])[:, ::-1].cumsum(axis=1)[:, ::-1]
    return int(since.max(axis=0).argmax())
