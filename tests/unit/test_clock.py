"""The reference time is never in the future, and records of a future time are ignored."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from truecourse.errors import SettingsError
from truecourse.features.clock import clip_to_now, require_past
from truecourse.monitoring import report_store
from truecourse.monitoring.alerts.alert_lifecycle import update_alerts
from truecourse.monitoring.findings import Finding, Report
from truecourse.monitoring.health.pipelines import check_pipelines
from truecourse.problem.loader import load_problem
from truecourse.storage.delta_tables import Tables
from truecourse.storage.object_store import open_store

FOUND = Finding(check="drift", subject="distance", cause="unit change", page=True, sentence="The unit changed.")


def report(at: datetime, *findings: Finding) -> Report:
    return Report(check="drift", problem="flight_delays", at=at, sentence="Looked.", findings=findings)


def test_a_time_without_zone_is_utc_and_a_future_time_is_rejected() -> None:
    assert require_past(None) is None
    assert require_past(datetime(2024, 5, 6)) == datetime(2024, 5, 6, tzinfo=UTC)
    for ahead in (timedelta(minutes=1), timedelta(days=400)):
        moment = datetime.now(UTC) + ahead
        with pytest.raises(SettingsError, match="is in the future") as raised:
            require_past(moment)
        assert f"{moment:%Y-%m-%d %H:%M}" in raised.value.what
        ended = clip_to_now(moment)
        assert ended is not None
        assert ended < moment


def test_a_clock_jump_suppresses_no_finding(home: Path) -> None:
    store, problem, now = open_store(), load_problem("flight_delays"), datetime.now(UTC)
    ahead = report(now + timedelta(days=300), FOUND)
    report_store.save(store, ahead)
    assert update_alerts(store, problem, [ahead], now).of("opened")
    clean = [report(now + timedelta(seconds=number - 10)) for number in range(2)]
    recovered = [update_alerts(store, problem, [one], one.at).of("recovered") for one in clean]
    assert [len(events) for events in recovered] == [0, 1]
    report_store.save(store, clean[1])
    assert report_store.latest(store, "flight_delays", "drift") == clean[1]


def test_pipelines_are_checked_as_of_a_time_without_zone(home: Path) -> None:
    found = check_pipelines(load_problem("flight_delays"), Tables(), datetime(2013, 11, 5))
    assert (found.at, found.state) == (datetime(2013, 11, 5, tzinfo=UTC), "unknown")
