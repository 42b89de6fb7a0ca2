"""Endpoint objectives (SLOs) of a real server: under requests, with failures, and when it is killed."""

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from services.process import endpoint_process
from services.process.scrape import scrape_all
from tests.conftest import free_ports, stop, valkey_server
from tests.integration.conftest import Endpoint, Trained
from tests.integration.test_service import ROW
from truecourse.deployment.endpoints import ExpectedEndpoint
from truecourse.monitoring.findings import Report
from truecourse.monitoring.health.endpoint_health import check_endpoint
from truecourse.problem import Problem, Serving, seconds
from truecourse.problem.loader import load_problem
from truecourse.problem.objectives import Objectives
from truecourse.processes import Child
from truecourse.storage.object_store import LocalStore

NOW = datetime(2024, 5, 6, 12, tzinfo=UTC)


class MonitoredServer:
    """A server that is checked every five minutes of the check's clock."""

    def __init__(self, problem: Problem, endpoint: ExpectedEndpoint, store: LocalStore) -> None:
        self.problem, self.store, self.at = problem, store, NOW
        self.endpoint = endpoint

    def check(self, minutes: float = 5, problem: Problem | None = None) -> Report:
        self.at += timedelta(minutes=minutes)
        scraped = scrape_all([self.endpoint], self.problem.name)
        return check_endpoint(problem or self.problem, self.store, scraped, self.at)


def keys(report: Report) -> set[str]:
    return {finding.key.removeprefix("endpoint/local ") for finding in report.findings}


def pages(report: Report) -> set[str]:
    return {finding.key.removeprefix("endpoint/local ") for finding in report.findings if finding.page}


def figures(report: Report) -> dict[str, Any]:
    local: dict[str, Any] = report.figures["endpoints"]["local"]
    return local


def predict(client: httpx.Client, count: int, row: dict[str, Any], rows: int = 1) -> set[int]:
    return {client.post("/predict", json={"rows": [row] * rows}).status_code for _ in range(count)}


@contextmanager
def run_server(folder: Path, port: int, log: Path) -> Iterator[Child]:
    server = endpoint_process.start(folder, port, log)
    try:
        endpoint_process.wait_ready(server, port)
        yield server
    finally:
        stop(server.process)


def test_a_lost_store_burns_the_error_budget_and_a_dead_server_is_a_finding(
    endpoint: Endpoint, trained: Trained, tmp_path: Path, configure: Callable[..., None]
) -> None:
    """With an empty store all requests are answered, with missing features; without a store none is."""
    store_port, port = free_ports(2)
    problem, log = load_problem("deliveries"), tmp_path / "log"
    configure(online_store=f"redis://127.0.0.1:{store_port}")
    local = ExpectedEndpoint(name="local", url=f"http://127.0.0.1:{port}", problem="deliveries")
    watched = MonitoredServer(problem, local, LocalStore(tmp_path / "store"))
    with httpx.Client(base_url=local.url, timeout=30) as client:
        with valkey_server(tmp_path, store_port), run_server(endpoint.folder, port, log):
            watched.check()
            assert predict(client, 80, ROW) == {200}
            assert predict(client, 40, ROW | {"distance": "far"}) == {422}
            well = watched.check()
            assert not well.findings, well.sentence
            assert figures(well)["requests"] == 120, "invalid requests count as answered"
            assert figures(well)["objectives"][0]["budget_left"] == 1
            assert 0 < figures(well)["paths"]["/predict"]["p50"] <= figures(well)["paths"]["/predict"]["p99"] < 30
            assert predict(client, 20, ROW, rows=1000) == {200}
            strict = Serving(objectives=Objectives(latency=seconds(0.001), fast=0.9999))
            slow = watched.check(problem=dataclasses.replace(problem, serving=strict))
            assert pages(slow) == {"latency/fast burn"}, "a thousand rows are not answered within a millisecond"
        with run_server(endpoint.folder, port, log) as server:
            watched.check()
            assert predict(client, 60, ROW) == {503}
            failing = watched.check()
            assert pages(failing) == {"availability/fast burn"}
            (burning,) = (finding for finding in failing.findings if finding.page)
            assert burning.sentence in failing.sentence
            # The counts are exact across the restart: the first server answered 140 requests, the second failed 60.
            assert figures(failing)["requests"] == 200
            assert figures(failing)["objectives"][0]["bad"] == 60
            assert burning.figures["share"] == pytest.approx(0.3)
            assert figures(failing)["objectives"][0]["budget_left"] < -290
            assert {"online store/no answer", "features of courier_history/no answer"} <= keys(failing)
            stop(server.process, 0.1)
            gone = watched.check()
    assert "reachability/no answer" in pages(gone)
    assert "does not answer" in gone.sentence
    assert (figures(gone)["looks"], figures(gone)["silent"]) == (5, 1)
