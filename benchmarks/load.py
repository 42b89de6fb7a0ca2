"""Clients of an HTTP server on this machine, and the CPU time that the server took for them."""

import http.client
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from truecourse.errors import PlatformError
from truecourse.processes import Child

HOST = "127.0.0.1"
SETTLED = 0.4
"""Seconds after the last answer until the CPU time is read: what a server puts off, such as its log, counts too."""
_CPU_CLOCK = 2
"""Linux makes the clock of a process's CPU time from its id and this: clock_getcpuclockid(3)."""


@dataclass
class Loaded:
    """Requests of several rounds: seconds that each took, and CPU seconds of the server for all of them."""

    seconds: list[float] = field(default_factory=list)
    cpu: float = 0.0

    @property
    def cpu_ms(self) -> float:
        """CPU milliseconds a request."""
        return self.cpu / len(self.seconds) * 1000

    def percentile_ms(self, percent: float) -> float:
        return float(np.percentile(self.seconds, percent)) * 1000


def cpu_seconds(server: Child) -> float:
    """User and system time so far of the server's process and all its children, to the nanosecond: /proc tells it in
    hundredths of a second, which is a tenth of what a round takes."""
    import psutil

    leader = psutil.Process(server.process.pid)
    processes = (leader, *leader.children(recursive=True))
    return sum(time.clock_gettime(~process.pid << 3 | _CPU_CLOCK) for process in processes)


def load(server: Child, port: int, path: str, bodies: Sequence[bytes], clients: int, into: Loaded) -> None:
    """Send every body once, from so many clients that keep their connections. Raises PlatformError for an answer that
    is no 200."""
    before = cpu_seconds(server)
    failures: list[str] = []
    threads = [
        threading.Thread(target=_client, args=(port, path, bodies[i::clients], into.seconds, failures))
        for i in range(clients)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise PlatformError(f"{len(failures)} requests failed: {failures[0]}", where=f"{server.name}{path}")
    time.sleep(SETTLED)
    into.cpu += cpu_seconds(server) - before


def _client(port: int, path: str, bodies: Sequence[bytes], seconds: list[float], failures: list[str]) -> None:
    connection = http.client.HTTPConnection(HOST, port, timeout=60)
    for body in bodies:
        began = time.perf_counter()
        try:
            connection.request("POST", path, body, {"content-type": "application/json"})
            answer = connection.getresponse()
            text = answer.read()
        except OSError as error:
            failures.append(str(error))
            continue
        seconds.append(time.perf_counter() - began)
        if answer.status != 200:
            failures.append(f"{answer.status} {text[:200]!r}")
    connection.close()
