"""Pushed rows: the same state as a recomputation in any order, counted once, and nothing acknowledged is lost."""

import dataclasses
import struct
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from feature_repo.online import OnlineReader
from feature_repo.push import push, update_views
from feature_repo.store import historical_features
from tests.brute_force import brute_force
from tests.conftest import existing
from tests.pushed_orders import area, current, events, random_pushes
from truecourse.features.definition_digests import feature_table
from truecourse.features.feature_tables import compute_view
from truecourse.ingestion.push import Push, PushResult
from truecourse.problem import Aggregations, FeatureArea, Files, Float, Label, Problem, Table, Text
from truecourse.storage import compaction
from truecourse.storage.delta_tables import Tables, clean_table, raw_table

EVENTS = 10_000


@pytest.fixture
def shop(tmp_path: Path, configure: Callable[..., None]) -> FeatureArea:
    configure(home=tmp_path / "home")
    return area(tmp_path)


def pushed(shop: FeatureArea, pushes: list[Push], tables: Tables | None = None) -> list[PushResult]:
    results, update = push(shop, shop.table("orders"), tables or Tables(), pushes)
    assert not update.waiting
    for one in results:
        assert isinstance(one, PushResult), one
    return [one for one in results if isinstance(one, PushResult)]


def buyers(shop: FeatureArea) -> Problem:
    """A problem that uses the area's views."""
    visits = Table("visits", source=Files("none.csv"), columns={"customer": Text(), "spent": Float()}, key=["customer"])
    label = Label(column="spent")
    request = {"customer": Text(feature=False)}
    problem = Problem("buyers", kind="regression", tables=[visits], label=label, request=request, folder=shop.folder)
    shared = [f"shop.{view.name}" for view in shop.views]
    return dataclasses.replace(problem, views=shop.views, shared_views=shared, areas={"shop": shop})


def bits(values: Any) -> list[Any]:
    """Values of which two are equal only if they are the same bit for bit; missing ones are None."""
    listed = [None if value is None or value != value else value for value in values]
    return [struct.pack("<d", float(v)) if isinstance(v, int | float) else v for v in listed]


def online(shop: FeatureArea, keys: list[str], at: datetime) -> dict[str, list[Any]]:
    times = np.full(len(keys), np.datetime64(at.replace(tzinfo=None), "us"))
    found = OnlineReader(buyers(shop)).read({"customer": np.array(keys, dtype=object)}, times, len(keys))
    return {name: bits(values) for name, values in found.values.items()}


def offline(shop: FeatureArea, keys: list[str], at: datetime) -> dict[str, list[Any]]:
    spine = pa.table({"customer": keys, "decision_time": pa.array([at] * len(keys), pa.timestamp("us", tz="UTC"))})
    tables = Tables()
    versions = {view.name: existing(tables.version(feature_table(buyers(shop), view.name))) for view in shop.views}
    joined = historical_features(buyers(shop), tables, spine, versions)
    return {name: bits(joined[name].to_pylist()) for view in shop.views for name in buyers(shop).view_columns(view)}


def by_brute_force(shop: FeatureArea, rows: pa.Table, keys: list[str], at: datetime) -> dict[str, list[Any]]:
    view = shop.views[0]
    assert isinstance(view, Aggregations)
    frame = brute_force(view, shop.table("orders"), rows, pd.DataFrame({"customer": keys, "t": [at] * len(keys)}))
    return {name: bits(frame[name].tolist()) for name in frame.columns}


def as_stored(rows: pd.DataFrame) -> pa.Table:
    """Rows as a clean table stores those that arrived in time and were never corrected."""
    times = {name: pd.to_datetime(rows[name]).dt.as_unit("us") for name in ("ordered_at", "known_at")}
    table = pa.Table.from_pandas(rows.assign(**times), preserve_index=False)
    table = table.append_column("_tc_row", pa.array(range(len(rows))))
    for name in ("_tc_recorded_at", "_tc_superseded_at"):
        table = table.append_column(name, pa.nulls(len(rows), pa.timestamp("us", tz="UTC")))
    return table


def feature_rows(shop: FeatureArea) -> dict[str, pa.Table]:
    tables, found = Tables(), {}
    for view in shop.views:
        rows = tables.read(existing(tables.version(feature_table(shop, view.name))))
        found[view.name] = rows.sort_by([(name, "ascending") for name in rows.column_names])
    return found


def test_events_in_any_order_end_in_the_state_of_a_recomputation(
    shop: FeatureArea, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """10,000 shuffled events in random pushes, some of them twice: late ones, corrections that arrive before the rows
    that they correct, ties. Offline and online equal a recomputation, and values computed from the events alone.

    Small files are merged meanwhile."""
    monkeypatch.setattr(compaction, "MOST_SMALL", 1)
    rows, tables = events(EVENTS, seed=5), Tables()
    pushes = random_pushes(tmp_path, rows, 5, seed=6)
    for number, one in enumerate(pushes):
        (result,) = pushed(shop, [one], tables)
        assert result.inserted + result.corrected + result.unchanged == result.rows
        if number % 4 == 3:
            assert pushed(shop, [pushes[number - 1]], tables)[0].repeated
    merged = [commit for _, commit in tables.commits(raw_table("shop", "orders")) if commit["flow"] == "compact"]
    assert merged
    keys, at = [f"c{n:02d}" for n in range(61)], datetime(2024, 6, 1)
    stored = tables.read(existing(tables.version(clean_table("shop", "orders"))))
    found, own = online(shop, keys, at), current(rows)
    assert stored.filter(pc.is_null(stored["_tc_superseded_at"])).num_rows == len(own)

    assert found == offline(shop, keys, at)
    of_stored = by_brute_force(shop, stored, keys, at)
    assert {name: found[name] for name in of_stored} == of_stored
    of_events = by_brute_force(shop, as_stored(own), keys, at)
    del of_events["last_category"]  # of several at one time, that which arrived last
    assert {name: found[name] for name in of_events} == of_events

    before = feature_rows(shop)
    for view in shop.views:
        compute_view(shop, tables, view.name, full=True)
    for name, after in feature_rows(shop).items():
        assert after.equals(before[name]), name
    for database in (tmp_path / "home").rglob("online.db"):
        database.unlink()
    loaded = update_views(shop, shop.table("orders"), tables).loaded
    assert loaded == {"totals": 60, "last_order": 60}
    assert online(shop, keys, at) == found
