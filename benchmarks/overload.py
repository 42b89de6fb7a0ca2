"""Overload: the latency of what the endpoint answers at one and a half and three times its capacity, beside that of an
idle one, and how much it answers. To refuse a request takes a third of what answering one does: at three times the
capacity little else is done.

The load is open: requests come by a Poisson process, whether earlier ones were answered or not. Its first second is
told apart: until a queue has stood for a while it is taken for a burst, which may wait longer.
"""

import asyncio
import gc
import json
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import uvloop

from benchmarks.harness import Row, measure
from benchmarks.home import ready
from truecourse import registry
from truecourse.contract import Contract
from truecourse.problem import Problem
from truecourse.processes import free_port, supervised
from truecourse.settings import get_settings

CONNECTIONS = 512
CLIENTS = 16
"""As many saturate a worker: it answers together what comes together, and four do not come together."""
PATIENCE = 30.0
"""Seconds that the last requests are waited for."""
FIRST = 1.0
"""Seconds."""
KEPT = 4.0
"""Seconds that a client keeps an idle connection: a server closes it after five, and may do so under a request."""


def rows(quick: bool) -> list[Row]:
    problem, seconds = ready("register"), 4.0 if quick else 20.0
    measure("benchmarks.home:prepare", problem=problem.name, until="package")
    with _server(problem) as port:
        ask: dict[str, Any] = {"port": port, "body": _body(problem)}
        measure("benchmarks.overload:saturate", **ask, seconds=1.0)  # the first seconds of a process are slow
        capacity = measure("benchmarks.overload:saturate", **ask, seconds=seconds / 2).result["rate"]
        idle = measure("benchmarks.overload:flood", **ask, rate=capacity / 10, seconds=seconds).result
        loaded = {
            times: measure("benchmarks.overload:flood", **ask, rate=capacity * times, seconds=seconds).result
            for times in (1.5, 3.0)
        }
    found = [Row(what=f"capacity of a worker: answers a second to {CLIENTS} clients", value=capacity, unit="/s")]
    for times, under in loaded.items():
        at, rest = f"at {times:g} times it", idle["p99"] * 1000
        found += [
            Row(what=f"requests a second that came {at}", value=under["came"], unit="/s", reference=capacity,
                reference_is="capacity", limit=0.9 * times, sense="at least"),
            Row(what=f"p50 of what was answered {at}", value=under["p50"] * 1000, unit="ms",
                reference=idle["p50"] * 1000, reference_is="at a tenth of it"),
            Row(what=f"p99 of what was answered {at}", value=under["p99"] * 1000, unit="ms",
                reference=rest, reference_is="at a tenth of it", limit=2),
            Row(what=f"p99 of what was answered in its first second {at}", value=under["first"] * 1000, unit="ms"),
            Row(what=f"answers a second {at}", value=under["answered"], unit="/s", reference=capacity,
                reference_is="capacity", limit=0.3 if times < 2 else None, sense="at least"),
            Row(what=f"p99 of a refusal {at}", value=under["refused_p99"] * 1000, unit="ms"),
            Row(what=f"neither answered nor refused {at}", value=under["other"], unit="", limit=0),
        ]  # fmt: skip
    return found


@contextmanager
def _server(problem: Problem) -> Iterator[int]:
    from services import launch

    port, log = free_port(get_settings().host), get_settings().home / "logs" / "overload.log"
    with supervised() as children:
        children.append(launch.start(launch.prepare(problem.name), port, log))
        launch.wait_ready(children[0], port)
        yield port


def _body(problem: Problem) -> str:
    champion = registry.champion(problem.name)
    assert champion is not None
    contract = Contract.from_json(registry.artifact(champion.run_id, "model/contract.json"))
    return json.dumps({"rows": list(contract.examples[:1])})


def saturate(port: int, body: str, seconds: float) -> Callable[[], dict[str, float]]:
    """Clients that each ask again as soon as they are answered."""
    return lambda: uvloop.run(_Load(port, body).closed(CLIENTS, seconds))


def flood(port: int, body: str, rate: float, seconds: float) -> Callable[[], dict[str, float]]:
    """Requests that come at this rate a second, by chance."""
    return lambda: uvloop.run(_Load(port, body).open(rate, seconds))


class _Load:
    """Connections to the endpoint, and what came back: the seconds of every answer by its status."""

    def __init__(self, port: int, body: str) -> None:
        head = f"POST /predict HTTP/1.1\r\nhost: endpoint\r\ncontent-type: application/json\r\n{_key()}"
        self._request = f"{head}content-length: {len(body.encode())}\r\n\r\n{body}".encode()
        self._port = port
        self._free: list[_Connection] = []
        self._open = 0
        self._again = False
        self.seconds: dict[int, list[float]] = {}

    async def closed(self, clients: int, seconds: float) -> dict[str, float]:
        await self._connect(clients)
        self._again = True
        for connection in self._free:
            connection.ask(self._request)
        await asyncio.sleep(seconds)
        return {"rate": len(self.seconds.get(200, ())) / seconds}

    async def open(self, rate: float, seconds: float) -> dict[str, float]:
        await self._connect(CONNECTIONS)
        gc.disable()  # its pauses would be taken for the endpoint's
        chance, begun, sent = random.Random(0), time.perf_counter(), 0  # noqa: S311
        due, first = begun, self.seconds
        while due < begun + seconds:
            if self.seconds is first and due > begun + FIRST:
                self.seconds = {}
            due += chance.expovariate(rate)
            if (wait := due - time.perf_counter()) > 0.001:
                await asyncio.sleep(wait)
            while (connection := self._kept()) is None:
                await asyncio.sleep(0.001) if self._open >= CONNECTIONS else await self._connect(1)
            connection.ask(self._request)
            sent += 1
        given_up = time.perf_counter() + PATIENCE
        while self._busy and time.perf_counter() < given_up:
            await asyncio.sleep(0.05)
        known = sum(len(some.get(status, ())) for some in (first, self.seconds) for status in (200, 429))
        answers, refused = self.seconds.get(200, []), np.array(self.seconds.get(429, [0.0]))
        answered = np.array(answers or [PATIENCE])
        return {
            "came": sent / seconds,
            "answered": len(answers) / (seconds - FIRST),
            "first": float(np.quantile(first.get(200, [0.0]), 0.99)),
            "p50": float(np.quantile(answered, 0.5)),
            "p99": float(np.quantile(answered, 0.99)),
            "refused_p99": float(np.quantile(refused, 0.99)),
            "other": float(sent - known),
        }

    @property
    def _busy(self) -> bool:
        return len(self._free) < self._open

    async def _connect(self, count: int) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(count):
            _, made = await loop.create_connection(lambda: _Connection(self), get_settings().host, self._port)
            self._free.append(made)
            self._open += 1

    def _kept(self) -> "_Connection | None":
        """The one that was used last; those that were idle for too long are closed."""
        while self._free:
            connection = self._free.pop()
            if connection.idle() < KEPT:
                return connection
            connection.close()
        return None

    def lost(self, connection: "_Connection") -> None:
        self._open -= 1
        if connection in self._free:
            self._free.remove(connection)

    def told(self, connection: "_Connection", status: int, seconds: float) -> None:
        self.seconds.setdefault(status, []).append(seconds)
        if self._again:
            connection.ask(self._request)
        else:
            self._free.append(connection)


def _key() -> str:
    key = get_settings().api_key.get_secret_value()
    return f"x-api-key: {key}\r\n" if key else ""


class _Connection(asyncio.Protocol):
    """One that is kept: a request at a time."""

    def __init__(self, load: _Load) -> None:
        self._load = load
        self._told = b""
        self._asked = self._used = time.perf_counter()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)  # uvloop's is none by its class

    def connection_lost(self, error: Exception | None) -> None:
        self._load.lost(self)

    def idle(self) -> float:
        return time.perf_counter() - self._used

    def close(self) -> None:
        self._transport.close()

    def ask(self, request: bytes) -> None:
        self._asked = time.perf_counter()
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._told += data
        head, found, body = self._told.partition(b"\r\n\r\n")
        if found:
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            if len(body) >= length:
                self._told, self._used = b"", time.perf_counter()
                self._load.told(self, int(head[9:12]), time.perf_counter() - self._asked)
