"""Views of a feature area that two problems use: computed and loaded once, the same in every step, and kept apart from
later edits."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from tests import shared_area, simulated_orders
from tests.brute_force import brute_force
from tests.byte_search import places_with
from tests.conftest import existing
from tests.edited_orders import replace_text
from tests.integration.conftest import set_environment
from tests.integration.test_aggregations import assert_same
from tests.unevaluated_versions import set_champion
from truecourse.catalogue.page import publish
from truecourse.deployment.bento import bento_files
from truecourse.erasure.targets import find_targets
from truecourse.features.definition_digests import feature_table
from truecourse.features.feature_tables import compute_view
from truecourse.hashing import sha256_file
from truecourse.lineage.feature_origins import prediction_origins
from truecourse.lineage.forward_trace import trace_row, trace_source, trace_table
from truecourse.modeling.snapshot import load_frame
from truecourse.problem import Aggregations
from truecourse.problem.loader import load_area, load_problem, problem_digest
from truecourse.references import ModelVersion, Window
from truecourse.registry import versions as registry
from truecourse.serving.batch_scoring import SCORE, find_scored_rows
from truecourse.settings import get_settings
from truecourse.storage.delta_tables import Tables, clean_table, raw_table

USERS = ("leaving", "growth")


@dataclass(frozen=True)
class World:
    """The storage after the flows of both problems. `loaded`: by problem, the digest of each online store of the area
    after the problem's flows."""

    root: Path
    version: ModelVersion
    loaded: dict[str, dict[str, str]]

    @property
    def area(self) -> Path:
        return self.root / "feature_views" / "customers"


def online_files(home: Path) -> dict[str, str]:
    return {str(path.relative_to(home)): sha256_file(path) for path in home.glob("feast/customers/*/online.db")}


@pytest.fixture(scope="module")
def _world(tmp_path_factory: pytest.TempPathFactory, prefect_server: str) -> World:
    from flows.ingest import ingest
    from flows.materialize import materialize
    from flows.validate import validate
    from tasks.data.ingest import ingest_table
    from tasks.data.validate import validate_table
    from tasks.training.build_snapshot import take_snapshot
    from tasks.training.train import train_model

    root = tmp_path_factory.mktemp("areas")
    problems, loaded = shared_area.install(root), {}
    with pytest.MonkeyPatch.context() as patch:
        set_environment(patch, root / ".truecourse", problems)
        ingest("leaving")
        validate("leaving")
        for table in ("months", "orders"):
            ingest_table.fn("growth", table)
            validate_table.fn("growth", table)
        for name in USERS:
            materialize(name)
            loaded[name] = online_files(root / ".truecourse")
        version = registry.create_version(train_model.fn("leaving", take_snapshot.fn("leaving")))
        set_champion(version)
    get_settings.cache_clear()
    return World(root, version, loaded)


@pytest.fixture
def world(_world: World, tmp_path: Path, configure: Callable[..., None]) -> World:
    """The world in a place that a test may change."""
    for name in (".truecourse", "problems", "feature_views"):
        shutil.copytree(_world.root / name, tmp_path / name)
    configure(home=tmp_path / ".truecourse", problems=tmp_path / "problems", problem="leaving")
    return World(tmp_path, _world.version, _world.loaded)


def commits(table: str) -> int:
    return len(Tables().commits(table))


def expected(decisions: pd.DataFrame) -> dict[str, list[Any]]:
    """The aggregations of the area's orders, by brute force. `decisions`: customer and t."""
    area, tables = load_area("customers"), Tables()
    view, version = area.view("orders"), tables.version(clean_table("customers", "orders"))
    assert isinstance(view, Aggregations)
    assert version is not None
    frame = brute_force(view, area.table("orders"), tables.read(version), decisions)
    return {name: frame[name].tolist() for name in frame.columns}


def decisions_of(rows: pa.Table) -> pd.DataFrame:
    times = rows["decision_time"].cast(pa.timestamp("us")).to_pandas()
    return pd.DataFrame({"customer": rows["customer"].to_pylist(), "t": times})


def frame_of(name: str) -> pa.Table:
    from tasks.training.build_snapshot import take_snapshot

    return load_frame(Tables().store, take_snapshot.fn(name))


def test_two_problems_compute_store_and_load_a_view_once(world: World) -> None:
    first, second = (feature_table(load_problem(name), "orders") for name in USERS)
    assert first == second
    assert first.startswith("features/customers/orders.")
    assert commits(first) == commits(clean_table("customers", "orders")) == 1
    assert len(world.loaded["leaving"]) == 2  # orders and last_order
    assert world.loaded["growth"] == world.loaded["leaving"]
    assert not list(Tables().store.list("features/growth/orders."))
    assert list(Tables().store.list("features/growth/announced."))


def test_training_has_the_same_values_in_every_problem(world: World) -> None:
    for name in USERS:
        frame = frame_of(name)
        wanted = expected(decisions_of(frame))
        assert_same({feature: frame[feature].to_pylist() for feature in wanted}, wanted, decisions_of(frame))
    growth = frame_of("growth")
    assert growth["pieces"].null_count < len(growth)  # from its own table, which is called orders too


def test_batch_endpoint_and_trace_know_the_area(world: World) -> None:
    from services.model.predictor import registered_predictor
    from tasks.scoring.score_decisions import score_decisions
    from tasks.training.trace import trace_prediction

    problem, tables = load_problem("leaving"), Tables()
    window = Window(start=datetime(2024, 12, 1), end=datetime(2024, 12, 2))
    rows = tables.read(score_decisions.fn("leaving", world.version.version, window, explain=False))
    wanted = expected(decisions_of(rows))
    assert_same({name: rows[name].to_pylist() for name in wanted}, wanted, decisions_of(rows))
    predictor = registered_predictor(world.version, registry.open_model(world.version, problem.kind))
    sent = [
        {"id": row["id"], "customer": row["customer"], "plan": row["plan"], "decision_time": "2024-12-01T00:00:00Z"}
        for row in rows.to_pylist()
    ]
    now = datetime(2024, 12, 1, tzinfo=UTC)
    answered = predictor.answer(
        predictor.rows.read_request(json.dumps({"rows": sent}).encode(), now), explain=True, at=now
    )
    by_id = {row["id"]: row[SCORE] for row in rows.to_pylist()}
    assert [one["score"] for one in answered.answers] == pytest.approx([by_id[one["id"]] for one in answered.answers])
    (record, *_) = find_scored_rows(tables, "leaving", "c000-2024-12")
    links = {link["link"]: link["verified"] for link in trace_prediction("leaving", record["id"])["links"]}
    assert links["features of view orders"]
    assert links["features of view last_order"]
    origins = {one["view"]: one for one in prediction_origins(tables, record, world.version)["origins"]}
    assert {origins[view]["state"] for view in ("orders", "last_order")} == {"sufficient"}
    assert origins["orders"]["sql"] == "feature_views/customers/area.py views.orders"
    assert origins["last_order"]["sql"] == "feature_views/customers/last_order.sql"
    (source,) = origins["last_order"]["tables"]
    assert source["version"].startswith("tables/customers/clean/orders@")
    assert source["files"]["first"][0]["state"] == "verified"


def test_a_row_of_the_area_is_traced_to_the_decisions_of_a_problem(world: World) -> None:
    problem, tables = load_problem("leaving"), Tables()
    stored = tables.read(tables.version(clean_table("customers", "orders"))).to_pandas()  # type: ignore[arg-type]
    one = stored[stored["ordered_at"] < pd.Timestamp("2024-05-01", tz="UTC")].iloc[50]
    (effects,) = trace_row(tables, problem, "customers.orders", str(one["order"]))["tables"]
    assert {view["view"] for view in effects["features"]} == {"orders", "last_order"}
    assert effects["rows"]["table"] == "customers.orders"
    (item,) = effects["snapshots"]["items"]
    frame = frame_of("leaving").to_pandas()
    later = (frame["customer"] == one["customer"]) & (frame["decision_time"] >= one["ordered_at"])
    assert 0 < sum(item["affected"].values()) <= later.sum()
    assert trace_table(tables, problem, "customers.orders")["snapshots"]["count"] == 1
    (found,) = trace_source(tables, load_problem("growth"), "orders-1.csv")["deliveries"]
    assert found["table"] == "customers.orders"


def test_an_edit_is_computed_once_and_the_champion_keeps_its_own_view(world: World) -> None:
    from flows.materialize import materialize
    from tasks.data.ingest import ingest_table
    from tasks.data.validate import validate_table
    from tasks.features.trained_features import rows_as_trained
    from tasks.training.reproduce import reproduce

    before, decided = frame_of("leaving"), load_problem("leaving")
    replace_text(world.area / "area.py", "Count(window=days(90))", "Count(window=days(60))")
    shared_area.deliver(world.root, simulated_orders.orders(300, seed=9, first=5000, until=345), 2)
    ingest_table.fn("customers", "orders")
    validate_table.fn("customers", "orders")
    for name in USERS:
        materialize(name)
    now = load_problem("leaving")
    assert feature_table(now, "orders") != feature_table(decided, "orders")
    assert feature_table(now, "last_order") == feature_table(decided, "last_order")
    assert commits(feature_table(now, "orders")) == 1
    assert commits(feature_table(now, "last_order")) == commits(feature_table(decided, "orders")) == 2
    for name in USERS:
        frame = frame_of(name)
        wanted = expected(decisions_of(frame))
        assert_same({feature: frame[feature].to_pylist() for feature in wanted}, wanted, decisions_of(frame))
    trained = rows_as_trained(now, world.version, frame_of("leaving"))
    assert trained["orders_90d"].to_pylist() != frame_of("leaving")["orders_90d"].to_pylist()
    old = dict(zip(before["id"].to_pylist(), before["orders_90d"].to_pylist(), strict=True))
    late = [
        n for n, id in zip(trained["orders_90d"].to_pylist(), trained["id"].to_pylist(), strict=True) if n < old[id]
    ]
    assert not late  # a window of 90 days, with the rows that came since
    result = reproduce("leaving", world.version.version, "source")
    assert result["identical"]
    assert not [link for link in result["links"] if link["state"] == "changed"]
    rows = frame_of("leaving")
    for removed in ('"category": Text(nulls=True),', '"last_category": Last("category"),'):
        replace_text(world.area / "area.py", removed, "")
    declared = 'Float("EUR", nulls=True, unit="EUR")'
    replace_text(world.area / "area.py", declared, 'Text("EUR", nulls=True)')
    replace_text(world.area / "area.py", 'Sum("amount"', 'Sum("CAST(amount AS DOUBLE)"')
    replace_text(world.area / "last_order.sql", "amount", "CAST(amount AS DOUBLE)")
    ingest_table.fn("customers", "orders")
    validate_table.fn("customers", "orders")
    again = rows_as_trained(load_problem("leaving"), world.version, rows)
    assert again.equals(trained), "columns that were removed and retyped are read as it was trained on them"


def test_a_subject_is_forgotten_in_the_area_and_in_every_problem_that_uses_it(world: World) -> None:
    from feature_repo.online import OnlineReader
    from tasks.data.forget_subject import forget_subject
    from tasks.data.ingest import ingest_table
    from tasks.training.trace import trace_model

    home, problem, tables = world.root / ".truecourse", load_problem("leaving"), Tables()
    for name in USERS:
        catalogue = publish(tables, load_problem(name))
    assert shared_area.OWN.encode() in tables.store.get(catalogue)
    before = len(places_with(home, tables.store, [shared_area.OWN]))
    planned = forget_subject("customer", [shared_area.SUBJECT], dry_run=True)
    assert len(places_with(home, tables.store, [shared_area.OWN])) == before > 5
    outcome = forget_subject("customer", [shared_area.SUBJECT])
    assert outcome.is_complete, outcome
    assert [one.namespace.name for one in outcome.targets] == ["customers", "growth", "leaving", "segments"]
    for done in (planned, outcome):
        touched = {"/".join(one.key.split("/")[:3]).partition(".")[0] for one in done.removed_data}
        assert touched >= {"sources/customers/orders", "sources/leaving/reviews", "tables/customers/raw",
                           "tables/customers/clean", "tables/growth/clean", "features/customers/orders",
                           "features/customers/last_order", "features/growth/announced"}  # fmt: skip
        assert len([one for one in done.removed_data if one.key.startswith("feast/customers/")]) == 2
    assert places_with(home, tables.store, [shared_area.OWN]) == []
    for view in ("orders", "last_order"):
        version = existing(tables.version(feature_table(problem, view)))
        assert shared_area.SUBJECT not in tables.read(version)["customer"].to_pylist()
        assert compute_view(problem, tables, view) == version, "nothing is computed anew"
    moments = np.array(["2024-12-30"] * 2, "datetime64[us]")
    read = OnlineReader(problem).read({"customer": [shared_area.SUBJECT, "c001"]}, moments, 2).values
    assert [value is None for value in read["last_category"]] == [True, False]
    assert shared_area.SUBJECT not in frame_of("growth")["customer"].to_pylist()
    assert trace_model("leaving", world.version.version)["state"] == "redacted"
    again = simulated_orders.orders(300, seed=9, first=5000, until=345)
    again.loc[again["customer"] == shared_area.SUBJECT, "category"] = shared_area.OWN
    shared_area.deliver(world.root, again, 2)
    ingest_table.fn("customers", "orders")
    (warning,) = tables.commits(raw_table("customers", "orders"))[-1][1]["deliveries"][-1]["warnings"]
    assert "rows of 1 forgotten subject refused" in warning
    assert places_with(home, tables.store, [shared_area.OWN]) == []


def test_an_area_whose_folder_is_gone_is_read_from_the_archive_of_a_run(world: World) -> None:
    for name in ("problems", "feature_views"):
        shutil.rmtree(world.root / name)
    (world.root / "problems").mkdir()
    found = find_targets("customers.customer", [shared_area.SUBJECT])
    assert [one.namespace.name for one in found.found] == ["customers", "leaving"]
    assert list(found.unread) == ["growth"]  # no run has an archive of it


def test_a_package_holds_the_area_and_needs_no_shared_folder(
    world: World, tmp_path: Path, configure: Callable[..., None]
) -> None:
    problem = load_problem("leaving")
    files = bento_files(problem, world.version)
    assert "problems/leaving/feature_views/customers/last_order.sql" in files
    assert not [name for name in files if name.startswith("problems/") and "/data/" in name]
    for name, data in files.items():
        if name.startswith("problems/"):
            target = tmp_path / "bento" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
    configure(problems=tmp_path / "bento" / "problems")
    packaged = load_problem("leaving")
    assert problem_digest(packaged) == problem_digest(problem)
    assert feature_table(packaged, "orders") == feature_table(problem, "orders")


def test_a_problem_without_time_uses_a_view_without_time(world: World) -> None:
    from feature_repo.online import OnlineReader
    from feature_repo.online_loading import load_online
    from tasks.data.ingest import ingest_table
    from tasks.data.validate import validate_table

    problem, tables = load_problem("segments"), Tables()
    ingest_table.fn("segments", "answers")
    validate_table.fn("segments", "answers")
    compute_view(problem, tables, "facts")
    load_online(problem, tables, "facts", datetime(2025, 1, 1))
    frame = frame_of("segments")
    facts = pd.read_csv(world.area / "data" / "customers.csv").set_index("customer")
    wanted = facts.loc[frame["customer"].to_pylist()]
    assert frame["region"].to_pylist() == wanted["region"].tolist()
    assert frame["joined"].to_pylist() == wanted["joined"].tolist()
    read = OnlineReader(problem).read({"customer": ["c001", "none"]}, None, 2)
    assert read.values == {"region": [facts.loc["c001", "region"], None], "joined": [facts.loc["c001", "joined"], None]}
