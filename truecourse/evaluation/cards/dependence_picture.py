"""The drawing of how a feature's contributions depend on its values."""

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from truecourse.html import PALETTE, figure, svg
from truecourse.wording import counted

LONGEST_NAME = 32
"""Characters of a category that the picture shows."""


def dependence_picture(one: Mapping[str, Any], title: str) -> Markup:
    """Draw the mean contribution and 80% of the rows by value, as SVG. `one`: an element of dependence()."""
    drawn, axis = figure(4.6, 2.6)
    numbers = [part for part in one["bins"] if isinstance(part["value"], float)]
    others = [part for part in one["bins"] if not isinstance(part["value"], float)]
    if numbers:
        places = [part["value"] for part in numbers]
        axis.fill_between(places, [p["low"] for p in numbers], [p["high"] for p in numbers], alpha=0.25, linewidth=0)
        axis.plot(places, [part["mean"] for part in numbers], marker="o", markersize=3, linewidth=1.4)
        for part in others:
            axis.axhline(part["mean"], color=PALETTE[1], linewidth=1, linestyle=(0, (4, 3)), label=part["value"])
        if others:
            axis.legend(loc="best")
    else:
        places = list(range(len(others)))
        ends = [[p["mean"] - p["low"] for p in others], [p["high"] - p["mean"] for p in others]]
        ends = [[max(end, 0.0) for end in side] for side in ends]
        axis.errorbar([p["mean"] for p in others], places, xerr=ends, fmt="o", markersize=4, elinewidth=1)
        axis.set_yticks(places, [_name(str(part["value"])) for part in others])
        axis.invert_yaxis()
    axis.set(**{"ylabel" if numbers else "xlabel": "contribution"})
    return svg(drawn, f"Contribution of {title} by its value")


def _name(value: str) -> str:
    """The name of a category. A part of a longer one would not be found when a subject is forgotten."""
    return value if len(value) <= LONGEST_NAME else f"a text of {counted(len(value), 'character')}"
