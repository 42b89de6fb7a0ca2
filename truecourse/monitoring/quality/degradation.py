"""The degradation test: which shifts the closed cohorts of a model show relative to its baseline, day by day.

The null hypothesis is no change at all, so a lasting shift is detected soon. A shift raises an alarm only if it also
has a practical size. The rate of false alarms is set by `QualityWatch.false_pages_a_year`.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date

import numpy as np

from truecourse.arrays import Array
from truecourse.monitoring.quality.cohorts import Cohort
from truecourse.monitoring.quality.e_detector import Series
from truecourse.monitoring.quality.streams import JoinedStream, Stream, levels
from truecourse.problem.definition import Kind
from truecourse.problem.monitoring import QualityWatch
from truecourse.statistics.metrics import bounded

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
    regression: 0 up, 1 down). `versions`: whose predictions the days since then are about."""

    stream: str
    direction: int
    since: date
    size: float
    evidence: float
    versions: tuple[int, ...] = ()


@dataclass(frozen=True)
class FormerLabels:
    """The closed cohorts of a former champion or a canary, as evidence about labels.

    `version`: its number. `usual`: its baseline days. `days`: its closed cohorts with labels. `scale`: the labels'
    standard deviation around its scores."""

    version: int
    usual: Sequence[Cohort]
    days: Sequence[Cohort]
    scale: float


def label_scale(kind: Kind, reference: Sequence[Cohort]) -> tuple[float, float]:
    """Return the standard deviation of labels around the scores, and the mean loss; 0 without labelled rows."""
    rows = sum(one.labelled for one in reference)
    if not rows:
        return 0.0, 0.0
    loss = sum(one.loss for one in reference) / rows
    variance = loss if kind == "regression" else sum(one.variance for one in reference) / rows
    return float(np.sqrt(variance)), loss


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
    labels = _of_labels(_usable(usual), days, watch, scale, classes)
    return [*labels, *_of_scores(reference, days, watch, scale, loss)]


def find_alarms(reference: Sequence[Cohort], usual: Sequence[Cohort], days: Sequence[Cohort], watch: QualityWatch,
                scale: float, loss: float, classes: int, version: int = 0,
                former: Sequence[FormerLabels] = ()) -> list[Alarm]:  # fmt: skip
    """Find the shifts that last on the last day. Arguments as in build_streams().

    `version`: the champion's number. `former`: other versions that answered. Their label streams are joined with the
    champion's. The streams of scores and loss are about the champion alone."""
    days = [one for one in days if one.labelled]
    figures: dict[tuple[str, int], list[tuple[int, Stream]]] = {}
    by_version: list[tuple[int, Iterable[Stream]]] = [
        (version, build_streams(reference, usual, days, watch, scale, loss, classes)),
        *((one.version, _of_labels(_usable(one.usual), one.days, watch, one.scale, classes)) for one in former),
    ]
    for number, streams in by_version:
        for stream in streams:
            figures.setdefault((stream.name, stream.direction), []).append((number, stream))
    alarms = []
    for (name, direction), parts in figures.items():
        joined = JoinedStream.of([stream for _, stream in parts])
        shift = joined.lasting_shift(threshold(watch, classes)) if joined else None
        if joined is None or shift is None:
            continue
        since = date.fromordinal(int(joined.day[shift.start]))
        if name == "labels" and classes != 2:
            cohorts = [*days, *(day for one in former for day in one.days)]
            direction = _label_direction([one for one in cohorts if one.day >= since])
        versions = sorted(parts[place][0] for place in joined.streams_since(shift.start))
        alarms.append(Alarm(name, direction, since, shift.size, shift.evidence, tuple(versions)))
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
        far = now.value - levels(before.value, now.value) >= _ONE_DAY_FACTOR * watch.labels_turned
        enough = np.array([one.turned[number][1] >= _MIN_INFORMATION for one in days])
        clip = np.where(enough, np.where(far, _CLIP_ONE_DAY, _CLIP_TWO_DAYS), _CLIP)
        yield Stream("turned", number, before, now, (now.value, 0.0), watch.labels_turned, clip, recent=True)


def _usable(usual: Sequence[Cohort]) -> list[Cohort]:
    return [one for one in usual if one.labelled and one.label_residuals is not None]


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
