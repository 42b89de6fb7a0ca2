"""What the closed cohorts of a model say against its yardstick: found day by day, and paged within a set rate."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from typing import NamedTuple

import numpy as np

from truecourse.encoding import Array
from truecourse.monitoring.cohorts import Cohort
from truecourse.monitoring.policy import QualityWatch
from truecourse.monitoring.sequential import Usual, e_detector

RECENT = 28
"""Days whose median is what hindsight's level is held against: a season moves it, and is no new rule."""
_SOON = 7
_TELLING = 100.0
"""Information about a class's labels, from which on its share is known to 0.1, one standard deviation."""
_STORM, _CALM = 2.5, 5.0
"""A day's most, in standard deviations: a storm is over in two days and no drift; hindsight knows it from a rule."""


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


def streams(classes: int) -> int:
    """What is watched at once, and shares the rate of false pages: labels against hindsight, each class's labels turned
    into others (a regression, which has none: 2, labels moved up and down), outcomes above and below scores, and loss
    above what scores expect."""
    return 4 + (classes or 2)


def threshold(watch: QualityWatch, classes: int) -> float:
    """Days from one false page to the next of one stream, on average at least."""
    return 365 * streams(classes) / watch.false_pages_a_year


def by_hindsight(one: Cohort) -> float:
    """The share of labels that contradict hindsight, beyond what it expects (a regression: their mean distance)."""
    assert one.hindsight is not None
    return one.hindsight[0] / one.labelled


def by_class(place: int) -> Callable[[Cohort], float]:
    """The share of a class's labels that another rule turned, as estimated; NaN of a day that tells too little."""

    def value(one: Cohort) -> float:
        score, information = one.turned[place]
        return score / information if information >= _TELLING else np.nan

    return value


def by_score(one: Cohort) -> float:
    return one.residual / one.labelled


def by_loss(one: Cohort) -> float:
    return (one.loss - one.expected) / one.labelled


def alarms(reference: Sequence[Cohort], usual: Sequence[Cohort], days: Sequence[Cohort], watch: QualityWatch,
           scale: float, loss: float, classes: int) -> list[Alarm]:  # fmt: skip
    """`usual`: the days of hindsight's own level. `scale`: the labels' standard deviation around the scores; `loss`:
    the mean loss of the reference; `classes`: 0 of a regression."""
    days, top = [one for one in days if one.labelled], threshold(watch, classes)
    found, unit = [], 1.0 if classes else scale
    if days and all(one.hindsight is not None for one in (*usual, *days)):
        found.append(_rule("labels", by_hindsight, 0, usual, days, unit, watch.labels_moved, top))
    if days and all(one.turned for one in (*usual, *days)):
        found += [
            _rule("turned", by_class(place), place, usual, days, unit, watch.labels_turned, top)
            for place in range(len(days[0].turned))
        ]
    found += [_slow("residual", by_score, sign, reference, days, scale, watch.calibration, top) for sign in (1, -1)]
    found.append(_slow("loss", by_loss, 1, reference, days, loss, watch.loss, top))
    return [alarm for alarm in found if alarm]


def _slow(name: str, value: Callable[[Cohort], float], sign: int, reference: Sequence[Cohort], days: Sequence[Cohort],
          unit: float, least: float, top: float) -> Alarm | None:  # fmt: skip
    if unit <= 0:
        return None
    before, values = (np.array([sign * value(one) / unit for one in side]) for side in (reference, days))
    usual = Usual.of(before)
    if usual is None:
        return None
    # The level is known from few days; what it may be off by is not held against the model.
    level = max(usual.mean, 0.0) + usual.spread / (1 - usual.memory) / np.sqrt(usual.days)
    z = usual.standardised(values, level, least)
    shift = _standing(z, values, np.full(len(values), level), least, _STORM, top)
    return None if shift is None else Alarm(name, sign, days[shift.start].day, shift.size, shift.evidence)


def _rule(name: str, value: Callable[[Cohort], float], place: int, usual_days: Sequence[Cohort],
          days: Sequence[Cohort], unit: float, least: float, top: float) -> Alarm | None:  # fmt: skip
    before, values = (np.array([value(one) / unit for one in side]) for side in (usual_days, days))
    usual = Usual.of(before)
    if usual is None:
        return None
    level = _levels(before, values)
    values = np.where(np.isfinite(values), values, level)
    shift = _standing(usual.standardised(values, level, least), values, level, least, _CALM, top)
    if shift is None:
        return None
    direction = place if name == "turned" else _higher(days[shift.start :])
    return Alarm(name, direction, days[shift.start].day, shift.size, shift.evidence)


def _higher(days: Sequence[Cohort]) -> int:
    """1 where labels came out higher than hindsight says, -1 where lower, 0 where no number says it."""
    return int(np.sign(sum(one.hindsight[1] for one in days if one.hindsight)))


def _levels(before: Array, values: Array) -> Array:
    """(n,) the median of the RECENT days before each one, of those that tell anything."""
    both = np.concatenate([before, values])
    recent = [both[max(0, n - RECENT) : n] for n in range(len(before), len(both))]
    told = [days[np.isfinite(days)] for days in recent]
    return np.array([np.median(days) if len(days) else 0.0 for days in told])


def _standing(z: Array, values: Array, level: Array, least: float, most: float, top: float) -> Shift | None:
    """The shift that stands on the last day: its evidence reached `top`, and it has not come back since. Once one has,
    evidence is gathered anew."""
    begun = 0
    while begun < len(z):
        evidence = e_detector(z[begun:], most)
        reached = np.flatnonzero(evidence >= top)
        if not len(reached):
            return None
        first = begun + int(reached[0])
        start = begun + _onset(evidence[: reached[0] + 1])
        # Held against the level before the shift: one that follows would forgive what lasts.
        still = level[start] + least
        back = [n for n in range(first, len(z)) if np.median(values[max(first, n - _SOON + 1) : n + 1]) <= still]
        if not back:
            size = float(values[start:].mean() - level[start])
            return Shift(start, size, float(evidence.max())) if size >= least else None
        begun = back[0] + 1
    return None


def _onset(evidence: Array) -> int:
    """The day from which the evidence grew to its last value: the one after it was last negligible."""
    low = np.flatnonzero(evidence <= 2.0)
    return int(min(low[-1] + 1, len(evidence) - 1)) if len(low) else 0
