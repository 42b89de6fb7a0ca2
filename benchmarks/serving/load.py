"""HTTP clients for a server on this machine, and the CPU time that the server used for them."""

import http.client
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from truecourse.errors import PlatformError
from truecourse.processes import Child

HOST = "127.0.0.1"
SETTLE = 0.4
"""Seconds between the last response and reading the CPU time, so that delayed work such as logging counts."""
_CPU_CLOCK = 2
"""Constant to build a process's CPU clock id on Linux, see clock_getcpuclockid(3)."""


@dataclass
class LoadResult:
    """Results of several rounds: seconds of each request, and the server's CPU seconds for all of them."""

    seconds: list[float] = field(default_factory=list)
    cpu: float = 0.0

    @property
    def cpu_ms(self) -> float:
        """CPU milliseconds per request."""
        return self.cpu / len(self.seconds) * 1000

    def percentile_ms(self, percent: float) -> float:
        return float(np.percentile(self.seconds, percent)) * 1000


def cpu_seconds(server: Child) -> float:
    """User and system time so far of the server's process and all its children, in nanosecond resolution.

    /proc has hundredths of a second only, which is a tenth of a round."""
    import psutil

    leader = psutil.Process(server.process.pid)
    processes = (leader, *leader.children(recursive=True))
    return sum(time.clock_gettime(~process.pid << 3 | _CPU_CLOCK) for process in processes)


def load(server: Child, port: int, path: str, bodies: Sequence[bytes], clients: int, into: LoadResult) -> None:
    """Send every body once from `clients` clients with persistent connections; adds the results to `into`.

    Raises PlatformError for a response other than 200."""
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
    time.sleep(SETTLE)
    into.cpu += cpu_seconds(server) - before


def _client(port: int, path: str, bodies: Sequence[bytes], seconds: list[float], failures: list[str]) -> None:
    connection = http.client.HTTPConnection(HOST, port, timeout=60)
    for body in bodies:
        started = time.perf_counter()
        try:
            connection.request("POST", path, body, {"content-type": "application/json"})
            answer = connection.getresponse()
            text = answer.read()
        except OSError as error:
            failures.append(str(error))
            continue
        seconds.append(time.perf_counter() - started)
        if answer.status != 200:
            failures.append(f"{answer.status} {text[:200]!r}")
    connection.close()
