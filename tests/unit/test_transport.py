"""Limits on what clients can hold of a worker before and without a request."""

import asyncio
import re
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from services.http.certificates import Certificates
from services.http.transport import RESERVED, Connections
from tests.conftest import wait_until
from tests.echo_server import SERVED, EchoServer, echo_server, head, post
from tests.tls_certificates import make_certificate
from truecourse.settings import Settings

SOON = 0.4
OFF = "origin: http://elsewhere"
"""A header that takes a request off the fast path, if there is one."""
PATHS = {"fast": (), "off": (OFF,)}
KEPT = post(b"abc", last=False)


@contextmanager
def connected(server: EchoServer) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        yield connection


def rest(connection: socket.socket) -> bytes:
    """All bytes until the end of the connection."""
    found = []
    try:
        while part := connection.recv(65536):
            found.append(part)
    except ConnectionResetError:
        found.append(b"(reset)")
    return b"".join(found)


def statuses(answer: bytes) -> list[int]:
    return [int(found) for found in re.findall(rb"HTTP/1.1 (\d+)", answer)]


@pytest.fixture(scope="module", params=SERVED)
def our_server(request: pytest.FixtureRequest) -> Iterator[EchoServer]:
    with echo_server(request.param, header_timeout=SOON, request_timeout=1, keep_alive=2) as server:
        yield server


LARGE: dict[str, tuple[bytes, int]] = {
    "one header": (b"x: " + b"a" * (120 << 20), 431),
    "many headers": (b"".join(b"x-%d: y\r\n" % i for i in range(100_000)), 431),
    "a few too many": (b"".join(b"x-%d: y\r\n" % i for i in range(101)) + b"\r\n", 431),
    "a little too large": (b"x: " + b"a" * (33 << 10) + b"\r\n\r\n", 431),
    "one name": (b"a" * (4 << 20), 431),
}


@pytest.mark.parametrize("kind", LARGE)
@pytest.mark.parametrize("behind", [b"", post(b"abc", last=False)], ids=["first", "behind another"])
def test_a_large_header_is_rejected_without_delaying_others(our_server: EchoServer, kind: str, behind: bytes) -> None:
    data, status = LARGE[kind]
    done = threading.Event()
    waits: list[float] = []

    def ask() -> None:
        with connected(our_server) as connection:
            while not (done.is_set() and waits):
                began = time.perf_counter()
                connection.sendall(post(b"abc", last=False))
                assert b"200" in connection.recv(65536)
                waits.append(time.perf_counter() - began)

    asking = threading.Thread(target=ask)
    asking.start()
    with connected(our_server) as connection:
        if behind:
            connection.sendall(behind)
            assert statuses(connection.recv(65536)) == [200]
        connection.sendall(b"POST /predict HTTP/1.1\r\nhost: here\r\n" + data)
        found = rest(connection)
    done.set()
    asking.join()
    assert statuses(found) == [status], found[:300]
    assert b"connection: close" in found
    assert max(waits) < 5, "another client waits for no parsing of the header"
    wait_until(lambda: not len(our_server.guard.connections), 5, "the end of the connections")


@pytest.mark.parametrize("length", [9_000, 1 << 20])
def test_a_long_request_line_is_a_414(our_server: EchoServer, length: int) -> None:
    with connected(our_server) as connection:
        connection.sendall(b"GET /" + b"a" * length)
        assert statuses(rest(connection)) == [414]


@pytest.mark.parametrize("cut", [100, 15_000, 25_000])
def test_a_body_does_not_count_as_header(our_server: EchoServer, cut: int) -> None:
    data = post(b"b" * 60_000, "x: " + "a" * 20_000)
    found = our_server.send(KEPT + data[:cut], data[cut:])
    assert statuses(found) == [200, 200]
    assert found.endswith(b'{"length": 60000}')


SLOW = {
    "half a line": b"POST /pre",
    "half a header": head(5)[:-9],
    "lines' ends": b"\r\n" * 3 + b"GET /",
    "half a header behind another": post(b"abc", last=False) + head(5)[:30],
}


@pytest.mark.parametrize("kind", SLOW)
@pytest.mark.parametrize("dripping", [False, True])
def test_a_slow_header_is_a_408(our_server: EchoServer, kind: str, dripping: bool) -> None:
    began = time.monotonic()
    with connected(our_server) as connection:
        connection.sendall(SLOW[kind])
        connection.settimeout(0.05)
        found = b""
        while time.monotonic() < began + 5:
            try:
                part = connection.recv(65536)
            except TimeoutError:
                if dripping:
                    connection.send(b"a")
                continue
            except ConnectionResetError:
                part = b""
            found += part
            if not part:
                break
    assert statuses(found) == ([200, 408] if "behind" in kind else [408])
    assert SOON * 0.9 < time.monotonic() - began < SOON + 1


@pytest.mark.parametrize(("sent", "seconds"), [(b"", SOON), (post(b"abc", last=False), 2), (KEPT + b"\r\n", 2)])
def test_an_idle_connection_is_closed_silently(our_server: EchoServer, sent: bytes, seconds: float) -> None:
    with connected(our_server) as connection:
        connection.sendall(sent)
        if sent:
            assert statuses(connection.recv(65536)) == [200]
        began = time.monotonic()
        assert rest(connection).replace(b"(reset)", b"") == b""
    assert seconds * 0.8 < time.monotonic() - began < seconds + 1.2


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("framing", [("content-length: 100", b"a"), ("transfer-encoding: chunked", b"1\r\na\r\n")])
def test_a_slow_body_is_a_408(our_server: EchoServer, path: str, framing: tuple[str, bytes]) -> None:
    began = time.monotonic()
    with connected(our_server) as connection:
        connection.sendall(head(None, framing[0], *PATHS[path], last=False))
        connection.settimeout(0.1)
        found = b""
        while not found and time.monotonic() < began + 8:
            connection.sendall(framing[1])
            try:
                found = connection.recv(65536)
            except TimeoutError:
                continue
    assert statuses(found) == [408]
    assert 0.9 < time.monotonic() - began < 2.5


def test_an_unwanted_body_is_not_read_for_ever(our_server: EchoServer) -> None:
    """The request was answered before its body arrived."""
    began = time.monotonic()
    with connected(our_server) as connection:
        connection.sendall(head(None, "transfer-encoding: chunked", path="/livez", method="GET", last=False))
        assert statuses(connection.recv(65536)) == [200]
        with suppress(OSError):
            while time.monotonic() < began + 8:
                connection.sendall(b"1\r\na\r\n")
                time.sleep(0.05)
    assert time.monotonic() - began < 6


def test_pipelined_requests_are_answered_before_more_are_read(our_server: EchoServer) -> None:
    most = 0
    with connected(our_server) as connection:
        sending = threading.Thread(target=connection.sendall, args=(KEPT * 8_000 + post(b"ab"),))
        sending.start()
        found = b""
        while part := connection.recv(1 << 20):
            found += part
            most = max([most, *(len(one.pipeline) for one in list(our_server.guard.connections.current))])  # type: ignore[attr-defined]
        sending.join()
    assert found.count(b"HTTP/1.1 200") == 8_001
    assert most < 4_000


class Held:
    """A connection whose client reads nothing."""

    deadline, rank, is_stuck, dropped = float("inf"), None, True, False

    def expire(self) -> None:
        raise AssertionError

    def drop(self) -> None:
        self.dropped = True


def test_a_client_that_does_not_read_is_dropped() -> None:
    connections, held = Connections(Settings(request_timeout=1), None), Held()  # type: ignore[arg-type]

    async def hold() -> None:
        connections.open(held, ("127.0.0.1", 1))
        await asyncio.sleep(0.9)
        assert not held.dropped
        await asyncio.sleep(0.9)

    asyncio.run(hold())
    assert held.dropped


@pytest.mark.parametrize("served", SERVED)
def test_idle_connections_of_one_address_are_limited(home: Path, served: str) -> None:
    with echo_server(served, max_connections_per_address=50, header_timeout=60) as server, ExitStack() as idle:
        for sent in (b"", b"POST /pre", head(5)) * 100:
            connection = idle.enter_context(connected(server))
            connection.sendall(sent)
            assert len(server.guard.connections) <= 50
        assert statuses(server.send(post(b"abc"))) == [200]
        assert server.counts()["connections"] >= 250
    assert not len(server.guard.connections)


@pytest.mark.parametrize("served", SERVED)
def test_the_total_limit_spares_active_connections(home: Path, served: str) -> None:
    with echo_server(served, max_connections=3, max_connections_per_address=0) as server, ExitStack() as open_ones:
        waiting = [open_ones.enter_context(connected(server)) for _ in range(3)]
        for connection in waiting:
            connection.sendall(post(b"never"))
        wait_until(lambda: len(server.echo.waiting) == 3, 5, "three requests")
        refused = server.send()
        assert statuses(refused) == [503]
        assert b"retry-after: 1" in refused
        for answer in server.echo.waiting:
            server.echo.loop.call_soon_threadsafe(answer)
        assert [statuses(rest(connection)) for connection in waiting] == [[200]] * 3


@pytest.mark.parametrize("served", SERVED)
def test_trusted_proxies_are_exempt_from_the_address_limit(home: Path, served: str) -> None:
    settings = {"max_connections_per_address": 2, "trusted_proxies": "10.0.0.0/8, 127.0.0.1", "header_timeout": 60}
    with echo_server(served, **settings) as server, ExitStack() as several:
        for _ in range(10):
            several.enter_context(connected(server))
        wait_until(lambda: len(server.guard.connections) >= 10, 5, "ten connections")
        assert len(server.guard.connections) == 10


def test_the_file_descriptor_limit_lowers_the_connection_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    import resource

    monkeypatch.setattr(resource, "getrlimit", lambda kind: (300, 400))
    asked: list[Any] = []
    monkeypatch.setattr(resource, "setrlimit", lambda kind, limits: asked.append(limits))
    connections = Connections(Settings(max_connections=1000), None)  # type: ignore[arg-type]
    connections.reserve_files()
    assert asked == [(400, 400)]
    assert connections.most == 400 - RESERVED


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("body", [b"abc", b"later"])
def test_a_half_closed_client_gets_its_answer(our_server: EchoServer, path: str, body: bytes) -> None:
    for parts in (
        (post(body, *PATHS[path], last=False),),
        (post(body, *PATHS[path], last=False), post(b"ab", last=False)),
    ):
        with connected(our_server) as connection:
            connection.sendall(b"".join(parts))
            connection.shutdown(socket.SHUT_WR)
            assert statuses(rest(connection)) == [200] * len(parts)


def test_a_client_that_ends_mid_request_gets_the_earlier_answers(our_server: EchoServer) -> None:
    for half in (b"POST /pre", head(5, last=False) + b"ab"):
        with connected(our_server) as connection:
            connection.sendall(post(b"later", last=False) + half)
            connection.shutdown(socket.SHUT_WR)
            assert statuses(rest(connection)) == [200]
    wait_until(lambda: not len(our_server.guard.connections), 5, "the end of the connections")


@pytest.mark.parametrize("served", SERVED)
def test_in_flight_requests_are_answered_on_shutdown(home: Path, served: str) -> None:
    with ExitStack() as several:
        with echo_server(served) as server:
            idle, half, silent = (several.enter_context(connected(server)) for _ in range(3))
            idle.sendall(post(b"abc", last=False))
            assert statuses(idle.recv(65536)) == [200]
            half.sendall(post(b"abc", last=False)[:20])
            time.sleep(0.1)
            threading.Timer(0.3, half.sendall, (post(b"abc", last=False)[20:],)).start()
        assert rest(idle) == rest(silent) == b""
        answer = rest(half)
        assert statuses(answer) == [200]
        assert b"connection: close" in answer


@pytest.fixture(params=SERVED)
def encrypted(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[EchoServer, Certificates]]:
    certificates = Certificates(*map(str, make_certificate("first.example").write(tmp_path / "tls")))
    settings = {"header_timeout": SOON, "max_connections_per_address": 20}
    with echo_server(request.param, certificates=certificates, **settings) as server:
        yield server, certificates


@contextmanager
def secure(server: EchoServer, loop: str = "") -> Iterator[ssl.SSLSocket]:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with connected(server) as connection, context.wrap_socket(connection, server_hostname="first.example") as wrapped:
        yield wrapped


def test_tls_connections_have_the_same_limits(encrypted: tuple[EchoServer, Certificates]) -> None:
    server, _ = encrypted
    with secure(server) as connection:
        connection.sendall(post(b"abc", last=False) + post(b"later"))
        assert statuses(rest(connection)) == [200, 200]
    with secure(server) as connection:
        connection.sendall(b"GET /x HTTP/1.1\r\nx: " + b"a" * (40 << 10))
        assert statuses(rest(connection)) == [431]
    with secure(server) as connection:
        connection.sendall(b"GET /x HTTP")
        assert statuses(rest(connection)) == [408]
    assert server.echo.direct == server.is_fast


def test_unfinished_handshakes_time_out(encrypted: tuple[EchoServer, Certificates]) -> None:
    server, _ = encrypted
    with ExitStack() as several:
        for sent in (b"", b"\x16\x03\x01\x02\x00\x01") * 40:
            several.enter_context(connected(server)).sendall(sent)
            assert len(server.guard.connections) <= 20
        with secure(server) as connection:
            connection.sendall(post(b"abc"))
            assert statuses(rest(connection)) == [200]
        wait_until(lambda: not len(server.guard.connections), 5, "the end of the handshakes")
    with connected(server) as connection:
        connection.sendall(post(b"abc"))  # in the clear
        assert statuses(rest(connection)) == []


def test_a_certificate_is_reloaded_and_an_invalid_one_ignored(
    encrypted: tuple[EchoServer, Certificates], tmp_path: Path
) -> None:
    server, certificates = encrypted
    with secure(server) as before:
        first = before.getpeercert(True)
        before.sendall(KEPT)
        assert statuses(before.recv(65536)) == [200]
        make_certificate("second.example").write(tmp_path / "tls")
        certificates.check()
        with secure(server) as after:
            second = after.getpeercert(True)
            assert second != first
        (tmp_path / "tls" / "key.pem").write_bytes(make_certificate("third.example").key_pem())
        certificates.check()
        assert certificates.error == "", "the certificate may be on its way"
        certificates.check()
        assert "is not the key of the certificate" in certificates.error
        assert not certificates.status().answers
        with secure(server) as after:
            assert after.getpeercert(True) == second
        make_certificate("fourth.example").write(tmp_path / "tls")
        certificates.check()
        assert certificates.status().answers
        before.sendall(post(b"abc"))  # a connection outlives them all
        assert statuses(rest(before)) == [200]
