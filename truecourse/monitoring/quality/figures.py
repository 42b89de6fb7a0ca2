"""The figures of a quality report: metrics, calibration, slices and days, and how good the estimates were."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import numpy as np

from truecourse.arrays import Array
from truecourse.modeling.decisions import DecisionRule
from truecourse.monitoring.quality.cohorts import Cohort, calibration_curve
from truecourse.monitoring.quality.compared_cohorts import ComparedCohorts, reference_cohorts
from truecourse.monitoring.quality.realised_decisions import decision_metrics
from truecourse.problem import Problem
from truecourse.statistics.intervals import COVERAGE, Estimate, difference, simultaneous
from truecourse.statistics.metrics import influence

_SLICES = 12
"""Slices of a column that a report shows."""
_TIMELINE = 120
"""Days that a report shows."""
_FEWEST_ROWS = 100
_NOT_BY_SLICE = ("log_loss", "rmse", "excess_loss")
"""Metrics that slices do not repeat: they follow from the mean loss, or need the expected loss, which is not stored."""


def open_figures(open: Sequence[Cohort]) -> dict[str, Any]:
    """List the open cohorts: their decisions and the estimate of their loss."""
    return {"open": [{"day": str(one.day), "decisions": one.decisions, "estimate": one.estimate} for one in open]}


def closed_figures(
    problem: Problem,
    reference: Sequence[Cohort],
    days: Sequence[Cohort],
    scored: Sequence[Cohort],
    rule: DecisionRule | None = None,
) -> dict[str, Any]:
    """Compute the figures of closed cohorts: a timeline of all `days`, and the metrics of the `scored` ones.

    Metrics come with intervals over days: in the problem's window, in the reference, and for the difference of both.
    With a decision rule, they include the metrics of its decisions."""
    first = days[-1].day - problem.monitoring.quality.window + timedelta(days=1)
    window = [one for one in scored if one.day >= first]
    figures: dict[str, Any] = {"days": len(days), "timeline": [_day(one) for one in days[-_TIMELINE:]]}
    estimates = [(one.estimate, one.loss / one.labelled) for one in window if one.estimate is not None]
    if estimates:
        off = np.array([actual - estimate for estimate, actual in estimates])
        figures["estimate"] = {"days": len(off), "error": float(off.mean()), "size": float(np.abs(off).mean())}
    if not window:
        return figures
    figures["window"] = [str(window[0].day), str(window[-1].day)]
    figures["rows"] = sum(one.labelled for one in window)
    figures["corrected"] = sum(one.corrected for one in window)
    now, then = ComparedCohorts(problem.kind, window), reference_cohorts(problem.kind, reference) if reference else None
    before = then.metrics if then else {}
    figures["metrics"] = {name: _compared(figure, before.get(name)) for name, figure in now.metrics.items()}
    if rule is not None:
        earlier = decision_metrics(rule, reference)
        decided = decision_metrics(rule, window).items()
        figures["metrics"] |= {name: _compared(figure, earlier.get(name)) for name, figure in decided}
    figures["calibration"] = calibration_curve(window)
    if then is not None:
        figures["slices"] = _slices(problem, then, now)
    return figures


def _compared(now: Estimate, then: Estimate | None) -> dict[str, Estimate | None]:
    """Return the figures now and in the reference; the difference is None where there is no reference."""
    return {"now": now, "reference": then, "difference": difference(now, then) if then else None}


def _day(one: Cohort) -> dict[str, Any]:
    row: dict[str, Any] = {"day": str(one.day), "decisions": one.decisions, "labelled": one.labelled}
    if one.corrected:
        row["corrected"] = one.corrected
    if one.lag:
        row["lag"] = round(one.lag[1], 2)
    if one.labelled:
        row["loss"] = round(one.loss / one.labelled, 5)
        row["expected"] = round(one.expected / one.labelled, 5)
        row["outcome"] = round(sum(part[2] for part in one.bins) / one.labelled, 5)
    if one.estimate is not None:
        row["estimate"] = round(one.estimate, 5)
    return row


def _slices(problem: Problem, then: ComparedCohorts, now: ComparedCohorts) -> list[dict[str, Any]]:
    """Compute the mean loss, the metrics and the calibration curve of each slice, now and in the reference.

    The intervals of the differences hold for all slices simultaneously."""
    slices: list[dict[str, Any]] = []
    drawn: dict[str, list[tuple[dict[str, Any], Array, Array]]] = {}
    shown = dict.fromkeys((column for column, _ in then.sums), 0)
    for (column, value), sums in now.sums.items():
        earlier = then.sums.get((column, value))
        if earlier is None or min(sums[:, 0].sum(), earlier[:, 0].sum()) < _FEWEST_ROWS or shown[column] == _SLICES:
            continue
        shown[column] += 1
        part: dict[str, Any] = {"column": column, "value": value, "rows": int(sums[:, 0].sum()), "metrics": {}}
        slices.append(part)
        drawn.setdefault("loss", []).append((part, now.loss(column, value), then.loss(column, value)))
        here, there = now.slice(column, value), then.slice(column, value)
        if here is None or there is None:
            continue
        curve = calibration_curve(here)
        part["calibration"] = [[n, round(score, 4), round(outcome, 4)] for n, score, outcome in curve]
        samples = now.slice_metrics(column, value), then.slice_metrics(column, value)
        for name in samples[0]:
            if name not in _NOT_BY_SLICE and np.isfinite([side[name][0] for side in samples]).all():
                drawn.setdefault(name, []).append((part, samples[0][name], samples[1][name]))
    for name, parts in drawn.items():
        both = [np.array(side) for side in ([one for _, one, _ in parts], [other for _, _, other in parts])]
        differences = simultaneous(both[0][:, 0] - both[1][:, 0], *map(influence, both))
        for (part, one, other), off in zip(parts, differences, strict=True):
            part["metrics"][name] = {"now": float(one[0]), "before": float(other[0]), "difference": off}
    _add_calibration(slices, then, now)
    return slices


def _add_calibration(parts: list[dict[str, Any]], before: ComparedCohorts, window: ComparedCohorts) -> None:
    """Add the calibration error of slices whose bins are stored, with simultaneous intervals (Bonferroni)."""
    shown = [part for part in parts if "calibration" in part]
    for part in shown:
        coverage = 1 - (1 - COVERAGE) / len(shown)
        now, then = (side.slice_calibration(part["column"], part["value"], coverage) for side in (window, before))
        if now["value"] is None or then["value"] is None:
            continue
        figure = {"now": now["value"], "before": then["value"], "difference": difference(now, then)}
        part["metrics"]["calibration_error"] = figure
