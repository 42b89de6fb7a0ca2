"""Alerts reach real receivers: once each, later if the receiver failed, and without secrets."""

import logging
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tasks.monitoring.alerts import channels, notify, record_findings
from tasks.monitoring.summarize import require_unbroken, run_check
from tests.conftest import free_ports
from tests.frames import store_diabetes
from tests.receivers import Mailbox, Webhook, mail_server, webhook
from truecourse.errors import CheckBroken, FeatureError
from truecourse.monitoring import report_store
from truecourse.monitoring.alerts import alert_record as record
from truecourse.monitoring.alerts.delivery import deliver, redact
from truecourse.monitoring.findings import Finding, Report
from truecourse.problem.loader import load_problem
from truecourse.storage.object_store import open_store

START = datetime(2024, 5, 6, tzinfo=UTC)
Configure = Callable[..., None]


@pytest.fixture
def hook(tmp_path: Path, home: Path, configure: Configure) -> Iterator[Webhook]:
    configure(problems=tmp_path, problem="diabetes")
    store_diabetes(tmp_path)
    with webhook() as receiver:
        configure(webhook=receiver.url)
        yield receiver


def report(day: float, *subjects: str, page: bool = True) -> Report:
    findings = tuple(
        Finding(check="drift", subject=s, cause="dead feed", page=page, sentence=f"{s} is <silent>.") for s in subjects
    )
    at = START + timedelta(days=day)
    return Report(check="drift", problem="diabetes", at=at, sentence="", findings=findings)


def notify_of(*reports: Report) -> dict[str, Any]:
    recorded = record_findings.fn("diabetes", list(reports), reports[-1].at)
    return recorded | {"notified": notify.fn("diabetes", reports[-1].at)}


def test_a_finding_is_notified_once_and_its_recovery_once(hook: Webhook) -> None:
    assert notify_of(report(0, "wind", "temp"))["notified"] == {"webhook": "2 notifications delivered"}
    assert notify_of(report(1, "wind", "temp"))["notified"] == {}
    notify_of(report(2, "temp"))
    notify_of(report(3, "temp"))
    assert [body["text"] for body in hook.bodies] == ["diabetes: 2 alarms", "diabetes: 1 recovered"]
    assert hook.texts[0].startswith("*Alarm* · drift · wind\nwind is &lt;silent&gt;.")
    assert "Recovered after 3 days: wind, dead feed." in hook.texts[2]


def test_only_critical_findings_are_sent(hook: Webhook) -> None:
    notify_of(report(0, "wind", page=False))
    assert not hook.bodies
    notify_of(report(1, "wind"))
    assert [body["text"] for body in hook.bodies] == ["diabetes: 1 alarm"]


def test_a_failing_receiver_gets_all_notifications_later(
    hook: Webhook, configure: Configure, caplog: pytest.LogCaptureFixture
) -> None:
    hook.status = 500
    with caplog.at_level(logging.INFO):
        result = notify_of(report(0, "wind"))
    assert result["notified"] == {
        "webhook": "0 notifications delivered, 1 pending: the receiver answered with status 500"
    }
    working = hook.url
    configure(webhook=f"http://127.0.0.1:{free_ports(1)[0]}/SECRET")
    with caplog.at_level(logging.INFO):
        assert "2 pending: Connection refused" in notify_of(report(1, "wind", "temp"))["notified"]["webhook"]
    configure(webhook=working)
    hook.status = 200
    assert notify_of(report(2, "wind", "temp"))["notified"] == {"webhook": "2 notifications delivered"}
    assert len(hook.texts) == 2
    assert "SECRET" not in caplog.text
    events = "".join(event.model_dump_json() for event in record.history(open_store(), "diabetes"))
    assert "SECRET" not in events
    notify_of(report(3, "wind", "temp"))
    assert len(hook.texts) == 2, "what was taken is not sent again"


def test_a_receiver_that_never_ends_its_answer_times_out_and_is_recorded_once(hook: Webhook) -> None:
    hook.drip = 0.02
    record_findings.fn("diabetes", [report(0, "wind")], START)
    for minute in range(3):
        began = time.monotonic()
        delivered = deliver(open_store(), load_problem("diabetes"), channels(), START + timedelta(minutes=minute), 0.3)
        assert time.monotonic() - began < 1.5
        assert delivered == {
            "webhook": "0 notifications delivered, 1 pending: the channel did not finish within 300 ms"
        }
    hook.drip = 0
    assert notify_of(report(1, "wind"))["notified"] == {"webhook": "1 notification delivered"}
    kinds = [event.kind for event in record.history(open_store(), "diabetes")]
    assert kinds == ["opened", "not now", "undelivered", "delivered"]


def test_a_redirect_is_no_delivery(hook: Webhook) -> None:
    hook.status = 302
    assert notify_of(report(0, "wind"))["notified"]["webhook"].endswith(
        "1 pending: the receiver answered with status 302"
    )
    hook.status = 200
    assert notify_of(report(1, "wind"))["notified"] == {"webhook": "1 notification delivered"}


def test_mail_goes_to_every_recipient(hook: Webhook, configure: Configure) -> None:
    with mail_server() as box:
        configure(mail_host="127.0.0.1", mail_port=box.port, mail_security="none")
        assert "MAIL_FROM" in notify_of(report(0, "wind"))["notified"]["mail"]
        configure(mail_from="truecourse@example.org", mail_to="ann@example.org, bob@example.org")
        assert notify_of(report(1, "wind"))["notified"] == {"mail": "1 notification delivered"}
    _assert_one_mail(box)
    configure(mail_user="ann", mail_password="hunter2")
    assert "not sent unencrypted" in notify_of(report(2, "wind", "temp"))["notified"]["mail"]


def _assert_one_mail(box: Mailbox) -> None:
    (mail,) = box.mails
    assert sorted(box.addresses) == ["ann@example.org", "bob@example.org"]
    assert mail["Subject"] == "[truecourse] diabetes: 1 alarm"
    assert "wind is <silent>." in mail.get_content()


def test_a_notification_omits_values_of_private_fields(hook: Webhook) -> None:
    import dataclasses

    problem = load_problem("diabetes")
    finding = report(0, "bmi").findings[0]
    notice = record.Notification(
        id="1", kind="opened", at=START, finding=finding, sentence=finding.sentence, channels=("webhook",)
    )
    assert redact(problem, notice) == notice
    columns = dict(problem.tables[0].columns)
    columns["bmi"] = dataclasses.replace(columns["bmi"], private="drop")
    hidden = dataclasses.replace(problem, tables=[dataclasses.replace(problem.tables[0], columns=columns)])
    assert redact(hidden, notice).sentence == "bmi, a private field: dead feed."


def test_a_check_that_breaks_is_critical_and_one_without_data_is_unknown(home: Path) -> None:
    def broken(problem: str) -> Report:
        raise ZeroDivisionError("secret")

    def early(problem: str) -> Report:
        raise FeatureError("nothing was scored")

    failed = run_check("drift", broken, "diabetes")
    assert not failed.made
    assert [(f.cause, f.page, f.sentence) for f in failed.findings] == [
        ("check broken", True, "The check of drift failed: ZeroDivisionError.")
    ]
    assert failed.state == "critical"
    assert report_store.latest(open_store(), "diabetes", "drift") == failed, "no older report is used instead"
    with pytest.raises(CheckBroken, match=r"The check of drift failed: ZeroDivisionError\."):
        require_unbroken("diabetes", [failed])
    unknown = run_check("drift", early, "diabetes")
    assert (unknown.sentence, unknown.state) == ("Not checked: nothing was scored.", "unknown")
    require_unbroken("diabetes", [unknown])
