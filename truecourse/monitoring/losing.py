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
_STORM, _CALM = 2.5, 5.0
"""A day's most, in standard deviations: a storm is over in two days and no drift; hindsight knows it from a rule."""
STREAMS = 4
"""What is watched at once, and shares the rate of false pages: labels against hindsight, outcomes above and below
scores, and loss above what scores expect."""


@dataclass(frozen=True)
class Alarm:
    """A stream that is above its threshold. `since`: the first day of the shift, as far as the days tell. `size`: its
    mean since then, beyond the usual, in the stream's practical unit."""

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


def threshold(watch: QualityWatch) -> float:
    """Days from one false page to the next of one stream, on average at least."""
    return 365 * STREAMS / watch.false_pages_a_year


def by_hindsight(one: Cohort) -> float:
    """The share of labels that contradict hindsight, beyond what it expects (a regression: their mean distance)."""
    assert one.hindsight is not None
    return one.hindsight[0] / one.labelled


def by_score(one: Cohort) -> float:
    return one.residual / one.labelled


def by_loss(one: Cohort) -> float:
    return (one.loss - one.expected) / one.labelled


def alarms(reference: Sequence[Cohort], usual: Sequence[Cohort], days: Sequence[Cohort], watch: QualityWatch,
           scale: float, loss: float, regression: bool = False) -> list[Alarm]:  # fmt: skip
    """`usual`: the days of hindsight's own level. `scale`: the labels' standard deviation around the scores; `loss`:
    the mean loss of the reference."""
    days = [one for one in days if one.labelled]
    found = []
    if days and all(one.hindsight is not None for one in (*usual, *days)):
        found.append(_rule(usual, days, scale if regression else 1.0, watch))
    found += [_slow("residual", by_score, sign, reference, days, scale, watch.calibration, watch) for sign in (1, -1)]
    found.append(_slow("loss", by_loss, 1, reference, days, loss, watch.loss, watch))
    return [alarm for alarm in found if alarm]


def _slow(name: str, value: Callable[[Cohort], float], sign: int, reference: Sequence[Cohort], days: Sequence[Cohort],
          unit: float, least: float, watch: QualityWatch) -> Alarm | None:  # fmt: skip
    if unit <= 0:
        return None
    before, values = (np.array([sign * value(one) / unit for one in side]) for side in (reference, days))
    usual = Usual.of(before)
    if usual is None:
        return None
    # The level is known from few days; what it may be off by is not held against the model.
    level = max(usual.mean, 0.0) + usual.spread / (1 - usual.memory) / np.sqrt(usual.days)
    z = usual.standardised(values, level, least)
    shift = _standing(z, values, np.full(len(values), level), least, _STORM, threshold(watch))
    return None if shift is None else Alarm(name, sign, days[shift.start].day, shift.size, shift.evidence)


def _rule(usual_days: Sequence[Cohort], days: Sequence[Cohort], unit: float, watch: QualityWatch) -> Alarm | None:
    before, values = (np.array([by_hindsight(one) / unit for one in side]) for side in (usual_days, days))
    usual = Usual.of(before)
    if usual is None:
        return None
    level, least = _levels(before, values), watch.labels_moved
    shift = _standing(usual.standardised(values, level, least), values, level, least, _CALM, threshold(watch))
    if shift is None:
        return None
    residual = sum(one.hindsight[1] for one in days[shift.start :] if one.hindsight)
    sign = 1 if residual > 0 else -1
    return Alarm("labels", sign, days[shift.start].day, shift.size, shift.evidence)


def _levels(before: Array, values: Array) -> Array:
    """(n,) the median of the RECENT days before each one."""
    both = np.concatenate([before, values])
    return np.array([np.median(both[max(0, n - RECENT) : n]) for n in range(len(before), len(both))])


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
