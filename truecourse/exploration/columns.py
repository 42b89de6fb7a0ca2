"""Summaries of columns: counts and extremes over all rows, quantiles and histograms of the sample."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from truecourse.arrays import Array
from truecourse.exploration.records import Bin, ColumnSummary, Finding, Outliers
from truecourse.exploration.source import Column, Source
from truecourse.html import share
from truecourse.wording import counted, counted_of

QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
BINS = 24
MOST_VALUES = 10
EXACT_ROWS = 1_000_000
"""Up to this many rows, distinct values of every column are counted exactly; beyond, by HyperLogLog if there are more
than EXACT_DISTINCT."""
EXACT_DISTINCT = 10_000
_TOGETHER = 10
"""Columns whose distinct values are counted in one query."""
FARTHEST = 1e100
_FENCE = 3.0
_FAR = 2.5


def summarize(source: Source) -> list[ColumnSummary]:
    """Summarize every column."""
    counts = _counts(source)
    exact = _exact_distinct(source, {name: found["distinct"] for name, found in counts.items()})
    numbers = {c.sql: _finite(source, c) for c in source.columns if c.form == "number"}
    fences = {name: fence for name, values in numbers.items() if (fence := _fence(values)) is not None}
    beyond = _beyond(source, fences)
    return [
        _summary(
            source, column, counts[column.sql], exact.get(column.sql), numbers.get(column.sql), fences.get(column.sql),
            beyond,
        )
        for column in source.columns
    ]  # fmt: skip


def _counts(source: Source) -> dict[str, dict[str, Any]]:
    """Of each column: held values, estimated distinct ones, least, greatest, mean and standard deviation."""
    parts, names = [], ("held", "distinct", "low", "high", "mean", "deviation")
    for column in source.columns:
        value = f"length({column.sql})" if column.type == "Text" else column.sql
        limited = f"greatest(least({column.sql}::DOUBLE, {FARTHEST}), -{FARTHEST})"  # which are not null for null
        bounded = f"CASE WHEN {column.sql} IS NOT NULL THEN {limited} END"
        moments = f"avg({bounded}), stddev_pop({bounded})" if column.form == "number" else "NULL, NULL"
        ends = f"min({value}), max({value})" if column.type != "Boolean" else "NULL, NULL"
        parts.append(f"count({column.sql}), approx_count_distinct({column.sql}), {ends}, {moments}")
    if not parts:
        return {}
    row = source.fetch(f"SELECT {', '.join(parts)} FROM data")[0]  # noqa: S608
    width = len(names)
    return {
        column.sql: dict(zip(names, row[width * i : width * (i + 1)], strict=True))
        for i, column in enumerate(source.columns)
    }


def _exact_distinct(source: Source, estimated: dict[str, int]) -> dict[str, int]:
    """Exact numbers of distinct values, for columns of few rows or few values."""
    if source.whole:
        return {column.sql: pc.count_distinct(source.values(column)).as_py() for column in source.columns}
    chosen = [name for name, count in estimated.items() if source.rows <= EXACT_ROWS or count <= EXACT_DISTINCT]
    found: dict[str, int] = {}
    for names in (chosen[at : at + _TOGETHER] for at in range(0, len(chosen), _TOGETHER)):
        parts = ", ".join(f"count(DISTINCT {name})" for name in names)
        found |= dict(zip(names, source.fetch(f"SELECT {parts} FROM data")[0], strict=True))  # noqa: S608
    return found


def _finite(source: Source, column: Column) -> Array:
    """The values of a column in the sample, those beyond ±FARTHEST as that: their squares are doubles too."""
    values = source.values(column).drop_null().to_numpy(zero_copy_only=False).astype(np.float64)
    return np.asarray(np.clip(values[np.isfinite(values)], -FARTHEST, FARTHEST))


def _fence(values: Array) -> tuple[float, float] | None:
    """Tukey's outer fences; None without a spread between the quartiles."""
    if len(values) < 20:
        return None
    low, high = np.quantile(values, (0.25, 0.75)).tolist()
    return (low - _FENCE * (high - low), high + _FENCE * (high - low)) if high > low else None


def _beyond(source: Source, fences: dict[str, tuple[float, float]]) -> dict[str, int]:
    if not fences:
        return {}
    parts = [f"count_if({name} < {low!r} OR {name} > {high!r})" for name, (low, high) in fences.items()]
    row = source.fetch(f"SELECT {', '.join(parts)} FROM data")[0]  # noqa: S608
    return dict(zip(fences, row, strict=True))


def _summary(
    source: Source,
    column: Column,
    counts: dict[str, Any],
    exact: int | None,
    numbers: Array | None,
    fence: tuple[float, float] | None,
    beyond: dict[str, int],
) -> ColumnSummary:
    distinct = counts["distinct"] if exact is None else exact
    shown = column.form == "category" or distinct <= 20
    text = column.type == "Text"
    return ColumnSummary(
        name=column.name, type=column.type, unit=column.unit, description=column.declared.description,
        role=column.role, private=column.private, rows=source.rows,
        missing=source.rows - counts["held"] - column.unreadable, unreadable=column.unreadable, distinct=distinct,
        distinct_exact=exact is not None,
        minimum=None if column.private and not text else counts["low"],
        maximum=None if column.private and not text else counts["high"],
        mean=None if column.private else counts["mean"], deviation=None if column.private else counts["deviation"],
        quantiles=_quantiles(numbers) if numbers is not None and not column.private else (),
        histogram=_histogram(numbers, fence) if numbers is not None and not column.private else (),
        top=_top(source, column, distinct) if shown and not column.private else (),
        outliers=Outliers(rows=beyond[column.sql], low=fence[0], high=fence[1])
        if fence and beyond[column.sql] and not column.private
        else None,
    )  # fmt: skip


def _quantiles(values: Array) -> tuple[float, ...]:
    return tuple(np.quantile(values, QUANTILES).tolist()) if len(values) else ()


def _histogram(values: Array, fence: tuple[float, float] | None) -> tuple[Bin, ...]:
    """Bins of equal width between the fences; the values beyond are in the outer bins."""
    if not len(values) or values.min() == values.max():
        return ()
    low, high = float(values.min()), float(values.max())
    if fence:
        low, high = max(low, fence[0]), min(high, fence[1])
    whole = bool((values == np.floor(values)).all()) and high - low < BINS
    edges = np.arange(np.floor(low), np.floor(high) + 2) - 0.5 if whole else np.linspace(low, high, BINS + 1)
    counts, _ = np.histogram(np.clip(values, edges[0], edges[-1]), edges)
    return tuple(
        Bin(low=a, high=b, rows=n)
        for a, b, n in zip(edges[:-1].tolist(), edges[1:].tolist(), counts.tolist(), strict=True)
    )


def _top(source: Source, column: Column, distinct: int) -> tuple[tuple[Any, int], ...]:
    """The most frequent values with their rows; of many values, those that are frequent in the sample."""
    among = ""
    if source.whole:
        return tuple(_most_frequent(source.values(column), MOST_VALUES))
    if distinct > EXACT_DISTINCT:
        values = [literal(value) for value, _ in _most_frequent(source.values(column), 2 * MOST_VALUES)]
        among = f" AND {column.sql} IN ({', '.join(values)})" if values else ""
    query = (
        f"SELECT {column.sql}, count(*) FROM data WHERE {column.sql} IS NOT NULL{among} "  # noqa: S608
        f"GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT {MOST_VALUES}"
    )
    return tuple(source.fetch(query))


def _most_frequent(values: pa.Array, most: int) -> list[tuple[Any, int]]:
    """The most frequent values with their rows; of equally frequent ones, the least."""
    found = pc.value_counts(values.drop_null())
    pairs = zip(found.field("values").to_pylist(), found.field("counts").to_pylist(), strict=True)
    return sorted(pairs, key=lambda pair: (-pair[1], pair[0]))[:most]


def literal(value: Any) -> str:
    """SQL of a text, number or truth value."""
    return "'" + value.replace("'", "''") + "'" if isinstance(value, str) else repr(value)


def column_findings(source: Source, summaries: list[ColumnSummary]) -> Iterator[Finding]:
    """Findings about single columns: unreadable cells, constants, missing values, outliers and placeholders."""
    for column, summary in zip(source.columns, summaries, strict=True):
        name = (column.name,)
        if summary.unreadable:
            cells = ", ".join(f"{text!r}" for text, _ in column.exceptions) if not column.private else ""
            what = (
                f"{counted_of(summary.unreadable, summary.rows, 'cell')} of {column.name} do not parse as {column.type}"
            )
            yield Finding(topic="unreadable", columns=name, sentence=f"{what}{f': {cells}' if cells else ''}")
        if summary.distinct == 1:
            what = f"{column.name} has one value in all of its rows"
            value = f": {summary.top[0][0]}" if summary.top else ""
            yield Finding(topic="constant", columns=name, sentence=f"{what}{value}")
        elif summary.top and (most := summary.top[0][1]) >= 0.995 * (summary.rows - summary.missing) and most > 200:
            what = f"{column.name} has the value {summary.top[0][0]} in {_nearly(most, summary.rows - summary.missing)}"
            yield Finding(topic="constant", columns=name, sentence=f"{what} of its rows")
        if summary.missing_share >= 0.5:
            what = f"{column.name} is missing in {_nearly(summary.missing, summary.rows)} of the rows"
            yield Finding(topic="missing", columns=name, sentence=what)
        if column.form == "number" and not column.private and summary.distinct >= 10:
            yield from _far_values(column.name, np.sort(_finite(source, column)))


def _nearly(part: int, whole: int) -> str:
    """A share that is not rounded to all: "100.0%" only for all of them."""
    text = share(part / whole)
    return ">99.9%" if text == "100.0%" and part < whole else text


def _short(value: Any) -> str:
    return f"{value:,.6g}" if isinstance(value, int | float) else str(value)


def _far_values(name: str, values: Array) -> Iterator[Finding]:
    """Findings about sorted values that lie far from all others: one repeated value may stand for a missing one."""
    if len(values) < 100:
        return
    for sign in (1, -1):
        ordered = sign * values[::sign]
        place = _gap(ordered)
        if place is None:
            continue
        far, nearest = sign * ordered[place:], sign * float(ordered[place - 1])
        if len(far) >= 3 and far[0] == far[-1]:
            what = f"{share(len(far) / len(values))} of the values of {name} are {_short(float(far[0]))}"
            sentence = f"{what}, far from all others: do they stand for missing values?"
            yield Finding(topic="placeholder", columns=(name,), sentence=sentence)
        else:
            what = f"{name} has {counted(len(far), 'value')} far from all others, up to {_short(float(far[-1]))}"
            sentence = f"{what}; the nearest other one is {_short(nearest)}"
            yield Finding(topic="outliers", columns=(name,), sentence=sentence)


def _gap(ordered: Array) -> int | None:
    """The place of the first value, within the greatest tenth, that is _FAR times as far from the median as the value
    before it; None without one."""
    start = int(0.9 * len(ordered))
    distance = ordered[start:] - np.median(ordered)
    found = np.flatnonzero((distance[:-1] > 0) & (distance[1:] > _FAR * distance[:-1]))
    return start + int(found[0]) + 1 if len(found) else None
