"""Distributions and missing shares of columns, over time and in all.

Missing values are counted in all rows. Quantiles and shares are those of evenly spaced rows, so that the cost is
bounded for any number of rows.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import pairwise
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from truecourse.arrays import Array
from truecourse.references import Reference

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
MOST_PERIODS = 36
MOST_CATEGORIES = 5
ROWS_OF_A_PERIOD = 10_000
"""Rows of a period whose values are read."""
ROWS_IN_ALL = 100_000
"""Rows of the whole table whose values are read."""

Form = Literal["number", "category", "missing"]
Period = Literal["day", "week", "month", "quarter", "year"]
PERIODS: tuple[Period, ...] = ("day", "week", "month", "quarter", "year")
_FARTHEST = float(np.finfo(float).max / 4)
"""Values beyond ± this are described as this: the differences of any two are doubles too."""
_EPOCH = date(1970, 1, 1)
_MONDAY = 4
"""The first Monday, in days since 1970-01-01."""


class Part(Reference):
    """A column in the rows of one period, or in all rows.

    `start`: the first day of the period, as ISO text; empty for all rows. `quantiles`: of numbers, at QUANTILES; empty
    without values. `shares`: of each category among the values; empty without values."""

    start: str = ""
    rows: int
    missing: int
    quantiles: tuple[float, ...] = ()
    shares: tuple[float, ...] = ()

    @property
    def missing_share(self) -> float | None:
        """None without rows."""
        return self.missing / self.rows if self.rows else None


class Distribution(Reference):
    """The values of one column. `periods` are consecutive; a table without time has none.

    `form`: "number" has quantiles; "category" has shares of `categories`, the most frequent values; "missing" has only
    counts, since values are private or times."""

    form: Form
    total: Part
    period: Period | None = None
    periods: tuple[Part, ...] = ()
    categories: tuple[str, ...] = ()

    def without_values(self) -> "Distribution":
        """The same without quantiles, categories and shares."""
        bare = {"quantiles": (), "shares": ()}
        return Distribution(
            form="missing",
            total=self.total.model_copy(update=bare),
            period=self.period,
            periods=tuple(part.model_copy(update=bare) for part in self.periods),
        )


@dataclass(frozen=True)
class _Slices:
    """Consecutive ranges of rows, one for each period. `ends`: (p + 1,) row numbers. `chosen`: the rows of each period
    whose values are read; `chosen_ends`: the ranges in `chosen`."""

    period: Period | None
    starts: list[str]
    ends: Array
    chosen: Array
    chosen_ends: Array


def distributions(
    frame: pa.Table, names: Collection[str], time: str | None, categorical: Collection[str] = ()
) -> dict[str, Distribution]:
    """Describe columns of a frame. `time`: a UTC time column by which the frame is sorted, or None without time.

    `categorical`: numeric columns whose values are categories. Text and booleans always are."""
    slices = _slices(frame[time] if time else None, len(frame))
    overall = _evenly_spaced(0, len(frame), ROWS_IN_ALL)
    return {name: _describe(frame[name], slices, overall, name in categorical) for name in names}


def _slices(times: pa.ChunkedArray | None, rows: int) -> _Slices:
    if times is None or not rows:
        none = np.zeros(1, np.int64)
        return _Slices(None, [], none, none[:0], none)
    days = times.cast(pa.timestamp("us", tz="UTC")).to_numpy().astype("datetime64[D]").astype(np.int64)
    period, numbers = _choose_period(days)
    ends = np.searchsorted(numbers, np.arange(numbers[0], numbers[-1] + 2))
    chosen = [_evenly_spaced(low, high, ROWS_OF_A_PERIOD) for low, high in pairwise(ends.tolist())]
    starts = [_first_day(period, int(number)).isoformat() for number in range(numbers[0], numbers[-1] + 1)]
    return _Slices(period, starts, ends, np.concatenate(chosen), np.cumsum([0, *map(len, chosen)]))


def _choose_period(days: Array) -> tuple[Period, Array]:
    """The finest period of which the days span at most MOST_PERIODS, or else years; and its number for each day."""
    for period in PERIODS:
        numbers = period_numbers(period, days)
        if numbers[-1] - numbers[0] < MOST_PERIODS or period == "year":
            break
    return period, numbers


def period_numbers(period: Period, days: Array) -> Array:
    """The number of the period that each day is in. `days`: since 1970-01-01."""
    if period == "day":
        return days
    if period == "week":
        return (days - _MONDAY) // 7
    months = days.astype("datetime64[D]").astype("datetime64[M]").astype(np.int64)
    return months // {"month": 1, "quarter": 3, "year": 12}[period]


def _first_day(period: Period, number: int) -> date:
    if period in ("day", "week"):
        return _EPOCH + timedelta(days=number if period == "day" else 7 * number + _MONDAY)
    months = number * {"month": 1, "quarter": 3, "year": 12}[period]
    return date(1970 + months // 12, months % 12 + 1, 1)


def _evenly_spaced(low: int, high: int, most: int) -> Array:
    """Row numbers from `low` to before `high`: all of them, or `most` evenly spaced ones."""
    if high - low <= most:
        return np.arange(low, high)
    return np.linspace(low, high - 1, most).astype(np.int64)


def _describe(column: pa.ChunkedArray, slices: _Slices, overall: Array, categorical: bool) -> Distribution:
    form = _form(column.type, categorical)
    absent = pc.is_null(column, nan_is_null=pa.types.is_floating(column.type)).to_numpy()
    missing = np.concatenate([[0], np.cumsum(absent)])
    rows, gone = (np.diff(part).tolist() for part in (slices.ends, missing[slices.ends]))
    ranges = list(pairwise(slices.chosen_ends.tolist()))
    categories: tuple[str, ...] = ()
    values: list[tuple[float, ...]] = [()] * (1 + len(ranges))
    if form == "category":
        categories, values = _shares(column, slices.chosen, ranges, overall)
    elif form == "number":
        numbers = _numbers(column, slices.chosen)
        values = [_quantiles(_numbers(column, overall)), *(_quantiles(numbers[low:high]) for low, high in ranges)]
    name = "shares" if form == "category" else "quantiles"
    total, *parts = (
        Part(start=start, rows=count, missing=absent_values, **{name: found})
        for start, count, absent_values, found in zip(
            ["", *slices.starts], [len(column), *rows], [int(missing[-1]), *gone], values, strict=True
        )
    )
    return Distribution(form=form, total=total, period=slices.period, periods=tuple(parts), categories=categories)


def _form(kind: pa.DataType, categorical: bool) -> Form:
    if categorical or pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_boolean(kind):
        return "category"
    return "number" if pa.types.is_integer(kind) or pa.types.is_floating(kind) else "missing"


def _numbers(column: pa.ChunkedArray, rows: Array) -> Array:
    """The values of some rows as float64; NaN if missing."""
    values: Array = column.take(pa.array(rows)).cast(pa.float64(), safe=False).to_numpy()
    return values


def _quantiles(values: Array) -> tuple[float, ...]:
    finite = np.clip(values[np.isfinite(values)], -_FARTHEST, _FARTHEST)
    return _rounded(np.quantile(finite, QUANTILES)) if len(finite) else ()


def _shares(
    column: pa.ChunkedArray, chosen: Array, ranges: list[tuple[int, int]], overall: Array
) -> tuple[tuple[str, ...], list[tuple[float, ...]]]:
    """The most frequent values, and their shares in the rows `overall` and in each range of the rows `chosen`."""
    names, codes = _codes(column, np.concatenate([overall, chosen]))
    whole, rest = codes[: len(overall)], codes[len(overall) :]
    counts = np.bincount(whole[whole >= 0], minlength=len(names))
    largest = [place for place in np.argsort(-counts, kind="stable")[:MOST_CATEGORIES].tolist() if counts[place]]
    parts = [whole, *(rest[low:high] for low, high in ranges)]
    return tuple(names[place] for place in largest), [_share(part, largest, len(names)) for part in parts]


def _codes(column: pa.ChunkedArray, rows: Array) -> tuple[list[str], Array]:
    """The distinct values of some rows as text, and each row's place among them; -1 if it is missing."""
    values = column.take(pa.array(rows)).cast(pa.string()).combine_chunks()
    encoded = (values if isinstance(values, pa.Array) else pa.array([], pa.string())).dictionary_encode()
    return encoded.dictionary.to_pylist(), encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False)


def _share(codes: Array, kept: list[int], categories: int) -> tuple[float, ...]:
    """The share of each kept category among values that are not missing; empty without any."""
    counts = np.bincount(codes[codes >= 0], minlength=categories)
    return _rounded(counts[kept] / counts.sum()) if counts.sum() else ()


def _rounded(values: Array) -> tuple[float, ...]:
    """The values with six significant digits."""
    return tuple(float(f"{value:.6g}") for value in values)
