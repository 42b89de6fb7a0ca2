"""A worker follows the aliases between two requests; it refuses and reports versions that cannot be served."""

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import httpx
import pytest

from services.process import endpoint_process
from tests.bentos import break_request_function
from tests.conftest import free_ports, stop, wait_until
from tests.workers import ROW, MakeVersion, Worker, move
from truecourse.registry import aliases
from truecourse.settings import get_settings
from truecourse.storage.object_store import open_store


def test_the_champion_changes_and_changes_back(make_version: MakeVersion) -> None:
    worker, second = Worker(), make_version(2)
    first, before = aliases.current("deliveries").champion, worker.predict(ROW)
    move(champion=second.version)
    worker.step()
    after = worker.predict(ROW)
    assert after["model"] == {"version": 2, "sha256": second.version.model_sha256}
    assert after["predictions"][0]["score"] != before["predictions"][0]["score"]
    move(champion=first)
    worker.step()
    assert worker.predict(ROW)["predictions"][0]["score"] == before["predictions"][0]["score"]
    assert worker.router.status()["aliases"] == aliases.current("deliveries").number


def test_a_version_that_cannot_be_served_is_refused_and_the_old_model_answers(make_version: MakeVersion) -> None:
    worker, good = Worker(), make_version(2)
    tampered, other = make_version(3), make_version(4, code="0" * 64)
    path = Path(open_store().root) / tampered.bento.key
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    unpackaged = good.version.model_copy(update={"version": 9})
    for version, why in (
        (unpackaged, "never packaged"), (tampered.version, "bytes were changed"), (other.version, "another environment")
    ):  # fmt: skip
        move(champion=version)
        worker.step()
        assert why in worker.refused["champion"]
        assert worker.version == 1
    move(champion=good.version)
    worker.step()
    assert (worker.refused, worker.version) == ({}, 2)


def test_a_bento_that_holds_another_model_than_was_registered_is_refused(make_version: MakeVersion) -> None:
    worker, second = Worker(), make_version(2)
    move(champion=second.version.model_copy(update={"model_sha256": "0" * 64}))
    worker.step()
    assert "another model" in worker.refused["champion"]
    assert worker.version == 1


def test_a_version_packaged_after_it_was_refused_is_served(
    make_version: MakeVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker, second = Worker(), make_version(2)
    document = Path(open_store().root) / "bentos/deliveries/2.json"
    document.rename(document.with_suffix(".later"))
    move(champion=second.version)
    worker.step()
    assert "never packaged" in worker.refused["champion"]
    document.with_suffix(".later").rename(document)
    monkeypatch.setattr(worker.follower, "_again", 0.0)
    worker.step()
    assert (worker.refused, worker.version) == ({}, 2)


def test_a_model_that_fails_on_its_own_examples_is_refused(make_version: MakeVersion) -> None:
    worker, second = Worker(), make_version(2, change=break_request_function)
    move(champion=second.version)
    worker.step()
    assert "fails on the examples" in worker.refused["champion"]
    assert worker.version == 1


def test_serving_continues_while_storage_is_down(make_version: MakeVersion, configure: Callable[..., None]) -> None:
    worker, second = Worker(), make_version(2)
    move(champion=second.version)
    home = get_settings().home
    configure(storage="s3://bucket", s3_endpoint="http://127.0.0.1:1", s3_access_key_id="a", s3_secret_access_key="b")
    worker.step()
    assert worker.version == 1
    assert "127.0.0.1:1" in worker.router.status()["storage"]
    configure(storage=str(home / "storage"))
    worker.step()
    assert (worker.router.status()["storage"], worker.version) == ("reachable", 2)


@pytest.fixture
def server(make_version: MakeVersion, tmp_path: Path) -> Iterator[httpx.Client]:
    """A server in the test's own home, whose aliases the test may move."""
    (port,) = free_ports(1)
    child = endpoint_process.start(endpoint_process.prepare("deliveries"), port, tmp_path / "log")
    try:
        endpoint_process.wait_ready(child, port)
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
            yield client
    finally:
        stop(child.process)


def test_no_request_fails_while_the_champion_changes_20_times(
    server: httpx.Client, make_version: MakeVersion, tmp_path: Path
) -> None:
    versions = [aliases.current("deliveries").champion, make_version(2).version]
    over, failed, scores = threading.Event(), [], set()

    def load() -> None:
        with httpx.Client(base_url=server.base_url, timeout=30) as client:
            while not over.is_set():
                response = client.post("/predict", json={"rows": [ROW]})
                if response.status_code != 200:
                    failed.append(response.text)
                else:
                    scores.add((response.json()["model"]["version"], response.json()["predictions"][0]["score"]))

    threads = [threading.Thread(target=load) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for swap in range(1, 21):
            version = versions[swap % 2]
            assert version is not None
            move(champion=version)
            wait_until(partial(_answers, server, version.version), 20, f"version {version.version}")
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert not failed
    assert len(scores) == 2, "each version has one score for the row, and there is no other score"
    assert "Traceback" not in (tmp_path / "log").read_text()


def test_a_rollback_is_one_command(server: httpx.Client, make_version: MakeVersion) -> None:
    move(champion=make_version(2).version)
    wait_until(lambda: _answers(server, 2), 20, "version 2")
    command = subprocess.Popen([str(Path(sys.executable).parent / "truecourse"), "rollback", "--reason", "it is worse"])
    wait_until(lambda: _answers(server, 1), 30, "version 1")
    assert command.wait(60) == 0
    now = aliases.current("deliveries")
    assert (now.action, now.reason) == ("rollback", "it is worse")


def _answers(client: httpx.Client, version: int) -> bool:
    return bool(client.post("/predict", json={"rows": [ROW]}).json()["model"]["version"] == version)
