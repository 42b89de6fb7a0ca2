"""What the closed cohorts of a model say against its yardstick: found day by day, and paged within a set rate.

Evidence is gathered against no change at all, so that what lasts is found soon; what is found pages only if it is of a
practical size, too.
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

RECENT = 28
"""Days whose median is what hindsight's level is held against: a season moves it, and is no new rule."""
_SOON = 7
_TELLING = 100.0
"""Information about a class's labels, from which on a single day may say much: its share is known to 0.1."""
_STORM, _CLEAR, _CALM = 2.5, 4.0, 5.0
"""A day's most, in standard deviations. At the first it takes three days or four, for a storm is over in two and no
drift. Of a class's labels, which hindsight knows a storm from, it takes two, where the day tells enough; and one, where
so many have turned that no storm does it."""
_ALONE = 2.5
"""Times the share of a class's labels that pages."""
_PAIRS = 14
"""Days that it takes to learn how the loss goes with the outcomes."""


@dataclass(frozen=True)
class Alarm:
    """A stream that is above its threshold. `since`: the first day of the shift, as far as the days tell. `size`: its
    mean since then, beyond the usual, in the stream's practical unit. `direction`: up or down; of "turned", the class
    whose labels another rule turned, by its place (a regression: 0 up, 1 down)."""

    stream: str
    direction: int
    since: date
    size: float
    evidence: float


class Shift(NamedTuple):
    """Of n days: the first that is shifted, how far since then, and the evidence."""

    start: int
    size: float
    evidence: float


class PagedShift(NamedTuple):
    """The day on which a shift paged first, and the one on which it was back: n while it stands, -1 if it stands and
    is of no practical size any more."""

    day: int
    back: int
    shift: Shift


@dataclass(frozen=True)
class Stream:
    """A figure that is watched for a rise. `before`, `days`: it, on the days of its usual level and those looked at.
    `size`: what has to be of a practical size, (n,) in units of `least`, with its level before. `most`: of a day, in
    standard deviations. `recent`: whether its level is that of the last weeks, for a season moves it."""

    name: str
    direction: int
    before: Series
    days: Series
    size: tuple[Array, float]
    least: float
    most: float | Array
    recent: bool = False

    def shift(self, top: float) -> Shift | None:
        """The shift that stands on the last day; `top`: the evidence that it takes."""
        pages = self.pages(top)
        return pages[-1].shift if pages and pages[-1].back == len(self.days.day) else None

    def pages(self, top: float) -> list[PagedShift]:
        """Every shift that was of a practical size on any day, as it stood on each day's evening."""
        usual = DailyVariation.of(self.before)
        if usual is None:
            return []
        values, plain = self.size
        # The level is known from few days; what it may be off by is not held against the model.
        level: Array = np.full(len(values), usual.mean + usual.error)
        sizes = np.full(len(values), plain)
        if self.recent:
            level = sizes = _levels(self.before.value, self.days.value)
        values = np.where(np.isfinite(values), values, sizes)
        z, most = usual.standardised(self.days, level), np.broadcast_to(self.most, (len(level),))
        tails = mean_e_values(usual.standardised(self.before, usual.mean), float(np.min(most, initial=_CALM)))
        found = []
        for start, first, back in _episodes(_Evidence(z, most, tails), values, sizes, self.least, top):
            so_far = np.cumsum(values[start:back]) / np.arange(1, back - start + 1) - sizes[start]
            paged = np.flatnonzero(so_far[first - start :] >= self.least)
            if len(paged):
                evidence = float(e_detector(z[start:back], most[start:back], tails).max())
                stands = back if so_far[-1] >= self.least else -1
                found.append(PagedShift(first + int(paged[0]), stands, Shift(start, float(so_far[-1]), evidence)))
        return found


def count_streams(classes: int) -> int:
    """What is watched at once, and shares the rate of false pages: labels against hindsight (of two classes: up and
    down), each class's labels turned into others (a regression, which has none: 2, labels moved up and down), outcomes
    above and below scores, and loss above what scores expect."""
    return 4 + (classes or 2) + (classes == 2)


def threshold(watch: QualityWatch, classes: int) -> float:
    """Days from one false page to the next of one stream, on average at least."""
    return 365 * count_streams(classes) / watch.false_pages_a_year


def build_streams(reference: Sequence[Cohort], usual: Sequence[Cohort], days: Sequence[Cohort], watch: QualityWatch,
            scale: float, loss: float, classes: int) -> list[Stream]:  # fmt: skip
    """`usual`: the days of hindsight's own level. `scale`: the labels' standard deviation around the scores; `loss`:
    the mean loss of the reference; `classes`: 0 of a regression. `days`: with labels."""
    usual = [one for one in usual if one.labelled and one.hindsight is not None]
    labels = _of_labels(usual, days, watch, scale, classes)
    return [*labels, *_of_scores(reference, days, watch, scale, loss)]


def find_alarms(reference: Sequence[Cohort], usual: Sequence[Cohort], days: Sequence[Cohort], watch: QualityWatch,
           scale: float, loss: float, classes: int) -> list[Alarm]:  # fmt: skip
    """What stands on the last day. The arguments are those of build_streams()."""
    days, found = [one for one in days if one.labelled], []
    for stream in build_streams(reference, usual, days, watch, scale, loss, classes):
        shift = stream.shift(threshold(watch, classes))
        if shift is None:
            continue
        direction = stream.direction
        if stream.name == "labels" and classes != 2:
            direction = _higher(days[shift.start :])
        found.append(Alarm(stream.name, direction, days[shift.start].day, shift.size, shift.evidence))
    return found


def _of_scores(
    reference: Sequence[Cohort], days: Sequence[Cohort], watch: QualityWatch, scale: float, loss: float
) -> Iterator[Stream]:
    """Outcomes above and below the scores, and loss."""
    reference = [one for one in reference if one.labelled]
    if scale <= 0 or loss <= 0 or not reference:
        return
    outcomes = [_series(side, lambda one: one.residual / one.labelled / scale, 1.0) for side in (reference, days)]
    for sign in (1, -1):
        before, now = outcomes if sign > 0 else (-outcomes[0], -outcomes[1])
        mean = max(_mean(before), 0.0)
        yield Stream("residual", sign, before, now, (now.value, mean), watch.calibration, _STORM)
    rows = sum(one.labelled for one in reference)
    noise = sum(one.excess_squares for one in reference) / rows / loss**2
    lost = [_series(side, lambda one: (one.loss - one.expected) / one.labelled / loss, noise)
            for side in (reference, days)]  # fmt: skip
    # Days with more positives than foretold cost more: what they cost beyond that is what the model has lost.
    slope = _slope(outcomes[0].value, lost[0].value)
    before, now = (side.minus(slope * part.value) for side, part in zip(lost, outcomes, strict=True))
    yield Stream("loss", 1, before, now, (lost[1].value, _mean(lost[0])), watch.loss, _STORM)


def _of_labels(
    usual: Sequence[Cohort], days: Sequence[Cohort], watch: QualityWatch, scale: float, classes: int
) -> Iterator[Stream]:
    """Labels against hindsight, whichever way; and each class's labels."""
    if not days or not usual or not all(one.hindsight is not None and one.turned for one in days):
        return
    unit = 1.0 if classes else scale
    place = int(classes == 2)  # of two classes which way is told; of others only how far
    rows, squares = (float(sum(part)) for part in zip(*((one.labelled, one.hindsight_squares[place]) for one in usual),
                                                      strict=True))  # fmt: skip
    sides = [_series(side, lambda one: _hindsight(one, place) / unit, squares / rows / unit**2)
             for side in (usual, days)]  # fmt: skip
    for sign in (1, -1) if classes == 2 else (1,):
        before, now = sides if sign > 0 else (-sides[0], -sides[1])
        yield Stream("labels", sign, before, now, (now.value, 0.0), watch.labels_moved, _STORM, recent=True)
    for number in range(len(days[0].turned)):
        before, now = (_turned(side, number, unit, None if classes else squares / rows) for side in (usual, days))
        far = now.value - _levels(before.value, now.value) >= _ALONE * watch.labels_turned
        enough = np.array([one.turned[number][1] >= _TELLING for one in days])
        most = np.where(enough, np.where(far, _CALM, _CLEAR), _STORM)
        yield Stream("turned", number, before, now, (now.value, 0.0), watch.labels_turned, most, recent=True)


def _hindsight(one: Cohort, place: int) -> float:
    assert one.hindsight is not None
    return one.hindsight[place] / one.labelled


def _series(days: Sequence[Cohort], value: Callable[[Cohort], float], noise: float) -> Series:
    """`noise`: the variance of a row."""
    rows = np.array([one.labelled for one in days], dtype=np.float64)
    return Series(_places(days), np.array([value(one) for one in days]), noise / rows)


def _turned(days: Sequence[Cohort], place: int, unit: float, noise: float | None) -> Series:
    """The share of a class's labels that another rule turned, as estimated: known to 1 / information. Of a regression
    (with the variance of a row) how far labels moved."""
    sums = np.array([one.turned[place] for one in days]).reshape(-1, 2)
    information = np.where(sums[:, 1] >= 1, sums[:, 1], np.nan)
    chance = np.nan_to_num((1.0 if noise is None else noise / unit**2) / information, nan=np.inf)
    return Series(_places(days), sums[:, 0] / information / unit, chance)


def _places(days: Sequence[Cohort]) -> Array:
    return np.array([one.day.toordinal() for one in days], dtype=np.float64)


def _mean(series: Series) -> float:
    """Of the days, as rows weigh."""
    return float(np.average(series.value, weights=1 / np.maximum(series.noise, 1e-24)))


def _slope(outcomes: Array, lost: Array) -> float:
    """How much more loss a day has for what outcomes lie above its scores; 0 where too few days tell."""
    off = outcomes - outcomes.mean()
    square = float(off @ off)
    return float(off @ lost) / square if len(off) >= _PAIRS and square > 0 else 0.0


def _higher(days: Sequence[Cohort]) -> int:
    """1 where labels came out higher than hindsight says, -1 where lower, 0 where no number says it."""
    return int(np.sign(sum(one.hindsight[1] for one in days if one.hindsight)))


def _levels(before: Array, values: Array) -> Array:
    """(n,) the median of the RECENT days before each one, of those that tell anything."""
    both = np.concatenate([before, values])
    recent = [both[max(0, n - RECENT) : n] for n in range(len(before), len(both))]
    told = [days[np.isfinite(days)] for days in recent]
    return np.array([np.median(days) if len(days) else 0.0 for days in told])


class _Evidence(NamedTuple):
    """What e_detector() takes."""

    z: Array
    most: Array
    usual: Array

    def part(self, first: int, end: int) -> "_Evidence":
        return _Evidence(self.z[first:end], self.most[first:end], self.usual)


def _episodes(
    evidence: _Evidence, values: Array, level: Array, least: float, top: float
) -> Iterator[tuple[int, int, int]]:
    """(first day of a shift, day on which its evidence reached `top`, day on which it was back, or n), of each: once
    one is back, evidence is gathered anew. `values`, `level`: (n,) what has to be of the size `least`."""
    begun, n = 0, len(values)
    while begun < n:
        reached = np.flatnonzero(e_detector(*evidence.part(begun, n)) >= top)
        if not len(reached):
            return
        first = begun + int(reached[0])
        start = begun + _onset(evidence.part(begun, first + 1))
        # Held against the level before the shift: one that follows would forgive what lasts.
        still = level[start] + least
        recent = (day for day in range(first, n) if np.median(values[max(first, day - _SOON + 1) : day + 1]) <= still)
        back = next(recent, n)
        yield start, first, back
        begun = back + 1


def _onset(evidence: _Evidence) -> int:
    """The likeliest first day of a shift that lasts to the last one, of any of the shifts that share the evidence."""
    since = np.log(e_values(evidence.z, evidence.most) / evidence.usual[:, None])[:, ::-1].cumsum(axis=1)[:, ::-1]
    return int(since.max(axis=0).argmax())
