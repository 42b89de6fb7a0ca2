"""The layer before the endpoint, asked as a server asks it."""

import asyncio
import logging
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from services import discretion
from services.http import Message, Receive, Send, Served
from services.metrics import Metrics
from services.protection import Guard, Protection
from truecourse.settings import Settings


def scope(path: str, kind: str = "http", method: str = "POST") -> Message:
    return {"type": kind, "path": path, "method": method, "headers": [], "client": ("192.0.2.7", 1)}


def asked(app: Any, asked_for: Message, body: list[Message]) -> list[Message]:
    sent: list[Message] = []

    async def receive() -> Message:
        if not body:
            await asyncio.sleep(60)
        return body.pop(0)

    async def send(message: Message) -> None:
        sent.append(message)

    asyncio.run(app(asked_for, receive, send))
    return sent


async def patient(scope: Message, receive: Receive, send: Send) -> None:
    """An application that reads the body and then takes its time."""
    await receive()
    await asyncio.sleep(60)


async def quick(scope: Message, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"{}"})


def guard(**settings: Any) -> Guard:
    made = Guard(Settings(**settings), Served())
    made.timeout = 0.05  # type: ignore[assignment]  # a setting is whole seconds
    return made


WHOLE: Message = {"type": "http.request", "body": b"{}", "more_body": False}


@pytest.mark.parametrize(("body", "status"), [([WHOLE], 504), ([], 408)])
def test_what_is_late_is_given_up(home: Path, body: list[Message], status: int) -> None:
    start, told = asked(Protection(patient, guard()), scope("/predict"), list(body))
    assert start["status"] == status
    assert b"0.05 s" in told["body"]


def test_a_websocket_is_closed(home: Path) -> None:
    assert asked(Protection(quick, guard()), scope("/predict", "websocket"), [])[0]["type"] == "websocket.close"


def test_a_caller_beyond_its_rate_waits(home: Path) -> None:
    layer = Protection(quick, guard(rate_limit=0.5, rate_burst=1))
    assert asked(layer, scope("/predict"), [])[0]["status"] == 200
    refused = asked(layer, scope("/predict"), [])[0]
    assert refused["status"] == 429
    assert dict(refused["headers"])[b"retry-after"] == b"2"
    assert asked(layer, scope("/model", method="GET"), [])[0]["status"] == 200, "documents cost nothing"


def test_where_keys_are_asked_for_and_unknown_nobody_gets_in(home: Path) -> None:
    layer = Protection(quick, guard(authentication="keys"))
    assert asked(layer, scope("/predict"), [])[0]["status"] == 401
    keyed = scope("/predict") | {"headers": [(b"x-api-key", b"tc_0a1b2c3d_k")]}
    assert asked(layer, keyed, [])[0]["status"] == 503
    assert asked(layer, scope("/livez"), [])[0]["status"] == 200


def test_a_path_that_is_not_ours_is_one_label() -> None:
    registry = CollectorRegistry()  # read as it is: what all workers tell together is the integration test's
    metrics = Metrics(["/predict"], registry)
    for i in range(100):
        metrics.answered(f"/scan-{i}", 404, 0.001)
    assert registry.get_sample_value("truecourse_requests_total", {"path": "other", "status": "4xx"}) == 100
    paths = {sample.labels.get("path") for metric in registry.collect() for sample in metric.samples}
    assert paths <= {None, "other"}


def test_a_log_names_an_exception_by_its_kind_and_place(caplog: pytest.LogCaptureFixture) -> None:
    before = logging.getLogRecordFactory()
    discretion.install()
    try:
        raise ValueError("the secret of a payload")
    except ValueError:
        logging.getLogger("truecourse.serving").exception("%s failed", "/predict")
    finally:
        logging.setLogRecordFactory(before)
    assert "/predict failed: ValueError at unit/test_protection.py:" in caplog.text
    assert "secret" not in caplog.text
    assert "Traceback" not in caplog.text
