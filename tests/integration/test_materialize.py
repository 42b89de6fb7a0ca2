"""The flow `materialize` computes feature tables and loads online values, each once."""

import logging
import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from feature_repo.online_location import feast_folder
from flows.materialize import materialize
from tasks.features.load_online import load_view
from tests.cleaned import write_clean
from tests.simulated_deliveries import deliveries, install
from tests.static_tables import install_wine
from truecourse.arrays import Values
from truecourse.errors import FeatureError
from truecourse.features.definition_digests import feature_table
from truecourse.features.feature_tables import newest_event
from truecourse.problem.loader import load_problem
from truecourse.storage.delta_tables import Tables

VIEWS = ["courier_history", "depot_history", "courier_facts"]
ROWS = deliveries(days=20, a_day=20)


@pytest.fixture
def problems(tmp_path: Path, configure: Callable[..., None], prefect_server: str) -> Path:
    """A problems folder with the deliveries, whose clean tables are written."""
    configure(home=tmp_path / "home", problems=tmp_path / "problems", problem="deliveries")
    install(tmp_path / "problems", ROWS)
    problem, tables = load_problem(), Tables()
    write_clean(problem, tables, "deliveries", ROWS)
    write_clean(problem, tables, "couriers", pd.read_json(problem.folder / "data/couriers.jsonl", lines=True))
    return tmp_path / "problems"


def online_count(home: Path) -> int:
    """The number of rows in the online store's file."""
    file = feast_folder(load_problem("deliveries")) / "online.db"
    if not file.is_file():
        return 0
    with closing(sqlite3.connect(file)) as connection:
        names = [n for (n,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        queries = [f'SELECT count(*) FROM "{name}"' for name in names if name.startswith("deliveries_")]
        return sum(connection.execute(query).fetchone()[0] for query in queries)


def read(at: datetime) -> dict[str, Values]:
    """The online features of one courier and one depot in a request at `at`."""
    from feature_repo.online import OnlineReader

    keys = {"courier": np.array(["c00"], dtype=object), "depot": np.array(["north"], dtype=object)}
    return OnlineReader(load_problem()).read(keys, np.array([at], dtype="datetime64[us]"), 1).values


def loaded(caplog: pytest.LogCaptureFixture) -> dict[str, int]:
    """The number of written keys by view, from the log messages."""
    arguments = [record.args for record in caplog.records if record.name == "truecourse.online"]
    return {str(args[0]): int(str(args[1]).replace(",", "")) for args in arguments if isinstance(args, tuple)}


def test_versions_are_returned_and_a_rerun_changes_nothing(
    problems: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "truecourse.online")
    first = materialize("deliveries")
    assert list(first) == VIEWS
    assert [version.name for version in first.values()] == [feature_table(load_problem(), view) for view in VIEWS]
    assert all(len(Tables().read(version)) for version in first.values())
    assert loaded(caplog) == {"courier_history": 12, "depot_history": 3, "courier_facts": 12}
    count = online_count(tmp_path / "home")
    assert count > 0

    caplog.clear()
    assert materialize() == first  # the settings name the problem
    assert loaded(caplog) == dict.fromkeys(VIEWS, 0)
    assert online_count(tmp_path / "home") == count
    assert all(Tables().version(version.name) == version for version in first.values())

    caplog.clear()
    fact = pd.DataFrame([{"courier": "c00", "vehicle": "van", "since": 1999}])
    write_clean(load_problem(), Tables(), "couriers", fact)
    second = materialize("deliveries")
    assert {view for view in VIEWS if second[view] != first[view]} == {"courier_facts"}
    # a timeless table is replaced as a whole, and so are its keys
    assert loaded(caplog) == {"courier_history": 0, "depot_history": 0, "courier_facts": 12}
    assert list(read(newest_event(load_problem(), Tables()))["since"]) == [1999]


def test_offline_only_loads_nothing(problems: Path, tmp_path: Path) -> None:
    versions = materialize("deliveries", online=False)
    assert list(versions) == VIEWS
    assert not (tmp_path / "home" / "feast").exists()
    assert online_count(tmp_path / "home") == 0


def test_until_is_the_reference_time_of_the_online_values(problems: Path) -> None:
    until = datetime(2024, 1, 10, 12, tzinfo=UTC)
    version = materialize("deliveries", until=until)["courier_history"]
    rows = Tables().read(version).to_pandas()
    of_courier = rows[(rows["courier"] == "c00")].sort_values(["event_timestamp", "created_timestamp"])
    then = of_courier[of_courier["event_timestamp"] <= pd.Timestamp(until)].iloc[-1]
    assert list(read(until.replace(tzinfo=None))["courier_count_7d"]) == [then["courier_count_7d"]]
    assert load_view.fn("deliveries", "courier_history", until) == 0

    end = newest_event(load_problem(), Tables())
    assert end > until.replace(tzinfo=None)
    assert of_courier["courier_count_7d"].iloc[-1] != then["courier_count_7d"], "both times have the same values"
    materialize("deliveries")
    assert list(read(end)["courier_count_7d"]) == [of_courier["courier_count_7d"].iloc[-1]]


def test_a_problem_without_views(problems: Path, tmp_path: Path) -> None:
    install_wine(problems)
    assert materialize("wine") == {}
    assert not (tmp_path / "home" / "feast" / "wine").exists()


def test_an_sql_fault_names_the_file(problems: Path, tmp_path: Path) -> None:
    file = problems / "deliveries" / "features" / "depot_history.sql"
    file.write_text(file.read_text().replace("max(took)", "max(tooked)"))
    with pytest.raises(FeatureError) as caught:
        materialize("deliveries")
    assert "features/depot_history.sql" in str(caught.value)
    assert "tooked" in str(caught.value)
    assert caught.value.hint
    assert online_count(tmp_path / "home") == 0
    assert Tables().version(feature_table(load_problem(), "depot_history")) is None
