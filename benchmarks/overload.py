"""Overload: how much the endpoint goes on answering, and in what time, when it is asked for more than it can do by
clients that never back off. Answers a second come first: an endpoint that refuses everybody is quick, and useless.

Capacity is what 16 clients get that ask again as soon as they are answered. The same load generator measures all the
rest, in processes of its own that spend a few microseconds on a request; where `wrk` is installed it says how much it
gets, too. Closed loop: so many connections, each of which asks again at once. Open loop: requests that come by chance
at a rate, over at most 1,000 connections; one that comes while none of them is free is not sent, and counted so. All of
it once by itself, and once beside two processes that never rest.
"""

import json
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks import serve_world
from benchmarks.harness import Row
from benchmarks.load import HOST
from truecourse.addresses import free_port
from truecourse.problem.loader import load_problem
from truecourse.processes import supervised
from truecourse.settings import REPOSITORY, get_settings

CLIENTS = 16
CLOSED = (64, 256)
OPEN = (1.5, 3.0, 10.0)
CONNECTIONS = 1000
BUSY = 2
OBJECTIVE_MS = 100.0
_WRK = """
wrk.method = "POST"
wrk.body = %s
wrk.headers["content-type"] = "application/json"
"""


@dataclass
class Result:
    """Of several generators together. Times are seconds."""

    rate: float
    refused: float
    p50: float
    p99: float
    recovered: float
    late: float
    counts: Counter[str]


def rows(quick: bool) -> list[Row]:
    serve_world.build("bare")
    seconds = 1.0 if quick else 5.0
    with _server() as port:
        asked = Asked(port, seconds)
        asked.closed(CLIENTS)  # the first seconds of a process are slow
        return [*asked.table("by itself"), *_beside_others(asked)]


def _beside_others(asked: "Asked") -> list[Row]:
    with ExitStack() as stack:
        for _ in range(BUSY):
            busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
            stack.callback(busy.wait)
            stack.callback(busy.kill)
        return asked.table(f"beside {BUSY} busy processes")


class Asked:
    """The endpoint, and for how many seconds it is asked at a time."""

    def __init__(self, port: int, seconds: float) -> None:
        self._port, self._seconds = port, seconds
        self._body = json.dumps({"rows": serve_world.rows_of(load_problem("bare", serve_world.PROBLEMS), 1, seed=7)})

    def table(self, where: str) -> list[Row]:
        capacity = self.closed(CLIENTS)
        found = [
            Row(what=f"{where}: capacity, {CLIENTS} connections", value=capacity.rate, unit="answers/s"),
            Row(what=f"{where}: refused of {CLIENTS} connections", value=capacity.refused, unit="/s", limit=0),
            *self._wrk(where, CLIENTS),
        ]
        for clients in CLOSED:
            result = self.closed(clients)
            found += _rows(f"{where}: {clients} connections", result, capacity)
            if clients / capacity.rate * 1000 < OBJECTIVE_MS / 2:  # none of them has to wait for too long
                share = result.refused / (result.refused + result.rate)
                found.append(Row(what=f"{where}: refused of {clients} connections", value=share, unit="", limit=0.001))
            found += self._wrk(where, clients)
        for times in OPEN:
            result = self.open(capacity.rate * times)
            found += _rows(f"{where}: {times:g} times capacity", result, capacity)
            found.append(Row(what=f"{where}: {times:g} times capacity, seconds until as before", value=result.recovered,
                             unit="s", limit=1))  # fmt: skip
        return found

    def closed(self, clients: int) -> Result:
        return self._asked(clients, None, 1)

    def open(self, rate: float) -> Result:
        return self._asked(CONNECTIONS, rate, 2)

    def _asked(self, connections: int, rate: float | None, processes: int) -> Result:
        key = get_settings().api_key.get_secret_value()
        head = "POST /predict HTTP/1.1\r\nhost: endpoint\r\ncontent-type: application/json\r\n"
        head += f"x-api-key: {key}\r\n" if key else ""
        options: dict[str, Any] = {
            "port": self._port, "connections": connections // processes, "seconds": self._seconds,
            "request": f"{head}content-length: {len(self._body)}\r\n\r\n{self._body}",
            "rate": None if rate is None else rate / processes,
        }  # fmt: skip
        started = [
            subprocess.Popen(  # noqa: S603
                [sys.executable, "-m", "benchmarks.hammer", json.dumps(options | {"seed": seed})],
                cwd=REPOSITORY, stdout=subprocess.PIPE,
            )
            for seed in range(processes)
        ]  # fmt: skip
        return self._together([json.loads(process.communicate()[0]) for process in started])

    def _together(self, found: list[dict[str, Any]]) -> Result:
        latencies = np.concatenate([one["latencies"] for one in found])
        answered = latencies if len(latencies) else np.array([np.inf])
        return Result(
            rate=len(latencies) / self._seconds,
            refused=sum(len(one["refused"]) for one in found) / self._seconds,
            p50=float(np.quantile(answered, 0.5)),
            p99=float(np.quantile(answered, 0.99)),
            recovered=max(one["recovered"] for one in found),
            late=max(one["late"] for one in found),
            counts=sum((Counter(one["counts"]) for one in found), Counter()),
        )

    def _wrk(self, where: str, clients: int) -> list[Row]:
        """How many are answered to a generator that everybody knows. Its latencies are of refusals too."""
        wrk = shutil.which("wrk")
        if wrk is None:
            return []
        script = get_settings().home / "benchmarks" / "wrk.lua"
        script.write_text(_WRK % json.dumps(self._body))
        command = [wrk, "-t1", f"-c{clients}", f"-d{max(1, round(self._seconds))}s", "-s", str(script)]
        done = subprocess.run([*command, f"http://{HOST}:{self._port}/predict"], capture_output=True, text=True)  # noqa: S603
        count = re.search(r"(\d+) requests in ([\d.]+)(m?s)", done.stdout)
        if count is None:
            return []
        refused = re.search(r"Non-2xx or 3xx responses: (\d+)", done.stdout)
        answered = int(count[1]) - (int(refused[1]) if refused else 0)
        took = float(count[2]) / (1000 if count[3] == "ms" else 1)
        return [Row(what=f"{where}: {clients} connections, by wrk", value=answered / took, unit="answers/s")]


def _rows(what: str, result: Result, capacity: Result) -> list[Row]:
    unsent = result.counts["unsent"] / max(result.counts["due"], 1)
    return [
        Row(what=f"{what}: answers", value=result.rate, unit="/s", reference=capacity.rate,
            reference_is="capacity", limit=0.8, sense="at least"),
        Row(what=f"{what}: p50 of what was answered", value=result.p50 * 1000, unit="ms"),
        Row(what=f"{what}: p99 of what was answered", value=result.p99 * 1000, unit="ms", limit=OBJECTIVE_MS),
        Row(what=f"{what}: refused", value=result.refused, unit="/s"),
        *([Row(what=f"{what}: not sent, no connection was free", value=unsent, unit="")] if unsent else []),
    ]  # fmt: skip


@contextmanager
def _server() -> Iterator[int]:
    """Our endpoint with nothing set: the limit is the problem's objective."""
    from services.process import launch

    port, log = free_port(HOST), get_settings().home / "logs" / "overload.log"
    with supervised() as children:
        children.append(launch.start(serve_world.place_of("bare") / "bento", port, log, pinned=True))
        launch.wait_ready(children[0], port)
        yield port
