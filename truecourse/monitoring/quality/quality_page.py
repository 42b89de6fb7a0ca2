"""The quality page: daily loss and its estimates, calibration, metrics with intervals, slices."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from truecourse.html import PALETTE, figure, render, svg
from truecourse.monitoring.findings import Report
from truecourse.problem import Problem
from truecourse.statistics.metrics import metric_label

_SOFT = "#8a9099"
_FIGURES: dict[str, Any] = {
    "version": None, "timeline": (), "days": 0, "estimate": None, "metrics": None, "window": None, "rows": None,
    "corrected": 0, "selection": None, "thresholds": None,
    "reference": "", "calibration": (), "slices": (), "open": (),
}  # fmt: skip
"""Defaults of a report's figures: a problem without time has few of them, and so has one without closed cohorts."""


def page(problem: Problem, report: Report) -> str:
    """Render the report as one HTML file without external resources."""
    figures = _FIGURES | report.figures
    plots: dict[str, Any] = {}
    if any("loss" in day for day in figures["timeline"]):
        plots["days"] = svg(_days(report, figures), "Mean loss of each day, and its estimate before labels were known")
    if figures["calibration"]:
        plots["calibration"] = svg(_calibration(figures["calibration"]), "Outcomes by score")
    plots["slices"] = {
        column: svg(_curves(parts), f"Outcomes by score, for each {column}")
        for column, parts in _by_column(figures["slices"]).items()
    }
    return render(
        "quality.html", report=report, problem=problem, figures=figures, plots=plots, metric_label=metric_label
    )


def _days(report: Report, figures: dict[str, Any]) -> Any:
    drawn, axis = figure(9.0, 3.0)
    days = [*figures["timeline"], *figures["open"]]
    for name, colour, label in (("estimate", _SOFT, "estimate"), ("loss", PALETTE[0], "actual")):
        points = [(datetime.fromisoformat(one["day"]), one[name]) for one in days if one.get(name) is not None]
        if points:
            at, values = zip(*points, strict=True)
            axis.plot(at, values, color=colour, label=label, linewidth=1.8, linestyle="-" if name == "loss" else ":")
    for since in {finding.figures["since"] for finding in report.findings if "since" in finding.figures}:
        axis.axvline(datetime.fromisoformat(since), color=PALETTE[1], linewidth=1, linestyle=(0, (4, 3)))
    axis.set_ylabel("mean loss of a day")
    axis.legend(loc="upper left", labelcolor=_SOFT, frameon=False, ncols=2)
    drawn.autofmt_xdate()
    return drawn


def _by_column(slices: Sequence[dict[str, Any]]) -> dict[str, dict[str, list[list[float]]]]:
    """Group the calibration curves by column and value: the largest slices, as many as there are colours."""
    by_column: dict[str, dict[str, list[list[float]]]] = {}
    for part in slices:
        curves = by_column.setdefault(part["column"], {})
        if part.get("calibration") and len(curves) < len(PALETTE):
            curves[part["value"]] = part["calibration"]
    return {column: curves for column, curves in by_column.items() if curves}


def _calibration(curve: list[list[float]]) -> Any:
    return _curves({"": curve})


def _curves(curves: dict[str, list[list[float]]]) -> Any:
    drawn, axis = figure(4.4, 3.4)
    ends = [value for curve in curves.values() for _, *both in curve for value in both]
    axis.plot([min(ends), max(ends)], [min(ends), max(ends)], color=_SOFT, linewidth=1, linestyle=":")
    for colour, (name, curve) in zip(PALETTE, curves.items(), strict=False):
        _, scores, outcomes = zip(*curve, strict=True)
        axis.plot(scores, outcomes, "o-", color=colour, linewidth=1.8, markersize=5, label=name)
    if len(curves) > 1:
        axis.legend(loc="upper left", labelcolor=_SOFT, frameon=False)
    axis.set_xlabel("mean score")
    axis.set_ylabel("mean outcome")
    return drawn
