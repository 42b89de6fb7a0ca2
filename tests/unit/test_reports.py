"""Reports of checks: the newest one, and the history."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

from truecourse.monitoring import report_store
from truecourse.monitoring.findings import Finding, Report
from truecourse.storage.object_store import LocalStore

MONDAY = datetime(2024, 5, 6, tzinfo=UTC)


def report(day: int, sentence: str) -> Report:
    finding = Finding(check="drift", subject="temp", cause="unit change", page=True, sentence=sentence)
    at = MONDAY + timedelta(days=day)
    return Report(check="drift", problem="deliveries", at=at, sentence=sentence, findings=(finding,))


def test_the_newest_report_is_the_one_of_the_latest_time(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    assert report_store.latest(store, "deliveries", "drift") is None
    for day, sentence in ((1, "a"), (3, "b"), (2, "c"), (3, "d")):
        report_store.save(store, report(day, sentence))
    assert report_store.latest(store, "deliveries", "drift") == report(3, "d")
    assert [r.sentence for r in report_store.history(store, "deliveries", "drift")] == ["a", "c", "d"]
    since = MONDAY + timedelta(days=2)
    assert [r.sentence for r in report_store.history(store, "deliveries", "drift", since)] == ["c", "d"]
    assert report_store.history(store, "deliveries", "quality") == []


def test_a_timeline_keeps_every_state_and_drops_details(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    assert report_store.timeline(store, "deliveries", "drift") == []
    for day, well in ((1, False), (3, False), (2, False), (3, True), (122, False)):
        found = report(day, "a").model_copy(update={"figures": {"largest": 0.5 * day}})
        report_store.save(store, found.model_copy(update={"findings": ()}) if well else found)
    marks = report_store.timeline(store, "deliveries", "drift")
    states = [((mark.at - MONDAY).days, mark.state, mark.largest) for mark in marks]
    assert states == [(2, "critical", 1.0), (3, "ok", 1.5), (122, "critical", 61.0)]


def test_frequent_checks_keep_one_report_an_hour_unless_findings_change(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    first = report(1, "a")
    other = first.findings[0].model_copy(update={"subject": "wind"})
    for minutes in range(0, 130, 10):
        found = (other,) if minutes == 30 else first.findings
        at = first.at + timedelta(minutes=minutes)
        report_store.refresh(store, first.model_copy(update={"at": at, "findings": found}))
    kept = [(r.at - first.at) // timedelta(minutes=1) for r in report_store.history(store, "deliveries", "drift")]
    assert kept == [0, 30, 40, 60, 120]
    newest = report_store.latest(store, "deliveries", "drift")
    assert newest is not None
    assert newest.at == first.at + timedelta(minutes=120)
