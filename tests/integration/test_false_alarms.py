"""Drift alarms on the real flights: seldom where nothing drifted, and by its name where something did."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from tasks.ingest import ingest_sources
from truecourse.loading import load_problem
from truecourse.monitoring import drift
from truecourse.tables import Tables

TRIALS = 60
RATE = 0.05
SEEN = ("flights", "weather", "planes")


@dataclass(frozen=True)
class Alarm:
    """What the test alone says, and what it says together with the practical threshold."""

    tested: set[str]
    raised: set[str]


def halves(frame: pa.Table, trials: int) -> Iterator[tuple[pa.Table, pa.Table]]:
    """Random halves of the days of a month, the frame's months in turn: `trials` references and windows."""
    days = frame["decision_time"].cast(pa.timestamp("us")).to_numpy().astype("datetime64[D]")
    month_of = days.astype("datetime64[M]")
    months = [month for month in np.unique(month_of) if len(np.unique(days[month_of == month])) >= 20]
    for trial in range(trials):
        mine = month_of == months[trial % len(months)]
        shuffled = np.random.default_rng(trial).permutation(np.unique(days[mine]))
        window = np.isin(days, shuffled[: len(shuffled) // 2])
        yield frame.filter(pa.array(mine & ~window)), frame.filter(pa.array(window))


def alarm(reference: pa.Table, window: pa.Table, names: list[str], threshold: float, seed: int) -> Alarm:
    found = drift.compare(
        reference, window, names, time="decision_time", threshold=threshold, false_alarm_rate=RATE, seed=seed
    )
    return Alarm({c.name for c in found.columns if c.p_value <= RATE}, {c.name for c in found.drifted})


def shifted(window: pa.Table, name: str, by: float) -> pa.Table:
    """`by`: in standard deviations of the window's own values of the column. Missing ones stay missing."""
    values = window[name].cast(pa.float64())
    moved = pc.add(values, by * pc.stddev(values).as_py())
    return window.set_column(window.column_names.index(name), name, moved)


@pytest.fixture
def flights(home: Path) -> pa.Table:
    """Every flight with its schedule, its delay, the weather at its airport and its aircraft."""
    problem, tables = load_problem("flight_delays"), Tables()
    read = (tables.read(ingest_sources(problem, problem.table(name), tables)) for name in SEEN)
    own = [list(problem.table(name).columns) for name in SEEN]
    flown, weather, planes = (pl.DataFrame(raw).select(names) for raw, names in zip(read, own, strict=True))
    joined = flown.join(weather.unique(["origin", "time_hour"], keep="first"), on=["origin", "time_hour"], how="left")
    joined = joined.join(planes, on="tailnum", how="left").rename({"time_hour": "decision_time"})
    return joined.to_arrow(compat_level=pl.CompatLevel.oldest())


def test_alarms_are_seldom_false_and_name_what_was_shifted(flights: pa.Table) -> None:
    names = [name for name in flights.column_names if name != "decision_time"]
    assert len(names) > 20
    found = [alarm(*sides, names, 0.1, seed) for seed, sides in enumerate(halves(flights, TRIALS))]
    assert sum(bool(one.raised) for one in found) <= RATE * TRIALS
    # 5% of 60 trials are 3, and 7 the 99th percentile: the test holds its rate with no threshold beside it.
    assert sum(bool(one.tested) for one in found) <= 7
    for seed, (reference, window) in enumerate(halves(flights, 6)):
        assert "distance" in alarm(reference, shifted(window, "distance", 0.5), names, 0.1, seed).raised


def test_rows_taken_as_independent_cry_wolf_on_the_same_halves(flights: pa.Table) -> None:
    names = [name for name in flights.column_names if name != "decision_time"]
    for reference, window in halves(flights, 4):
        assert drift.compare(reference, window, names, threshold=1e-9).drifted
