"""Clients that never pause, in a process of their own that spends ten microseconds on a request:
`python -m benchmarks.hammer OPTIONS`, as JSON; it prints what came back, as JSON.

It imports nothing but the standard library, reads no more of an answer than its status and length, and ignores
Retry-After: it stands for clients that do not back off.
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

SETTLED = 0.5
"""Seconds between connecting and the load."""
PATIENCE = 10.0
"""Seconds after the load for which the endpoint is asked whether it has recovered."""


@dataclass(eq=False)
class Connection:
    """`sent`: when its request was, or was due to be; 0 while it is free."""

    socket: socket.socket
    sent: float = 0.0
    received: bytes = b""


@dataclass
class Hammer:
    """`rate`: requests a second that come by chance, over at most `connections`; None: each connection asks again once
    it is answered. `warm`: seconds that are not counted. What comes of it: `counts` of answers by status, of
    connections that the endpoint `closed` before it answered, of requests that were `due` and `unsent`; the seconds of
    answers (`latencies`) and of refusals (`refused`); how many seconds too `late` the generator itself was at most."""

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
        time.sleep(SETTLED)  # until the endpoint has accepted all of them
        begun = time.perf_counter()
        self._from, end = begun + self.warm, begun + self.warm + self.seconds
        self._again = self.rate is None
        if self.rate is None:
            for connection in self._free:
                self._send(connection, time.perf_counter())
            self._free = []
            while (now := time.perf_counter()) < end:
                self._receive(end - now)
        else:
            self._come(self.rate, begun, end)
        self._again = False
        recovered = self._recovery(end)
        return {
            "seconds": self.seconds,
            "counts": dict(self.counts),
            "latencies": [round(seconds, 6) for seconds in self.latencies],
            "refused": [round(seconds, 6) for seconds in self.refused],
            "recovered": recovered,
            "late": self.late,
        }

    def _come(self, rate: float, begun: float, end: float) -> None:
        chance, due = random.Random(self.seed), begun  # noqa: S311
        while due < end:
            now = time.perf_counter()
            while due <= now and due < end:
                if due >= self._from:
                    self.counts["due"] += 1
                if self._free:
                    self._send(self._free.pop(), now)
                    self.late = max(self.late, now - due)
                elif due >= self._from:
                    self.counts["unsent"] += 1
                due += chance.expovariate(rate)
            self._receive(max(0.0, due - now))

    def _recovery(self, end: float) -> float:
        """Seconds from the end of the load until answers come at once: within 20 ms, ten times in a row."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=10) as connection:
            good, since = 0, end
            while good < 10 and time.perf_counter() < end + PATIENCE:
                began = time.perf_counter()
                connection.sendall(self.request)
                answer = connection.recv(65536)
                took = time.perf_counter() - began
                if answer.startswith(b"HTTP/1.1 200") and took < 0.02:
                    good += 1
                else:
                    good, since = 0, time.perf_counter()
        return since - end if good == 10 else float("inf")

    def _connect(self) -> None:
        made = socket.create_connection(("127.0.0.1", self.port), timeout=10)
        made.setblocking(False)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection = self._all[made.fileno()] = Connection(made)
        self._poll.register(made.fileno(), select.EPOLLIN)
        self._free.append(connection)

    def _send(self, connection: Connection, due: float) -> None:
        connection.sent = due
        try:
            connection.socket.send(self.request)
        except OSError:
            self._lost(connection)

    def _lost(self, connection: Connection) -> None:
        """The endpoint closed it; another takes its place."""
        if connection in self._free:
            self._free.remove(connection)
        elif connection.sent >= self._from:
            self.counts["closed"] += 1
        self._poll.unregister(connection.socket.fileno())
        del self._all[connection.socket.fileno()]
        connection.socket.close()
        self._connect()
        if self._again:
            self._send(self._free.pop(), time.perf_counter())

    def _receive(self, seconds: float) -> None:
        for number, _ in self._poll.poll(min(seconds, 0.05)):
            connection = self._all[number]
            try:
                data = connection.socket.recv(65536)
            except OSError:
                data = b""
            if not data:
                self._lost(connection)
                continue
            if connection.received:
                data = connection.received + data
            start = data.find(b"content-length: ")
            head = data.find(b"\r\n\r\n")
            if head < 0 or len(data) - head - 4 < int(data[start + 16 : data.index(b"\r", start)]):
                connection.received = data
                continue
            connection.received = b""
            self._answered(connection, data)

    def _answered(self, connection: Connection, data: bytes) -> None:
        now, status = time.perf_counter(), data[9:12]
        if connection.sent >= self._from:
            if status == b"200":
                self.latencies.append(now - connection.sent)
            else:
                self.refused.append(now - connection.sent)
            self.counts[status.decode()] += 1
        if self._again:
            self._send(connection, now)
        else:
            connection.sent = 0.0
            self._free.append(connection)


if __name__ == "__main__":
    options = json.loads(sys.argv[1])
    options["request"] = options["request"].encode()
    json.dump(Hammer(**options).run(), sys.stdout)
