"""Distributions by period equal those of a plain computation, and their cost does not grow with the rows."""

from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from truecourse.catalogue.chart import chart
from truecourse.catalogue.distributions import (
    MOST_PERIODS,
    PERIODS,
    QUANTILES,
    ROWS_OF_A_PERIOD,
    Distribution,
    Part,
    distributions,
)

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
COLUMNS = {"x": pa.float64(), "n": pa.int64(), "word": pa.string(), "flag": pa.bool_(), "at": pa.timestamp("us", "UTC")}
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "x": st.none() | st.floats(-1e6, 1e6) | st.just(float("nan")),
    "n": st.none() | st.integers(-5, 5),
    "word": st.none() | st.sampled_from([*"abcdefgh", ""]),
    "flag": st.none() | st.booleans(),
    "at": st.none() | st.just(EPOCH),
}
rows_of = st.fixed_dictionaries(VALUES)
FREQUENCIES = {"day": "D", "week": "W-SUN", "month": "M", "quarter": "Q", "year": "Y"}
spans = st.sampled_from([3, 200, 900, 3000, 9000, 60_000])


@st.composite
def frames(draw: st.DrawFn) -> pa.Table:
    """A frame that is sorted by `time`, over a span of hours, weeks or years, before or after 1970."""
    count, span, start = draw(st.integers(0, 30)), draw(spans), draw(st.integers(-20_000, 20_000))
    days = sorted(draw(st.lists(st.floats(0, span), min_size=count, max_size=count)))
    rows = draw(st.lists(rows_of, min_size=count, max_size=count))
    times = [EPOCH + timedelta(days=start + day) for day in days]
    columns = {name: pa.array([row[name] for row in rows], kind) for name, kind in COLUMNS.items()}
    return pa.table({"time": pa.array(times, pa.timestamp("us", "UTC")), **columns})


def start_of(period: str | None, day: date) -> date:
    """The first day of the period that has this day."""
    if period == "day":
        return day
    if period == "week":
        return day - timedelta(days=day.weekday())
    months = {"month": 1, "quarter": 3, "year": 12}[str(period)]
    return date(day.year, (day.month - 1) // months * months + 1, 1)


def is_missing(value: Any) -> bool:
    return value is None or value != value


@given(frames())
def test_figures_equal_a_plain_computation(frame: pa.Table) -> None:
    found = distributions(frame, list(COLUMNS), "time", ["n"])
    days = [moment.date() for moment in frame["time"].to_pylist()]
    for name, one in found.items():
        values = frame[name].to_pylist()
        expect(one, one.total, values)
        assert sum(part.rows for part in one.periods) == len(values)
        for part in one.periods:
            chosen = [
                v for v, day in zip(values, days, strict=True) if start_of(one.period, day).isoformat() == part.start
            ]
            assert part.rows == len(chosen)
            expect(one, part, chosen)
    assert {name: one.form for name, one in found.items()} == {
        "x": "number", "n": "category", "word": "category", "flag": "category", "at": "missing",
    }  # fmt: skip


def expect(of: Distribution, part: Part, values: list[Any]) -> None:
    known = [value for value in values if not is_missing(value)]
    assert part.missing == len(values) - len(known)
    assert part.missing_share == (part.missing / len(values) if values else None)
    if of.form == "number":
        assert part.quantiles == pytest.approx(
            tuple(np.quantile(known, QUANTILES)) if known else (), rel=1e-5, abs=1e-9
        )
    if of.form == "category":
        texts = [str(value).lower() if isinstance(value, bool) else str(value) for value in known]
        shares = tuple(texts.count(name) / len(texts) for name in of.categories) if known else ()
        assert part.shares == pytest.approx(shares, rel=1e-5)


@given(frames())
def test_periods_are_few_and_consecutive(frame: pa.Table) -> None:
    one = distributions(frame, ["x"], "time")["x"]
    starts = [date.fromisoformat(part.start) for part in one.periods]
    if not starts:
        assert not len(frame)
        return
    assert one.period is not None
    assert len(starts) <= MOST_PERIODS or one.period == "year"
    ends = [frame["time"][at].as_py().date() for at in (0, len(frame) - 1)]
    assert starts == [
        each.start_time.date() for each in pd.period_range(ends[0], ends[1], freq=FREQUENCIES[one.period])
    ]
    finer = PERIODS[: PERIODS.index(one.period)]
    assert all(len(pd.period_range(ends[0], ends[1], freq=FREQUENCIES[each])) > MOST_PERIODS for each in finer)


def test_many_rows_are_sampled_and_missing_ones_are_counted() -> None:
    rows = 12 * ROWS_OF_A_PERIOD
    random = np.random.default_rng(0)
    values = random.normal(size=rows)
    missing = random.random(rows) < 0.01
    times = np.datetime64("2024-01-01", "us") + np.sort(random.integers(0, 60 * 86400, rows)).astype("timedelta64[s]")
    frame = pa.table({"time": pa.array(times, pa.timestamp("us", "UTC")), "x": pa.array(values, mask=missing)})
    one = distributions(frame, ["x"], "time")["x"]
    assert one.total.missing == missing.sum() == sum(part.missing for part in one.periods)
    assert one.total.quantiles == pytest.approx(np.quantile(values[~missing], QUANTILES), abs=0.03)
    assert max(part.rows for part in one.periods) > 1.2 * ROWS_OF_A_PERIOD
    assert all(part.quantiles == pytest.approx(one.total.quantiles, abs=0.15) for part in one.periods[1:-1])


def test_without_time_there_is_one_part_and_no_chart() -> None:
    one = distributions(pa.table({"x": [1.0, None, 3.0]}), ["x"], None)["x"]
    assert not one.periods
    assert one.period is None
    assert one.total.missing_share == pytest.approx(1 / 3)
    assert chart(one) is None


@given(frames(), st.sampled_from(["x", "word", "at"]))
def test_a_private_distribution_has_no_values_and_every_chart_fits_its_box(frame: pa.Table, name: str) -> None:
    one = distributions(frame, [name], "time")[name]
    bare = one.without_values()
    parts = [bare.total, *bare.periods]
    assert not any((part.quantiles, part.shares) != ((), ()) for part in parts)
    assert bare.categories == ()
    assert [part.missing for part in parts] == [part.missing for part in [one.total, *one.periods]]
    drawn = chart(one)
    assert (drawn is None) == (len(one.periods) < 2)
    if drawn:
        points = " ".join([*drawn.wide, *drawn.narrow, *drawn.median]).split()
        assert all(-1 <= float(each) <= 101 for point in points for each in point.split(","))
        bars = [*drawn.stacks, *drawn.missing]
        assert all(bar.y >= -0.01 and bar.y + bar.height <= 100.01 and bar.x + bar.width <= 100.01 for bar in bars)
        assert len(drawn.texts) == len(one.periods)
