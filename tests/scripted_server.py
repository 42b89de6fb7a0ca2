"""A real HTTP server that answers each request as a test says: busy, slow, cut off, or not at all."""

import socket
import socketserver
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from itertools import pairwise
from typing import Any, NamedTuple

Step = Callable[["Connection"], bool]
"""Answers one request; whether the connection stays open."""


class Request(NamedTuple):
    line: str
    body: bytes
    headers: dict[str, str]


class Connection:
    """The server's side of a connection, in the middle of a request."""

    def __init__(self, sock: socket.socket, over: threading.Event, request: Request) -> None:
        self.socket, self.over, self.request = sock, over, request

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)


def answer(status: int = 200, body: bytes = b"{}", **headers: str) -> Step:
    def step(connection: Connection) -> bool:
        connection.send(_head(status, len(body), headers) + body)
        return True

    return step


def reset(connection: Connection) -> bool:
    """Reset the connection without a response."""
    connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return False


def close(_: Connection) -> bool:
    """Close the connection without a response."""
    return False


def cut_off(connection: Connection) -> bool:
    """Close the connection in the middle of a response."""
    connection.send(_head(200, 100, {}) + b'{"model"')
    return False


def stall(connection: Connection) -> bool:
    """Never answer."""
    connection.over.wait(20)
    return False


def trickle(connection: Connection) -> bool:
    """Answer a byte at a time, for longer than any test waits."""
    connection.send(_head(200, 10_000, {}))
    while not connection.over.wait(0.02):
        connection.send(b" ")
    return False


def answer_and_close(connection: Connection) -> bool:
    """Answer, and close the connection without saying so, as an endpoint does after its keep-alive."""
    connection.send(_head(200, 2, {}) + b"{}")
    return False


def _head(status: int, length: int, headers: dict[str, str]) -> bytes:
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", f"content-length: {length}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode()


class ScriptedServer:
    """`steps`: what to do with the next requests; afterwards every request gets `default`. `requests`: the time, line
    and body of each. `headers`: of each. `open`, `most_open`, `connections`: the open connections, their maximum, and
    all so far."""

    def __init__(self, port: int, over: threading.Event) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.over = over
        self.steps: list[Step] = []
        self.default: Step = answer()
        self.requests: list[tuple[float, str, bytes]] = []
        self.headers: list[dict[str, str]] = []
        self.open = self.most_open = self.connections = 0
        self._lock = threading.Lock()

    @property
    def gaps(self) -> list[float]:
        """Seconds between successive requests."""
        times = [at for at, _, _ in self.requests]
        return [after - before for before, after in pairwise(times)]

    def serve(self, sock: socket.socket) -> None:
        with self._lock:
            self.connections += 1
            self.open += 1
            self.most_open = max(self.most_open, self.open)
        try:
            with sock.makefile("rb") as stream:
                while (request := _read_request(stream)) is not None:
                    with self._lock:
                        self.requests.append((time.monotonic(), request.line, request.body))
                        self.headers.append(request.headers)
                        step = self.steps.pop(0) if self.steps else self.default
                    if not step(Connection(sock, self.over, request)):
                        return
        except (ConnectionError, TimeoutError):
            pass  # the client is gone
        finally:
            with self._lock:
                self.open -= 1


def _read_request(stream: Any) -> Request | None:
    line, headers = stream.readline().decode().strip(), {}
    while line and (header := stream.readline().decode().strip()):
        name, _, value = header.partition(":")
        headers[name.lower()] = value.strip()
    return Request(line, stream.read(int(headers.get("content-length", 0))), headers) if line else None


@contextmanager
def scripted_server(port: int = 0) -> Iterator[ScriptedServer]:
    over = threading.Event()

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            script.serve(self.request)

        def finish(self) -> None:
            self.request.close()

    class Server(socketserver.ThreadingTCPServer):
        allow_reuse_address = daemon_threads = True
        request_queue_size = 128

        def shutdown_request(self, request: Any) -> None:
            request.close()  # at once: shutdown() would end a connection orderly that a test resets

    with Server(("127.0.0.1", port), Handler) as server:
        script = ScriptedServer(server.server_address[1], over)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield script
        finally:
            over.set()
            server.shutdown()
            thread.join()
