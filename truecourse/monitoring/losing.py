"""What the closed cohorts of a model say against its yardstick: found day by day, and paged within a set rate."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date

import numpy as np

from truecourse.encoding import Array
from truecourse.monitoring.cohorts import Cohort
from truecourse.monitoring.policy import QualityWatch
from truecourse.monitoring.sequential import Usual, e_detector

RECENT = 28
"""Days whose median is what hindsight's level is held against: a season moves it, and is no new rule."""
_SOON = 7
_STORM, _RULE = 2.5, 5.0
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
    threshold: float


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
        rule = _rule_alarm(usual, days, scale if regression else 1.0, watch)
        found += [rule] if rule else []
    for name, value, sizes, unit, least in (
        ("residual", by_score, (1, -1), scale, watch.calibration),
        ("loss", by_loss, (1,), loss, watch.loss),
    ):
        found += [a for sign in sizes if (a := _slow(name, value, sign, reference, days, unit, least, watch))]
    return found


def _slow(name: str, value: Callable[[Cohort], float], sign: int, reference: Sequence[Cohort], days: Sequence[Cohort],
          unit: float, least: float, watch: QualityWatch) -> Alarm | None:  # fmt: skip
    before, values = (np.array([sign * value(one) for one in side]) for side in (reference, days))
    usual = Usual.of(before)
    if usual is None or not len(days) or unit <= 0:
        return None
    # The level is known from few days; what it may be off by is not held against the model.
    level = max(usual.mean, 0.0) + usual.spread / (1 - usual.memory) / np.sqrt(usual.days)
    evidence = e_detector(usual.standardised(values, level, least * unit), _STORM)
    start = _onset(evidence)
    size = float(values[start:].mean() - max(usual.mean, 0.0)) / unit
    top = threshold(watch)
    if not _standing(evidence, top, values, level + least * unit) or size < least:
        return None
    return Alarm(name, sign, days[start].day, size, float(evidence[-1]), top)


def _rule_alarm(usual_days: Sequence[Cohort], days: Sequence[Cohort], unit: float, watch: QualityWatch) -> Alarm | None:
    before, values = (np.array([by_hindsight(one) / unit for one in side]) for side in (usual_days, days))
    usual = Usual.of(before)
    if usual is None:
        return None
    level = _levels(before, values)
    evidence, top = e_detector(usual.standardised(values, level, watch.labels_moved), _RULE), threshold(watch)
    start = _onset(evidence)
    # Held against the level before the shift: one that follows would forgive what lasts.
    size = float(values[start:].mean() - level[start])
    if not _standing(evidence, top, values, float(level[start]) + watch.labels_moved) or size < watch.labels_moved:
        return None
    residual = sum(one.hindsight[1] for one in days[start:] if one.hindsight)
    return Alarm("labels", 1 if residual > 0 else -1, days[start].day, size, float(evidence.max()), top)


def _levels(before: Array, values: Array) -> Array:
    """(n,) the median of the RECENT days before each one."""
    both = np.concatenate([before, values])
    return np.array([np.median(both[max(0, n - RECENT) : n]) for n in range(len(before), len(both))])


def _onset(evidence: Array) -> int:
    """The day from which the evidence grew to its height: the one after it was last negligible."""
    top = int(np.argmax(evidence))
    low = np.flatnonzero(evidence[: top + 1] <= 2.0)
    return int(min(low[-1] + 1, top)) if len(low) else 0


def _standing(evidence: Array, top: float, values: Array, still: float) -> bool:
    """The evidence once reached its threshold, and the last days have not come back since."""
    reached = np.flatnonzero(evidence >= top)
    if not len(reached):
        return False
    recent = values[max(int(reached[0]), len(values) - _SOON) :]
    return bool(np.median(recent) > still)
