"""A server that answers with the length of each request's body, with uvicorn's own protocol or with one of ours."""

import asyncio
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import uvicorn

from services.http import fast_path
from services.http.exchange import Exchange, Message, Receive, Reply, Send
from services.http.middleware import GuardMiddleware
from services.http.protocol import BoundedProtocol
from services.http.request_guard import Guard
from services.model.model_router import ModelRouter
from tests.conftest import free_ports
from truecourse.settings import Settings

Done = Callable[[Reply], None]
SERVED = {"fast path": fast_path.FastPathProtocol, "application": BoundedProtocol}
"""Our protocols: with TRUECOURSE_FAST_PATH=true, and with false."""


class Echo:
    """Answers with the length of the body: at once, after 0.02 s (`later`), or when a test calls `waiting` (`never`).

    `direct`: the number of requests that came without the ASGI application. `last`: the exchange of the last one."""

    last: Exchange | None = None

    def __init__(self) -> None:
        self.direct = self.after = 0
        self.waiting: list[Callable[[], None]] = []

    def score(self, exchange: Exchange, body: bytes, done: Done) -> None:
        exchange.is_complete, self.last = True, exchange
        self.loop = asyncio.get_running_loop()
        self.direct += 1
        reply = Reply(400 if b"bad" in body else 200, b'{"length": %d}' % len(body), after=self._after)
        if body.startswith(b"never"):
            self.waiting.append(partial(done, reply))
        elif body.startswith(b"later"):
            self.loop.call_later(0.02, done, reply)
        else:
            done(reply)

    def _after(self) -> None:
        self.after += 1

    async def reply(self, exchange: Exchange) -> Reply:
        method, body, more = exchange.scope["method"], b"", True
        while more and method == "POST":
            message = await exchange.receive()
            if message["type"] == "http.disconnect":
                return Reply(400, b"gone")
            body, more = body + message["body"], message["more_body"]
        pending: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self.score(exchange, body, lambda reply: None if pending.done() else pending.set_result(reply))
        self.direct -= 1
        return await pending


class EchoServer:
    """A running echo server. `is_fast`: whether it has the fast path."""

    def __init__(self, port: int, guard: Guard, echo: Echo, is_fast: bool) -> None:
        self.port, self.guard, self.echo, self.is_fast = port, guard, echo, is_fast

    def send(self, *parts: bytes) -> bytes:
        """Send these parts one by one; all bytes that come back, without dates. The last part closes the connection."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=10) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for part in parts:
                connection.sendall(part)
                threading.Event().wait(0.03)
            return without_date(b"".join(iter(lambda: connection.recv(65536), b"")))

    def counts(self) -> dict[str, int]:
        """The counters that are not zero: requests by path and status, refusals by reason."""
        self.guard.metrics.flush()
        return {
            "".join(sample.labels.values()): int(sample.value)
            for metric in self.guard.metrics.registry.collect()
            for sample in metric.samples
            if sample.value and sample.name in ("truecourse_requests_total", "truecourse_refused_total")
        }


def without_date(answer: bytes) -> bytes:
    return re.sub(rb"date: [^\r]*\r\n", b"", answer)


@contextmanager
def echo_server(served: str | None = "fast path", certificates: Any = None, **settings: Any) -> Iterator[EchoServer]:
    """Run an echo server. `served`: a key of SERVED, or None for uvicorn's own protocol."""
    guard, echo = Guard(Settings(**{"max_delay": 0, "allow_anonymous": True, **settings}), ModelRouter()), Echo()
    with run_server(guard, echo, served, certificates) as port:
        yield EchoServer(port, guard, echo, served == "fast path")


@contextmanager
def run_server(
    guard: Guard, endpoint: Any, served: str | None = "fast path", certificates: Any = None
) -> Iterator[int]:
    """Run a server in a thread until the block ends; its port. `served`: as for echo_server()."""
    (port,) = free_ports(1)

    async def behind(scope: Message, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"Bento"})

    protocol: Any = "httptools"
    if served is not None:
        protocol = type("Ours", (SERVED[served],), {"guard": guard, "endpoint": endpoint, "certificates": certificates})
    app: Any = GuardMiddleware(behind, guard, endpoint)
    server = uvicorn.Server(
        uvicorn.Config(app, port=port, http=protocol, log_level="warning", lifespan="off", server_header=False)
    )
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            thread.join(0.01)
        yield port
    finally:
        server.should_exit = True
        thread.join()


def head(length: int | None, *headers: str, path: str = "/predict", method: str = "POST", last: bool = True) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "host: here", "content-type: application/json"]
    lines += [] if length is None else [f"content-length: {length}"]
    return "\r\n".join([*lines, *headers, *(["connection: close"] if last else []), "", ""]).encode()


def post(body: bytes, *headers: str, **more: Any) -> bytes:
    return head(len(body), *headers, **more) + body
