"""Aggregations end to end: brute force, offline, batch and online are equal bit for bit, after real ingestion."""

import struct
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from tests.brute_force import brute_force
from tests.simulated_orders import corrections, deliver, install, orders
from truecourse.features.feature_tables import compute_view, newest_event
from truecourse.problem import Aggregations, Problem
from truecourse.problem.loader import load_problem
from truecourse.references import TableVersion
from truecourse.storage.delta_tables import Tables, clean_table

FIRST = orders(2000, until=300)
LATE = orders(300, seed=7, first=10_000, until=250)
SECOND = pd.concat([corrections(FIRST, 200), LATE, orders(500, seed=8, first=20_000)]).drop_duplicates("order")


@pytest.fixture
def folder(tmp_path: Path, configure: Callable[..., None]) -> Path:
    """The problem's folder, with the first delivery ingested and validated."""
    configure(home=tmp_path / "home", problems=tmp_path / "problems", problem="churn")
    folder = install(tmp_path / "problems", FIRST)
    ingest("reviews", "orders")
    return folder


def ingest(*names: str) -> None:
    from tasks.data.ingest import ingest_table
    from tasks.data.validate import validate_table

    for name in names:
        ingest_table.fn("churn", name)
        validate_table.fn("churn", name, None)


def deliver_more(folder: Path) -> None:
    """Late rows, corrections and new rows, through ingestion and validation."""
    deliver(folder, SECOND, 2)
    ingest("orders")


def views(problem: Problem) -> list[Aggregations]:
    return [view for view in problem.views if isinstance(view, Aggregations)]


def clean(problem: Problem, tables: Tables, name: str) -> pa.Table:
    version = tables.version(clean_table(problem.name, name))
    assert version is not None
    return tables.read(version)


def some_decisions(count: int = 400, seed: int = 5) -> pd.DataFrame:
    """Decisions at month starts, at events, and between; known customers, one without orders, and an unknown one."""
    random = np.random.default_rng(seed)
    months = pd.to_datetime([f"2024-{month:02d}-01" for month in range(1, 13)])
    events = pd.to_datetime(pd.concat([FIRST, SECOND])["ordered_at"]).dt.tz_localize(None)
    times = pd.concat(
        [pd.Series(random.choice(months, count // 2)), events.sample(count - count // 2, random_state=seed)]
    )
    customers = random.choice([*FIRST["customer"].unique(), "c009", "c999"], count)
    return pd.DataFrame({"customer": customers, "t": times.to_numpy().astype("datetime64[us]")})


def computed(problem: Problem, tables: Tables) -> dict[str, TableVersion]:
    return {view.name: compute_view(problem, tables, view.name) for view in problem.views}


def offline(problem: Problem, tables: Tables, decisions: pd.DataFrame) -> dict[str, list[Any]]:
    from feature_repo.store import historical_features

    times = pa.array(decisions["t"].to_numpy()).cast(pa.timestamp("us", tz="UTC"))
    spine = pa.table({"customer": pa.array(decisions["customer"], pa.string()), "decision_time": times})
    joined = historical_features(problem, tables, spine, computed(problem, tables))
    return {name: joined[name].to_pylist() for view in views(problem) for name in view.features}


def expected(problem: Problem, tables: Tables, decisions: pd.DataFrame) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for view in views(problem):
        table = problem.table(view.table)
        frame = brute_force(view, table, clean(problem, tables, view.table), decisions)
        found |= {name: frame[name].tolist() for name in frame.columns}
    return found


def bits(value: Any) -> Any:
    """A value that equals another only if it is the same bit for bit; numbers as float64."""
    if isinstance(value, str):
        return value
    return None if value is None or value != value else struct.pack("<d", float(value) + 0.0)


def assert_same(found: dict[str, list[Any]], wanted: dict[str, list[Any]], decisions: pd.DataFrame) -> None:
    assert found.keys() == wanted.keys()
    for name, values in wanted.items():
        apart = [
            (place, found[name][place], value)
            for place, value in enumerate(values)
            if bits(found[name][place]) != bits(value)
        ]
        assert not apart, (
            f"{name}: {len(apart)} of {len(values)} apart, {apart[0]} {decisions.iloc[apart[0][0]].to_dict()}"
        )


def test_offline_equals_brute_force_with_late_rows_and_corrections(folder: Path) -> None:
    problem, tables, decisions = load_problem(), Tables(), some_decisions()
    assert_same(offline(problem, tables, decisions), expected(problem, tables, decisions), decisions)
    deliver_more(folder)
    wanted = expected(problem, tables, decisions)
    assert_same(offline(problem, tables, decisions), wanted, decisions)
    assert {0, 1} < set(wanted["orders_90d"])
    assert sum(value is None for value in wanted["spread_90d"]) > 10


def test_incremental_equals_full(folder: Path) -> None:
    problem, tables = load_problem(), Tables()
    computed(problem, tables)
    deliver_more(folder)
    for view in views(problem):
        version = compute_view(problem, tables, view.name)
        assert tables.commits(version.name)[-1][1]["mode"] == "incremental"
        incremental = tables.read(version).to_pandas()
        assert compute_view(problem, tables, view.name) == version
        full = tables.read(compute_view(problem, tables, view.name, full=True)).to_pandas()
        order = ["_tc_row", "_tc_until"]
        sides = [frame.sort_values(order).reset_index(drop=True) for frame in (incremental, full)]
        pd.testing.assert_frame_equal(*sides)


@pytest.fixture(params=["sqlite", "valkey"])
def store(request: pytest.FixtureRequest, folder: Path, configure: Callable[..., None], valkey: str) -> str:
    """The online store, empty."""
    if request.param == "valkey":
        import redis

        redis.Redis.from_url(valkey).flushall()
        configure(online_store=valkey)
    return str(request.param)


def load(problem: Problem, tables: Tables, until: datetime | None = None) -> dict[str, int]:
    """Compute and load the views, by default up to the newest event."""
    from feature_repo.online_loading import load_online

    computed(problem, tables)
    until = until or newest_event(problem, tables)
    return {view.name: load_online(problem, tables, view.name, until) for view in problem.views}


def online(problem: Problem, decisions: pd.DataFrame) -> dict[str, list[Any]]:
    from feature_repo.online import OnlineReader

    columns = {"customer": decisions["customer"].to_numpy(object)}
    read = OnlineReader(problem).read(columns, decisions["t"].to_numpy().astype("datetime64[us]"), len(decisions))
    return {name: list(read.values[name]) for view in views(problem) for name in view.features}


def decisions_after(moment: datetime, count: int = 200) -> pd.DataFrame:
    """Decisions in the two years from a moment on: at it, at moments when events leave windows, and later."""
    random = np.random.default_rng(3)
    days_after = random.choice([0, 1, 29, 30, 31, 90, 200, 365, 700], count)
    times = np.datetime64(moment, "us") + days_after.astype("timedelta64[D]")
    return pd.DataFrame({"customer": random.choice([*FIRST["customer"].unique(), "c009", "c999"], count), "t": times})


def test_online_equals_brute_force_and_events_expire_without_a_load(folder: Path, store: str) -> None:
    problem, tables = load_problem(), Tables()
    load(problem, tables)
    deliver_more(folder)
    written = load(problem, tables)
    assert 0 < written["orders"] <= 40
    decisions = decisions_after(newest_event(problem, tables))
    wanted = expected(problem, tables, decisions)
    assert_same(online(problem, decisions), wanted, decisions)
    assert_same(offline(problem, tables, decisions), wanted, decisions)
    assert 0 in wanted["orders_90d"]
    assert max(wanted["orders_90d"]) > 5
    assert set(load(problem, tables).values()) == {0}


def test_before_the_first_load_values_are_missing_and_not_zero(folder: Path, store: str) -> None:
    """Another view is loaded, so that the store exists. After the load a customer without orders has counts of 0."""
    from feature_repo.online_loading import load_online

    problem, tables = load_problem(), Tables()
    computed(problem, tables)
    until = newest_event(problem, tables)
    load_online(problem, tables, "shipments", until)
    decisions = pd.DataFrame({"customer": ["c000", "c999"], "t": np.repeat(np.datetime64(until, "us"), 2)})
    orders = problem.view("orders").features
    found = online(problem, decisions)
    assert {value for name in orders for value in found[name]} == {None}
    load_online(problem, tables, "orders", until)
    known, unknown = online(problem, decisions)["orders_90d"]
    assert unknown == 0
    assert known > 0


def test_a_load_holds_what_was_known_then(folder: Path, store: str) -> None:
    """At later and earlier moments than that of the load before, of the same tables."""
    problem, tables = load_problem(), Tables()
    deliver_more(folder)
    for moment in (datetime(2024, 6, 1), datetime(2024, 8, 1), datetime(2024, 7, 1)):
        written = load(problem, tables, moment)
        assert max(written.values()) <= 41, "each key once"
        at_once = decisions_after(moment).assign(t=np.datetime64(moment, "us"))
        assert_same(online(problem, at_once), expected(problem, tables, at_once), at_once)


def test_a_killed_load_is_finished_by_the_next(folder: Path, store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from feature_repo.online_loading import Target

    problem, tables = load_problem(), Tables()
    load(problem, tables)
    deliver_more(folder)
    write = Target.write_keys
    written: list[int] = []

    def fail_after_one(self: Any, keys: Any, until: datetime) -> int:
        if written:
            raise KeyboardInterrupt
        written.append(write(self, keys[:10], until))
        return written[0]

    monkeypatch.setattr(Target, "write_keys", fail_after_one)
    monkeypatch.setattr("feature_repo.aggregation_steps._BATCH", 256)
    with pytest.raises(KeyboardInterrupt):
        load(problem, tables)
    monkeypatch.undo()
    load(problem, tables)
    decisions = decisions_after(newest_event(problem, tables))
    assert_same(online(problem, decisions), expected(problem, tables, decisions), decisions)


def test_a_key_with_many_events_is_read_in_two_parts(
    tmp_path: Path, configure: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """More changes ahead than one record holds: the second is read only for decisions beyond the first."""
    from feature_repo.online_reader import _Sqlite

    configure(home=tmp_path / "home", problems=tmp_path / "problems", problem="churn")
    install(tmp_path / "problems", orders(1500, customers=2, until=60))
    ingest("reviews", "orders")
    problem, tables = load_problem(), Tables()
    load(problem, tables)
    fetched: list[str] = []
    fetch = _Sqlite.fetch_later

    def fetch_later(self: Any, view: str, key: bytes) -> bytes | None:
        fetched.append(view)
        return fetch(self, view, key)

    monkeypatch.setattr(_Sqlite, "fetch_later", fetch_later)
    loaded = newest_event(problem, tables)
    for after, parts in ((0, 0), (88, 1), (400, 1)):
        moment = np.datetime64(loaded, "us") + np.timedelta64(after, "D")
        decisions = pd.DataFrame({"customer": ["c000", "c001"], "t": moment})
        assert_same(online(problem, decisions), expected(problem, tables, decisions), decisions)
        assert bool(fetched) == bool(parts)


def test_stock_feast_reads_the_values_as_of_the_load(folder: Path) -> None:
    from feature_repo.store import open_feature_store

    problem, tables = load_problem(), Tables()
    load(problem, tables)
    moment = newest_event(problem, tables)
    customers = sorted(FIRST["customer"].unique())
    decisions = pd.DataFrame({"customer": customers, "t": np.datetime64(moment, "us")})
    wanted = expected(problem, tables, decisions)
    refs = [f"{view.name}:{name}" for view in views(problem) for name in view.features]
    feast = open_feature_store(problem)
    rows = [{"customer": name} for name in customers]
    found = feast.get_online_features(features=refs, entity_rows=rows).to_dict()
    assert_same({name: found[name] for name in wanted}, wanted, decisions)
    feast.materialize(datetime(2024, 1, 1), moment, feature_views=[view.name for view in views(problem)])
    found = feast.get_online_features(features=refs, entity_rows=rows).to_dict()
    assert_same({name: found[name] for name in wanted}, wanted, decisions)


def test_a_replay_reads_what_was_known_at_each_decision(folder: Path) -> None:
    from feature_repo.historical_reads import HistoricReader

    deliver_more(folder)
    problem, tables, decisions = load_problem(), Tables(), some_decisions()
    reader, times = HistoricReader(problem), decisions["t"].to_numpy().astype("datetime64[us]")
    first, last = (moment.astype(object).replace(tzinfo=UTC) for moment in (times.min(), times.max()))
    reader.open(tables, computed(problem, tables), first, last)
    read = reader.read({"customer": decisions["customer"].to_numpy(object)}, times, len(decisions))
    wanted = expected(problem, tables, decisions)
    assert_same({name: list(read.values[name]) for name in wanted}, wanted, decisions)
