"""Plots of a replay: the loss of both systems over time, with alarms and events."""

from datetime import datetime
from typing import Any

from truecourse.html import PALETTE, figure

_SOFT = "#8a9099"
_MARKS = {"promoted": ("^", PALETTE[2]), "kept": ("o", _SOFT), "rolled back": ("v", PALETTE[3])}
Document = dict[str, Any]


def timeline(document: Document) -> Any:
    """Draw the weekly loss, with alarms and retrainings below it on the same time axis."""
    drawn, axis = figure(9.0, 4.2)
    weeks = document["weeks"]
    at = [datetime.fromisoformat(week["week"]) for week in weeks]
    for name, colour in (("frozen", _SOFT), ("maintained", PALETTE[0])):
        axis.plot(at, [week[name] for week in weeks], color=colour, label=name, linewidth=1.8)
    low, high = axis.get_ylim()
    step = (high - low) / 12
    rows = {"data drift": low - step, "alarms": low - 2 * step, "models": low - 3 * step}
    for when, share in document["drift"]:
        axis.bar(_day(when), step * 0.8 * share, bottom=rows["data drift"] - step * 0.4, width=1.0, color=PALETTE[4])
    for one in document["alarms"]:
        colour = PALETTE[1] if one["fault"] else "#d0342c"
        axis.plot(_day(one["at"]), rows["alarms"], marker="|", markersize=11, color=colour, mew=2)
    for event in document["events"]:
        marker, colour = _MARKS.get(event["what"], ("o", _SOFT))
        axis.plot(_day(event["at"]), rows["models"], marker=marker, color=colour, markersize=7)
    for fault in document["faults"]:
        axis.axvline(_day(fault["start"]), color=PALETTE[1], linewidth=1, linestyle=(0, (4, 3)))
    axis.set_ylim(low - 4 * step, high)
    ticks = [tick for tick in axis.get_yticks() if low <= tick <= high]
    axis.set_yticks([*rows.values(), *ticks], [*rows, *(f"{tick:.3g}" for tick in ticks)])
    axis.set_ylabel(f"{document['means']['metric'].replace('_', ' ')} by week".replace("rmse", "squared error"))
    axis.legend(loc="upper right", labelcolor=_SOFT, frameon=False, ncols=2)
    return drawn


def ranking(document: Document) -> Any:
    """Draw the monthly ranking metric of both systems with its intervals."""
    metric, months = document["means"]["ranking"], document["months"]
    drawn, axis = figure(9.0, 2.8)
    for shift, (name, colour) in zip((-0.12, 0.12), (("frozen", _SOFT), ("maintained", PALETTE[0])), strict=True):
        for place, month in enumerate(months):
            found = month[name][metric]
            if found["low"] is not None:
                axis.plot([place + shift] * 2, [found["low"], found["high"]], color=colour, linewidth=1.2)
        values = [month[name][metric]["value"] for month in months]
        axis.plot([place + shift for place in range(len(months))], values, "o", color=colour, label=name)
    axis.set_xticks(range(len(months)), [month["month"] for month in months])
    axis.set_ylabel({"auc": "AUC", "r2": "R²"}.get(metric, metric))
    axis.legend(loc="best", labelcolor=_SOFT, frameon=False, ncols=2)
    return drawn


def _day(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=None)
