"""Timelines of drift and quality, from stored reports, with the times of promotions."""

from collections.abc import Sequence
from datetime import datetime
from itertools import pairwise
from typing import Any

from markupsafe import Markup

from truecourse.html import PALETTE, figure, svg
from truecourse.monitoring import report_store
from truecourse.problem import Problem
from truecourse.references import naive_utc
from truecourse.registry import aliases
from truecourse.storage.object_store import ObjectStore

_DAYS = 120
_MOVES = 100
"""Entries of the alias history that are searched for promotions: a canary writes five for one promotion."""
_ROOM = 3.0
"""Days of space before the first point and after the last: otherwise the axis of one day spans four years."""
_SOFT = "#8a9099"
_BAD = "#d0342c"


def timelines(store: ObjectStore, problem: Problem) -> dict[str, Markup]:
    """Draw the timelines as SVG, by title: drift has a point per check, quality one per closed day.

    Empty while there are no reports."""
    promoted = _promotions(problem.name)
    drawn = {"Drift": _drift(store, problem), "Quality": _quality(store, problem)}
    shown: dict[str, Markup] = {}
    for name, timeline in drawn.items():
        if timeline is None:
            continue
        title, drawing = timeline
        axis = drawing.axes[0]
        first, last = axis.dataLim.intervalx
        room = max(_ROOM, (last - first) / 20)
        low, high = first - room, last + room
        _mark(axis, [moment for moment in promoted if low <= _number(moment) <= high])
        axis.set_xlim(low, high)
        _date(axis)
        shown[f"{name}: {title}"] = svg(drawing, title)
    return shown


def _promotions(problem: str) -> list[datetime]:
    """Return when another version became champion; the first champion is not counted."""
    entries = [entry for entry in aliases.recent(problem, _MOVES) if entry.champion is not None]
    moments = [naive_utc(after.at) for before, after in pairwise(entries) if before.champion != after.champion]
    return [moment for moment in moments if moment is not None]


def _drift(store: ObjectStore, problem: Problem) -> tuple[str, Any] | None:
    marks = [mark for mark in report_store.timeline(store, problem.name, "drift") if mark.largest is not None]
    points = [(mark.at, mark.largest, mark.state in ("critical", "warning")) for mark in marks]
    if not points:
        return None
    drawing, axis = figure(6.0, 2.6)
    days = [naive_utc(moment) for moment, _, _ in points]
    axis.plot(days, [value for _, value, _ in points], color=PALETTE[0], linewidth=1.6, marker=".", markersize=4)
    alarmed = [(day, value) for day, (_, value, alarm) in zip(days, points, strict=True) if alarm]
    axis.plot([day for day, _ in alarmed], [value for _, value in alarmed], "o", color=_BAD, markersize=4.5)
    axis.set(ylabel="largest PSI of a column")
    axis.set_ylim(bottom=0)
    return "the largest PSI of any column, by the end of the data checked; red: with a finding", drawing


def _quality(store: ObjectStore, problem: Problem) -> tuple[str, Any] | None:
    newest = report_store.latest(store, problem.name, "quality")
    days: Sequence[dict[str, Any]] = newest.figures.get("timeline", ()) if newest else ()
    if not any("loss" in day for day in days):
        return None
    drawing, axis = figure(6.0, 2.6)
    for name, label, colour, style in (("loss", "actual", PALETTE[0], "-"), ("estimate", "estimated", _SOFT, "--")):
        points = [(datetime.fromisoformat(day["day"]), day[name]) for day in days[-_DAYS:] if name in day]
        if points:
            axis.plot(*zip(*points, strict=True), color=colour, linestyle=style, linewidth=1.6, label=label)
    axis.set(ylabel=problem.metric.replace("_", " "))
    axis.legend(loc="best", labelcolor=_SOFT, frameon=False, ncols=2)
    return f"{problem.metric.replace('_', ' ')} by closed day: actual, and estimated from the scores", drawing


def _date(axis: Any) -> None:
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    locator = AutoDateLocator(minticks=3, maxticks=7)
    axis.xaxis.set_major_locator(locator)
    axis.xaxis.set_major_formatter(ConciseDateFormatter(locator))


def _mark(axis: Any, moments: Sequence[datetime]) -> None:
    for moment in moments:
        axis.axvline(moment, color=PALETTE[2], linewidth=1.2, linestyle=(0, (4, 3)))


def _number(moment: datetime) -> float:
    from matplotlib.dates import date2num

    return float(date2num(moment))
