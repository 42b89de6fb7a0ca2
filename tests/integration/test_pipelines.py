"""Pipelines checked on real tables, a real online store, a real spool and a real Prefect server."""

import dataclasses
import os
import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest
from prefect import flow

from feature_repo.online_location import loaded_marks, mark_name
from tasks.monitoring.check_health import check_pipelines as check_pipelines_task
from tasks.monitoring.flow_schedules import scheduled_flows
from tests import simulated_deliveries
from tests.conftest import free_ports, valkey_server
from tests.integration.conftest import Trained
from truecourse.errors import PlatformError
from truecourse.features.definition_digests import feature_table
from truecourse.monitoring import report_store
from truecourse.monitoring.findings import Finding, Report
from truecourse.monitoring.health import health_page as healthpage
from truecourse.monitoring.health.flow_run_health import GRACE, ScheduledFlow
from truecourse.monitoring.health.freshness import Clock, TableState, Version, ViewState
from truecourse.monitoring.health.pipelines import check_pipelines
from truecourse.problem import Problem, Table
from truecourse.problem.durations import days
from truecourse.problem.loader import load_problem
from truecourse.serving import log_segments, log_shipping
from truecourse.storage.delta_tables import Tables, clean_table
from truecourse.storage.object_store import open_store

DAY = timedelta(days=1)
START = datetime(2024, 5, 6, tzinfo=UTC)
CLOCK = Clock(START, simulated=True)


@pytest.fixture
def problem(home: Path, tmp_path: Path, configure: Callable[..., None]) -> Problem:
    simulated_deliveries.install(tmp_path)
    configure(problems=tmp_path, problem="deliveries")
    return load_problem("deliveries")


def batch(day: int, rows: int = 100, quarantined: int = 0) -> None:
    """Commit one day of deliveries, as ingest and validation do on the next morning."""
    counts = {"in": rows, "inserted": rows - quarantined, "corrected": 0, "unchanged": 0, "quarantined": quarantined}
    watermark = (START + day * DAY - timedelta(minutes=10)).replace(tzinfo=None)
    inputs = [{"name": "tables/deliveries/raw/deliveries", "version": day}]
    document = {"rows": counts, "watermark": watermark.isoformat()}
    accepted = [{"number": day, "place": "deliveries.csv", **document}]
    commit = {"flow": "validate", "inputs": inputs, "deliveries": accepted, **document}
    Tables().append(clean_table("deliveries", "deliveries"), pa.table({"n": [day]}), commit)


def causes(report: Report) -> dict[str, bool]:
    return {f"{finding.subject}/{finding.cause}": finding.page for finding in report.findings}


def morning(day: float) -> datetime:
    return START + day * DAY + timedelta(hours=6)


def test_a_dead_feed_is_found_within_two_days_and_a_live_one_never(problem: Problem) -> None:
    tables = Tables()
    for day in range(1, 12):
        batch(day)
        assert not check_pipelines(problem, tables, morning(day)).findings, day
    assert not check_pipelines(problem, tables, morning(12)).findings, "one day may be a delay"
    (silent,) = check_pipelines(problem, tables, morning(13)).findings
    assert (silent.subject, silent.cause, silent.page) == ("deliveries", "dead feed", False)
    assert "deliveries has had no new data for 2.3 days" in silent.sentence
    assert causes(check_pipelines(problem, tables, morning(14))) == {"deliveries/dead feed": True}


def test_a_batch_outside_the_past_range_is_a_finding(problem: Problem) -> None:
    tables = Tables()
    for day in range(1, 10):
        batch(day, rows=100 + day, quarantined=day % 2)
    assert not check_pipelines(problem, tables, morning(9)).findings
    batch(10, rows=30)
    few = check_pipelines(problem, tables, morning(10))
    assert causes(few) == {"deliveries/volume": False}
    assert few.sentence == "A new delivery of deliveries has 30 rows; earlier ones had 101 to 109."
    batch(11, rows=104, quarantined=9)
    assert causes(check_pipelines(problem, tables, morning(11))) == {"deliveries/quarantine": False}


def test_a_check_at_a_past_time_ignores_later_batches(problem: Problem) -> None:
    """The usual interval is learned from batches before `at`: a later gap does not excuse a late batch at `at`."""
    for day in [*range(1, 10), 30]:
        batch(day)
    report = check_pipelines(problem, Tables(), morning(12))
    assert causes(report) == {"deliveries/dead feed": True}
    assert report.figures["tables"][0]["newest_batch"] == "2024-05-14T23:50:00+00:00"


def test_a_declared_freshness_limit_overrides_the_learned_one(problem: Problem) -> None:
    table = problem.tables[0]
    commits = [Version(0, START, {"watermark": START.replace(tzinfo=None).isoformat()})]

    def found(age: timedelta, freshness: timedelta | None) -> list[str]:
        declared: Table = dataclasses.replace(table, freshness=freshness)
        return [f.sentence for f in TableState(declared, commits, Clock(START + age, simulated=False)).findings()]

    assert found(3 * DAY, days(2)) == [
        f"The newest row of {table.name} is 3 days old; the limit is 2 days: is its source dead?"
    ]
    assert found(DAY, days(2)) == []
    assert found(300 * DAY, None) == [], "one version has no rhythm"


def others(report: Report) -> list[Finding]:
    """Findings other than dead feeds: other tests may have requested predictions from this data of 2024 today."""
    return [finding for finding in report.findings if finding.cause != "dead feed"]


def test_features_and_online_store_are_reported_as_loaded(trained: Trained) -> None:
    problem, tables = load_problem("deliveries"), Tables()
    loaded = loaded_marks(problem)
    assert set(loaded) == {view.name for view in problem.views}
    log_shipping.ship("deliveries")  # ships what the endpoint of other tests has logged
    report = check_pipelines(problem, tables, None, (), loaded)
    assert not others(report), report.sentence
    for view in report.figures["features"]:
        version = tables.version(feature_table(load_problem("deliveries"), view["view"]))
        assert version is not None
        assert view["version"] == view["online_version"] == version.version
    timed = next(view for view in problem.views if not view.timeless)
    behind = dict(loaded[timed.name]) | {"version": -1, "until": "2024-01-01T00:00:00+00:00"}
    late = check_pipelines(problem, tables, None, (), loaded | {timed.name: behind})
    (finding,) = others(late)
    assert (finding.subject, finding.cause) == (f"online {timed.name}", "not loaded")
    assert finding.page == ("past its ttl" in finding.sentence)
    silent = check_pipelines(problem, tables, None, (), None)
    assert [(f.subject, f.cause, f.page) for f in others(silent)] == [("online store", "no answer", True)]


def test_load_marks_of_a_shared_store_are_read_and_an_unreachable_store_is_an_error(
    problem: Problem, tmp_path: Path, configure: Callable[..., None]
) -> None:
    import redis

    (port,) = free_ports(1)
    configure(online_store=f"redis://127.0.0.1:{port}")
    view = problem.views[0].name
    with valkey_server(tmp_path, port):
        assert loaded_marks(problem) == {}
        with redis.Redis(port=port) as client:
            client.set(mark_name(problem, view), '{"version": 3, "until": "2024-05-06T00:00:00+00:00"}')
        assert loaded_marks(problem)[view]["version"] == 3
    with pytest.raises(PlatformError, match="does not answer"):
        loaded_marks(problem)


def test_a_log_backlog_is_a_finding(problem: Problem, configure: Callable[..., None]) -> None:
    def found() -> dict[str, bool]:
        return causes(check_pipelines(problem, Tables(), None, (), {}))

    folder = log_shipping.spool_folder("deliveries")
    descriptor = log_segments.create_segment(segment := log_segments.Segment(folder, "a-stream", 1))
    os.write(descriptor, log_segments.frame_record(b"{}"))
    log_segments.seal(segment)
    os.close(descriptor)
    assert found() == {}, "it has just come"
    hour_ago = datetime.now(UTC).timestamp() - 3600
    os.utime(segment.path(log_segments.SEALED), (hour_ago, hour_ago))
    assert found() == {"prediction log/backlog": False}
    os.truncate(segment.path(log_segments.SEALED), 700 << 10)
    configure(log_disk=1)
    assert found() == {"prediction log/backlog": True}, "the disk limit is near"
    segment.set_aside()
    assert found() == {"prediction log/damaged": False}


@flow(name="health-stable")
def stable(problem: str | None = None) -> None:
    pass


@flow(name="health-broken")
def broken(problem: str | None = None) -> None:
    raise PlatformError("the source is away")


@pytest.fixture(scope="module")
def deployed(prefect_server: str) -> Iterator[None]:
    """Two flows with hourly schedules and runs on a real server; no worker runs the schedules.

    Runs that other tests have killed are marked as crashed; they would be reported as stuck."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import DeploymentScheduleCreate
    from prefect.client.schemas.filters import FlowRunFilter
    from prefect.client.schemas.schedules import CronSchedule
    from prefect.states import Crashed

    stable("deliveries")
    stable("another")
    with pytest.raises(PlatformError):
        broken("deliveries")
    hourly = DeploymentScheduleCreate(schedule=CronSchedule(cron="0 * * * *", timezone="UTC"))
    with get_client(sync_client=True) as client:
        running = FlowRunFilter.model_validate({"state": {"type": {"any_": ["RUNNING", "PENDING"]}}})
        for run in client.read_flow_runs(flow_run_filter=running):
            client.set_flow_run_state(run.id, Crashed(), force=True)
        flows = {f"{one.name}-hourly": client.create_flow(one) for one in (stable, broken)}
        deployment_ids = [client.create_deployment(one, name=name, schedules=[hourly]) for name, one in flows.items()]
        yield
        for one in deployment_ids:
            client.delete_deployment(one)


@pytest.mark.timeout(240)
def test_flows_are_checked_by_their_runs_on_the_server(problem: Problem, deployed: None) -> None:
    def flows_at(now: datetime) -> dict[str, ScheduledFlow]:
        return {one.name.removesuffix("-hourly"): one for one in scheduled_flows("deliveries", now)}

    now = datetime.now(UTC)
    flows = flows_at(now)
    assert [run.outcome for run in flows["health-stable"].runs or ()] == ["completed"], (
        "the other run has another problem"
    )
    assert [run.outcome for run in flows["health-broken"].runs or ()] == ["failed"]
    assert flows["health-stable"].period == timedelta(hours=1)
    due = (now - GRACE).replace(minute=0, second=0, microsecond=0)
    assert flows["health-stable"].due == due
    report = check_pipelines(problem, Tables(), None, list(flows.values()), {})
    assert causes(report) == {"flow health-broken-hourly/failed": False}, "an hourly flow runs again soon"
    assert "the source is away" in report.sentence
    later = due + timedelta(hours=2, minutes=30)
    assert flows_at(later)["health-stable"].overdue(later), "no run has started"
    assert not flows["health-stable"].overdue(now), "no run was due yet"


def test_the_task_stores_a_report_and_its_page(problem: Problem, deployed: None) -> None:
    report = check_pipelines_task.fn("deliveries")
    kept = report_store.latest(open_store(), "deliveries", "pipelines")
    assert kept == report
    assert report.page == healthpage.publish(open_store(), problem)
    page = open_store().get(report.page).decode()
    assert "the source is away" in page
    assert "health-stable-hourly" in page
    assert healthpage.sentence(healthpage.newest(open_store(), "deliveries")).startswith("No critical finding; ")


def test_without_a_server_only_the_schedules_of_the_file_are_known(problem: Problem) -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings(restore_defaults={PREFECT_API_URL}):
        flows = {one.name: one for one in scheduled_flows("deliveries", datetime.now(UTC))}
        assert scheduled_flows("another", datetime.now(UTC)) == []
    assert {"lifecycle", "ship", "health", "guard"} <= set(flows)
    assert flows["health"].schedule == "*/5 * * * *"
    report = check_pipelines(problem, Tables(), None, list(flows.values()), {})
    assert not report.findings
    assert "unknown without a Prefect server" in report.sentence


def test_a_feed_older_than_the_ttl_of_its_view_is_critical(problem: Problem) -> None:
    tables, view = Tables(), problem.views[0]
    batch(10)
    newest = START + 10 * DAY - timedelta(minutes=10)
    name = clean_table("deliveries", "deliveries")
    source = TableState(problem.tables[0], [Version(0, newest, {"watermark": f"{newest:%Y-%m-%dT%H:%M:%S}"})], CLOCK)
    past = [Version(0, newest, {"inputs": [{"name": name, "version": 0}]})]
    state = ViewState(view, past, newest, {name: source}, None, CLOCK)
    assert view.ttl is not None
    assert list(state.dead_feeds(newest + view.ttl)) == []
    (found,) = state.dead_feeds(newest + view.ttl + timedelta(hours=1))
    assert (found.subject, found.cause, found.page) == ("deliveries", "dead feed", True)
    assert f"{newest:%Y-%m-%d %H:%M} UTC" in found.sentence
    assert not check_pipelines(problem, tables, newest).findings


def test_with_the_clock_of_the_data_todays_predictions_make_no_feed_dead(
    trained: Trained, tmp_path: Path, configure: Callable[..., None]
) -> None:
    """Predictions about data of the past are made long after the values of its views expired."""
    shutil.copytree(trained.home / "storage", tmp_path / "storage", ignore=shutil.ignore_patterns("predictions_log"))
    configure(home=tmp_path)
    problem, tables = load_problem("deliveries"), Tables()
    today = pa.table({"day": [str(datetime.now(UTC).date())], "made": [1]})
    tables.append("predictions_log/deliveries", today, {}, partition_by="day")
    assert causes(check_pipelines(problem, tables, None, (), {})) == {"deliveries/dead feed": True}
    assert causes(check_pipelines(dataclasses.replace(problem, clock="data"), tables, None, (), {})) == {}
