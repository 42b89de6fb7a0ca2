"""A quality report as a page: days against their estimates, calibration, metrics with intervals, slices."""

from datetime import datetime
from typing import Any

from truecourse.monitoring.findings import Report
from truecourse.pages import PALETTE, figure, render, svg
from truecourse.problem import Problem

_SOFT = "#8a9099"


def page(problem: Problem, report: Report) -> str:
    """HTML, everything inline."""
    figures, plots = report.figures, {}
    if any("loss" in told for told in figures.get("timeline", ())):
        plots["days"] = svg(_days(report), "Mean loss of each day, and what was estimated before its labels came")
    if figures.get("calibration"):
        plots["calibration"] = svg(_calibration(figures["calibration"]), "Outcomes by score")
    return render("quality.html", report=report, problem=problem, plots=plots)


def _days(report: Report) -> Any:
    drawn, axis = figure(9.0, 3.0)
    told = [*report.figures["timeline"], *report.figures["open"]]
    for name, colour, label in (("estimate", _SOFT, "estimate"), ("loss", PALETTE[0], "came true")):
        points = [(datetime.fromisoformat(one["day"]), one[name]) for one in told if one.get(name) is not None]
        if points:
            at, values = zip(*points, strict=True)
            axis.plot(at, values, color=colour, label=label, linewidth=1.8, linestyle="-" if name == "loss" else ":")
    for since in {finding.figures["since"] for finding in report.findings if "since" in finding.figures}:
        axis.axvline(datetime.fromisoformat(since), color=PALETTE[1], linewidth=1, linestyle=(0, (4, 3)))
    axis.set_ylabel("mean loss of a day")
    axis.legend(loc="upper left", labelcolor=_SOFT, frameon=False, ncols=2)
    drawn.autofmt_xdate()
    return drawn


def _calibration(curve: list[list[float]]) -> Any:
    drawn, axis = figure(4.4, 3.4)
    _, said, came = zip(*curve, strict=True)
    ends = [min(*said, *came), max(*said, *came)]
    axis.plot(ends, ends, color=_SOFT, linewidth=1, linestyle=":")
    axis.plot(said, came, "o-", color=PALETTE[0], linewidth=1.8, markersize=5)
    axis.set_xlabel("mean score")
    axis.set_ylabel("mean outcome")
    return drawn
