"""The disk is full, then object storage is down: the endpoint answers and reports it, and its log catches up."""

import resource
import shutil
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from flows.package import package
from services.process import endpoint_process
from tests.conftest import S3Server, free_ports, seaweed_server, stop, wait_until
from tests.integration.conftest import Trained
from tests.workers import ROW
from truecourse.processes import Child
from truecourse.serving.prediction_log import log_table
from truecourse.settings import get_settings
from truecourse.storage.delta_tables import Tables
from truecourse.storage.object_store import open_store

UP = 'truecourse_dependency_up{dependency="prediction_log"}'
ENDLESS = resource.RLIM_INFINITY


@dataclass
class Load:
    """Sends requests one by one, each on a new connection, so that every worker gets some."""

    client: httpx.Client
    ids: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        while not self.over.is_set():
            try:
                answer = self.client.post("/predict", json={"rows": [ROW]})
                if answer.status_code == 200:
                    self.ids.append(answer.json()["predictions"][0]["prediction_id"])
                else:
                    self.failed.append(answer.text)
            except httpx.HTTPError as error:
                self.failed.append(repr(error))
            time.sleep(0.02)

    def wait_for_answers(self) -> None:
        reached = len(self.ids) + 20
        wait_until(lambda: len(self.ids) >= reached, 30, "20 further answers")

    def health(self) -> dict[str, Any]:
        document: dict[str, Any] = self.client.get("/healthz").json()
        return document

    def wait_for_health(self, holds: Callable[[dict[str, Any]], bool], what: str) -> None:
        """Wait until `holds` for the health document of each of the two workers."""

        def all_of_them() -> bool:
            by_worker = {one["worker"]: one for one in (self.health() for _ in range(12))}
            return len(by_worker) == 2 and all(map(holds, by_worker.values()))

        wait_until(all_of_them, 60, what)

    def log_is(self, up: bool) -> bool:
        return f"{UP} {float(up)}" in self.client.get("/metrics").text


def workers(server: Child) -> list[int]:
    pids = []
    for child in psutil.Process(server.process.pid).children():
        with suppress(psutil.NoSuchProcess):
            pids += [child.pid] if "_bentoml_impl.worker.service" in child.cmdline() else []
    return pids


def limit_files(pids: list[int], size: int) -> None:
    """Limit the size of files that these processes write: the kernel refuses longer writes, as on a full disk."""
    for pid in pids:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, ENDLESS))


@pytest.fixture
def ports() -> list[int]:
    return free_ports(9)


@pytest.fixture
def storage(
    ports: list[int], trained: Trained, tmp_path: Path, configure: Callable[..., None]
) -> Callable[[], AbstractContextManager[S3Server]]:
    """A home for this test with its storage in its own SeaweedFS, and a function that restarts the server."""
    package("deliveries")
    folder = tmp_path / "seaweed"
    folder.mkdir()
    home = tmp_path / ".truecourse"
    shutil.copytree(trained.home / "feast", home / "feast")
    settings = {"home": home, "workers": 2, "log_sync": 0.05, "log_ship": 0.3}
    with seaweed_server(folder, ports[:8]) as server:
        configure(**server.settings("outage"), **settings)
        for prefix in ("bentos", "aliases"):
            for path in (trained.home / "storage" / prefix).rglob("*.*"):
                open_store().upload(path.relative_to(trained.home / "storage").as_posix(), path)
        endpoint_process.prepare("deliveries")
    return lambda: seaweed_server(folder, ports[:8])


def test_the_endpoint_answers_during_outages_reports_them_and_catches_up(
    storage: Callable[[], AbstractContextManager[S3Server]], ports: list[int], tmp_path: Path
) -> None:
    port = ports[8]
    no_keepalive = httpx.Limits(max_keepalive_connections=0)
    load = Load(httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30, limits=no_keepalive))
    thread = threading.Thread(target=load.run)
    children: list[Child] = []
    try:
        with storage():
            children.append(
                endpoint_process.start(endpoint_process.prepare("deliveries"), port, tmp_path / "endpoint.log")
            )
            children.append(endpoint_process.start_shipper("deliveries", tmp_path / "shipper.log"))
            endpoint_process.wait_ready(children[0], port)
            assert_metrics_files_are_preallocated()
            thread.start()
            load.wait_for_health(lambda health: health["status"] == "ok" and health["log"]["written"], "a written log")
            full_disk(load, [*workers(children[0]), children[1].process.pid])
        began = time.monotonic()
        load.wait_for_health(lambda health: health["log"]["shipping_error"] != "", "the shipper's error")
        load.wait_for_health(lambda health: health["status"] == "degraded", "the storage error")
        wait_until(lambda: load.log_is(up=False), 20, "the metric")
        load.wait_for_answers()
        down = time.monotonic() - began
        with storage():
            load.wait_for_health(lambda health: health["status"] == "ok", "a log that is shipped again")
            wait_until(lambda: load.log_is(up=True), 20, "the metric")
            load.over.set()
            thread.join()
            load.wait_for_health(lambda health: health["log"]["lag_seconds"] == 0, "the last segment")
            assert not load.failed
            assert load.health()["log"]["dropped"] == 0
            table = Tables().version(log_table("deliveries"))
            assert table is not None
            logged = Tables().read(table, ["prediction_id"])["prediction_id"].to_pylist()
            assert sorted(logged) == sorted(load.ids), f"after {down:.0f} s without storage"
    finally:
        load.over.set()
        for child in reversed(children):
            stop(child.process)


def full_disk(load: Load, pids: list[int]) -> None:
    assert len(pids) == 3
    limit_files(pids, 0)
    load.wait_for_health(lambda health: health["log"]["error"] == "File too large", "the error of the full disk")
    assert load.health()["status"] == "degraded"
    wait_until(lambda: load.log_is(up=False), 20, "the metric")
    load.wait_for_answers()
    assert load.health()["log"]["lag_seconds"] > 0
    limit_files(pids, ENDLESS)
    load.wait_for_health(lambda health: health["status"] == "ok" and not health["log"]["error"], "the log's recovery")
    assert workers_of(load) <= set(pids)


def workers_of(load: Load) -> set[int]:
    return {load.health()["worker"] for _ in range(12)}


def assert_metrics_files_are_preallocated() -> None:
    """Assert that the mapped files have no holes: on a full disk, writing to a hole kills the worker (SIGBUS)."""
    files = list(get_settings().home.glob("serving/bentoml-*/prometheus_multiproc_dir/*.db"))
    assert len(files) >= 6
    assert all(file.stat().st_blocks * 512 >= file.stat().st_size for file in files)
