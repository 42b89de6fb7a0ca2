"""The rollout gate: a worker first answers on a port of its own, and serves only once it is admitted."""

import asyncio
import json
import os
import signal
import urllib.request
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import uvicorn

from services.http.request_guard import Guard
from services.http.rollout_gate import LEAVING, OPEN, RolloutGate
from services.model.model_router import ModelRouter
from truecourse.errors import PlatformError
from truecourse.settings import Settings

Message = MutableMapping[str, Any]


async def app(
    scope: Message, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]
) -> None:
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        return
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": json.dumps({"path": scope["path"]}).encode()})


class Worker:
    """An application as uvicorn runs it: started, and called without a socket."""

    def __init__(self, folder: Path | None) -> None:
        self.router = ModelRouter()
        self.admission = RolloutGate(app, folder, Guard(Settings(), self.router))
        self.started = False

    async def start(self) -> None:
        async def receive() -> Message:
            return {"type": "lifespan.startup"}

        async def send(message: Message) -> None:
            self.started = message["type"] == "lifespan.startup.complete"

        await self.admission({"type": "lifespan"}, receive, send)

    async def headers(self) -> list[tuple[bytes, bytes]]:
        sent: list[Message] = []

        async def send(message: Message) -> None:
            sent.append(message)

        async def receive() -> Message:
            return {"type": "http.request"}

        await self.admission({"type": "http", "path": "/"}, receive, send)
        headers: list[tuple[bytes, bytes]] = sent[0]["headers"]
        return headers


async def port_of(folder: Path) -> int:
    async with asyncio.timeout(20):
        while not (files := list(folder.glob("*.port"))):
            await asyncio.sleep(0.01)
    return int(files[0].read_text())


@pytest.fixture(autouse=True)
def _own_shutdown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Restore uvicorn's shutdown method, which a worker replaces for its whole process."""
    monkeypatch.setattr(uvicorn.Server, "shutdown", uvicorn.Server.shutdown)


def ask(port: int) -> Any:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/predict", timeout=10) as answer:
        return json.load(answer)


def test_a_worker_answers_on_its_own_port_until_admitted(tmp_path: Path) -> None:
    async def run() -> None:
        worker = Worker(tmp_path)
        starting = asyncio.create_task(worker.start())
        port = await port_of(tmp_path)
        assert await asyncio.to_thread(ask, port) == {"path": "/predict"}
        assert not worker.started
        (tmp_path / OPEN).touch()
        await asyncio.wait_for(starting, 20)
        assert worker.started
        assert not list(tmp_path.glob("*.port"))
        with pytest.raises(OSError, match="refused"):
            await asyncio.to_thread(ask, port)

    asyncio.run(run())


def test_the_requests_of_a_smoke_test_are_not_logged(tmp_path: Path) -> None:
    async def run() -> None:
        worker = Worker(tmp_path)
        logged: list[Any] = []
        worker.router.record = logged.append
        split: Any = SimpleNamespace(shadow=False, challenger=None)
        starting = asyncio.create_task(worker.start())
        await port_of(tmp_path)
        worker.router.finish(split, ["of the smoke test"])  # type: ignore[list-item]
        (tmp_path / OPEN).touch()
        await asyncio.wait_for(starting, 20)
        worker.router.finish(split, ["of a client"])  # type: ignore[list-item]
        assert logged == ["of a client"]

    asyncio.run(run())


def test_a_later_worker_is_admitted_at_once(tmp_path: Path) -> None:
    (tmp_path / OPEN).touch()
    worker = Worker(tmp_path)
    asyncio.run(worker.start())
    assert worker.started


def test_without_a_gate_folder_workers_start_at_once(tmp_path: Path) -> None:
    worker = Worker(None)
    asyncio.run(worker.start())
    assert worker.started


def test_a_worker_stopped_before_admission_never_starts(tmp_path: Path) -> None:
    async def run() -> None:
        worker = Worker(tmp_path)
        starting = asyncio.create_task(worker.start())
        await port_of(tmp_path)
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(PlatformError, match="before the rollout gate was opened"):
            await asyncio.wait_for(starting, 20)
        assert not worker.started

    signals: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: signals.append(number))
    try:
        asyncio.run(run())
    finally:
        signal.signal(signal.SIGTERM, before)
    assert signals == [signal.SIGTERM], "the process that runs the worker learns of the signal too"


def test_a_stopping_worker_closes_its_connections(tmp_path: Path) -> None:
    async def run() -> None:
        (tmp_path / OPEN).touch()
        worker = Worker(tmp_path)
        await worker.start()
        assert (b"connection", b"close") not in await worker.headers()
        (tmp_path / LEAVING).touch()
        async with asyncio.timeout(20):
            while (b"connection", b"close") not in await worker.headers():
                await asyncio.sleep(0.01)

    asyncio.run(run())
