"""Drift alarms on real flights: rare without drift, and with the right name for a shifted feature."""

from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest

from benchmarks.monitoring.alarms import RATE, alarm, halves, shifted
from truecourse.ingestion.ingest import ingest_sources
from truecourse.monitoring.drift import permutation_test
from truecourse.problem.loader import load_problem
from truecourse.storage.delta_tables import Tables

TRIALS = 60
TABLES = ("flights", "weather", "planes")


@pytest.fixture
def flights(home: Path) -> pa.Table:
    """Every flight with its schedule, its delay, the weather at its airport and its aircraft."""
    problem, tables = load_problem("flight_delays"), Tables()
    read = (tables.read(ingest_sources(problem, problem.table(name), tables)) for name in TABLES)
    own = [list(problem.table(name).columns) for name in TABLES]
    flown, weather, planes = (pl.DataFrame(raw).select(names) for raw, names in zip(read, own, strict=True))
    joined = flown.join(weather.unique(["origin", "time_hour"], keep="first"), on=["origin", "time_hour"], how="left")
    joined = joined.join(planes, on="tailnum", how="left").rename({"time_hour": "decision_time"})
    return joined.to_arrow(compat_level=pl.CompatLevel.oldest())


def test_false_alarms_are_rare_and_a_shifted_feature_is_named(flights: pa.Table) -> None:
    names = [name for name in flights.column_names if name != "decision_time"]
    assert len(names) > 20
    alarms = [alarm(*sides, names, 0.1, seed) for seed, sides in enumerate(halves(flights, TRIALS))]
    assert sum(bool(one.raised) for one in alarms) <= RATE * TRIALS
    # 5% of 60 trials are 3, and 7 is the 99th percentile: the test alone has the nominal error rate.
    assert sum(bool(one.tested) for one in alarms) <= 7
    for seed, (reference, window) in enumerate(halves(flights, 6)):
        assert "distance" in alarm(reference, shifted(window, "distance", 0.5), names, 0.1, seed).raised


def test_a_test_of_independent_rows_has_false_alarms_on_the_same_halves(flights: pa.Table) -> None:
    names = [name for name in flights.column_names if name != "decision_time"]
    for reference, window in halves(flights, 4):
        assert permutation_test.compare(reference, window, names, threshold=1e-9).drifted
