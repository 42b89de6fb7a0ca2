"""Alarms over time: notification, reminders and recovery, also with concurrent checks."""

import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from truecourse.monitoring.alerts import alert_record as record
from truecourse.monitoring.alerts.alert_lifecycle import AlertChanges, update_alerts
from truecourse.monitoring.findings import Finding, Report
from truecourse.problem import Alerts, Boolean, Files, Label, Monitoring, Problem, Table, days
from truecourse.storage.object_store import LocalStore

START = datetime(2024, 5, 6, tzinfo=UTC)
PROBLEM = Problem(
    "plain",
    kind="binary",
    tables=[Table("rows", source=Files("rows.csv"), columns={"y": Boolean()})],
    label=Label(column="y"),
    monitoring=Monitoring(alerts=Alerts(remind=days(3), clean=2)),
)


def finding(subject: str, page: bool = True) -> Finding:
    return Finding(check="drift", subject=subject, cause="dead feed", page=page, sentence=f"{subject} is silent.")


def report(day: float, *subjects: str, page: bool = True, made: bool = True) -> Report:
    found = tuple(finding(subject, page) for subject in subjects)
    at = START + timedelta(days=day)
    return Report(check="drift", problem="plain", at=at, sentence="", made=made, findings=found)


def apply_reports(store: LocalStore, *reports: Report, channels: Sequence[str] = ()) -> AlertChanges:
    return update_alerts(store, PROBLEM, reports, reports[-1].at, channels)


def list_changes(found: AlertChanges) -> list[tuple[str, str]]:
    return [(event.kind, event.alarm.split("/")[1]) for event in found.events]


def test_a_finding_is_notified_once_reminded_and_recovers_after_two_clean_checks(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    assert apply_reports(store, report(-1)).events == ()
    assert record.load_record(store, "plain") is None
    assert list_changes(apply_reports(store, report(0, "wind"))) == [("opened", "wind")]
    assert list_changes(apply_reports(store, report(1, "wind", "temp"))) == [("opened", "temp")]
    assert list_changes(apply_reports(store, report(3, "wind", "temp"))) == [("reminded", "wind")]
    assert list_changes(apply_reports(store, report(4, "wind"))) == []
    assert list_changes(apply_reports(store, report(5))) == [("recovered", "temp")]
    found = apply_reports(store, report(6, "wind"))
    assert list_changes(found) == [("reminded", "wind")]
    assert [(alarm.opened, alarm.seen, alarm.clean) for alarm in found.open] == [(START, START + days(6), 0)]
    apply_reports(store, report(7))
    (recovered,) = apply_reports(store, report(8)).events
    assert recovered.sentence == "Recovered after 8 days: wind, dead feed."
    kinds = [event.kind for event in record.history(store, "plain")]
    assert kinds == ["opened", "opened", "reminded", "recovered", "reminded", "recovered"]


def test_unchecked_findings_do_not_recover(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    apply_reports(store, report(0, "wind"))
    other = Report(check="quality", problem="plain", at=START + days(1), sentence="")
    for unclean in (report(1, made=False), other, report(0), report(-1), report(2), report(2), report(1)):
        assert len(apply_reports(store, unclean).open) == 1
    assert list_changes(apply_reports(store, report(3))) == [("recovered", "wind")]


def test_a_warning_is_recorded_and_notified_through_events_only(tmp_path: Path) -> None:
    store, channels = LocalStore(tmp_path), ("webhook", "prefect")
    apply_reports(store, report(0, "wind", page=False), channels=channels)
    apply_reports(store, report(4, "wind", page=False), channels=channels)
    assert list_changes(apply_reports(store, report(5, "wind"), channels=channels)) == [("escalated", "wind")]
    now = record.load_record(store, "plain")
    assert now is not None
    assert [(notice.kind, notice.channels) for notice in now.pending] == [
        ("opened", ("prefect",)),
        ("escalated", channels),
    ]


def test_concurrent_checks_of_the_same_reports_notify_once(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: apply_reports(store, report(0, "wind", "temp")), range(16)))
    assert sum(len(one.events) for one in found) == 2
    assert [event.kind for event in record.history(store, "plain")] == ["opened", "opened"]


class Counting(LocalStore):
    """A store that counts its operations. `lost`: the key whose next write fails."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.asked, self.lost = Counter[str](), ""

    def get(self, key: str) -> bytes:
        self.asked["get"] += 1
        return super().get(key)

    def list(self, prefix: str, after: str = "") -> Iterator[str]:
        self.asked["list"] += 1
        return super().list(prefix, after)

    def put(self, key: str, data: bytes) -> None:
        if key == self.lost:
            self.lost = ""
            raise KeyboardInterrupt
        super().put(key, data)


def test_an_open_alarm_updates_one_object_and_history_only_on_change(tmp_path: Path) -> None:
    store = Counting(tmp_path)
    for minutes in range(0, 4 * 1440, 30):
        apply_reports(store, report(minutes / 1440, "wind"))
    entries = record.open_ledger(store, "plain").entries()
    assert [event.kind for entry in entries for event in entry.events] == ["opened", "reminded"]
    store.asked.clear()
    now = record.load_record(store, "plain")
    assert now is not None
    assert now.open[0].seen == START + timedelta(minutes=4 * 1440 - 30)
    assert [event.kind for event in now.recent] == ["opened", "reminded"]
    assert store.asked == {"get": 2}


def test_history_is_written_before_state(tmp_path: Path) -> None:
    store = Counting(tmp_path)
    apply_reports(store, report(0, "wind"))
    store.lost = record.state_key("plain")
    with pytest.raises(KeyboardInterrupt):
        apply_reports(store, report(1, "wind", "temp"))
    assert list_changes(apply_reports(store, report(1, "wind", "temp"))) == []
    now = record.load_record(store, "plain")
    assert now is not None
    assert {alarm.finding.subject for alarm in now.open} == {"wind", "temp"}
    for broken in (b"", b"{}"):
        store.put(record.state_key("plain"), broken)
        assert record.load_record(store, "plain") == record.open_ledger(store, "plain").newest()
    store.delete(record.state_key("plain"))
    assert list_changes(apply_reports(store, report(2, "wind"))) == []
    assert list_changes(apply_reports(store, report(3, "wind"))) == [("reminded", "wind"), ("recovered", "temp")]


def test_a_failing_channel_has_one_pending_reminder_per_alarm(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    for day in range(30):
        apply_reports(store, report(day, "wind"), channels=["webhook"])
    now = record.load_record(store, "plain")
    assert now is not None
    assert [(notice.kind, notice.at) for notice in now.pending] == [
        ("opened", START), ("reminded", START + days(27))
    ]  # fmt: skip


def test_a_check_without_data_is_unknown_and_clears_its_findings(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    apply_reports(store, report(0, "wind"))
    nothing = report(1).model_copy(update={"idle": True})
    assert nothing.state == "unknown"
    apply_reports(store, nothing)
    assert list_changes(apply_reports(store, nothing.model_copy(update={"at": START + days(2)}))) == [
        ("recovered", "wind")
    ]


@given(st.lists(st.tuples(st.sets(st.sampled_from("abc")), st.booleans()), max_size=12))
@settings(max_examples=60)
def test_openings_and_recoveries_alternate(days: list[tuple[set[str], bool]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store, open_, clean = LocalStore(Path(folder)), set[str](), dict[str, int]()
        for day, (subjects, made) in enumerate(days):
            wanted = {("opened", name) for name in subjects - open_}
            open_ |= subjects
            for name in list(open_):
                clean[name] = 0 if name in subjects else clean[name] + made
                if clean[name] == 2:
                    wanted.add(("recovered", name))
                    open_.remove(name)
            found = apply_reports(store, report(day, *sorted(subjects), made=made))
            assert {item for item in list_changes(found) if item[0] != "reminded"} == wanted
            assert {alarm.finding.subject for alarm in found.open} == open_
