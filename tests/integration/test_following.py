"""The aliases move, and a worker follows between two requests; what cannot be served is refused, and said."""

import itertools
import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from services import launch
from services.following import Follower
from services.served import Served, Told
from tests.bentos import variant
from tests.conftest import free_ports, stop, wait_until
from tests.integration.conftest import Endpoint, Trained
from truecourse import aliases, predictionlog
from truecourse.references import Package
from truecourse.settings import get_settings
from truecourse.storage import open_store

ROW: dict[str, Any] = {
    "courier": "c03", "depot": "north", "promised": 45, "distance": 4.2, "decision_time": "2024-03-01T06:30:00Z"
}  # fmt: skip
Make = Callable[..., Package]


@pytest.fixture
def make(endpoint: Endpoint, trained: Trained, tmp_path: Path, configure: Callable[..., None]) -> Make:
    """A home of the test's own that knows the packaged champion; makes further versions."""
    home = tmp_path / ".truecourse"
    for name in ("storage/bentos", "storage/aliases", "feast", "serving"):
        shutil.copytree(trained.home / name, home / name, ignore=shutil.ignore_patterns("bentoml-*"))
    configure(home=home)
    return lambda number, **changes: variant("deliveries", number, tmp_path / f"variant{number}", **changes)


def move(**changes: Any) -> None:
    aliases.move(aliases.current("deliveries"), "deliveries", "promote", "a test", **changes)


class Worker:
    """What services/service.py puts together, asked without a server."""

    def __init__(self) -> None:
        folder = launch.prepare("deliveries")
        self.served = Served()
        self.served.open(self.served.predictor(folder / "src" / "model"))
        self.follower = Follower(self.served, folder / "src")
        self.records: list[Told] = []
        self.served.record = self.records.append
        self.follower.step()

    def ask(self, *rows: dict[str, Any]) -> dict[str, Any]:
        now = self.served.now
        assert now is not None
        at = datetime.now(UTC)
        read = now.champion.rows.request(json.dumps({"rows": rows}).encode(), at)
        document, parts = self.served.answer(now, read, at, explain=False)
        self.served.after(now, parts)
        return document

    @property
    def version(self) -> int:
        return int(self.ask(ROW)["model"]["version"])

    @property
    def refused(self) -> dict[str, str]:
        refused: dict[str, str] = self.served.status()["refused"]
        return refused

    def step(self) -> None:
        self.follower.step()


def test_the_champion_changes_and_changes_back(make: Make) -> None:
    worker, second = Worker(), make(2)
    first, before = aliases.current("deliveries").champion, worker.ask(ROW)
    move(champion=second.version)
    worker.step()
    after = worker.ask(ROW)
    assert after["model"] == {"version": 2, "sha256": second.version.model_sha256}
    assert after["predictions"][0]["score"] != before["predictions"][0]["score"]
    move(champion=first)
    worker.step()
    assert worker.ask(ROW)["predictions"][0]["score"] == before["predictions"][0]["score"]
    assert worker.served.status()["aliases"] == aliases.current("deliveries").number


def test_what_cannot_be_served_is_refused_and_the_old_model_answers(make: Make) -> None:
    worker, good = Worker(), make(2)
    tampered, other = make(3), make(4, code="0" * 64)
    path = Path(open_store().root) / tampered.bento.key
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    unpackaged = good.version.model_copy(update={"version": 9})
    for version, why in (
        (unpackaged, "never packaged"), (tampered.version, "bytes were changed"), (other.version, "a deploy is needed")
    ):  # fmt: skip
        move(champion=version)
        worker.step()
        assert why in worker.refused["champion"]
        assert worker.version == 1
    move(champion=good.version)
    worker.step()
    assert (worker.refused, worker.version) == ({}, 2)


def test_a_bento_that_holds_another_model_than_was_registered_is_refused(make: Make) -> None:
    worker, second = Worker(), make(2)
    move(champion=second.version.model_copy(update={"model_sha256": "0" * 64}))
    worker.step()
    assert "another model" in worker.refused["champion"]
    assert worker.version == 1


def test_what_is_packaged_after_it_was_refused_is_taken(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    worker, second = Worker(), make(2)
    document = Path(open_store().root) / "bentos/deliveries/2.json"
    document.rename(document.with_suffix(".later"))
    move(champion=second.version)
    worker.step()
    assert "never packaged" in worker.refused["champion"]
    document.with_suffix(".later").rename(document)
    monkeypatch.setattr(worker.follower, "_again", 0.0)
    worker.step()
    assert (worker.refused, worker.version) == ({}, 2)


def test_a_model_that_fails_on_its_own_examples_is_refused(make: Make) -> None:
    worker, second = Worker(), make(2, change=_failing)
    move(champion=second.version)
    worker.step()
    assert "fails on the examples" in worker.refused["champion"]
    assert worker.version == 1


def _failing(source: Path, when: str = "True") -> None:
    """The request function raises when the condition holds, which may speak of `columns`."""
    file = source / "problems" / "deliveries" / "problem.py"
    head = "def clock(columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:\n"
    assert head in file.read_text()
    file.write_text(file.read_text().replace(head, f"{head}    assert not ({when})\n"))


def test_storage_that_is_down_is_said_and_served_through(make: Make, configure: Callable[..., None]) -> None:
    worker, second = Worker(), make(2)
    move(champion=second.version)
    home = get_settings().home
    configure(storage="s3://bucket", s3_endpoint="http://127.0.0.1:1", s3_access_key_id="a", s3_secret_access_key="b")
    worker.step()
    assert worker.version == 1
    assert "127.0.0.1:1" in worker.served.status()["storage"]
    configure(storage=str(home / "storage"))
    worker.step()
    assert (worker.served.status()["storage"], worker.version) == ("reachable", 2)


ENTITIES = [ROW | {"courier": f"c{i % 12:02d}", "depot": d, "id": d} for i in range(12) for d in ("north", "south")]


def test_a_share_of_the_entities_is_answered_by_the_challenger(make: Make) -> None:
    worker, second = Worker(), make(2)
    answered: dict[float, list[bool]] = {}
    for share in (0.0, 0.2, 0.5, 0.8, 1.0):
        move(challenger=second.version, share=share)
        worker.step()
        alone = [worker.ask(row)["model"]["version"] == 2 for row in ENTITIES]
        assert alone == [worker.ask(row)["model"]["version"] == 2 for row in ENTITIES]
        answered[share] = alone
    shares = sorted(answered)
    for narrow, wide in itertools.pairwise(shares):
        assert all(w or not n for n, w in zip(answered[narrow], answered[wide], strict=True))
    assert not any(answered[0.0])
    assert all(answered[1.0])
    assert 0 < sum(answered[0.5]) < len(ENTITIES)
    move(challenger=second.version, share=0.5)
    worker.step()
    mixed = worker.ask(*ENTITIES)
    assert [told.get("model", mixed["model"])["version"] == 2 for told in mixed["predictions"]] == answered[0.5]
    assert [told["id"] for told in mixed["predictions"]] == [row["id"] for row in ENTITIES]
    scores = [worker.ask(row)["predictions"][0]["score"] for row in ENTITIES]
    assert [told["score"] for told in mixed["predictions"]] == scores


def test_a_challenger_that_raises_is_answered_for(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    worker = Worker()
    second = make(2, change=lambda source: _failing(source, "columns['distance'][0] == 13.0"))
    move(challenger=second.version, share=1.0)
    worker.step()
    assert worker.version == 2
    document = worker.ask(ROW | {"distance": 13.0})
    assert document["model"]["version"] == 1
    assert worker.served.status()["counts"] == {"challenger_failed": 1}
    answered, failed = (next(part.records()) for part in worker.records[-2:])
    assert (answered["model_version"], answered["role"], answered["error"]) == (1, "champion", None)
    assert (failed["model_version"], failed["role"], failed["error"]) == (2, "shadow", "AssertionError")
    assert failed["prediction_id"] == answered["prediction_id"] == document["predictions"][0]["prediction_id"]
    assert failed["prediction"] is failed["score"] is None
    assert predictionlog.rows([predictionlog.encoded(failed)])["prediction"].to_pylist() == [None]
    assert "version 2: challenger failed: AssertionError" in caplog.text


def test_a_shadow_is_recorded_and_does_not_answer(make: Make) -> None:
    worker, second = Worker(), make(2)
    move(challenger=second.version, shadow=True)
    worker.step()
    document = worker.ask(ROW, ROW | {"courier": "nobody"})
    assert document["model"]["version"] == 1
    wait_until(lambda: len(worker.records) == 2, 10, "the shadow")
    answer, shadow = (list(part.records()) for part in worker.records)
    assert [record["prediction_id"] for record in shadow] == [record["prediction_id"] for record in answer]
    assert {record["role"] for record in shadow} == {"shadow"}
    assert {record["model_sha256"] for record in shadow} == {second.version.model_sha256}
    assert [record["features"] for record in shadow] == [record["features"] for record in answer]
    assert shadow[0]["score"] != answer[0]["score"]
    assert worker.served.status()["counts"] == {"shadow_scored": 2}
    assert {(record["batch"], record["error"]) for record in answer + shadow} == {(2, None)}
    assert all(0 < record["seconds"] < 5 for record in answer + shadow)


def test_a_shadow_that_raises_is_recorded_once(make: Make) -> None:
    worker = Worker()
    second = make(2, change=lambda source: _failing(source, "columns['distance'][0] == 13.0"))
    move(challenger=second.version, shadow=True, share=1.0)
    worker.step()
    worker.ask(ROW | {"distance": 13.0})
    move(challenger=second.version, shadow=True)
    worker.step()
    worker.ask(ROW | {"distance": 13.0}, ROW)
    wait_until(lambda: len(worker.records) == 4, 10, "the shadow")
    told = [[record["error"] for record in part.records()] for part in worker.records]
    assert told == [[None], ["AssertionError"], [None, None], ["AssertionError", "AssertionError"]]


def test_a_record_holds_what_the_answer_rests_on(make: Make) -> None:
    worker = Worker()
    told = worker.ask(ROW | {"id": "mine"}, ROW | {"courier": "nobody"})["predictions"]
    first, unknown = worker.records[0].records()
    assert json.loads(json.dumps(first | {"at": None}))["request"] == ROW | {"id": "mine"}
    assert (first["prediction_id"], first["score"], first["id"]) == (
        told[0]["prediction_id"],
        told[0]["score"],
        "mine",
    )
    assert first["features"]["depot"] == "north"
    events = first["event_times"]
    assert set(events) == {
        "courier_late_7d", "courier_count_7d", "depot_late_1d", "depot_last_took", "vehicle", "since"
    }  # fmt: skip
    assert "2024-02-23" < events["courier_late_7d"] <= ROW["decision_time"]
    assert events["courier_late_7d"].endswith("Z")
    assert unknown["event_times"]["courier_late_7d"] is None
    assert unknown["event_times"]["depot_late_1d"] == events["depot_late_1d"]


def test_a_failing_log_fails_no_answer(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    worker = Worker()

    def full(answered: Told) -> None:
        raise OSError("no space left")

    worker.served.record = full
    assert worker.version == 1
    assert "record failed: OSError" in caplog.text


@pytest.fixture
def server(make: Make, tmp_path: Path) -> Iterator[httpx.Client]:
    """A server in the home that the test may move the aliases of."""
    (port,) = free_ports(1)
    child = launch.start(launch.prepare("deliveries"), port, tmp_path / "log")
    try:
        launch.wait_ready(child, port)
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
            yield client
    finally:
        stop(child.process)


def test_no_request_fails_while_the_champion_changes_20_times(server: httpx.Client, make: Make, tmp_path: Path) -> None:
    versions = [aliases.current("deliveries").champion, make(2).version]
    over, failed, seen, delays = threading.Event(), [], set(), []

    def load() -> None:
        with httpx.Client(base_url=server.base_url, timeout=30) as client:
            while not over.is_set():
                response = client.post("/predict", json={"rows": [ROW]})
                if response.status_code != 200:
                    failed.append(response.text)
                else:
                    seen.add((response.json()["model"]["version"], response.json()["predictions"][0]["score"]))

    threads = [threading.Thread(target=load) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for swap in range(1, 21):
            version = versions[swap % 2]
            assert version is not None
            move(champion=version)
            began = time.monotonic()
            wait_until(lambda number=version.version: _answers(server, number), 20, f"version {version.version}")
            delays.append(time.monotonic() - began)
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert not failed
    assert len(seen) == 2, "each version has one score for the row, and nothing in between is answered"
    assert sorted(delays)[len(delays) // 2] < 2, delays
    assert "Traceback" not in (tmp_path / "log").read_text()


def test_a_rollback_is_one_command(server: httpx.Client, make: Make) -> None:
    move(champion=make(2).version)
    wait_until(lambda: _answers(server, 2), 20, "version 2")
    command = subprocess.Popen([str(Path(sys.executable).parent / "truecourse"), "rollback", "--reason", "it is worse"])
    wait_until(lambda: _answers(server, 1), 30, "version 1")
    assert command.wait(60) == 0
    now = aliases.current("deliveries")
    assert (now.action, now.reason) == ("rollback", "it is worse")


def _answers(client: httpx.Client, version: int) -> bool:
    return bool(client.post("/predict", json={"rows": [ROW]}).json()["model"]["version"] == version)
