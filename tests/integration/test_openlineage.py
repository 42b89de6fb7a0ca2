"""Lineage events of flows: valid, complete from source files to versions and predictions, and true."""

import uuid
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from prefect import flow

from tasks.hooks import hooks
from tests import lineage_events, openlineage_schema, shared_area
from tests.conftest import REPOSITORY
from tests.integration.conftest import Trained
from tests.receivers import webhook
from tests.static_tables import install_diabetes
from truecourse.data import sql
from truecourse.errors import SourceError
from truecourse.features.affected_spans import ALWAYS
from truecourse.features.aggregation_rows import AggregationRows
from truecourse.features.definition_digests import feature_table
from truecourse.features.view_versions import HISTORY
from truecourse.ingestion.ingest import ingest_sources
from truecourse.ingestion.validate import validate_new
from truecourse.lineage.candidate_rows import HeldTables
from truecourse.openlineage import delivery
from truecourse.openlineage.column_lineage import snapshot_lineage, view_lineage
from truecourse.openlineage.flow_events import end_events, open_run
from truecourse.openlineage.steps import FlowRun
from truecourse.problem import Aggregations, Problem
from truecourse.problem.loader import load_problem
from truecourse.registry import runs
from truecourse.storage.delta_tables import Tables, clean_table, raw_table

Event = dict[str, Any]
FLOWS = sorted(path.stem for path in (REPOSITORY / "flows").glob("[a-z]*.py"))
EARLIER = datetime(2020, 1, 1, tzinfo=UTC)


def test_each_flow_has_hooks_of_its_own() -> None:
    """The command line adds hooks to the flow that it runs: nested flows must not have them too."""
    flows = [getattr(import_module(f"flows.{name}"), name) for name in FLOWS]
    lists = [
        hooks for each in flows for hooks in (each.on_running_hooks, each.on_completion_hooks, each.on_failure_hooks)
    ]
    assert all(lists)
    assert len({id(hooks) for hooks in lists}) == 3 * len(FLOWS) > 30


def events_of(name: str, run_id: str, **more: Any) -> list[Event]:
    run = FlowRun(run_id, name, {"problem": "deliveries"}, EARLIER, **more)
    return list(end_events(open_run(run), "COMPLETE"))


def run_of(table: str) -> str:
    """The flow run that created a table."""
    return str(Tables().commits(table)[0][1]["run"])


def completed(events: list[Event]) -> dict[str, Event]:
    """The event of the end of each job's run, by the job's name."""
    return {event["job"]["name"]: event for event in events if event["eventType"] != "START"}


def short(dataset: Mapping[str, Any]) -> str:
    """A key of storage; of a file its last three parts."""
    name = str(dataset["name"])
    return name.rpartition("storage/")[2] if "storage/" in name else "/".join(Path(name).parts[-3:])


def require_valid(events: list[Event]) -> None:
    assert [fault for event in events for fault in openlineage_schema.faults(event)] == []
    for event in events:
        assert "extractionError" not in event["run"]["facets"], event["job"]["name"]
    started = {event["run"]["runId"] for event in events if event["eventType"] == "START"}
    assert started == {event["run"]["runId"] for event in events if event["eventType"] != "START"}


def origins(events: Mapping[str, Event], dataset: str, column: str) -> set[tuple[str, str]]:
    """The columns of datasets that no step wrote, on which a column depends directly."""
    writers = {short(output): output for event in events.values() for output in event["outputs"]}
    if dataset not in writers:
        return {(dataset, column)}
    fields = writers[dataset]["facets"].get("columnLineage", {"fields": {}})["fields"]
    found: set[tuple[str, str]] = set()
    for one in fields.get(column, {"inputFields": []})["inputFields"]:
        if any(transformation["type"] == "DIRECT" for transformation in one["transformations"]):
            found |= origins(events, short(one), one["field"])
    return found


def test_the_events_of_a_trained_problem_lead_from_its_version_to_its_files(trained: Trained) -> None:
    problem = load_problem("deliveries")
    raw, clean = (kind("deliveries", "deliveries") for kind in (raw_table, clean_table))
    run = runs.trained_run("deliveries", trained.version.run_id)
    events = [
        *events_of("ingest", run_of(raw)),
        *events_of("validate", run_of(clean)),
        *events_of("materialize", run_of(feature_table(problem, "courier_history"))),
        *events_of("train", str(uuid.uuid4()), result=run),
        *events_of("register", str(uuid.uuid4()), result=trained.version),
    ]
    assert [fault for event in events for fault in openlineage_schema.faults(event)] == []
    jobs = completed(events)
    tables, views = [table.name for table in problem.tables], [view.name for view in problem.views]
    assert {
        *(f"deliveries.{flow}.{table}" for flow in ("ingest", "validate") for table in tables),
        *(f"deliveries.materialize.{view}" for view in views),
        *("deliveries.train.snapshot", "deliveries.train.model", "deliveries.register.model"),
    } <= jobs.keys()
    files = {"deliveries/data/deliveries*.csv", "deliveries/data/couriers.jsonl"}
    assert {short(source) for event in jobs.values() for source in event["inputs"]} >= files
    found = origins(jobs, "snapshots/deliveries", "courier_late_7d")
    assert found == {("deliveries/data/deliveries*.csv", column) for column in ("took", "promised")}
    assert {name for name, _ in origins(jobs, "models/deliveries/versions", "prediction")} == files
    first = jobs["deliveries.validate.deliveries"]
    assert first["outputs"][0]["outputFacets"]["outputStatistics"]["rowCount"] == 4800
    rules = first["inputs"][0]["inputFacets"]["dataQualityAssertions"]["assertions"]
    assert all(rule["success"] for rule in rules)
    assert {rule.get("column") for rule in rules} >= {"delivery", "distance"}


@pytest.fixture
def leaving(tmp_path: Path, home: Path, configure: Callable[..., None]) -> list[Event]:
    """The events of a problem with monthly decisions and views of an area, up to its features."""
    configure(problems=shared_area.install(tmp_path), problem="leaving", openlineage=f"file:{tmp_path / 'events'}")
    lineage_events.prepare("leaving")
    return lineage_events.read(tmp_path / "events")


def test_a_shared_area_has_jobs_of_its_own_and_features_lead_into_it(leaving: list[Event]) -> None:
    require_valid(leaving)
    jobs, problem = completed(leaving), load_problem("leaving")
    step = jobs["customers.materialize.orders"]
    assert step["run"]["facets"]["parent"]["job"]["name"] == "leaving.materialize"
    assert step["job"]["facets"]["ownership"]["owners"] == [{"name": "sales", "type": "OWNER"}]
    assert {short(one) for one in step["inputs"]} == {"tables/customers/clean/orders"}
    facet = snapshot_lineage(problem).facet([*problem.features, "label"])
    assert facet is not None
    name = feature_table(problem, "orders")
    direct = {
        feature: {(short(one), one["field"]) for one in field["inputFields"] if "DIRECT" in kinds(one)}
        for feature, field in facet["fields"].items()
    }
    assert direct["spend_30d"] == {(name, "v0")}
    assert direct["last_order_age"] == {(name, "event_timestamp")}
    assert direct["plan"] == {("tables/leaving/clean/reviews", "plan")}
    assert direct["label"] == {("tables/leaving/clean/reviews", "left")}
    require_only_declared_columns_change(problem)


def kinds(used: Mapping[str, Any]) -> set[str]:
    return {transformation["type"] for transformation in used["transformations"]}


def require_only_declared_columns_change(problem: Problem) -> None:
    """Change each column of the source of aggregations, and compare the stored rows."""
    view = problem.view("orders")
    assert isinstance(view, Aggregations)
    owner, tables, lineage = problem.namespace_of("orders"), Tables(), view_lineage(problem, view)
    versions = sql.clean_versions(owner, tables)
    stored = tables.read(versions["orders"]).slice(0, 200)
    for column in owner.table("orders").columns:
        turned = stored[column].take(pa.array([*range(1, len(stored)), 0]))
        place = stored.column_names.index(column)
        both = (stored, stored.set_column(place, column, turned))
        sides = [stored_rows(owner, view, versions, rows) for rows in both]
        changed = {name for name in sides[0].column_names if not sides[0][name].equals(sides[1][name])}
        used = {name for name, uses in lineage.fields.items() if column in {use.column for use in uses}}
        deciding = column in {use.column for use in lineage.rows}
        assert deciding or changed <= used, column
        assert changed or column == "order", f"{column} is changed, and nothing else is: the law is not tested"


def stored_rows(owner: Any, view: Aggregations, versions: Mapping[str, Any], rows: pa.Table) -> pa.Table:
    with sql.connect() as connection:
        held = HeldTables({versions["orders"].name: rows})
        AggregationRows(connection, owner, held, view, versions).build([ALWAYS])
        return connection.sql(f"SELECT * FROM {HISTORY} ORDER BY ALL").to_arrow_table()


@pytest.mark.usefixtures("prefect_server")
def test_flows_of_a_table_without_time_send_events_to_a_server(problems: Path, configure: Callable[..., None]) -> None:
    from flows.ingest import ingest
    from flows.materialize import materialize
    from flows.register import register
    from flows.score import score
    from flows.train import train
    from flows.validate import validate

    @flow(name="outer", **hooks())
    def outer(problem: str) -> None:
        for each in (ingest, validate, materialize, train, register, score):
            each(problem)
        score(problem, source=str(problems / "diabetes" / "data" / "patients.csv.zip"))

    install_diabetes(problems)
    with webhook() as receiver:
        url = "/".join(receiver.url.split("/")[:3])
        configure(openlineage=url, openlineage_api_key="SECRET", openlineage_namespace="hospital")
        outer("diabetes")
        assert delivery.wait_for_delivery(300)
        events = list(receiver.bodies)
        (problems / "diabetes" / "data" / "patients.csv.zip").unlink()
        with pytest.raises(SourceError):
            ingest("diabetes")
        assert delivery.wait_for_delivery(300)
        failed = receiver.bodies[len(events) :]
    assert {authorization for _, authorization in receiver.requests} == {"Bearer SECRET"}
    require_valid([*events, *failed])
    jobs = completed(events)
    assert {event["job"]["namespace"] for event in events} == {"hospital"}
    parents = {name: event["run"]["facets"].get("parent") for name, event in jobs.items()}
    assert parents.pop("diabetes.outer") is None
    assert {one["root"]["job"]["name"] for one in parents.values()} == {"diabetes.outer"}
    assert parents["diabetes.score"]["job"]["name"] == "diabetes.outer"
    assert parents["diabetes.score.decisions"]["job"]["name"] == "diabetes.score"
    assert {one["run"]["runId"] for one in parents.values()} <= {event["run"]["runId"] for event in events}
    source = "diabetes/data/patients.csv.zip"
    assert "predictions/diabetes" in {short(one) for one in jobs["diabetes.score.decisions"]["outputs"]}
    assert (source, "bmi") in origins(jobs, "predictions/diabetes", "_tc_prediction")
    assert (source, "progression") in origins(jobs, "predictions/diabetes", "_tc_prediction")
    assert {short(one) for one in jobs["diabetes.score.file"]["inputs"]} == {source, "models/diabetes/versions"}
    of_file = jobs["diabetes.score.file"]["outputs"][0]["facets"]["columnLineage"]["fields"]
    assert {short(one) for one in of_file["bmi"]["inputFields"]} == {source}
    assert [event["eventType"] for event in failed] == ["START", "FAIL"]
    assert "no such file" in failed[-1]["run"]["facets"]["errorMessage"]["message"]


def test_a_refused_delivery_fails_its_step_and_says_which_rules_broke(
    problems: Path, home: Path, configure: Callable[..., None], tmp_path: Path
) -> None:
    install_diabetes(problems)
    configure(problem="diabetes", openlineage=f"file:{tmp_path / 'events'}")
    problem, tables = load_problem("diabetes"), Tables()
    table = problem.tables[0]
    data = problems / "diabetes" / "data"
    (data / "patients.csv.zip").unlink()
    names = [column.source or name for name, column in table.columns.items()]
    rows = [["SECRETVALUE"] * len(names)] * 30
    (data / "patients.csv.zip").write_bytes(lineage_events.zipped("patients.csv", names, rows))
    now = datetime(2024, 1, 1)
    lineage_events.record("ingest", "diabetes", lambda run: ingest_sources(problem, table, tables, run=run.id))
    lineage_events.record("validate", "diabetes", lambda run: validate_new(problem, table, tables, now, run=run.id))
    events = lineage_events.read(tmp_path / "events")
    require_valid(events)
    step = completed(events)[f"diabetes.validate.{table.name}"]
    assert step["eventType"] == "FAIL"
    assert step["outputs"] == []
    rules = step["inputs"][0]["inputFacets"]["dataQualityAssertions"]["assertions"]
    assert any(not rule["success"] for rule in rules)
    assert "SECRETVALUE" not in (tmp_path / "events").read_text(), "events hold no values of rows"
