"""The fast HTTP path answers like the application, byte for byte; other requests go to the application.

With TRUECOURSE_FAST_PATH=false all requests do, under the same limits."""

import asyncio
import gc
import re
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from services.http import fast_path
from services.http.exchange import Deadlines
from services.http.middleware import GuardMiddleware
from services.http.refusals import Refusal
from services.http.request_guard import Guard
from services.model.model_router import ModelRouter
from tests.conftest import wait_until
from tests.echo_server import SERVED, Echo, EchoServer, echo_server, head, post, without_date
from truecourse.settings import Settings

CHUNKED = head(None, "transfer-encoding: chunked") + b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
ORDINARY: dict[str, tuple[bytes, ...]] = {
    "at once": (post(b"abc"),),
    "explain": (post(b"abc", path="/explain"),),
    "refused by the contract": (post(b"bad"),),
    "later": (post(b"later"),),
    "body by itself": (head(3), b"abc"),
    "in pieces": (head(5)[:20], head(5)[20:] + b"a", b"b", b"cde"),
    "chunked": (CHUNKED,),
    "nothing sent": (head(0),),
    "kept": (post(b"abc", last=False), post(b"later", last=False), post(b"abcd")),
    "of the old protocol": (post(b"abc", last=False).replace(b"HTTP/1.1", b"HTTP/1.0"),),
}
OTHERS: dict[str, tuple[bytes, ...]] = {
    "expects to continue": (head(3, "expect: 100-continue"), b"abc"),
    "through a proxy": (post(b"abc", "x-forwarded-for: 192.0.2.1"),),
    "long": (head(300_000), b"a" * 100_000, b"b" * 200_000),
    "of another origin": (post(b"abc", "origin: http://elsewhere"),),
    "no post": (head(None, method="GET"),),
    "the head alone": (head(None, method="HEAD"),),
    "another path": (head(None, path="/readyz", method="GET"),),
}
NO_HTTP: dict[str, tuple[bytes, ...]] = {
    "no HTTP": (b"what is this\r\n\r\n",),
    "no HTTP in the body": (head(None, "transfer-encoding: chunked") + b"zz\r\nabc\r\n",),
    "no HTTP in the body, off the fast path": (
        head(None, "origin: http://elsewhere", "transfer-encoding: chunked") + b"zz\r\nabc\r\n",
    ),
}
ALL = (*SERVED, None)
"""Our two protocols and uvicorn's."""
REASONS = {401: "unauthenticated", 429: "rate"}
PIPELINED = (
    post(b"abc", last=False) + post(b"later", last=False) + post(b"abcd", last=False) + head(2),
    b"ab",
)


@pytest.fixture(scope="module", params=SERVED)
def our_server(request: pytest.FixtureRequest) -> Iterator[EchoServer]:
    with echo_server(request.param) as server:
        yield server


@pytest.fixture(scope="module")
def uvicorns() -> Iterator[EchoServer]:
    with echo_server(None) as server:
        yield server


@pytest.mark.parametrize("kind", ORDINARY)
def test_the_fast_path_answers_like_the_application(kind: str, our_server: EchoServer, uvicorns: EchoServer) -> None:
    before, asked = our_server.echo.direct, ORDINARY[kind]
    found = our_server.send(*asked)
    assert found == uvicorns.send(*asked)
    assert b"HTTP/1.1 200" in found or kind == "refused by the contract"
    fast = found.count(b"HTTP/1.1") if our_server.is_fast else 0
    assert our_server.echo.direct - before == fast, "none of them came to the application"
    assert not our_server.guard.deadlines


@pytest.mark.parametrize("kind", OTHERS)
def test_other_requests_go_to_the_application(kind: str, our_server: EchoServer, uvicorns: EchoServer) -> None:
    before, asked = our_server.echo.direct, OTHERS[kind]
    assert our_server.send(*asked) == uvicorns.send(*asked) != b""
    assert our_server.echo.direct == before
    assert not our_server.guard.deadlines


@pytest.mark.parametrize("kind", NO_HTTP)
def test_invalid_http_is_rejected(kind: str, our_server: EchoServer) -> None:
    found = our_server.send(*NO_HTTP[kind])
    assert found.startswith(b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\n")
    assert b'"error":"the request is not valid HTTP"' in found
    assert not our_server.guard.deadlines


def test_pipelined_requests_are_answered_in_their_order(our_server: EchoServer, uvicorns: EchoServer) -> None:
    found = our_server.send(*PIPELINED)
    assert found == uvicorns.send(*PIPELINED)
    assert re.findall(rb'"length": (\d)', found) == [b"3", b"5", b"4", b"2"]


@pytest.mark.parametrize("served", SERVED)
def test_data_during_an_answer_does_not_repeat_it(home: Path, served: str) -> None:
    with echo_server(served) as server, socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        for part in (post(b"never", last=False), post(b"abc")):
            connection.sendall(part)
            threading.Event().wait(0.1)
        (first,) = server.echo.waiting
        server.echo.loop.call_soon_threadsafe(first)
        found = b"".join(iter(lambda: connection.recv(65536), b""))
    assert re.findall(rb'"length": (\d)', found) == [b"5", b"3"]


def test_a_partial_pipelined_request_is_handled(home: Path) -> None:
    found = []
    for served in ALL:
        with echo_server(served) as server:
            server.guard.deadlines = Deadlines(0.3)
            found.append(server.send(head(None, path="/readyz", method="GET", last=False) + head(5) + b"ab"))
    assert found[0] == found[1] == found[2]
    assert re.findall(rb"HTTP/1.1 (\d+)", found[0]) == [b"200", b"408"]


@pytest.mark.parametrize("served", SERVED)
@pytest.mark.parametrize("body", [b"abc", b"later"])
def test_requests_before_invalid_http_are_answered(home: Path, body: bytes, served: str) -> None:
    broken = head(None, "transfer-encoding: chunked") + b"zz\r\n"
    with echo_server(served) as server:
        found = server.send(head(len(body), last=False), body + broken)
        threading.Event().wait(0.1)
        assert re.findall(rb"HTTP/1.1 (\d+)", found) == [b"200", b"400"]
        assert not server.guard.deadlines


def test_many_pipelined_requests_are_answered(our_server: EchoServer) -> None:
    found = our_server.send(post(b"abc", last=False) * 2_000 + post(b"abcd"))
    assert found.count(b'"length": 3') == 2_000


@pytest.mark.parametrize(
    ("settings", "status"), [({"authentication": "keys"}, 401), ({"rate_limit": 0.1, "rate_burst": 1}, 429)]
)
def test_rejections_are_sent_before_the_body_is_read(home: Path, settings: dict[str, Any], status: int) -> None:
    found = []
    for served in ALL:
        with echo_server(served, **settings) as server:
            server.send(post(b"abc"))
            with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
                connection.sendall(head(3, last=False))
                found.append(without_date(connection.recv(65536)))
                connection.sendall(b"abc" + post(b"abc"))  # the connection goes on
                found[-1] += without_date(b"".join(iter(partial(connection.recv, 65536), b"")))
            assert server.echo.direct <= 1
            answered = {"/predict2xx": 1} if status == 429 else {}
            times = 2 if answered else 3
            assert server.counts() == answered | {"/predict4xx": times, REASONS[status]: times}
    assert found[0] == found[1] == found[2]
    assert found[0].count(b"HTTP/1.1 %d" % status) == 2


def send_late(server: EchoServer, *parts: bytes) -> bytes:
    server.guard.deadlines = Deadlines(0.15)
    return server.send(*parts)


@pytest.mark.parametrize(("parts", "status"), [((head(3),), 408), ((head(3), b"a"), 408), ((post(b"never"),), 504)])
def test_late_requests_time_out(home: Path, parts: tuple[bytes, ...], status: int) -> None:
    found = []
    for served in ALL:
        with echo_server(served) as server:
            found.append(send_late(server, *parts))
            for done in server.echo.waiting:
                done()  # nobody waits for it any more
            assert not server.guard.deadlines
    assert found[0] == found[1] == found[2]
    assert b"HTTP/1.1 %d" % status in found[0]
    assert b"0.15 s" in found[0]


@pytest.mark.parametrize("served", SERVED)
@pytest.mark.parametrize("body", [b"", b"ab", b"later"])
def test_a_disconnected_client_is_counted_once_and_freed(home: Path, body: bytes, served: str) -> None:
    with echo_server(served) as server:
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
            connection.sendall(head(5) + body)
            threading.Event().wait(0.01)
        threading.Event().wait(0.1)
        assert not server.guard.deadlines
        assert server.counts() == {"/predict2xx" if body == b"later" else "/predict4xx": 1}
        assert server.echo.after == (body == b"later"), "what was answered is logged, also if the client is gone"


@pytest.mark.parametrize("served", SERVED)
def test_a_request_of_a_disconnected_client_is_marked(home: Path, served: str) -> None:
    """So that it is not computed (services/http/scheduling.py). A client that only ends its sending gets its answer."""
    with echo_server(served) as server:
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
            connection.sendall(post(b"never"))
            wait_until(lambda: bool(server.echo.waiting), 5, "the request")
            assert server.echo.last is not None
            assert not server.echo.last.is_gone
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # closes by a reset
        wait_until(lambda: bool(server.echo.last and server.echo.last.is_gone), 5, "the end of the connection")
        for answer in server.echo.waiting:
            server.echo.loop.call_soon_threadsafe(answer)
        wait_until(lambda: not server.guard.deadlines, 5, "the end of the request")


def test_connection_close_is_set_when_draining(our_server: EchoServer) -> None:
    before = our_server.echo.direct
    our_server.guard.leaving = True
    try:
        assert b'"length": 3' in our_server.send(post(b"abc"))
    finally:
        our_server.guard.leaving = False
    assert our_server.echo.direct == before


class Transport:
    """Records what a connection writes."""

    def __init__(self) -> None:
        self.writes: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.writes.append(data)

    def is_closing(self) -> bool:
        return False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return None

    def close(self) -> None: ...

    pause_reading = resume_reading = close


def connections(
    guard: Guard, endpoint: Any, transport_of: Callable[[], Transport] = Transport, served: str = "fast path"
) -> Callable[[], tuple[Any, Transport]]:
    """Create connections without a socket. `served`: a key of SERVED."""
    app: Any = GuardMiddleware(lambda *_: None, guard, endpoint)  # type: ignore[arg-type,return-value]
    config = uvicorn.Config(app, lifespan="off", log_config=None)
    config.load()
    made = type("Ours", (SERVED[served],), {"guard": guard, "endpoint": endpoint})

    def connect() -> tuple[Any, Transport]:
        connection: Any = made(config, uvicorn.server.ServerState(), {})
        transport = transport_of()
        connection.connection_made(transport)
        return connection, transport

    return connect


def test_head_and_body_are_one_write(home: Path) -> None:
    guard, order = Guard(Settings(max_delay=0, allow_anonymous=True), ModelRouter()), []

    class Recording(Echo):
        def _after(self) -> None:
            order.append(len(transport.writes))

    async def ask() -> None:
        connection, made = connections(guard, Recording())()
        transport.writes = made.writes
        connection.data_received(post(b"abc", last=False))

    transport = Transport()
    asyncio.run(ask())
    assert [write.count(b"HTTP/1.1") for write in transport.writes] == [1]
    assert transport.writes[0].endswith(b'\r\n\r\n{"length": 3}')
    assert order == [1]


@pytest.mark.parametrize("how", ["answered", "refused", "left", "answered and left"])
def test_a_request_leaves_no_reference_cycle(home: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    guard = Guard(Settings(max_delay=0, allow_anonymous=True), ModelRouter())
    if how == "refused":
        monkeypatch.setattr(guard, "refusal", lambda exchange: Refusal("rate", 429, "too many", "slow down", 1))

    async def many() -> int:
        connect = connections(guard, Echo())
        connection, transport = connect()
        for _ in range(2):
            for _ in range(200):
                if "left" in how:
                    connection, transport = connect()
                connection.data_received(head(5) + b"ab" if how == "left" else post(b"abc", last=False))
                if "left" in how:
                    connection.connection_lost(None)
            transport.writes.clear()
            found = gc.collect()
        return found

    gc.disable()
    try:
        assert asyncio.run(many()) < 50
    finally:
        gc.enable()


@pytest.mark.parametrize("served", SERVED)
def test_uvicorn_uses_our_protocols_by_default(monkeypatch: pytest.MonkeyPatch, served: str) -> None:
    monkeypatch.setattr(uvicorn.config, "HTTP_PROTOCOLS", dict(uvicorn.config.HTTP_PROTOCOLS))
    for owner, name in (*product(SERVED.values(), ["guard"]), (fast_path.FastPathProtocol, "endpoint")):
        monkeypatch.setattr(owner, name, None, raising=False)
    guard, echo = Guard(Settings(), ModelRouter()), Echo()
    fast_path.install(guard, echo, served == "fast path")
    for name, is_private in (("auto", False), (fast_path.private_protocol(), True)):
        config = uvicorn.Config(lambda: None, http=name)  # type: ignore[arg-type]
        config.load()
        protocol: Any = config.http_protocol_class
        assert issubclass(protocol, SERVED[served])
        assert issubclass(protocol, fast_path.FastPathProtocol) == (served == "fast path")
        assert (protocol is SERVED[served]) == is_private
        assert protocol.guard is guard
    assert fast_path.FastPathProtocol.endpoint is echo
