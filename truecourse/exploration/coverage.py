"""Time columns: their span, their rows by period, gaps, and times in the future."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import numpy as np

from truecourse.catalogue.distributions import PERIODS, Period, period_numbers
from truecourse.exploration.records import Coverage, Finding
from truecourse.exploration.source import Column, Source
from truecourse.wording import counted, format_duration

MOST_GAPS = 5
_MOST_PERIODS = 120
_LONG = 10
"""A gap is reported if it is this many times as long as the 95% quantile of the days between days with rows."""


def time_coverage(source: Source, now: datetime | None = None) -> list[Coverage]:
    """The coverage of every time column with values."""
    moment = (now or datetime.now(UTC)).replace(tzinfo=None)
    return [found for column in source.columns if column.form == "time" and (found := _cover(source, column, moment))]


def _cover(source: Source, column: Column, now: datetime) -> Coverage | None:
    first, last, future = source.fetch(
        f"SELECT min({column.sql}), max({column.sql}), count_if({column.sql} > TIMESTAMP '{now}') FROM data"  # noqa: S608
    )[0]
    if first is None:
        return None
    day = f"date_trunc('day', {column.sql})::TIMESTAMP"
    rows = source.fetch(
        f"SELECT {day}, count(*) FROM data WHERE {column.sql} IS NOT NULL GROUP BY 1 ORDER BY 1"  # noqa: S608
    )
    days = np.array([moment for moment, _ in rows], "datetime64[D]").astype(np.int64)
    counts = np.array([count for _, count in rows])
    period, numbers = _choose(days)
    sums = np.bincount(numbers - numbers[0], weights=counts).astype(np.int64)
    starts = [_start(period, int(numbers[0]) + i) for i in range(len(sums))]
    return Coverage(
        column=column.name, first=first, last=last, period=period,
        counts=tuple(zip(starts, sums.tolist(), strict=True)), empty_periods=int((sums == 0).sum()),
        gaps=tuple(_gaps(days)), future=future,
    )  # fmt: skip


def _choose(days: np.ndarray) -> tuple[Period, np.ndarray]:
    for period in PERIODS:
        numbers = period_numbers(period, days)
        if numbers[-1] - numbers[0] < _MOST_PERIODS or period == "year":
            break
    return period, numbers


def _start(period: Period, number: int) -> datetime:
    if period in ("day", "week"):
        return datetime(1970, 1, 1) + timedelta(days=number if period == "day" else 7 * number + 4)
    months = number * {"month": 1, "quarter": 3, "year": 12}[period]
    return datetime(1970 + months // 12, months % 12 + 1, 1)


def _gaps(days: np.ndarray) -> Iterator[tuple[datetime, datetime]]:
    """The longest runs of days without rows: the last day before and the first day after each."""
    steps = np.diff(days)
    if len(steps) < 5:
        return
    usual = max(float(np.quantile(steps, 0.95)), 1.0)
    for place in np.argsort(-steps, kind="stable")[:MOST_GAPS]:
        if steps[place] >= max(2, _LONG * usual if usual > 1 else 3):
            yield tuple(datetime(1970, 1, 1) + timedelta(days=int(days[at])) for at in (place, place + 1))  # type: ignore[misc]


def coverage_findings(coverage: list[Coverage]) -> Iterator[Finding]:
    for found in coverage:
        if found.gaps:
            start, end = found.gaps[0]
            others = f", and {counted(len(found.gaps) - 1, 'other gap')}" if len(found.gaps) > 1 else ""
            what = f"{found.column} has no rows for {format_duration(end - start - timedelta(days=1))}"
            days = f"from {start + timedelta(days=1):%Y-%m-%d} to {end - timedelta(days=1):%Y-%m-%d}"
            yield Finding(topic="time gap", columns=(found.column,), sentence=f"{what}, {days}{others}")
        if found.future:
            what = f"{found.column} has {counted(found.future, 'value')} in the future, up to {found.last:%Y-%m-%d}"
            yield Finding(topic="future times", columns=(found.column,), sentence=what)
