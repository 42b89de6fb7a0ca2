"""Canaries on a real endpoint under real requests: a good one is promoted, a bad one and a slow one are rolled back,
and no request fails."""

import json
import random
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from cli.main import execute
from flows.guard import guard
from flows.promote import promote
from flows.register import register
from services.process import endpoint_process
from tasks.release.deploy import split_traffic
from tasks.release.evaluate_canary import apply_canary_decision, evaluate_canary
from tasks.release.register import DONE, register_model
from tasks.release.start_canary import start_canary
from tasks.training.build_snapshot import take_snapshot
from tasks.training.train import train_model
from tests.conftest import free_ports, stop, wait_until
from tests.integration.conftest import Endpoint, Trained
from truecourse.deployment.config_loader import load_deployment
from truecourse.errors import ModelError
from truecourse.monitoring import report_store
from truecourse.references import ModelVersion, TrainedRun
from truecourse.registry import aliases, mlflow_runs
from truecourse.registry import versions as registry
from truecourse.registry.aliases import WIDEN
from truecourse.serving.log_segments import OPEN, list_segments
from truecourse.serving.log_shipping import spool_folder
from truecourse.storage.object_store import open_store

GATES = "gates=[BeatsBaseline(), BeatsChampion()]"
EASY = """gates=[BeatsBaseline(), BeatsChampion(margin=0.1)],
    promotion=Promotion(canary=Canary(steps=(0.3, 1.0), requests=50, slower=5))"""
SHUFFLED = """
SELECT delivery AS id, CAST(hash(delivery) % 10 < 3 AS INTEGER) AS label, known_at FROM outcomes
"""
ROUND = 120
"""Requests between two runs of the guard."""


class World:
    """A home for this test with an endpoint of the packaged champion; the statuses of all requests are recorded."""

    def __init__(self, client: httpx.Client, folder: Path) -> None:
        self.client, self.folder = client, folder
        self.random, self.statuses = random.Random(0), list[int]()
        self.answers: list[dict[str, Any]] = []
        self.opened: list[str] = []

    def change(self, file: str, before: str, after: str) -> None:
        path = self.folder / file
        assert before in path.read_text()
        path.write_text(path.read_text().replace(before, after))

    def train(self) -> TrainedRun:
        return train_model.fn("deliveries", take_snapshot.fn("deliveries"))

    def send_request(self) -> None:
        pick = self.random
        row = {
            "courier": f"x{pick.randrange(10_000)}", "depot": pick.choice(["north", "south", "east"]),
            "promised": pick.randrange(30, 90), "distance": round(pick.gammavariate(3, 2), 2),
            "decision_time": "2024-03-01T06:30:00Z",
        }  # fmt: skip
        response = self.client.post("/predict", json={"rows": [row]})
        self.statuses.append(response.status_code)
        self.answers.append(response.json())

    def follows(self) -> bool:
        return bool(self.client.get("/model").json()["serving"]["aliases"] == aliases.current("deliveries").number)

    def run_canary(self) -> list[tuple[str, float]]:
        """Send requests and run the guard until the canary has ended; each alias move with its traffic weight."""
        began = len(aliases.history("deliveries"))
        for _ in range(12):
            wait_until(self.follows, 20, "the endpoint on the newest aliases")
            for _ in range(ROUND):
                self.send_request()
            wait_until(lambda: not list_segments(spool_folder("deliveries"), OPEN), 20, "the log's last segment")
            self.opened = guard("deliveries")["alerts"]["opened"]
            moves = aliases.history("deliveries")[began:]
            if moves and not moves[-1].share:
                return [(entry.action, entry.share) for entry in moves]
        raise AssertionError(aliases.current("deliveries").reason)


@pytest.fixture
def world(endpoint: Endpoint, trained: Trained, tmp_path: Path, configure: Callable[..., None]) -> Iterator[World]:
    home, problems = tmp_path / ".truecourse", tmp_path / "problems"
    shutil.copytree(trained.home, home, ignore=shutil.ignore_patterns("bentoml-*", "spool"))
    shutil.copytree(trained.problems, problems)
    with closing(sqlite3.connect(home / "mlflow.db")) as mlflow, mlflow:
        mlflow.execute(
            "UPDATE experiments SET artifact_location = replace(artifact_location, ?, ?)",
            (str(trained.home), str(home)),
        )
    (tmp_path / "here.yaml").write_text("environment: here\ntarget: process\ntraffic: {share: 0.5}\n")
    configure(home=home, problems=problems, deployments=tmp_path)
    (port,) = free_ports(1)
    server = endpoint_process.start(endpoint_process.prepare("deliveries"), port, home / "endpoint.log")
    try:
        endpoint_process.wait_ready(server, port)
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
            yield World(client, problems / "deliveries")
    finally:
        stop(server.process)


def canary_report() -> Any:
    report = report_store.latest(open_store(), "deliveries", "canary")
    assert report is not None
    return report


def move_without_mirror(action: str, **changes: Any) -> None:
    """Move the aliases but not MLflow's copy, as a guard does that is killed in between."""
    aliases.move(aliases.current("deliveries"), "deliveries", action, "a trial", **changes)


def start_ungated_canary(version: ModelVersion) -> str:
    """Start a canary of a version that passed no gate; the reason in the ledger."""
    return start_canary.fn(aliases.current("deliveries"), version, "a trial").reason


def test_good_canaries_are_promoted_and_bad_and_slow_ones_rolled_back(world: World, trained: Trained) -> None:
    world.change("problem.py", GATES, EASY)
    world.change("problem.py", "    BeatsBaseline,\n", "    BeatsBaseline,\n    Canary,\n    Promotion,\n")
    world.change("problem.py", "rounds=200", "rounds=150")
    valid = {name: (world.folder / name).read_text() for name in ("problem.py", "label.sql")}

    (world.folder / "label.sql").write_text(SHUFFLED)
    shuffled = world.train()
    bad = registry.create_version(shuffled)
    start_ungated_canary(bad)
    assert world.run_canary() == [("canary rollback", 0.0)]
    assert canary_report().figures["cause"] == "distribution"
    assert len(world.opened) == 1
    rolled_back = aliases.current("deliveries")
    split_traffic(load_deployment("here"), "deliveries")
    assert aliases.current("deliveries") == rolled_back
    assert "the distribution of its scores differs" in aliases.current("deliveries").reason

    (world.folder / "label.sql").write_text(valid["label.sql"])
    world.change("problem.py", "rounds=150", "rounds=140")
    world.change("problem.py", "    minutes = columns", "    __import__('time').sleep(0.04)\n    minutes = columns")
    start_ungated_canary(registry.create_version(world.train()))
    assert world.run_canary() == [("canary rollback", 0.0)]
    assert canary_report().figures["cause"] == "latency"
    (finding,) = canary_report().findings
    assert finding.page
    assert "it is slower" in finding.sentence
    assert registry.champion("deliveries") == trained.version

    (world.folder / "problem.py").write_text(valid["problem.py"])
    good = register("deliveries", run_id=world.train().run_id)
    now = aliases.current("deliveries")
    assert (now.champion, now.challenger, now.action, now.share) == (trained.version, good, "canary", 0.3)
    register_model.fn(shuffled, {"gates": [], "champion": trained.version.version})
    assert aliases.current("deliveries") == now
    assert registry.tags(bad)[DONE] == f"registered, for version {good.version} is a canary"
    with pytest.raises(ModelError, match=f"version {good.version} is a canary already, with 30% of the traffic"):
        promote("at once")
    move_without_mirror("canary rollback", share=0.0)
    again = promote("tried again")
    assert (again.action, again.champion, again.challenger, again.share) == ("canary", trained.version, good, 0.3)
    assert world.run_canary() == [("widen", 1.0), ("promote", 0.0)]
    assert registry.champion("deliveries") == good
    assert "all 4 gates passed" in aliases.current("deliveries").reason
    assert canary_report().sentence.startswith(f"Version {good.version} is champion: 50 requests without more errors")
    assert not canary_report().findings
    assert not world.opened
    assert len(world.statuses) >= 5 * ROUND
    assert set(world.statuses) == {200}
    assert_one_guard_moves(bad)


def stop_by_command(capsys: pytest.CaptureFixture[str], reason: str) -> dict[str, Any]:
    capsys.readouterr()
    assert execute(["canary", "stop", "--reason", reason, "--problem", "deliveries", "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_a_canary_and_a_shadow_are_stopped_by_hand(
    world: World, trained: Trained, configure: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    configure(author="ann")
    world.change("problem.py", "rounds=200", "rounds=150")
    challenger = registry.create_version(world.train())
    start_ungated_canary(challenger)
    started = registry.move_aliases(aliases.current("deliveries"), "deliveries", WIDEN, "a trial", share=0.5)

    def answering() -> bool:
        world.send_request()
        return bool(world.answers[-1]["model"]["version"] == challenger.version)

    wait_until(world.follows, 60, "the endpoint on the canary")
    wait_until(answering, 30, "an answer of the canary")
    stopped = stop_by_command(capsys, "customers complain")
    assert (stopped["stopped"], stopped["champion"]) == (challenger.version, trained.version.version)
    assert (stopped["was"], stopped["mirrored"]) == ({"share": started.share, "shadow": False}, True)
    wait_until(world.follows, 20, "the endpoint on the newest aliases")
    for _ in range(20):
        assert not answering()
    serving = world.client.get("/model").json()["serving"]
    assert (serving["champion"]["version"], serving["challenger"]) == (trained.version.version, None)

    entry = aliases.current("deliveries")
    assert (entry.action, entry.author, entry.reason, entry.share) == ("canary stop", "ann", "customers complain", 0.0)
    sentence = f"Version {challenger.version} was stopped by ann at {entry.at:%Y-%m-%d %H:%M} UTC: customers complain."
    assert execute(["status", "--problem", "deliveries", "--json"]) == 0
    status = json.loads(capsys.readouterr().out)
    assert status["canary"]["sentence"] == sentence
    assert (status["champion"]["version"], status["history"][-1]["action"]) == (trained.version.version, "canary stop")
    split_traffic(load_deployment("here"), "deliveries")
    assert guard("deliveries")["sentence"] == sentence
    assert not canary_report().findings
    assert aliases.current("deliveries") == entry, "neither a deployment nor a guard starts it again"

    registry.move_aliases(entry, "deliveries", "split", "a shadow", shadow=True)
    wait_until(lambda: world.client.get("/model").json()["serving"]["shadow"], 20, "the shadow")
    assert stop_by_command(capsys, "it costs too much")["was"] == {"share": 0.0, "shadow": True}
    wait_until(lambda: world.client.get("/model").json()["serving"]["challenger"] is None, 20, "no shadow")
    assert execute(["canary", "stop", "--reason", "again", "--problem", "deliveries"]) == 1
    assert "no canary and no shadow is running" in capsys.readouterr().err
    assert set(world.statuses) == {200}


def assert_one_guard_moves(version: ModelVersion) -> None:
    """Assert that one of two guards with the same data moves the aliases, and that an interrupted move is completed."""
    move_without_mirror("register", challenger=version)
    split_traffic(load_deployment("here"), "deliveries")
    before, decision = evaluate_canary.fn("deliveries")
    assert (before.action, before.share, decision.action) == ("split", 0.5, "wait")
    reports = [apply_canary_decision.fn("deliveries", before, replace(decision, action="roll back")) for _ in range(2)]
    assert aliases.current("deliveries").number == before.number + 1
    assert reports[1].sentence.startswith("The aliases were changed meanwhile (canary rollback): 0 of 50")

    move_without_mirror("promote", champion=version)
    guard("deliveries")
    registered = mlflow_runs.connect_mlflow().get_registered_model("deliveries")
    assert int(registered.aliases["champion"]) == version.version
