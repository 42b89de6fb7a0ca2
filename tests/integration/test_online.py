"""Online features equal offline features, on sqlite and on a real Valkey."""

import threading
import time
from collections.abc import Callable, Iterable
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from feature_repo.online import NEVER, PAUSE
from tests.cleaned import write_clean
from tests.conftest import free_ports, valkey_server
from tests.simulated_deliveries import deliveries, install
from truecourse.arrays import Array, Values, columns_of
from truecourse.errors import PlatformError, SettingsError
from truecourse.features.feature_tables import compute_view, newest_event
from truecourse.problem import Problem
from truecourse.problem.loader import load_problem
from truecourse.storage.delta_tables import Tables

ROWS = deliveries(days=20, a_day=20)
DEPOTS = ["north", "south", "east", "nowhere", None]
Load = Callable[[datetime], int]


@pytest.fixture(params=["sqlite", "valkey"])
def world(
    request: pytest.FixtureRequest, tmp_path: Path, configure: Callable[..., None], valkey: str
) -> tuple[Problem, Tables]:
    configure(home=tmp_path / "home", problems=tmp_path / "problems", problem="deliveries")
    if request.param == "valkey":
        import redis

        redis.Redis.from_url(valkey).flushall()
        configure(online_store=valkey)
    install(tmp_path / "problems", ROWS)
    problem, tables = load_problem(), Tables()
    write_clean(problem, tables, "deliveries", ROWS)
    write_clean(problem, tables, "couriers", pd.read_json(problem.folder / "data/couriers.jsonl", lines=True))
    return problem, tables


def load(problem: Problem, tables: Tables, until: datetime) -> dict[str, int]:
    from feature_repo.online_loading import load_online

    for view in problem.views:
        compute_view(problem, tables, view.name)
    return {view.name: load_online(problem, tables, view.name, until) for view in problem.views}


def requests(at: datetime) -> tuple[dict[str, Array], Array]:
    couriers = np.array(["c00", "c01", "c02", "c99", None], dtype=object)
    return {"courier": couriers, "depot": np.array(DEPOTS, dtype=object)}, np.full(5, np.datetime64(at, "us"))


def read_both_stores(problem: Problem, tables: Tables, at: datetime) -> tuple[dict[str, Values], dict[str, Array]]:
    """Online and offline features of the same requests."""
    from feature_repo.online import OnlineReader
    from feature_repo.store import historical_features

    columns, times = requests(at)
    online = OnlineReader(problem).read(columns, times, 5).values
    spine = pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()})
    spine = spine.append_column("decision_time", pa.array(times).cast(pa.timestamp("us", tz="UTC")))
    versions = {view.name: compute_view(problem, tables, view.name) for view in problem.views}
    offline = historical_features(problem, tables, spine, versions)
    return online, columns_of(offline, online)


def assert_equal(online: dict[str, Values], offline: dict[str, Array]) -> None:
    for name, values in online.items():
        assert list(values) == [None if pd.isna(value) else value for value in offline[name].tolist()], name


def test_online_equals_offline_and_loads_only_what_changed(world: tuple[Problem, Tables]) -> None:
    problem, tables = world
    middle = datetime(2024, 1, 10, 12, 30, 15, 250_000)
    first = load(problem, tables, middle)
    assert first["courier_facts"] == 12
    assert first["depot_history"] == 3
    assert_equal(*read_both_stores(problem, tables, middle))
    assert set(load(problem, tables, middle).values()) == {0}
    end = newest_event(problem, tables)
    assert load(problem, tables, end)["courier_facts"] == 0
    assert_equal(*read_both_stores(problem, tables, end))
    load(problem, tables, middle)
    assert_equal(*read_both_stores(problem, tables, middle))


def test_values_past_their_ttl_are_missing_online(world: tuple[Problem, Tables]) -> None:
    problem, tables = world
    load(problem, tables, datetime(2024, 1, 20, 12))
    online, offline = read_both_stores(problem, tables, datetime(2024, 1, 24, 12))
    assert list(online["depot_last_took"]) == [None] * 5
    assert None not in online["courier_count_7d"][:3]
    assert online["vehicle"][0] == "bike"
    assert np.isnan(offline["depot_last_took"]).all()


class LookupRecorder:
    """A lookup observer that records its calls."""

    def __init__(self) -> None:
        self.lookups: dict[str, tuple[int, int, float | None]] = {}

    def record_lookup(self, view: str, keys: int, missed: int, oldest: float | None) -> None:
        self.lookups[view] = (keys, missed, oldest)

    def record_unavailable(self, views: Iterable[str]) -> None:
        raise AssertionError


def test_a_value_from_after_the_decision_is_missing_and_counted(world: tuple[Problem, Tables]) -> None:
    from feature_repo.online import OnlineReader

    problem, tables = world
    load(problem, tables, datetime(2024, 1, 20, 12))
    recorder, (columns, later) = LookupRecorder(), requests(datetime(2024, 1, 20, 12))
    lookup = OnlineReader(problem, recorder).read(columns, later, 5)
    keys, missed, oldest = recorder.lookups["courier_history"]
    events = np.array(lookup.events["courier_history"][:3]).view("datetime64[us]")
    assert (keys, missed) == (5, 2), "of five couriers one is unknown and one is null"
    assert oldest == pytest.approx(float((later[:3] - events).max() / np.timedelta64(1, "us")) / 1e6)
    before = np.full(5, events.min() - np.timedelta64(1, "us"))
    none = OnlineReader(problem, recorder).read(columns, before, 5)
    assert list(none.values["courier_count_7d"]) == [None] * 5
    assert none.events["courier_history"] == [NEVER] * 5
    assert recorder.lookups["courier_history"] == (5, 5, None)


def test_a_late_row_is_not_missed(world: tuple[Problem, Tables]) -> None:
    """A late row arrives after values of its own time and of later times were loaded."""
    problem, tables = world
    for view in problem.views:
        compute_view(problem, tables, view.name)
    load(problem, tables, newest_event(problem, tables))
    late = ROWS.iloc[[385]].assign(delivery=90_000, took=300, depot="north")
    write_clean(problem, tables, "deliveries", late)
    load(problem, tables, datetime(2024, 1, 21, 12))
    online, offline = read_both_stores(problem, tables, datetime(2024, 1, 21, 12))
    assert_equal(online, offline)


def test_threads_read_the_same_answers(world: tuple[Problem, Tables]) -> None:
    from feature_repo.online import OnlineReader

    problem, tables = world
    at = datetime(2024, 1, 20)
    load(problem, tables, at)
    reader, (columns, times) = OnlineReader(problem), requests(at)
    wanted = reader.read(columns, times, 5).values
    wrong: list[Any] = []

    def read() -> None:
        for _ in range(30):
            values = reader.read(columns, times, 5).values
            wrong.extend(name for name in values if values[name] != wanted[name])

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_an_unreachable_or_unsupported_store_is_an_error(tmp_path: Path, configure: Callable[..., None]) -> None:
    from feature_repo.online import OnlineReader

    configure(home=tmp_path / "home", problems=tmp_path / "problems", problem="deliveries")
    install(tmp_path / "problems", ROWS)
    configure(online_store="redis://127.0.0.1:1")
    columns, times = requests(datetime(2024, 1, 20))
    with pytest.raises(PlatformError, match="does not answer"):
        OnlineReader(load_problem()).read(columns, times, 5)
    configure(online_store="memcached://somewhere")
    with pytest.raises(SettingsError, match="online store"):
        OnlineReader(load_problem())


def test_a_store_that_stops_and_restarts(tmp_path: Path, configure: Callable[..., None]) -> None:
    """A required view raises; a view that may be missing is missing and named. Neither takes long."""
    from dataclasses import replace

    from feature_repo.online import OnlineReader

    configure(home=tmp_path / "home", problems=tmp_path / "problems", problem="deliveries")
    install(tmp_path / "problems", ROWS)
    (port,) = free_ports(1)
    configure(online_store=f"redis://127.0.0.1:{port}")
    strict = load_problem()
    lenient = replace(strict, views=[replace(view, when_unavailable="missing") for view in strict.views])
    readers = [OnlineReader(problem) for problem in (strict, lenient)]
    columns, times = requests(datetime(2024, 1, 20))
    features = {name for view in strict.views for name in view.features}
    for _ in range(2):
        with valkey_server(tmp_path, port):
            time.sleep(PAUSE)
            for reader in readers:
                assert reader.read(columns, times, 5).unavailable == []
        begun = time.monotonic()
        with pytest.raises(PlatformError, match="does not answer"):
            readers[0].read(columns, times, 5)
        lookup = readers[1].read(columns, times, 5)
        assert time.monotonic() - begun < 2 * PAUSE + 1
        assert lookup.unavailable == [view.name for view in strict.views]
        assert set(lookup.values) == features
        assert all(pd.isna(np.asarray(values)).all() for values in lookup.values.values())
