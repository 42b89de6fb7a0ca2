"""The page of an exploration, and where it is stored."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from truecourse.catalogue import texts
from truecourse.catalogue.chart import chart
from truecourse.exploration.columns import QUANTILES
from truecourse.exploration.records import Coverage, Exploration, Finding, Pair
from truecourse.html import PALETTE, render
from truecourse.storage.object_store import ObjectStore
from truecourse.wording import counted

PREFIX = "explore-"
"""The names of pages and records begin with it, so that no folder of a problem has their name."""
MOST_PAIRS = 20


def page_key(name: str) -> str:
    """The key of the page of an exploration, by its name."""
    return f"reports/{PREFIX}{name}.html"


def publish(store: ObjectStore, found: Exploration) -> str:
    """Write the page and its record; returns the page's key."""
    key = page_key(found.name)
    store.put(key.removesuffix("html") + "json", found.model_dump_json(exclude_defaults=True).encode())
    store.put(key, render_page(found).encode())
    return key


@dataclass(frozen=True)
class Cell:
    """A square of the heat map: its place, its strength, and what it says."""

    x: int
    y: int
    strength: float
    text: str


def render_page(found: Exploration) -> str:
    related = sorted((c for c in found.columns if c.relation is not None), key=_relation, reverse=True)
    return render(
        "explore.html",
        found=found,
        leaks=found.of("leak"),
        others=[finding for finding in found.findings if finding.topic != "leak"],
        related=related,
        scale=max([1e-9, *(max(_relation(c), 0.0) for c in related)]),
        of_column=_by_column(found.findings),
        cells=_cells(found),
        pairs=[pair for pair in found.pairs if pair.strength >= 0.1][:MOST_PAIRS],
        quantile_names=[f"{100 * q:g}%" for q in QUANTILES],
        bars=_bars,
        value=_value,
        chart=chart,
        colours=PALETTE,
        text=texts,
    )


def _relation(column: Any) -> float:
    return float(column.relation.value)


def _by_column(findings: Sequence[Finding]) -> dict[str, list[Finding]]:
    found: dict[str, list[Finding]] = {}
    for finding in findings:
        for column in finding.columns:
            found.setdefault(column, []).append(finding)
    return found


def _cells(found: Exploration) -> list[Cell]:
    """The squares above the diagonal of the heat map, in the order of `associated`."""
    places = {name: i for i, name in enumerate(found.associated)}
    return [_cell(places, pair) for pair in found.pairs if {pair.one, pair.other} <= places.keys()]


def _cell(places: dict[str, int], pair: Pair) -> Cell:
    one, other = sorted((places[pair.one], places[pair.other]))
    return Cell(other, one, pair.strength, f"{pair.one} and {pair.other}: {pair.measure} {pair.strength:.2f}")


@dataclass(frozen=True)
class Bar:
    """A bar in a box of 100 by 100, and what it says."""

    x: float
    width: float
    height: float
    text: str


def _bars(coverage: Coverage) -> list[Bar]:
    """The rows of each period."""
    most, width = max(rows for _, rows in coverage.counts), 100 / len(coverage.counts)
    return [
        Bar(width * i, 0.86 * width, 100 * rows / most, f"{start:%Y-%m-%d}: {counted(rows, 'row')}")
        for i, (start, rows) in enumerate(coverage.counts)
    ]


def _value(value: object) -> str:
    """A value of a column as text: numbers with six significant digits."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%S}"
    return f"{value:,.6g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
