"""Answers that go out in one write are those of uvicorn, byte for byte, whatever kind they are of."""

import asyncio
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import uvicorn
from uvicorn.protocols.http import httptools_impl

from services import onewrite
from services.exchange import Message, Receive, Send
from tests.conftest import free_ports

RELEASED = threading.Event()


async def app(scope: Message, receive: Receive, send: Send) -> None:
    """An answer of the kind that the path names."""
    if scope["type"] != "http":
        return None
    kind = scope["path"].strip("/")
    if kind == "body":
        await receive()
    if kind == "raises":
        raise ValueError
    headers = [] if kind in ("chunked", "streamed") else [(b"content-length", b"0" if kind == "empty" else b"6")]
    await send({"type": "http.response.start", "status": 204 if kind == "empty" else 200, "headers": headers})
    if kind == "dies":
        raise ValueError
    if kind == "empty":
        return await send({"type": "http.response.body", "body": b""})
    await send({"type": "http.response.body", "body": b"abc", "more_body": True})
    while kind == "streamed" and not RELEASED.is_set():
        await asyncio.sleep(0.01)
    await send({"type": "http.response.body", "body": b"def"})
    return None


class Counted:
    """The transport below, for a cycle: what it is told."""

    def __init__(self) -> None:
        self.writes: list[bytes] = []
        self.closed = False

    def write(self, data: bytes) -> None:
        self.writes.append(bytes(data))

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed


@contextmanager
def served() -> Iterator[int]:
    (port,) = free_ports(1)
    server = uvicorn.Server(uvicorn.Config(app, port=port, http="httptools", log_level="critical", lifespan="off"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            thread.join(0.01)
        yield port
    finally:
        server.should_exit = True
        thread.join()


def asked(port: int, *requests: bytes) -> bytes:
    """All that comes back to these, sent at once; the last of them ends the connection."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(b"".join(requests))
        return b"".join(iter(lambda: connection.recv(65536), b""))


def request(path: str, method: str = "GET", *headers: str, body: bytes = b"", last: bool = True) -> bytes:
    lines = [f"{method} /{path} HTTP/1.1", "host: here", *headers, *(["connection: close"] if last else []), "", ""]
    return "\r\n".join(lines).encode() + body


def undated(answer: bytes) -> bytes:
    return re.sub(rb"date: [^\r]*\r\n", b"", answer)


REQUESTS: dict[str, tuple[bytes, ...]] = {
    "length": (request("length"),),
    "chunked": (request("chunked"),),
    "head": (request("length", "HEAD"),),
    "no content": (request("empty"),),
    "raises": (request("raises"),),
    "dies after the head": (request("dies"),),
    "body": (request("body", "POST", "content-length: 3", body=b"xyz"),),
    "expects to continue": (request("body", "POST", "content-length: 3", "expect: 100-continue", body=b"xyz"),),
    "one after the other": (request("length", last=False), request("length", "HEAD", last=False), request("chunked")),
    "the last has no body": (request("length", last=False), request("length", "HEAD")),
}


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(httptools_impl, "RequestResponseCycle", httptools_impl.RequestResponseCycle)
    onewrite.install()


@pytest.fixture(scope="module")
def wanted() -> dict[str, bytes]:
    assert httptools_impl.RequestResponseCycle is not onewrite.OneWrite
    with served() as port:
        return {name: undated(asked(port, *requests)) for name, requests in REQUESTS.items()}


def test_answers_are_uvicorns(wanted: dict[str, bytes], installed: None) -> None:
    with served() as port:
        found = {name: undated(asked(port, *requests)) for name, requests in REQUESTS.items()}
    assert found == wanted
    assert wanted["length"].endswith(b"\r\n\r\nabcdef")
    assert b"100 Continue" in wanted["expects to continue"]


def test_the_first_part_of_a_stream_waits_for_no_second(installed: None) -> None:
    RELEASED.clear()
    with served() as port, socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(request("streamed"))
        first = b""
        while b"abc" not in first:
            first += connection.recv(65536)
        assert b"def" not in first
        RELEASED.set()
        assert b"def" in b"".join(iter(lambda: connection.recv(65536), b""))


def test_a_client_that_waits_to_be_told_to_continue_is_told(installed: None) -> None:
    head = request("body", "POST", "content-length: 3", "expect: 100-continue")
    with served() as port, socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(head)
        assert connection.recv(65536).startswith(b"HTTP/1.1 100 ")
        connection.sendall(b"xyz")
        assert b"abcdef" in b"".join(iter(lambda: connection.recv(65536), b""))


@pytest.mark.parametrize("kind", ["length", "chunked", "empty"])
def test_head_and_body_are_one_write(kind: str, installed: None) -> None:
    below, over = Counted(), []
    scope = {"type": "http", "path": f"/{kind}", "method": "GET"}
    made: Any = httptools_impl.RequestResponseCycle

    async def answer() -> None:
        cycle = made(
            scope=scope, transport=below, flow=httptools_impl.FlowControl(below), logger=None,  # type: ignore[arg-type]
            access_logger=None, access_log=False, default_headers=[], message_event=asyncio.Event(),
            expect_100_continue=False, keep_alive=True, on_response=lambda: over.append(len(below.writes)),
        )  # fmt: skip
        await cycle.run_asgi(app)

    asyncio.run(answer())
    assert below.writes[0].startswith(b"HTTP/1.1 20")
    assert (b"abc" in below.writes[0]) == (kind != "empty")
    assert over == [len(below.writes)] == [1 if kind == "empty" else 2]
