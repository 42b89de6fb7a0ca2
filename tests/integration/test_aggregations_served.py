"""Aggregations in training, batch scoring, serving, the skew audit and the trace of predictions."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from services.log.spool import Spool
from services.model.predictor import Predictor, registered_predictor
from tests import simulated_orders
from tests.integration.conftest import set_environment
from tests.integration.test_aggregations import assert_same, clean, computed, expected, ingest, load
from truecourse.features.feature_tables import newest_event
from truecourse.lineage.feature_origins import prediction_origins
from truecourse.modeling.snapshot import load_frame, load_manifest
from truecourse.monitoring.findings import Report
from truecourse.monitoring.skew.skew_check import check_skew
from truecourse.problem import Problem
from truecourse.problem.loader import load_problem
from truecourse.references import ModelVersion, Snapshot, Window
from truecourse.registry import versions as registry
from truecourse.serving.batch_scoring import find_scored_rows
from truecourse.serving.log_shipping import ship, spool_folder
from truecourse.serving.prediction_log import encode_entry, find_records
from truecourse.settings import get_settings
from truecourse.storage.delta_tables import Tables

CUSTOMERS = [f"c{number:03d}" for number in range(40)]
ORDERS = simulated_orders.orders(2500, until=330)
MORE = pd.concat(
    [simulated_orders.corrections(ORDERS, 100), simulated_orders.orders(200, seed=9, first=5000, until=345)]
)


@dataclass(frozen=True)
class World:
    problem: Problem
    tables: Tables
    version: ModelVersion
    snapshot: Snapshot
    predictor: Predictor

    def predict(self, at: datetime) -> list[str]:
        """Serve and log one prediction per customer; returns their ids."""
        row = {"plan": "plus", "decision_time": at.isoformat()}
        rows = [row | {"id": name, "customer": name} for name in CUSTOMERS]
        read = self.predictor.rows.read_request(json.dumps({"rows": rows}).encode(), at)
        answered = self.predictor.answer(read, explain=True, at=at)
        spool = Spool(spool_folder("churn"), encode_entry)
        spool.put(answered)
        spool.close()
        return [answer["prediction_id"] for answer in answered.answers]

    def audit(self, at: datetime) -> Report:
        ship("churn")
        end = at + timedelta(hours=1)
        return check_skew(self.problem, self.tables, end, Window(start=end - timedelta(days=200), end=end))


@dataclass(frozen=True)
class _Trained:
    home: Path
    problems: Path
    version: ModelVersion
    snapshot: Snapshot


@pytest.fixture(scope="module")
def _trained(tmp_path_factory: pytest.TempPathFactory, prefect_server: str) -> _Trained:
    from flows.ingest import ingest
    from flows.materialize import materialize
    from flows.register import register
    from flows.train import train
    from flows.validate import validate

    home, problems = tmp_path_factory.mktemp("churn") / ".truecourse", tmp_path_factory.mktemp("problems")
    simulated_orders.install(problems, ORDERS)
    with pytest.MonkeyPatch.context() as patch:
        set_environment(patch, home, problems)
        patch.setenv("TRUECOURSE_PROBLEM", "churn")
        get_settings.cache_clear()
        for flow in (ingest, validate, materialize):
            flow("churn")
        run = train("churn")
        version = register("churn")
    get_settings.cache_clear()
    return _Trained(home, problems, version, run.snapshot)


@pytest.fixture
def world(_trained: _Trained, tmp_path: Path, configure: Callable[..., None]) -> World:
    """A registered model of the churn problem, in a home that a test may change."""
    shutil.copytree(_trained.home, tmp_path / "home")
    shutil.copytree(_trained.problems, tmp_path / "problems")
    configure(home=tmp_path / "home", problems=tmp_path / "problems", problem="churn")
    problem, version = load_problem(), _trained.version
    predictor = registered_predictor(version, registry.open_model(version, problem.kind))
    return World(problem, Tables(), version, _trained.snapshot, predictor)


def deliver(world: World) -> None:
    simulated_orders.deliver(world.problem.folder, MORE, 2)
    ingest("orders")


def test_training_proves_that_no_aggregation_reads_the_future(world: World) -> None:
    proof = load_manifest(world.tables.store, world.snapshot).look_ahead
    assert proof is not None
    assert proof.applies
    assert proof.rows["orders"] > 100
    assert proof.rows["shipments"] > 100


def test_a_batch_equals_brute_force(world: World) -> None:
    from tasks.scoring.score_decisions import score_decisions
    from tasks.training.trace import trace_prediction

    window = Window(start=datetime(2024, 10, 1), end=datetime(2024, 12, 2))
    scored = score_decisions.fn("churn", world.version.version, window, explain=False)
    rows = world.tables.read(scored).to_pylist()
    assert len(rows) == 3 * len(CUSTOMERS)
    decisions = pd.DataFrame(
        {
            "customer": [row["customer"] for row in rows],
            "t": [row["decision_time"].replace(tzinfo=None) for row in rows],
        }
    )
    wanted = expected(world.problem, world.tables, decisions)
    assert_same({name: [row[name] for row in rows] for name in wanted}, wanted, decisions)
    links = {link["link"]: link["verified"] for link in trace_prediction("churn", rows[0]["id"])["links"]}
    assert links["features of view orders"]
    assert links["features of view shipments"]


def test_every_aggregation_names_the_rows_that_it_counts(world: World) -> None:
    from tasks.scoring.score_decisions import score_decisions

    deliver(world)
    computed(world.problem, world.tables)
    window = Window(start=datetime(2024, 12, 1), end=datetime(2024, 12, 2))
    score_decisions.fn("churn", world.version.version, window, explain=False)
    for customer in ("c000", "c005", "c009"):
        (record, *_) = find_scored_rows(world.tables, "churn", f"{customer}-2024-12")
        found = prediction_origins(world.tables, record, world.version)
        by_view = {origin["view"]: origin for origin in found["origins"]}
        orders, shipments = by_view["orders"], by_view["shipments"]
        assert (orders["state"], shipments["state"]) == ("sufficient", "sufficient"), orders
        assert orders["rows"] == record["values"]["orders"]
        assert orders["sql"] == "problem.py views.orders"
        features = {one["feature"]: one for one in found["features"]}
        if orders["changed_by"] is not None:
            assert features["orders_90d"]["changed_by"] == record["values"]["orders_90d"]
            assert features["last_order_age"]["changed_by"] in (0, 1)
    assert by_view["orders"]["rows"] == 0


def test_a_row_names_the_decisions_that_it_changes(world: World) -> None:
    from truecourse.lineage.forward_trace import trace_row

    stored = clean(world.problem, world.tables, "orders").to_pandas()
    books = stored[(stored["category"] == "books") & (stored["ordered_at"] < pd.Timestamp("2024-06-01", tz="UTC"))]
    one = books.iloc[50]
    (effects,) = trace_row(world.tables, world.problem, "orders", str(one["order"]))["tables"]
    by_view = {view["view"]: view for view in effects["features"]}
    assert (by_view["orders"]["removed"], by_view["orders"]["changed"], by_view["orders"]["added"]) == (1, 0, 0)
    assert by_view["orders"]["first"][0]["customer"] == one["customer"]
    frame = load_frame(world.tables.store, world.snapshot).to_pandas()
    later = (frame["customer"] == one["customer"]) & (frame["decision_time"] >= one["ordered_at"])
    (item,) = effects["snapshots"]["items"]
    assert sum(item["affected"].values()) == later.sum() > 5, "`orders` counts it for ever"


def test_served_values_agree_with_the_tables_and_are_traced(world: World) -> None:
    from tasks.training.trace import trace_prediction

    load(world.problem, world.tables)
    loaded = newest_event(world.problem, world.tables)
    ids = []
    for days in (0, 31, 95):
        at = (loaded + timedelta(days=days)).replace(tzinfo=UTC)
        ids += world.predict(at)
    report = world.audit(at)
    assert report.findings == ()
    assert report.figures["compared"]["orders"] == 3 * len(CUSTOMERS)
    links = trace_prediction("churn", ids[-1])["links"]
    assert {link["link"]: link["verified"] for link in links}["features of view orders"]
    assert all(link["verified"] for link in links if link["link"].startswith("features")), links
    (record,) = find_records(world.tables, "churn", ids[-2])
    origins = prediction_origins(world.tables, record, world.version)["origins"]
    assert {origin["view"]: origin["state"] for origin in origins} == dict.fromkeys(
        ("orders", "shipments", "last_order"), "sufficient"
    )


def test_rows_that_came_after_the_load_are_stale_values(world: World) -> None:
    load(world.problem, world.tables)
    deliver(world)
    at = datetime(2024, 12, 27, tzinfo=UTC)
    world.predict(at)
    load(world.problem, world.tables)
    report = world.audit(at)
    assert {finding.subject: finding.cause for finding in report.findings}["orders"] == "stale value"
    assert {mismatch["cause"] for mismatch in report.figures["mismatches"]} == {"stale value"}


def test_a_flushed_store_is_missing_values_and_not_no_events(world: World) -> None:
    from feature_repo.online_location import feast_folder

    load(world.problem, world.tables)
    at = newest_event(world.problem, world.tables).replace(tzinfo=UTC)
    import sqlite3

    with sqlite3.connect(feast_folder(world.problem) / "online.db") as database:
        for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
            database.execute(f'DELETE FROM "{name}"')
    world.predict(at)
    report = world.audit(at)
    causes: dict[str, Any] = {finding.subject: finding.cause for finding in report.findings}
    assert causes["orders"] == causes["shipments"] == "missing"
