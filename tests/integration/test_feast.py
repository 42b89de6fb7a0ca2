"""Our offline store equals Feast's stock DuckDB store in every cell; the stock CLI applies our repository."""

import dataclasses
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.cleaned import write_clean
from tests.conftest import REPOSITORY
from tests.simulated_deliveries import deliveries, install
from truecourse.data.sql import clean_versions
from truecourse.errors import FeatureError
from truecourse.features.feature_tables import compute_view
from truecourse.features.frame import read_spine
from truecourse.problem import Problem
from truecourse.problem.loader import load_problem
from truecourse.settings import get_settings
from truecourse.storage.delta_tables import Tables

START = datetime(2024, 1, 1)


def feature_store(folder: Path, offline: str) -> Any:
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


def feast_view(file: Path, keys: list[str], features: dict[str, Any], ttl: timedelta, created: bool) -> list[Any]:
    from feast import Entity, FeatureView, Field, FileSource, ValueType
    from feast.types import String

    entities = [Entity(name=key, join_keys=[key], value_type=ValueType.STRING) for key in keys]
    source = FileSource(
        name="rows",
        path=str(file),
        timestamp_field="event_timestamp",
        created_timestamp_column="created_timestamp" if created else None,
    )
    schema = [Field(name=k, dtype=String) for k in keys] + [Field(name=n, dtype=d) for n, d in features.items()]
    return [*entities, FeatureView(name="view", entities=entities, ttl=ttl, schema=schema, source=source, online=False)]


def answers(folder: Path, objects: list[Any], decisions: pd.DataFrame, features: list[str]) -> list[pd.DataFrame]:
    """Features from the stock store and from ours, in the order of the decisions."""
    frames = []
    for offline in ("duckdb", "feature_repo.offline.AsofOfflineStore"):
        store = feature_store(folder, offline)
        store.apply(objects)
        refs = [f"view:{name}" for name in features]
        frame = store.get_historical_features(entity_df=decisions, features=refs).to_arrow().to_pandas()
        frames.append(frame.sort_values("n").reset_index(drop=True)[["n", *features]])
    return frames


moments = st.integers(0, 12).map(lambda half_hours: START + timedelta(minutes=30 * half_hours))
keys = st.sampled_from(["a", "b", "c"])


Case = tuple[pd.DataFrame, pd.DataFrame, timedelta, int]


def case_of(versions: list[Any], requested: list[Any], again: int, half_hours: int, key_count: int) -> Case:
    """Feature rows and decisions at few different times, so that ties and ttl edges are frequent."""
    rows = pd.DataFrame(versions, columns=["k1", "k2", "event_timestamp", "created_timestamp", "missing"])
    rows = rows.drop_duplicates([*["k1", "k2"][:key_count], "event_timestamp", "created_timestamp"])
    rows["x"] = [None if missing else float(i) for i, missing in enumerate(rows.pop("missing"))]
    rows["t"] = [f"t{i}" for i in range(len(rows))]
    decisions = pd.DataFrame([*requested, *requested[:again]], columns=["k1", "k2", "event_timestamp"])
    decisions["n"] = range(len(decisions))
    return rows, decisions, timedelta(minutes=30 * half_hours), key_count


cases = st.builds(
    case_of,
    st.lists(st.tuples(keys, keys, moments, moments, st.booleans()), min_size=1, max_size=12),
    st.lists(st.tuples(st.sampled_from(["a", "b", "unknown"]), keys, moments), min_size=1, max_size=8),
    st.integers(0, 2),
    st.integers(0, 4),
    st.integers(1, 2),
)


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(cases, st.booleans())
def test_generated_cases_equal_the_stock_store(
    tmp_path_factory: pytest.TempPathFactory,
    case: Case,
    created: bool,
) -> None:
    from feast.types import Float64, String

    rows, decisions, ttl, key_count = case
    names = ["k1", "k2"][:key_count]
    if not created:  # with no created time, ties have no order
        rows = rows.drop_duplicates([*names, "event_timestamp"]).copy()
    folder = tmp_path_factory.mktemp("feast")
    for frame in (rows, decisions):
        frame[["event_timestamp"]] = frame[["event_timestamp"]].astype("datetime64[us]")
    rows["created_timestamp"] = rows["created_timestamp"].astype("datetime64[us]")
    pq.write_table(pa.Table.from_pandas(_utc(rows), preserve_index=False), folder / "rows.parquet")
    objects = feast_view(folder / "rows.parquet", names, {"x": Float64, "t": String}, ttl, created)
    stock, ours = answers(folder, objects, _utc(decisions.drop(columns=["k2"][: 2 - key_count])), ["x", "t"])
    pd.testing.assert_frame_equal(ours, stock, check_dtype=False)


def _utc(frame: pd.DataFrame) -> pd.DataFrame:
    names = [str(name) for name in frame]
    times = {name: frame[name].dt.tz_localize("UTC") for name in names if name.endswith("_timestamp")}
    return frame.assign(**times)


@pytest.fixture
def world(tmp_path: Path, configure: Callable[..., None]) -> tuple[Problem, Tables]:
    configure(home=tmp_path / "home", problems=tmp_path / "problems", problem="deliveries")
    rows = deliveries(days=30, a_day=30)
    install(tmp_path / "problems", rows)
    problem, tables = load_problem(), Tables()
    write_clean(problem, tables, "deliveries", rows)
    write_clean(problem, tables, "couriers", pd.read_json(problem.folder / "data/couriers.jsonl", lines=True))
    return problem, tables


def test_feast_objects_have_description_owner_and_tags(world: tuple[Problem, Tables]) -> None:
    from feature_repo.feast_objects import feast_objects

    problem, _ = world
    first, *others = problem.views
    first = dataclasses.replace(first, description="a week", owner="dispatch", tags=("late", "team:ops"))
    objects = feast_objects(dataclasses.replace(problem, owner="ops", views=(first, *others)), get_settings())
    view, source = objects[f"view_{first.name}"], objects[f"source_{first.name}"]
    assert (view.description, view.owner, view.tags) == ("a week", "dispatch", {"late": "true", "team:ops": "true"})
    assert (source.description, source.owner, source.tags) == (view.description, view.owner, view.tags)
    assert objects[f"view_{others[0].name}"].owner == objects["entity_courier"].owner == "ops"
    assert objects[f"view_{others[0].name}"].tags == {}


def test_historical_features_use_a_late_row_only_after_it_was_recorded(world: tuple[Problem, Tables]) -> None:
    from feature_repo.store import historical_features

    problem, tables = world
    first = {view.name: compute_view(problem, tables, view.name) for view in problem.views}
    decisions = read_spine(problem, tables, clean_versions(problem, tables))
    # The last decision is at the time when the late rows are recorded.
    decisions = decisions.slice(0, len(decisions) - 1)
    before = historical_features(problem, tables, decisions, first)
    late = deliveries(days=30, a_day=30).iloc[[840, 870]].assign(delivery=[90001, 90002], took=200)
    write_clean(problem, tables, "deliveries", late)
    second = {view.name: compute_view(problem, tables, view.name) for view in problem.views}
    assert historical_features(problem, tables, decisions, second).equals(before)
    assert historical_features(problem, tables, decisions, first).equals(before)
    ahead = decisions.set_column(
        decisions.column_names.index("decision_time"),
        "decision_time",
        pa.array(np.full(len(decisions), np.datetime64("2024-01-31", "us")), pa.timestamp("us", tz="UTC")),
    )
    known = historical_features(problem, tables, ahead, second)
    assert not known.equals(historical_features(problem, tables, ahead, first))


def test_historical_features_keep_order_and_types(world: tuple[Problem, Tables]) -> None:
    from feature_repo.store import historical_features

    problem, tables = world
    versions = {view.name: compute_view(problem, tables, view.name) for view in problem.views}
    decisions = read_spine(problem, tables, clean_versions(problem, tables))
    mixed = decisions.take(np.random.default_rng(0).permutation(len(decisions)))
    features = historical_features(problem, tables, mixed, versions)
    assert features.select(mixed.column_names).equals(mixed)
    assert features["courier_count_7d"].type == pa.int64()
    assert features["vehicle"].type == pa.string()
    assert features["vehicle"].null_count == 0
    with pytest.raises(FeatureError, match="depot"):
        historical_features(problem, tables, decisions.drop_columns(["depot"]), versions)


def test_stock_cli_applies_the_repository(world: tuple[Problem, Tables], tmp_path: Path) -> None:
    shutil.copytree(REPOSITORY / "feature_repo", tmp_path / "repo" / "feature_repo")
    command = [sys.executable, "-c", "from feast.cli.cli import cli; cli()", "apply"]
    done = subprocess.run(
        command,
        cwd=tmp_path / "repo" / "feature_repo",
        env=dict(os.environ),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for view in world[0].views:
        assert view.name in done.stdout
    assert (tmp_path / "repo" / ".truecourse" / "feast_registry.db").is_file()
