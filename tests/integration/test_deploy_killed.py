"""A deployment with two workers: both split traffic, and `kill -9` of a later deployment loses no request."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from flows.package import package
from services.process import blue_green, supervisor_client
from tasks.release.deploy import deploy_version
from tests.bentos import build_variant
from tests.conftest import REPOSITORY, free_ports, wait_until
from tests.integration.conftest import Trained
from tests.integration.test_deploy import CONFIG, NO_KEEPALIVE, history, load
from tests.unevaluated_versions import register_untrained
from tests.workers import ROW, move
from truecourse.deployment import deployment_history as deployments
from truecourse.registry import aliases
from truecourse.settings import child_environment

POINTS = {
    "started is recorded": "endpoint_process.prepare",
    "the new server starts": "smoke_test.examples",
    "the new server is recorded as running": "blue_green._retire",
}
"""The function that a deployment calls next, by the state it has reached: it is killed in that call."""
PARENT = """
import os, signal, sys

from services.process import blue_green, endpoint_process, smoke_test
from tasks.release.deploy import deploy_version
from truecourse.deployment import deployment_history as deployments

for line in sys.stdin:
    child = os.fork()
    if not child:
        module, name = line.strip().split(".")
        setattr(globals()[module], name, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        deploy_version.fn("here", "deliveries", None, f"killed at {line.strip()}")
        os._exit(0)
    print(os.waitpid(child, 0)[1], flush=True)
"""
"""Forks the deployments that are killed: importing their modules takes seconds."""


@pytest.fixture
def port(trained: Trained, tmp_path: Path, configure: Callable[..., None]) -> Iterator[int]:
    """A home for this test with champion 1 and challenger 2, and a free port with an environment `here`."""
    home, (port,) = tmp_path / ".truecourse", free_ports(1)
    apart = shutil.ignore_patterns("bentoml-*", "spool", "deployments")
    shutil.copytree(trained.home, home, ignore=apart)
    configure(home=home, deployments=tmp_path, author="ann")
    package("deliveries")
    move(champion=trained.version)
    second = build_variant("deliveries", 2, tmp_path / "variant").version
    register_untrained(second)
    move(challenger=second)
    try:
        yield port
    finally:
        blue_green.stop("here")


def write_config(folder: Path, port: int, traffic: str) -> None:
    text = CONFIG.format(name="here", port=port)
    (folder / "here.yaml").write_text(f"{text}workers: 2\ntraffic: {traffic}\n")


def answering_versions(port: int, requests: int = 6) -> dict[str, set[int]]:
    """The versions that answer each of twelve entities; each request has its own connection."""
    versions: dict[str, set[int]] = {}
    with httpx.Client(timeout=60, limits=NO_KEEPALIVE) as client:
        for entity in (f"c{i:02d}" for i in range(12)):
            for _ in range(requests):
                answer = client.post(f"http://127.0.0.1:{port}/predict", json={"rows": [ROW | {"courier": entity}]})
                versions.setdefault(entity, set()).add(answer.json()["model"]["version"])
    return versions


def follows(port: int) -> bool:
    """Whether both workers follow the newest aliases. A random worker answers each connection."""
    newest, serving = aliases.current("deliveries").number, {}
    for _ in range(20):
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:  # one worker's
            serving[client.get("/healthz").json()["worker"]] = client.get("/model").json()["serving"]
    return len(serving) == 2 and all(one["aliases"] == newest and one["challenger"] for one in serving.values())


def assert_readable(folder: Path) -> None:
    """Assert that every document of the deployment can be read: none is half-written."""
    assert history(), "every entry keeps its form"
    for file in (*folder.rglob("server.json"), *folder.rglob("supervisor.json")):
        json.loads(file.read_text())


def test_a_killed_deployment_costs_no_request_and_the_next_one_works(port: int, tmp_path: Path) -> None:
    write_config(tmp_path, port, "{share: 0.5}")
    first = deploy_version.fn("here", "deliveries", None, "first")
    split = aliases.current("deliveries")
    assert (split.action, split.share, split.reason) == ("split", 0.5, "deployment to here")
    wait_until(lambda: follows(port), 30, "the split")
    versions = answering_versions(port)
    assert all(len(found) == 1 for found in versions.values()), "an entity is answered alike by both workers"
    assert {version for found in versions.values() for version in found} == {1, 2}

    servers = supervisor_client.find(deployments.server_folder("here", "127.0.0.1", port))
    assert servers is not None
    before = deployments.running_server("here")
    assert before is not None
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY,
        env=child_environment(),
    )  # fmt: skip
    assert parent.stdin is not None
    assert parent.stdout is not None
    try:
        with load(port, pause=0.1) as failed:
            for point, call in POINTS.items():
                print(call, file=parent.stdin, flush=True)
                assert os.WTERMSIG(int(parent.stdout.readline())) == signal.SIGKILL, point
                assert_readable(tmp_path)
                assert history()[-1].outcome == "began", point
                now = deployments.running_server("here")
                assert now is not None
                assert (now == before) is (call != "blue_green._retire"), point
                assert servers.servers()[now.server]["alive"], point
            assert not failed
            write_config(tmp_path, port, "{shadow: true}")
            again = deploy_version.fn("here", "deliveries", None, "again")
        assert not failed
    finally:
        parent.kill()
        parent.communicate()
    assert (again.outcome, again.previous, again.version) == ("deployed", first.version, first.version)
    now = deployments.running_server("here")
    assert now is not None
    assert list(servers.servers()) == [now.server]
    wait_until(lambda: follows(port), 30, "the shadow")
    serving = httpx.get(f"http://127.0.0.1:{port}/model", timeout=60).json()["serving"]
    assert (serving["shadow"], serving["share"]) == (True, 0.0)
    assert {version for found in answering_versions(port, requests=1).values() for version in found} == {1}
