"""Requests of clients that have given up are not computed."""

import asyncio
import json
import threading

import pytest

from services.http.exchange import Exchange
from services.http.request_guard import Guard
from services.http.routes import Endpoint
from tests.integration.test_micro_batching import record_model_calls
from tests.workers import ROW, MakeVersion, Worker
from truecourse.settings import Settings


def test_a_request_given_up_while_it_waits_for_a_thread_is_not_computed(
    make_version: MakeVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = Worker()
    guard = Guard(Settings(max_delay=0), worker.router)
    endpoint, body = Endpoint(worker.router, guard.load), json.dumps({"rows": [ROW] * 5}).encode()

    async def two() -> list[int]:
        replies: list[int] = []
        free = threading.Event()
        for _ in range(2):
            worker.router.threads.submit(free.wait)
        exchanges = [
            Exchange({"path": "/explain", "headers": [(b"content-type", b"application/json")]}) for _ in range(2)
        ]
        for exchange in exchanges:
            endpoint.score(exchange, body, lambda reply: replies.append(reply.status))
        await asyncio.sleep(0.01)  # both are handed to the threads
        exchanges[0].is_gone = True
        free.set()
        while len(replies) < 2:
            await asyncio.sleep(0.01)
        return sorted(replies)

    with record_model_calls(monkeypatch) as sizes:
        assert asyncio.run(two()) == [200, 503]
    assert sizes == [5]
