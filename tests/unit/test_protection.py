"""The protection layer in front of the endpoint, called like a server calls it."""

import asyncio
import gc
import logging
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from services.http.exchange import Deadlines, Exchange, Message, Receive, Reply, Send
from services.http.fast_path import EXCHANGE
from services.http.middleware import GuardMiddleware, ReplyingEndpoint
from services.http.request_guard import Guard
from services.model.model_router import ModelRouter
from services.telemetry import log_redaction
from services.telemetry.prometheus_metrics import Metrics
from truecourse.settings import Settings


def scope(path: str, kind: str = "http", method: str = "POST") -> Message:
    return {"type": kind, "path": path, "method": method, "headers": [], "client": ("192.0.2.7", 1)}


def call_app(app: Any, request_scope: Message, body: list[Message]) -> list[Message]:
    sent: list[Message] = []

    async def receive() -> Message:
        if not body:
            await asyncio.sleep(60)
        return body.pop(0)

    async def send(message: Message) -> None:
        sent.append(message)

    asyncio.run(app(request_scope, receive, send))
    return sent


async def bentos(scope: Message, receive: Receive, send: Send) -> None:
    """The Bento's application."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"{}"})


class Patient:
    """An application that reads the body and then waits."""

    async def reply(self, exchange: Exchange) -> Reply:
        await exchange.receive()
        exchange.is_complete = True
        await asyncio.sleep(60)
        raise AssertionError


class Quick:
    async def reply(self, exchange: Exchange) -> Reply:
        return Reply(200, b"{}")


def layer(endpoint: ReplyingEndpoint, **settings: Any) -> GuardMiddleware:
    return GuardMiddleware(bentos, guard(**settings), endpoint)


def guard(**settings: Any) -> Guard:
    made = Guard(Settings(**{"allow_anonymous": True, **settings}), ModelRouter())
    made.deadlines = Deadlines(0.05)  # a setting is whole seconds
    return made


WHOLE: Message = {"type": "http.request", "body": b"{}", "more_body": False}


@pytest.mark.parametrize(("body", "status"), [([WHOLE], 504), ([], 408)])
def test_late_requests_time_out(home: Path, body: list[Message], status: int) -> None:
    start, response = call_app(layer(Patient()), scope("/predict"), list(body))
    assert start["status"] == status
    assert b"0.05 s" in response["body"]


def test_each_request_times_out_at_its_own_time(home: Path) -> None:
    made = layer(Patient(), max_delay=0)
    made.guard.deadlines = Deadlines(1.0)
    waited: list[float] = []

    async def one(after: float) -> None:
        await asyncio.sleep(after)
        began = asyncio.get_running_loop().time()
        statuses: list[int] = []

        async def receive() -> Message:
            return WHOLE

        async def send(message: Message) -> None:
            statuses.append(message.get("status", 0))

        await made(scope("/predict"), receive, send)
        assert statuses[0] == 504
        waited.append(asyncio.get_running_loop().time() - began)

    async def all_of_them() -> None:
        await asyncio.gather(*(one(after / 20) for after in range(10)))

    asyncio.run(all_of_them())
    assert len(waited) == 10
    assert min(waited) > 0.99
    assert max(waited) < 1.6, "one that began later waits for no second round"
    assert not made.guard.deadlines


def test_a_timeout_handler_may_start_another_request(home: Path) -> None:
    """There is still only one timer."""

    async def one_after_the_other() -> int:
        deadlines, given_up = Deadlines(0.02), []

        def begin(number: int) -> None:
            exchange = Exchange({"path": "/predict"})
            deadlines.begin(exchange, lambda: [given_up.append(number), begin(number + 1)])  # type: ignore[func-returns-value]

        loop, timers = asyncio.get_running_loop(), []
        later = loop.call_later
        loop.call_later = lambda *args: timers.append(later(*args)) or timers[-1]  # type: ignore[method-assign, func-returns-value]
        begin(0)
        begin(100)
        await asyncio.sleep(0.2)
        assert len(given_up) > 8
        assert set(given_up) > {0, 1, 100, 101}
        return sum(not timer.cancelled() and timer.when() > loop.time() for timer in timers)

    assert asyncio.run(one_after_the_other()) <= 2, "deadlines' own, and the sleep's"


def test_a_late_request_times_out_once(home: Path) -> None:
    async def later_others() -> int:
        deadlines, given_up = Deadlines(0.02), []
        for number in range(4):
            exchange = Exchange({"path": "/predict"})
            deadlines.begin(exchange, lambda number=number: given_up.append(number))  # type: ignore[misc]
            await asyncio.sleep(0.03)
        assert given_up == [0, 1, 2, 3]
        return len(deadlines)

    assert asyncio.run(later_others()) == 0


def test_a_cancelled_request_is_not_answered_again(home: Path) -> None:
    made = layer(Quick())
    exchange = Exchange(scope("/predict"))
    exchange.status = 408
    assert call_app(made, {**scope("/predict"), EXCHANGE: exchange}, []) == []


def test_an_externally_cancelled_request_is_not_answered(home: Path) -> None:
    made = layer(Patient())
    sent: list[Message] = []

    async def receive() -> Message:
        return WHOLE

    async def send(message: Message) -> None:
        sent.append(message)

    async def cut_off() -> None:
        task = asyncio.create_task(made(scope("/predict"), receive, send))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cut_off())
    assert not sent
    assert not made.guard.deadlines


def test_a_websocket_is_closed(home: Path) -> None:
    assert call_app(layer(Quick()), scope("/predict", "websocket"), [])[0]["type"] == "websocket.close"


def test_a_caller_above_its_rate_gets_retry_after(home: Path) -> None:
    limited = layer(Quick(), rate_limit=0.5, rate_burst=1)
    assert call_app(limited, scope("/predict"), [])[0]["status"] == 200
    refused = call_app(limited, scope("/predict"), [])[0]
    assert refused["status"] == 429
    assert dict(refused["headers"])[b"retry-after"] == b"2"
    assert call_app(limited, scope("/model", method="GET"), [])[0]["status"] == 200, "documents cost nothing"


def test_a_rejection_leaves_no_reference_cycle(home: Path) -> None:
    """Garbage collection is rare; under overload there are thousands of rejections a second."""
    limited = layer(Quick(), rate_limit=0.1, rate_burst=1)

    async def many() -> int:
        sent: list[Message] = []

        async def receive() -> Message:
            return WHOLE

        async def send(message: Message) -> None:
            sent.append(message)

        for _ in range(10):
            await limited(scope("/predict"), receive, send)
        gc.collect()
        sent.clear()
        for _ in range(200):
            await limited(scope("/predict"), receive, send)
        assert {message["status"] for message in sent if "status" in message} == {429}
        return gc.collect()

    gc.disable()
    try:
        assert asyncio.run(many()) < 200
    finally:
        gc.enable()


def test_nobody_is_served_before_required_keys_are_loaded(home: Path) -> None:
    closed = layer(Quick(), authentication="keys")
    assert call_app(closed, scope("/predict"), [])[0]["status"] == 401
    keyed = {**scope("/predict"), "headers": [(b"x-api-key", b"tc_0a1b2c3d_k")]}
    assert call_app(closed, keyed, [])[0]["status"] == 503
    assert call_app(closed, scope("/livez"), [])[0]["status"] == 200


def test_unknown_paths_share_one_label() -> None:
    registry = CollectorRegistry()  # read as it is: what all workers tell together is the integration test's
    metrics = Metrics(["/predict"], registry)
    for i in range(100):
        metrics.count_request(f"/scan-{i}", 404, 0.001)
    metrics.flush()
    assert registry.get_sample_value("truecourse_requests_total", {"path": "other", "status": "4xx"}) == 100
    paths = {sample.labels.get("path") for metric in registry.collect() for sample in metric.samples}
    assert paths <= {None, "other"}


def test_an_exception_is_logged_with_type_and_place(caplog: pytest.LogCaptureFixture) -> None:
    before = logging.getLogRecordFactory()
    log_redaction.install()
    try:
        raise ValueError("the secret of a payload")
    except ValueError:
        logging.getLogger("truecourse.serving").exception("%s failed", "/predict")
    finally:
        logging.setLogRecordFactory(before)
    assert "/predict failed: ValueError at unit/test_protection.py:" in caplog.text
    assert "secret" not in caplog.text
    assert "Traceback" not in caplog.text
