"""A load generator in a separate process, which spends ten microseconds per request.

`python -m benchmarks.serving.load_generator OPTIONS` takes options as JSON and prints the result as JSON. It imports
only the standard library, reads only status and length of a response, and ignores Retry-After: it simulates clients
that never back off.
"""

import json
import random
import select
import socket
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

SETTLE = 0.5
"""Seconds between connecting and the load."""
PATIENCE = 10.0
"""Seconds after the load during which the recovery of the endpoint is measured."""


@dataclass(eq=False)
class Connection:
    """A connection. `sent`: when its request was sent or due; 0 while the connection is free."""

    socket: socket.socket
    sent: float = 0.0
    received: bytes = b""


@dataclass
class LoadGenerator:
    """Sends requests and counts responses.

    `rate`: requests per second of a Poisson process, over at most `connections` (open loop). None: each connection
    sends its next request after a response (closed loop). `warm`: seconds that are not counted. Results: `counts` of
    responses by status, of connections `closed` by the endpoint before a response, of `due` and `unsent` requests; the
    seconds of responses (`latencies`) and of refusals (`refused`); the generator's own maximum delay (`late`), in
    seconds."""

    port: int
    request: bytes
    connections: int
    seconds: float
    warm: float = 0.5
    rate: float | None = None
    seed: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    latencies: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)
    late: float = 0.0

    def run(self) -> dict[str, Any]:
        self._poll = select.epoll()
        self._all: dict[int, Connection] = {}
        self._free: list[Connection] = []
        for _ in range(self.connections):
            self._connect()
        time.sleep(SETTLE)  # until the endpoint has accepted all of them
        started = time.perf_counter()
        self._counted_from, end = started + self.warm, started + self.warm + self.seconds
        self._closed_loop = self.rate is None
        if self.rate is None:
            for connection in self._free:
                self._send(connection, time.perf_counter())
            self._free = []
            while (now := time.perf_counter()) < end:
                self._receive(end - now)
        else:
            self._send_at_rate(self.rate, started, end)
        self._closed_loop = False
        recovered = self._recovery(end)
        return {
            "seconds": self.seconds,
            "counts": dict(self.counts),
            "latencies": [round(seconds, 6) for seconds in self.latencies],
            "refused": [round(seconds, 6) for seconds in self.refused],
            "recovered": recovered,
            "late": self.late,
        }

    def _send_at_rate(self, rate: float, started: float, end: float) -> None:
        chance, due = random.Random(self.seed), started  # noqa: S311
        while due < end:
            now = time.perf_counter()
            while due <= now and due < end:
                if due >= self._counted_from:
                    self.counts["due"] += 1
                if self._free:
                    self._send(self._free.pop(), now)
                    self.late = max(self.late, now - due)
                elif due >= self._counted_from:
                    self.counts["unsent"] += 1
                due += chance.expovariate(rate)
            self._receive(max(0.0, due - now))

    def _recovery(self, end: float) -> float:
        """Seconds from the end of the load until ten responses in a row take less than 20 ms."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=10) as connection:
            good, since = 0, end
            while good < 10 and time.perf_counter() < end + PATIENCE:
                started = time.perf_counter()
                connection.sendall(self.request)
                answer = connection.recv(65536)
                took = time.perf_counter() - started
                if answer.startswith(b"HTTP/1.1 200") and took < 0.02:
                    good += 1
                else:
                    good, since = 0, time.perf_counter()
        return since - end if good == 10 else float("inf")

    def _connect(self) -> None:
        client = socket.create_connection(("127.0.0.1", self.port), timeout=10)
        client.setblocking(False)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection = self._all[client.fileno()] = Connection(client)
        self._poll.register(client.fileno(), select.EPOLLIN)
        self._free.append(connection)

    def _send(self, connection: Connection, due: float) -> None:
        connection.sent = due
        try:
            connection.socket.send(self.request)
        except OSError:
            self._replace(connection)

    def _replace(self, connection: Connection) -> None:
        """Replace a connection that the endpoint closed."""
        if connection in self._free:
            self._free.remove(connection)
        elif connection.sent >= self._counted_from:
            self.counts["closed"] += 1
        self._poll.unregister(connection.socket.fileno())
        del self._all[connection.socket.fileno()]
        connection.socket.close()
        self._connect()
        if self._closed_loop:
            self._send(self._free.pop(), time.perf_counter())

    def _receive(self, seconds: float) -> None:
        for number, _ in self._poll.poll(min(seconds, 0.05)):
            connection = self._all[number]
            try:
                data = connection.socket.recv(65536)
            except OSError:
                data = b""
            if not data:
                self._replace(connection)
                continue
            if connection.received:
                data = connection.received + data
            start = data.find(b"content-length: ")
            head = data.find(b"\r\n\r\n")
            if head < 0 or len(data) - head - 4 < int(data[start + 16 : data.index(b"\r", start)]):
                connection.received = data
                continue
            connection.received = b""
            self._count_response(connection, data)

    def _count_response(self, connection: Connection, data: bytes) -> None:
        now, status = time.perf_counter(), data[9:12]
        if connection.sent >= self._counted_from:
            if status == b"200":
                self.latencies.append(now - connection.sent)
            else:
                self.refused.append(now - connection.sent)
            self.counts[status.decode()] += 1
        if self._closed_loop:
            self._send(connection, now)
        else:
            connection.sent = 0.0
            self._free.append(connection)


if __name__ == "__main__":
    options = json.loads(sys.argv[1])
    options["request"] = options["request"].encode()
    json.dump(LoadGenerator(**options).run(), sys.stdout)
