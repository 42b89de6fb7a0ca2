"""Without data, a check is unknown."""

from datetime import UTC, datetime
from pathlib import Path

from truecourse.monitoring import report_store
from truecourse.monitoring.health import health_page as healthpage
from truecourse.monitoring.health.counters import Reading
from truecourse.monitoring.health.endpoint_health import Probe, check_endpoint
from truecourse.monitoring.health.pipelines import check_pipelines
from truecourse.monitoring.skew.skew_check import check_skew
from truecourse.problem.loader import load_problem
from truecourse.storage.delta_tables import Tables
from truecourse.storage.object_store import open_store

AT = datetime(2013, 11, 5, tzinfo=UTC)


def test_no_data_is_unknown(home: Path) -> None:
    problem, store = load_problem("flight_delays"), open_store()
    found = [
        check_skew(problem, Tables(), AT),
        check_pipelines(problem, Tables(), AT),
        check_endpoint(problem, store, [], AT),
    ]
    assert {report.check: report.state for report in found} == dict.fromkeys(
        ("skew", "pipelines", "endpoint"), "unknown"
    )
    assert "No data yet" in found[0].sentence
    for report in found[1:]:
        report_store.save(store, report)
    assert healthpage.sentence(healthpage.newest(store, problem.name)) == "No findings; unknown: pipelines, endpoint."


def test_an_endpoint_without_requests_has_no_objective_result(home: Path) -> None:
    look = Probe("local", "http://127.0.0.1:1", Reading({}, {}, ""))
    report = check_endpoint(load_problem("flight_delays"), open_store(), [look], AT)
    assert report.sentence == "The endpoint local answers; it has had no requests, so its objectives are unknown."
