"""Feature tables: dated values, incremental and full computation are equal, and clear errors."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.cleaned import write_clean
from tests.conftest import existing
from tests.simulated_deliveries import deliveries, install
from truecourse.errors import FeatureError
from truecourse.features.computation_cost import load_costs
from truecourse.features.feature_tables import compute_view, newest_event
from truecourse.problem import Problem
from truecourse.problem.loader import load_problem
from truecourse.references import TableVersion
from truecourse.storage.delta_tables import Tables

Start = Callable[[pd.DataFrame], tuple[Problem, Tables]]


@pytest.fixture
def start(tmp_path: Path, configure: Callable[..., None]) -> Start:
    """Set up the deliveries problem with these rows in its clean table, each time in a new home."""
    count = iter(range(1000))

    def begin(rows: pd.DataFrame) -> tuple[Problem, Tables]:
        folder = tmp_path / str(next(count))
        configure(home=folder / "home", problems=folder / "problems", problem="deliveries")
        install(folder / "problems", rows)
        problem, tables = load_problem(), Tables()
        write_clean(problem, tables, "deliveries", rows)
        facts = pd.read_json(problem.folder / "data" / "couriers.jsonl", lines=True)
        write_clean(problem, tables, "couriers", facts)
        return problem, tables

    return begin


def rows_of(tables: Tables, version: TableVersion) -> pd.DataFrame:
    frame = tables.read(version).to_pandas()
    ordered: pd.DataFrame = frame.sort_values(list(frame.columns)).reset_index(drop=True)
    return ordered


def last_commit(tables: Tables, version: TableVersion) -> Mapping[str, object]:
    return tables.commits(version.name)[-1][1]


def test_first_versions_are_known_at_their_event_and_rerun_writes_nothing(start: Start) -> None:
    problem, tables = start(deliveries(days=5, a_day=20))
    version = compute_view(problem, tables, "courier_history")
    rows = rows_of(tables, version)
    assert len(rows) > 50
    assert (rows["created_timestamp"] == rows["event_timestamp"]).all()
    assert last_commit(tables, version)["rows"] == len(rows)
    assert compute_view(problem, tables, "courier_history") == version


def test_the_cost_of_each_computation_is_recorded(start: Start) -> None:
    first = deliveries(days=20, a_day=20)
    problem, tables = start(first)
    full = compute_view(problem, tables, "depot_history")
    costs = existing(load_costs(tables, full))
    assert costs.last == costs.full
    assert (costs.last.mode, costs.last.rows, costs.last.version) == ("full", len(rows_of(tables, full)), full.version)
    assert costs.last.bytes == size_of(tables, tables.files(full))
    assert 0 < costs.last.cpu_seconds < 60
    late = first.iloc[[100]].assign(delivery=9999, took=600, ordered_at="2024-01-06T12:00:00Z")
    write_clean(problem, tables, "deliveries", late)
    part = compute_view(problem, tables, "depot_history")
    after = existing(load_costs(tables, part))
    assert (after.full, after.last.mode, after.last.version) == (costs.full, "incremental", part.version)
    assert after.last.bytes == size_of(tables, sorted({*tables.files(part)} - {*tables.files(full)}))
    assert after.last.bytes > 0
    assert load_costs(tables, full) is None
    compute_view(problem, tables, "depot_history")  # nothing is computed
    assert load_costs(tables, part) == after


def size_of(tables: Tables, keys: list[str]) -> int:
    return sum(len(tables.store.get(key)) for key in keys)


def test_a_late_row_adds_versions_and_keeps_the_old_ones(start: Start) -> None:
    first = deliveries(days=20, a_day=20)
    problem, tables = start(first)
    before = rows_of(tables, compute_view(problem, tables, "depot_history"))
    late = first.iloc[[100]].assign(delivery=9999, took=600, ordered_at="2024-01-06T12:00:00Z")
    write_clean(problem, tables, "deliveries", late)
    version = compute_view(problem, tables, "depot_history")
    after, depot = rows_of(tables, version), first["depot"].iloc[100]
    epoch = pd.Timestamp(first["ordered_at"].max())
    old, new = after[after["created_timestamp"] < epoch], after[after["created_timestamp"] == epoch]
    known_early = before[before["event_timestamp"] < epoch].reset_index(drop=True)
    pd.testing.assert_frame_equal(old[old["event_timestamp"] < epoch].reset_index(drop=True), known_early)
    arrival = pd.Timestamp("2024-01-06T22:00:00Z")
    assert set(new["depot"]) == {depot}
    assert new["event_timestamp"].min() == arrival
    assert new["event_timestamp"].max() <= arrival + pd.Timedelta(days=1, hours=12)
    assert new.loc[new["event_timestamp"] == arrival, "depot_last_took"].item() == 600
    assert last_commit(tables, version)["mode"] == "incremental"


def test_a_row_that_vanishes_takes_the_value_of_the_row_before(start: Start) -> None:
    first = deliveries(days=3, a_day=10)
    problem, tables = start(first)
    before = rows_of(tables, compute_view(problem, tables, "depot_history"))
    depot = before["depot"].iloc[0]
    of_depot = before[before["depot"] == depot].reset_index(drop=True)
    gone = of_depot.iloc[4]
    arrived = pd.to_datetime(first["ordered_at"]) + pd.to_timedelta(first["took"].astype(float), unit="min")
    cause = first[(arrived == gone["event_timestamp"]) & (first["depot"] == depot)]
    write_clean(problem, tables, "deliveries", cause.assign(took=pd.NA))
    after = rows_of(tables, compute_view(problem, tables, "depot_history"))
    versions = after[(after["depot"] == depot) & (after["event_timestamp"] == gone["event_timestamp"])]
    assert len(versions) == 2
    newest = versions.sort_values("created_timestamp").iloc[-1]
    assert newest["depot_last_took"] == of_depot.iloc[3]["depot_last_took"]


batches = st.lists(
    st.lists(
        st.tuples(
            st.integers(0, 40),  # which delivery: few, so that corrections happen
            st.integers(0, 3),  # courier
            st.integers(0, 20 * 24),  # hour since the start: late rows happen
            st.one_of(st.none(), st.integers(1, 3000)),  # minutes taken
        ),
        min_size=1,
        max_size=12,
    ),
    min_size=2,
    max_size=5,
)


def frame_of(batch: list[tuple[int, int, int, int | None]]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "delivery": [row[0] for row in batch],
            "courier": [f"c{row[1]:02d}" for row in batch],
            "depot": [["north", "south"][row[1] % 2] for row in batch],
            "ordered_at": [pd.Timestamp("2024-01-01", tz="UTC") + pd.Timedelta(hours=row[2]) for row in batch],
            "promised": 60,
            "distance": 1.0,
            "took": pd.array([row[3] for row in batch], dtype="Int64"),
        }
    )


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batches)
def test_incremental_equals_full(start: Start, history: list[list[tuple[int, int, int, int | None]]]) -> None:
    problem, tables = start(frame_of(history[0]))
    for batch in history[1:]:
        compute_view(problem, tables, "depot_history")
        write_clean(problem, tables, "deliveries", frame_of(batch))
    incremental = rows_of(tables, compute_view(problem, tables, "depot_history"))
    full = rows_of(tables, compute_view(problem, tables, "depot_history", full=True))
    pd.testing.assert_frame_equal(incremental, full)
    assert not full.duplicated(["depot", "event_timestamp", "created_timestamp"]).any()
    assert (full["created_timestamp"] >= full["event_timestamp"]).all()


def test_timeless_views_hold_the_newest_facts(start: Start) -> None:
    problem, tables = start(deliveries(days=2, a_day=10))
    version = compute_view(problem, tables, "courier_facts")
    write_clean(problem, tables, "couriers", pd.DataFrame([{"courier": "c00", "vehicle": "van", "since": 1999}]))
    rows = rows_of(tables, compute_view(problem, tables, "courier_facts"))
    assert len(rows) == 12
    assert rows.loc[rows["courier"] == "c00", "since"].item() == 1999
    assert set(rows["event_timestamp"]) == {pd.Timestamp("1970-01-01", tz="UTC")}
    assert rows_of(tables, version).loc[0, "since"] == 2015
    assert newest_event(problem, tables).year == 1970


def test_a_changed_view_has_a_new_table_and_keeps_the_old_one(start: Start) -> None:
    problem, tables = start(deliveries(days=2, a_day=10))
    first = compute_view(problem, tables, "depot_history")
    file = problem.folder / "features" / "depot_history.sql"
    file.write_text(file.read_text().replace("max(took)", "min(took)"))
    second = compute_view(problem, tables, "depot_history")
    assert second.name != first.name
    assert last_commit(tables, second)["mode"] == "full"
    assert tables.version(first.name) == first


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("AS depot_last_took", "AS other", "returns no column depot_last_took"),
        ("max(took) AS", "max(took) AS spare, max(took) AS", "returns undeclared columns: spare"),
        ("max(took)", "avg(took)", "depot_last_took is declared Integer, and the SQL returns DOUBLE"),
        ("known_at AS event_timestamp", "NULL::TIMESTAMP AS event_timestamp", "without event_timestamp"),
        ("known_at AS event_timestamp", "date_trunc('day', known_at) AS event_timestamp", "rows for depot="),
        ("known_at AS event_timestamp", "1 AS event_timestamp", "event_timestamp is INTEGER"),
        ("FROM outcomes", "FROM nowhere", "nowhere"),
    ],
)
def test_sql_that_breaks_the_declaration(start: Start, old: str, new: str, message: str) -> None:
    problem, tables = start(deliveries(days=3, a_day=20))
    file = problem.folder / "features" / "depot_history.sql"
    file.write_text(file.read_text().replace(old, new))
    with pytest.raises(FeatureError) as caught:
        compute_view(problem, tables, "depot_history")
    assert message in str(caught.value)
    assert "features/depot_history.sql" in str(caught.value)
    assert caught.value.hint


def test_an_entity_key_that_no_request_has(start: Start) -> None:
    problem, tables = start(deliveries(days=2, a_day=10))
    request = {name: column for name, column in problem.request.items() if name != "depot"}
    with pytest.raises(FeatureError, match="depot"):
        compute_view(dataclasses.replace(problem, request=request), tables, "depot_history")
