"""The figures of a quality report: metrics, calibration, slices and days, and how good the estimates were."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import numpy as np

from truecourse.encoding import Array
from truecourse.metrics import resample, simultaneous, summary
from truecourse.monitoring.cohorts import Cohort, curve, metrics, of_slice, sliced
from truecourse.problem import Problem

_SLICES = 12
"""Of a column, in a report."""
_TIMELINE = 120
"""Days in a report."""
_FEWEST_ROWS = 100
_SAID_ALREADY = ("log_loss", "rmse")
"""A slice's mean loss says as much."""


def coming(open: Sequence[Cohort]) -> dict[str, Any]:
    """What is not scored yet: decisions, and the estimate of their loss."""
    return {"open": [{"day": str(one.day), "decisions": one.decisions, "estimate": one.estimate} for one in open]}


def measured(
    problem: Problem, reference: Sequence[Cohort], days: Sequence[Cohort], scored: Sequence[Cohort]
) -> dict[str, Any]:
    """Of all closed `days` a timeline, and the metrics of those that can be `scored`, with intervals over days: in the
    problem's window, in the reference, and the difference of both."""
    first = days[-1].day - problem.monitoring.quality.window + timedelta(days=1)
    window = [one for one in scored if one.day >= first]
    figures: dict[str, Any] = {"days": len(days), "timeline": [_day(one) for one in days[-_TIMELINE:]]}
    estimates = [(one.estimate, one.loss / one.labelled) for one in window if one.estimate is not None]
    if estimates:
        off = np.array([true - said for said, true in estimates])
        figures["estimate"] = {"days": len(off), "error": float(off.mean()), "size": float(np.abs(off).mean())}
    if not window or not reference:
        return figures
    figures["window"] = [str(window[0].day), str(window[-1].day)]
    figures["rows"] = sum(one.labelled for one in window)
    sides = [_samples(problem, side, seed) for seed, side in enumerate((window, reference))]
    figures["metrics"] = {
        name: {"now": summary(now), "reference": summary(sides[1][name]), "difference": summary(now - sides[1][name])}
        for name, now in sides[0].items()
    }
    figures["calibration"] = curve(window)
    figures["slices"] = _slices(problem, reference, window)
    return figures


def _samples(problem: Problem, days: Sequence[Cohort], seed: int) -> dict[str, Array]:
    return dict(metrics(problem.kind, days, resample(np.arange(len(days)), seed=seed)))


def _day(one: Cohort) -> dict[str, Any]:
    told: dict[str, Any] = {"day": str(one.day), "decisions": one.decisions, "labelled": one.labelled}
    if one.lag:
        told["lag"] = round(one.lag[1], 2)
    if one.labelled:
        told["loss"] = round(one.loss / one.labelled, 5)
    if one.estimate is not None:
        told["estimate"] = round(one.estimate, 5)
    return told


def _slices(problem: Problem, reference: Sequence[Cohort], window: Sequence[Cohort]) -> list[dict[str, Any]]:
    """Mean loss and the kind's metrics of each slice now, before, and their difference, whose intervals hold for all
    slices at once; and the slice's calibration curve."""
    before = {(column, value): sums for column, value, sums in sliced(reference)}
    weights = [resample(np.arange(len(side)), seed=seed) for seed, side in enumerate((window, reference))]
    found: list[dict[str, Any]] = []
    drawn: dict[str, list[tuple[dict[str, Any], Array, Array]]] = {}
    shown = dict.fromkeys((column for column, _ in before), 0)
    for column, value, sums in sliced(window):
        earlier = before.get((column, value))
        if earlier is None or min(sums[:, 0].sum(), earlier[:, 0].sum()) < _FEWEST_ROWS or shown[column] == _SLICES:
            continue
        shown[column] += 1
        part: dict[str, Any] = {"column": column, "value": value, "rows": int(sums[:, 0].sum()), "metrics": {}}
        found.append(part)
        with np.errstate(divide="ignore", invalid="ignore"):  # a resample without any of its rows: NaN
            now, then = ((w @ s[:, 2]) / (w @ s[:, 0]) for w, s in zip(weights, (sums, earlier), strict=True))
        drawn.setdefault("loss", []).append((part, now, then))
        sides = [of_slice(side, column, value) for side in (window, reference)]
        if sides[0] is None or sides[1] is None:
            continue
        part["calibration"] = [[n, round(said, 4), round(came, 4)] for n, said, came in curve(sides[0])]
        here, there = (metrics(problem.kind, side, w) for side, w in zip(sides, weights, strict=True) if side)
        for name in here:
            if name not in _SAID_ALREADY and np.isfinite([here[name][0], there[name][0]]).all():
                drawn.setdefault(name, []).append((part, here[name], there[name]))
    for name, told in drawn.items():
        differences = simultaneous(np.array([now - then for _, now, then in told]))
        for (part, now, then), difference in zip(told, differences, strict=True):
            figure = {"now": float(now[0]), "before": float(then[0]), "difference": difference}
            part["metrics"][name] = figure
    return found
