"""The shapes of a distribution over time, in a box of 100 by 100, for the catalogue page."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from truecourse.catalogue.distributions import Distribution, Part
from truecourse.catalogue.texts import period_name, quantile_names, value_text
from truecourse.html import share
from truecourse.wording import counted

SIZE = 100.0
_ALL = 0.9999
"""Rounded shares of all values sum to at least this."""


@dataclass(frozen=True)
class Bar:
    """A rectangle. `kind`: the place of a category; that of all other values follows the last category's."""

    x: float
    y: float
    width: float
    height: float
    kind: int = 0


@dataclass(frozen=True)
class Chart:
    """`wide`, `narrow`: polygons from the 5% to the 95% and from the 25% to the 75% quantile; `median`: lines, of
    points. `low`, `high`: the values at the lower and upper edge. `stacks`: shares of categories. `others`: whether
    there are values of other categories. `missing`: the missing share of each period. `texts`: the figures of each
    period, with the rectangle over it."""

    first: str
    last: str
    wide: list[str]
    narrow: list[str]
    median: list[str]
    low: float | None
    high: float | None
    stacks: list[Bar]
    others: bool
    missing: list[Bar]
    texts: list[tuple[Bar, str]]


def chart(distribution: Distribution | None) -> Chart | None:
    """Compute the shapes; None for fewer than two periods, or an unknown distribution."""
    parts = distribution.periods if distribution else ()
    if distribution is None or len(parts) < 2:
        return None
    width = SIZE / len(parts)
    values = [part.quantiles for part in parts]
    known = [value for quantiles in values for value in quantiles]
    low, high = (min(known), max(known)) if known else (None, None)
    runs = list(_runs(values))
    places = [[(width * (at + 0.5), values[at]) for at in run] for run in runs]
    return Chart(
        first=period_name(distribution, parts[0]),
        last=period_name(distribution, parts[-1]),
        wide=[_band(run, 0, 4, low, high) for run in places],
        narrow=[_band(run, 1, 3, low, high) for run in places],
        median=[_line(run, 2, low, high) for run in places],
        low=low,
        high=high,
        stacks=[bar for at, part in enumerate(parts) for bar in _stack(width * at, width, part)],
        others=any(part.shares and sum(part.shares) < _ALL for part in parts),
        missing=[
            Bar(width * at, SIZE * (1 - found), width, SIZE * found)
            for at, part in enumerate(parts)
            if (found := part.missing_share)
        ],
        texts=[(Bar(width * at, 0, width, SIZE), _text(distribution, part)) for at, part in enumerate(parts)],
    )


def _text(distribution: Distribution, part: Part) -> str:
    values = ""
    if part.quantiles:
        quantiles = zip(quantile_names(), part.quantiles, strict=True)
        values = "; " + ", ".join(f"{name}: {value_text(value)}" for name, value in quantiles)
    elif part.shares:
        shares = zip(distribution.categories, part.shares, strict=True)
        values = "; " + ", ".join(f"{name}: {share(found)}" for name, found in shares)
    rows = f"{counted(part.rows, 'row')}, missing {share(part.missing_share)}" if part.rows else "no rows"
    return f"{period_name(distribution, part)}: {rows}{values}"


def _runs(values: Sequence[Sequence[float]]) -> Iterator[list[int]]:
    """Consecutive periods that have values."""
    for has_values, run in groupby(range(len(values)), lambda at: bool(values[at])):
        if has_values:
            yield list(run)


_Places = list[tuple[float, tuple[float, ...]]]


def _line(run: _Places, quantile: int, low: float | None, high: float | None) -> str:
    ends = run if len(run) > 1 else [(run[0][0] - 1, run[0][1]), (run[0][0] + 1, run[0][1])]
    return " ".join(f"{x:.2f},{_height(quantiles[quantile], low, high):.2f}" for x, quantiles in ends)


def _band(run: _Places, lower: int, upper: int, low: float | None, high: float | None) -> str:
    back = " ".join(reversed(_line(run, lower, low, high).split()))
    return f"{_line(run, upper, low, high)} {back}"


def _height(value: float, low: float | None, high: float | None) -> float:
    """The distance from the upper edge; the middle if all values are equal."""
    if low is None or high is None or high <= low:
        return SIZE / 2
    return SIZE * (high - value) / (high - low)


def _stack(x: float, width: float, part: Part) -> Iterator[Bar]:
    """The shares of a period from below, with a gap to the next period."""
    top = SIZE
    for kind, found in enumerate([*part.shares, max(0.0, 1 - sum(part.shares))] if part.shares else []):
        top -= SIZE * found
        yield Bar(x, max(top, 0.0), 0.9 * width, SIZE * found, kind)
