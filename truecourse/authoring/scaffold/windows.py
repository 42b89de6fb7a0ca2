"""Choose the windows of proposed aggregations, from how often a key's events and decisions occur."""

import math
from dataclasses import dataclass
from datetime import datetime, timedelta

import duckdb

from truecourse.problem.durations import days, hours
from truecourse.wording import format_duration

LADDER = (*map(hours, (1, 6)), *map(days, (1, 7, 30, 90, 180, 365, 730)))
"""The windows to choose from, ascending."""
_LEAST = 0.1
"""Smallest share of the decisions that have an event: in a window, and at all."""
_DECISIONS = 20_000
"""Roughly the number of decisions for which events are counted."""
_EVER = days(36_500)


@dataclass(frozen=True)
class Moments:
    """Rows of a DuckDB table with a key and a time: decisions or events. `key` and `time` are its columns."""

    rows: str
    key: str
    time: str

    @property
    def query(self) -> str:
        return f"SELECT {self.key} AS k, {self.time} AS t FROM {self.rows} WHERE k IS NOT NULL AND t IS NOT NULL"  # noqa: S608

    @property
    def sample(self) -> str:
        """A query of about _DECISIONS of the rows, always the same."""
        divisor = f"(SELECT 1 + count(*) // {_DECISIONS} FROM {self.rows})"  # noqa: S608
        return f"{self.query} AND hash(k, t) % {divisor} = 0"


@dataclass(frozen=True)
class Windows:
    """Chosen windows, ascending, the share of decisions with any earlier event, and the reason for the choice."""

    lengths: tuple[timedelta, ...]
    seen: float
    reason: str

    @property
    def enough(self) -> bool:
        """Whether enough decisions have an earlier event."""
        return self.seen >= _LEAST


def choose_windows(
    connection: duckdb.DuckDBPyConnection, decisions: Moments, events: Moments, delay: timedelta
) -> Windows:
    """Choose up to three windows in which at least a tenth of the decisions have an event.

    These are the shortest in which half of those with any earlier event have one, the one nearest to the time between
    the decisions of a key, and the longest that half of the decisions see whole; else one between them.
    `delay`: how long after its time an event counts."""
    shares = _shares(connection, decisions, events, delay)
    seen = shares[_EVER]
    span = _span(connection, decisions, events)
    usable = [window for window in LADDER if window <= span and shares[window] >= _LEAST]
    if not usable:
        return Windows((), seen, f"{seen:.0%} of the decisions have an earlier event")
    short = next((window for window in usable if shares[window] >= seen / 2), usable[-1])
    chosen, reasons = {short, usable[-1]}, []
    gap = typical_gap(connection, decisions)
    if gap is not None:
        chosen.add(min(usable, key=lambda window: abs(_ratio(window, gap))))
        reasons.append(f"decisions of a key are about {format_duration(gap)} apart")
    between = [window for window in usable if 2 * short < window < usable[-1]]
    if len(chosen) < 3 and between:
        chosen.add(between[len(between) // 2])
    lengths = tuple(sorted(chosen))
    shown = ", ".join(f"{shares[window]:.0%} in {format_duration(window)}" for window in lengths)
    return Windows(lengths, seen, "; ".join([f"of the decisions, {shown} have an event", *reasons]))


def typical_gap(connection: duckdb.DuckDBPyConnection, moments: Moments) -> timedelta | None:
    """The median time between two moments of a key; None if no key has two."""
    median, _, _ = _gaps(connection, moments)
    return None if median is None else timedelta(seconds=median)


def is_regular(connection: duckdb.DuckDBPyConnection, moments: Moments) -> bool:
    """Whether most gaps between a key's moments are about equal, as of monthly decisions."""
    _, low, high = _gaps(connection, moments)
    return low is None or high is None or high <= 1.25 * low


def _gaps(connection: duckdb.DuckDBPyConnection, moments: Moments) -> tuple[float | None, float | None, float | None]:
    gaps = f"SELECT date_diff('second', lag(t) OVER (PARTITION BY k ORDER BY t), t) AS gap FROM ({moments.query})"  # noqa: S608
    query = f"SELECT median(gap), quantile_cont(gap, .1), quantile_cont(gap, .9) FROM ({gaps}) WHERE gap > 0"  # noqa: S608
    (found,) = connection.execute(query).fetchall()
    median, low, high = found
    return median, low, high


def _shares(
    connection: duckdb.DuckDBPyConnection, decisions: Moments, events: Moments, delay: timedelta
) -> dict[timedelta, float]:
    """The share of decisions with an event in each window, and at all (_EVER)."""
    spans = ", ".join(f"to_seconds({window // timedelta(seconds=1)})" for window in (*LADDER, _EVER))
    query = f"""
        WITH counted AS (
            SELECT DISTINCT k, t, count(*) OVER (PARTITION BY k ORDER BY t) AS n FROM ({events.query})
        ), asked AS (
            SELECT k, t - to_seconds({delay // timedelta(seconds=1)}) AS upto, t - span AS since, span
            FROM ({decisions.sample}), (SELECT unnest([{spans}]) AS span)
        )
        SELECT span, avg(CASE WHEN coalesce(a.n, 0) > coalesce(b.n, 0) THEN 1.0 ELSE 0.0 END)
        FROM asked ASOF LEFT JOIN counted AS a ON asked.k = a.k AND asked.upto >= a.t
        ASOF LEFT JOIN counted AS b ON asked.k = b.k AND asked.since >= b.t
        GROUP BY span"""  # noqa: S608
    found: dict[timedelta, float] = dict(connection.execute(query).fetchall())
    return {window: found.get(window, 0.0) for window in (*LADDER, _EVER)}


def _span(connection: duckdb.DuckDBPyConnection, decisions: Moments, events: Moments) -> timedelta:
    """The time from the first event to the median decision."""
    query = f"SELECT (SELECT min(t) FROM ({events.query})), (SELECT median(t) FROM ({decisions.query}))"  # noqa: S608
    ((first, middle),) = connection.execute(query).fetchall()
    return middle - first if isinstance(first, datetime) and isinstance(middle, datetime) else timedelta(0)


def _ratio(one: timedelta, other: timedelta) -> float:
    """The logarithm of the ratio of two durations."""
    return math.log(one / other)
