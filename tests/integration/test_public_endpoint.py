"""A public endpoint: API keys, hostile requests, other origins (CORS), killed workers, and TLS."""

import asyncio
import http.client
import json
import os
import re
import signal
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest

from cli.platform.endpoint import endpoint_url, served_model
from services.process import endpoint_process
from tests import hostile_requests
from tests.conftest import free_ports, stop, wait_until
from tests.integration.conftest import Trained, set_environment
from tests.integration.test_service import ROW
from tests.tls_certificates import make_certificate
from truecourse.errors import PlatformError
from truecourse.serving import api_keys
from truecourse.settings import get_settings

ORIGIN = "https://pages.example"
KEYS_READ_WITHIN = 15.0
"""Seconds within which an endpoint reads changed keys; a little more than two on an idle machine."""


@dataclass(frozen=True)
class Guarded:
    port: int
    key: str
    log: Path
    process: "subprocess.Popen[bytes]"
    fast_path: bool

    def client(self, key: str | None = None) -> httpx.Client:
        url = f"http://127.0.0.1:{self.port}"
        return httpx.Client(base_url=url, timeout=30, headers={"authorization": f"Bearer {key or self.key}"})

    def workers(self) -> set[int]:
        pids = set()
        for child in psutil.Process(self.process.pid).children():
            with suppress(psutil.ZombieProcess, psutil.NoSuchProcess):  # it was just killed
                pids |= {child.pid} if "_bentoml_impl.worker.service" in child.cmdline() else set()
        return pids


@pytest.fixture(scope="module", params=[True, False], ids=["fast path", "application"])
def _guarded(request: pytest.FixtureRequest, _trained: Trained) -> Iterator[Guarded]:
    """A real server that requires keys, with two workers and one trusted origin: with the fast path, and without it."""
    from flows.package import package

    (port,) = free_ports(1)
    log = _trained.home.parent / f"guarded-{port}.log"
    with pytest.MonkeyPatch.context() as patch:
        set_environment(patch, _trained.home, _trained.problems)
        settings = {"AUTHENTICATION": "keys", "WORKERS": "2", "CORS_ORIGINS": ORIGIN, "FAST_PATH": str(request.param)}
        for name, value in settings.items():
            patch.setenv(f"TRUECOURSE_{name}", value)
        get_settings.cache_clear()
        package("deliveries")
        _, key = api_keys.create("tests", api_keys.SCOPES)
        server = endpoint_process.start(endpoint_process.prepare("deliveries"), port, log)
    get_settings.cache_clear()
    try:
        endpoint_process.wait_ready(server, port)
        yield Guarded(port, key, log, server.process, request.param)
    finally:
        stop(server.process)


@pytest.fixture
def guarded(_guarded: Guarded, trained: Trained) -> Guarded:
    return _guarded


def predict(client: httpx.Client, path: str = "/predict") -> httpx.Response:
    return client.post(path, json={"rows": [ROW]})


def test_without_a_key_only_probes_are_answered(guarded: Guarded) -> None:
    with httpx.Client(base_url=f"http://127.0.0.1:{guarded.port}", timeout=30) as client:
        assert client.get("/livez").status_code == client.get("/readyz").status_code == 200
        for path in ("/model", "/healthz", "/metrics", "/", "/openapi.json", "/nothing"):
            assert client.get(path).status_code == 401
        refused = predict(client)
        assert refused.status_code == 401
        assert refused.headers["www-authenticate"].startswith("Bearer")
        assert "key create" in refused.json()["hint"]
    with guarded.client() as client:
        assert predict(client).status_code == predict(client, "/explain").status_code == 200


def test_a_key_allows_only_its_scopes(guarded: Guarded) -> None:
    _, text = api_keys.create("narrow", ("predict",))
    with guarded.client(text) as client:
        wait_until(lambda: predict(client).status_code == 200, KEYS_READ_WITHIN, "the new key")
        for path in ("/model", "/healthz", "/metrics"):
            assert client.get(path).status_code == 403
        assert "explain" in predict(client, "/explain").json()["error"]


def test_a_revoked_key_is_refused_without_a_restart(guarded: Guarded) -> None:
    old, text = api_keys.create("old", ("predict",))
    _, new = api_keys.create("new", ("predict",))
    with guarded.client(text) as before, guarded.client(new) as after:
        wait_until(
            lambda: predict(before).status_code == predict(after).status_code == 200, KEYS_READ_WITHIN, "both keys"
        )
        api_keys.revoke(old.id)
        wait_until(lambda: predict(before).status_code == 401, KEYS_READ_WITHIN, "the revocation")
        assert predict(after).status_code == 200


def test_pages_of_a_trusted_origin_may_send_requests(guarded: Guarded) -> None:
    url = f"http://127.0.0.1:{guarded.port}/predict"
    wants = {"access-control-request-method": "POST", "access-control-request-headers": "authorization,content-type"}
    preflight = httpx.options(url, headers={"origin": ORIGIN} | wants)
    assert preflight.status_code == 200
    assert preflight.headers["access-control-allow-origin"] == ORIGIN
    foreign = httpx.options(url, headers={"origin": "https://evil.example"} | wants)
    assert foreign.status_code == 400
    assert "access-control-allow-origin" not in foreign.headers
    with guarded.client() as client:
        assert client.post("/predict", json={"rows": [ROW]}, headers={"origin": ORIGIN}).headers[
            "access-control-allow-origin"
        ] == ORIGIN  # fmt: skip
        assert "access-control-allow-origin" not in predict(client).headers


def test_healthz_reports_the_dependencies(guarded: Guarded, trained: Trained) -> None:
    with guarded.client() as client:
        health = client.get("/healthz").json()
    assert health["status"] == "ok"
    assert health["model"]["model_sha256"] == trained.version.model_sha256
    assert all(health[name]["answers"] for name in ("storage", "keys", "online_store"))
    assert health["worker"] in guarded.workers()


def test_metrics_have_bounded_labels(guarded: Guarded) -> None:
    with guarded.client() as client:
        for i in range(5):
            client.get(f"/scan-{i}")
        predict(client)
        client.post("/predict", json={"rows": [ROW | {"courier": "nobody"}] * 10})
        text = client.get("/metrics").text
    assert "scan-" not in text
    assert float(re.findall(r'truecourse_requests_total\{path="other",status="4xx"\} (\S+)', text)[0]) >= 5
    assert float(re.findall(r'truecourse_feature_misses_total\{view="courier_history"\} (\S+)', text)[0]) >= 10
    assert float(re.findall(r'truecourse_rows_total\{path="/predict"\} (\S+)', text)[0]) >= 11
    assert re.search(r'truecourse_request_seconds_bucket\{le="0.01",path="/predict"\}', text)
    assert re.search(r'truecourse_feature_age_seconds_count\{view="courier_history"\}', text)
    assert re.search(r'truecourse_model_info\{problem="deliveries",sha256="\w{64}",version="1"\} 1', text)
    assert re.search(r'truecourse_dependency_up\{dependency="storage"\} 1', text)


def test_twenty_thousand_hostile_requests(guarded: Guarded) -> None:
    before = guarded.workers()
    responses = asyncio.run(
        hostile_requests.send_all("127.0.0.1", guarded.port, hostile_requests.requests(3, 20_000, guarded.key))
    )
    assert responses.wrong == []
    assert sum(responses.statuses.values()) >= 20_000
    assert {"200", "400", "401", "404", "405", "415", "422"} <= set(responses.statuses), responses.statuses
    assert guarded.workers() == before
    with guarded.client() as client:
        assert predict(client).status_code == 200
    log = guarded.log.read_text()
    assert hostile_requests.CANARY not in log
    assert "Traceback" not in log
    assert guarded.key not in log


def test_the_endpoint_conforms_to_its_openapi_document(guarded: Guarded, tmp_path: Path) -> None:
    """Schemathesis sends valid and invalid requests; the answers must conform to the document."""
    checks: tuple[str, ...] = ("not_a_server_error", "status_code_conformance", "content_type_conformance")
    checks += ("response_schema_conformance", "ignored_auth")
    command = [
        str(Path(sys.executable).parent / "schemathesis"), "run", f"http://127.0.0.1:{guarded.port}/openapi.json",
        "--header", f"Authorization: Bearer {guarded.key}", "--checks", ",".join(checks), "--max-examples", "30",
        "--seed", "1", "--phases", "examples,coverage,fuzzing", "--generation-deterministic", "--no-color",
        "--suppress-health-check", "all", "--no-shrink",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=300)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]
    assert "/predict" in done.stdout or "passed" in done.stdout


def _hammer(guarded: Guarded, until: Callable[[], bool], failures: list[str], answers: list[int]) -> None:
    body = json.dumps({"rows": [ROW]})
    headers = {"content-type": "application/json", "x-api-key": guarded.key, "connection": "close"}
    while not until():
        connection = http.client.HTTPConnection("127.0.0.1", guarded.port, timeout=30)
        try:
            connection.request("POST", "/predict", body, headers)
            answers.append(connection.getresponse().status)
        except (OSError, http.client.HTTPException) as error:
            failures.append(type(error).__name__)
        finally:
            connection.close()


def test_a_killed_worker_loses_only_its_own_requests(guarded: Guarded) -> None:
    clients, done = 4, threading.Event()
    failures: list[str] = []
    answers: list[int] = []
    threads = [threading.Thread(target=_hammer, args=(guarded, done.is_set, failures, answers)) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        time.sleep(0.5)
        before = guarded.workers()
        assert len(before) == 2
        killed = min(before)
        os.kill(killed, signal.SIGKILL)
        wait_until(lambda: len(guarded.workers() - {killed}) == 2, 30, "another worker")
        count = len(answers)
        wait_until(lambda: len(answers) > count + 50, 60, "answers")
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert len(failures) <= clients, failures
    assert set(answers) == {200}


def test_tls_a_rate_and_a_deadline_by_setting(guarded: Guarded, tmp_path: Path, configure: Callable[..., None]) -> None:
    certificate, key = make_certificate("endpoint.example").write(tmp_path)
    (port,) = free_ports(1)
    configure(fast_path=guarded.fast_path, tls_certificate=certificate, tls_key=key, request_timeout=1)
    configure(workers=2, rate_limit=0.02, rate_burst=6)
    server = endpoint_process.start(endpoint_process.prepare("deliveries"), port, tmp_path / "log")
    try:
        endpoint_process.wait_ready(server, port)
        served = served_model(endpoint_url(port))
        assert served is not None
        assert served.problem == "deliveries"
        trusted = ssl.create_default_context(cafile=str(certificate))
        trusted.check_hostname = False  # the certificate has the public name
        with httpx.Client(base_url=endpoint_url(port), verify=trusted, timeout=30) as client:
            slow = client.post("/predict", content=_slowly(3), headers={"content-type": "application/json"})
            assert slow.status_code == 408
            answered = [predict(client).status_code for _ in range(5)]  # one of two workers: half of the rate
            assert 2 <= answered.count(200) <= 3
            assert answered[-1] == 429
            assert int(predict(client).headers["retry-after"]) > 10
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{endpoint_url(port)}/livez")
        # All workers read the new certificate; the client trusts the one in the file.
        make_certificate("other.example").write(tmp_path)
        wait_until(lambda: all(_answers(port) for _ in range(8)), 20, "the new certificate")
    finally:
        stop(server.process)


def _answers(port: int) -> bool:
    try:
        return endpoint_process.is_ready(port)
    except PlatformError:
        return False


def _slowly(seconds: float) -> Iterator[bytes]:
    yield b'{"rows": ['
    time.sleep(seconds)
    yield b"]}"
