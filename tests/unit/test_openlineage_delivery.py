"""Delivery of lineage events: nothing is lost, and neither a dead nor a slow receiver holds up a flow."""

import json
import logging
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from cli.main import execute
from tests.conftest import free_ports
from tests.receivers import Webhook, webhook
from truecourse.errors import SettingsError
from truecourse.openlineage import delivery, flow_events
from truecourse.openlineage.steps import FlowRun
from truecourse.settings import get_settings

Configure = Callable[..., None]


@pytest.fixture
def receiver(home: Path) -> Iterator[Webhook]:
    with webhook() as server:
        yield server
        server.drip = 0.0


def address(receiver: Webhook) -> str:
    """The receiver's URL without path."""
    return "/".join(receiver.url.split("/")[:3])


def send(*numbers: int) -> None:
    """Keep events and wait until the sender has ended, however long that takes."""
    delivery.keep({"number": number} for number in numbers)
    delivery.start_sending()
    assert delivery.wait_for_delivery(300)


def numbers(receiver: Webhook) -> list[int]:
    return [body["number"] for body in receiver.bodies]


def test_a_server_gets_every_event_in_order_with_the_key(receiver: Webhook, configure: Configure) -> None:
    configure(openlineage=address(receiver), openlineage_api_key="SECRET")
    send(1, 2, 3)
    assert numbers(receiver) == [1, 2, 3]
    assert receiver.requests == [("/api/v1/lineage", "Bearer SECRET")] * 3
    assert delivery.pending() == []


def test_the_path_of_a_url_is_kept(receiver: Webhook, configure: Configure) -> None:
    configure(openlineage=receiver.url)
    send(1)
    assert receiver.requests == [("/services/T0/SECRET", None)]


def test_events_wait_while_the_server_is_dead_and_are_sent_later(
    receiver: Webhook, configure: Configure, caplog: pytest.LogCaptureFixture
) -> None:
    (port,) = free_ports(1)
    configure(openlineage=f"http://127.0.0.1:{port}", openlineage_api_key="SECRET")
    with caplog.at_level(logging.INFO, "truecourse.openlineage"):
        for number in range(3):
            send(number)
        assert numbers(receiver) == []
        assert [record.levelname for record in caplog.records] == ["WARNING"], "one outage is one warning"
        configure(openlineage=address(receiver))
        send(3)
    assert numbers(receiver) == [0, 1, 2, 3]
    assert delivery.outage() is None
    assert caplog.records[-1].getMessage().startswith("4 lineage events delivered that waited since")
    assert "SECRET" not in caplog.text


def test_a_server_that_fails_in_between_loses_nothing(receiver: Webhook, configure: Configure) -> None:
    configure(openlineage=address(receiver))
    send(1)
    for status in (500, 503, 401, 429, 302):
        receiver.status = status
        send(status)
    receiver.status = 200
    send(2)
    assert numbers(receiver) == [1, 500, 503, 401, 429, 302, 2]


def test_an_event_that_a_server_refuses_is_kept_apart(
    receiver: Webhook, configure: Configure, caplog: pytest.LogCaptureFixture
) -> None:
    configure(openlineage=address(receiver))
    receiver.status = 422
    send(1)
    receiver.status = 200
    send(2)
    assert numbers(receiver) == [2]
    (kept,) = delivery.refused()
    assert json.loads(kept.read_text()) == {"number": 1}
    assert "status 422" in caplog.text


def test_a_flow_does_not_wait_for_a_server_that_never_ends_its_answer(
    receiver: Webhook, configure: Configure, tmp_path: Path
) -> None:
    configure(openlineage=address(receiver), problems=tmp_path)
    receiver.drip = 0.2
    run = FlowRun(str(uuid.uuid4()), "ingest", {"problem": "absent"}, datetime.now(UTC))
    flow_events.flow_started(run, None)
    flow_events.flow_ended(run, "FAIL", SettingsError("no such problem"))
    assert len(delivery.pending()) == 2, "the receiver holds the first, and the flow has ended"
    receiver.drip = 0.0
    assert delivery.wait_for_delivery(300)
    send(3)
    kinds = [body.get("eventType", body.get("number")) for body in receiver.bodies]
    assert kinds[-3:] == ["START", "FAIL", 3]


def test_a_file_gets_a_line_for_each_event(home: Path, tmp_path: Path, configure: Configure) -> None:
    file = tmp_path / "new folder" / "events.jsonl"
    configure(openlineage=f"file:{file}")
    send(1, 2)
    send(3)
    assert [json.loads(line)["number"] for line in file.read_text().splitlines()] == [1, 2, 3]


def test_events_wait_for_a_file_that_cannot_be_written(home: Path, tmp_path: Path, configure: Configure) -> None:
    file = tmp_path / "events.jsonl"
    file.mkdir()
    configure(openlineage=f"file:{file}")
    send(1)
    known = delivery.outage()
    assert known is not None
    assert "cannot be written" in known.reason
    file.rmdir()
    send(2)
    assert len(file.read_text().splitlines()) == 2


def test_too_many_events_remove_the_oldest_and_say_so(
    home: Path, configure: Configure, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(delivery, "MOST_PENDING", 3)
    (port,) = free_ports(1)
    configure(openlineage=f"http://127.0.0.1:{port}")
    send(1)
    send(2, 3, 4, 5)
    assert [json.loads(file.read_text())["number"] for file in delivery.pending()] == [3, 4, 5]
    known = delivery.outage()
    assert known is not None
    assert known.removed == 2
    assert "2 lineage events removed" in caplog.text


def test_the_command_line_shows_what_waits_and_sends_it(
    receiver: Webhook, configure: Configure, capsys: pytest.CaptureFixture[str]
) -> None:
    (port,) = free_ports(1)
    configure(openlineage=f"http://127.0.0.1:{port}")
    send(1, 2)
    assert execute(["openlineage", "show", "--json"]) == 1
    shown = json.loads(capsys.readouterr().out)
    assert shown["waiting"] == 2
    assert "refused" in shown["outage"]["reason"]
    configure(openlineage=address(receiver))
    assert execute(["openlineage", "send", "--json"]) == 0
    sent = json.loads(capsys.readouterr().out)
    assert (sent["sent"], sent["waiting"], sent["outage"]) == (2, 0, None)
    assert numbers(receiver) == [1, 2]
    configure(openlineage="off")
    assert execute(["openlineage", "send"]) == 1
    assert "set TRUECOURSE_OPENLINEAGE" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("", "off"),
        ("off", "off"),
        ("file:/var/events.jsonl", "file:/var/events.jsonl"),
        ("file:///var/events.jsonl", "file:/var/events.jsonl"),
        ("http://localhost:5000", "http://localhost:5000"),
        ("https://lineage.example.com/v1/events", "https://lineage.example.com/v1/events"),
    ],
)
def test_a_target_is_off_a_file_or_a_url(text: str, target: str, configure: Configure) -> None:
    configure(openlineage=text)
    assert get_settings().openlineage == target


@pytest.mark.parametrize(
    "text", ["on", "marquez:5000", "file:", "http://", "http://key:PASSWORD@host", "http://host:x"]
)
def test_any_other_target_is_an_error_without_its_secret(text: str, configure: Configure) -> None:
    configure(openlineage=text)
    with pytest.raises(SettingsError, match="TRUECOURSE_OPENLINEAGE: ") as raised:
        get_settings()
    assert "PASSWORD" not in str(raised.value)
