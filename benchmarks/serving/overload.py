"""Overload: throughput and latency of the endpoint under more requests than it can serve, from clients that never back
off. Successful responses per second matter most: an endpoint that refuses every request is fast, and useless.

Capacity is the throughput of 16 closed-loop clients. One load generator (benchmarks/serving/load_generator.py) measures
everything, in separate processes; where `wrk` is installed, its throughput is reported too. Closed loop: each
connection sends its next request after a response. Open loop: requests of a Poisson process over at most
1,000 connections; a request that finds no free connection is not sent, and is counted. All of it runs once alone, and
once beside two busy processes.
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

from benchmarks.harness import Row
from benchmarks.serving import prepared_models
from benchmarks.serving.load import HOST
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
    """Results of all load generators together. Times in seconds; `rate` and `refused` per second."""

    rate: float
    refused: float
    p50: float
    p99: float
    recovered: float
    late: float
    counts: Counter[str]


def rows(quick: bool) -> list[Row]:
    prepared_models.build("bare")
    seconds = 1.0 if quick else 5.0
    with _server() as port:
        test = OverloadTest(port, seconds)
        test.closed(CLIENTS)  # the first seconds of a process are slow
        return [*test.table("alone"), *_beside_others(test)]


def _beside_others(test: "OverloadTest") -> list[Row]:
    with ExitStack() as stack:
        for _ in range(BUSY):
            busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
            stack.callback(busy.wait)
            stack.callback(busy.kill)
        return test.table(f"beside {BUSY} busy processes")


class OverloadTest:
    """Measures an endpoint under load, `seconds` at a time."""

    def __init__(self, port: int, seconds: float) -> None:
        self._port, self._seconds = port, seconds
        self._body = json.dumps(
            {"rows": prepared_models.rows_of(load_problem("bare", prepared_models.PROBLEMS), 1, seed=7)}
        )

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
            if clients / capacity.rate * 1000 < OBJECTIVE_MS / 2:  # no client has to wait too long
                share = result.refused / (result.refused + result.rate)
                found.append(Row(what=f"{where}: refused of {clients} connections", value=share, unit="", limit=0.001))
            found += self._wrk(where, clients)
        for times in OPEN:
            result = self.open(capacity.rate * times)
            found += _rows(f"{where}: {times:g} times capacity", result, capacity)
            found.append(Row(what=f"{where}: {times:g} times capacity, seconds until recovery", value=result.recovered,
                             unit="s", limit=1))  # fmt: skip
        return found

    def closed(self, clients: int) -> Result:
        return self._run(clients, None, 1)

    def open(self, rate: float) -> Result:
        return self._run(CONNECTIONS, rate, 2)

    def _run(self, connections: int, rate: float | None, processes: int) -> Result:
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
                [sys.executable, "-m", "benchmarks.serving.load_generator", json.dumps(options | {"seed": seed})],
                cwd=REPOSITORY, stdout=subprocess.PIPE,
            )
            for seed in range(processes)
        ]  # fmt: skip
        return self._combine([json.loads(process.communicate()[0]) for process in started])

    def _combine(self, found: list[dict[str, Any]]) -> Result:
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
        """Throughput by wrk, a well-known load generator. Its latencies include refusals and are not reported."""
        wrk = shutil.which("wrk")
        if wrk is None:
            return []
        script = get_settings().home / "benchmarks" / "wrk.lua"
        script.write_text(_WRK % json.dumps(self._body))
        command = [wrk, "-t1", f"-c{clients}", f"-d{max(1, round(self._seconds))}s", "-s", str(script)]
        process = subprocess.run([*command, f"http://{HOST}:{self._port}/predict"], capture_output=True, text=True)  # noqa: S603
        count = re.search(r"(\d+) requests in ([\d.]+)(m?s)", process.stdout)
        if count is None:
            return []
        refused = re.search(r"Non-2xx or 3xx responses: (\d+)", process.stdout)
        answered = int(count[1]) - (int(refused[1]) if refused else 0)
        seconds = float(count[2]) / (1000 if count[3] == "ms" else 1)
        return [Row(what=f"{where}: {clients} connections, by wrk", value=answered / seconds, unit="answers/s")]


def _rows(what: str, result: Result, capacity: Result) -> list[Row]:
    unsent = result.counts["unsent"] / max(result.counts["due"], 1)
    return [
        Row(what=f"{what}: answers", value=result.rate, unit="/s", reference=capacity.rate,
            reference_is="capacity", limit=0.8, sense="at least"),
        Row(what=f"{what}: p50 of answers", value=result.p50 * 1000, unit="ms"),
        Row(what=f"{what}: p99 of answers", value=result.p99 * 1000, unit="ms", limit=OBJECTIVE_MS),
        Row(what=f"{what}: refused", value=result.refused, unit="/s"),
        *([Row(what=f"{what}: not sent, no free connection", value=unsent, unit="")] if unsent else []),
    ]  # fmt: skip


@contextmanager
def _server() -> Iterator[int]:
    """Run our endpoint with default settings: the limit is the problem's objective."""
    from services.process import endpoint_process

    port, log = free_port(HOST), get_settings().home / "logs" / "overload.log"
    with supervised() as children:
        children.append(endpoint_process.start(prepared_models.folder_of("bare") / "bento", port, log, pinned=True))
        endpoint_process.wait_ready(children[0], port)
        yield port
