"""Deploying to a process: a swap loses no request, and a failed deployment keeps the previous server."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import DeploymentSchedule
from prefect.client.schemas.schedules import CronSchedule
from prefect.exceptions import ObjectNotFound

from flows.deploy import deploy
from flows.package import package
from services.http.rollout_gate import LEAVING
from services.process import blue_green, supervisor_client
from services.process.scrape import scrape_all
from tests.conftest import free_ports, wait_until
from tests.integration.conftest import Trained
from tests.tls_certificates import make_certificate
from truecourse.deployment import deployment_history as deployments
from truecourse.deployment import endpoints, inference_config
from truecourse.errors import DeploymentError, IntegrityError, ModelError, PlatformError, SettingsError
from truecourse.references import Deployment
from truecourse.registry import versions as registry
from truecourse.storage.object_store import open_store

ROW = {"courier": "c03", "depot": "north", "promised": 45, "distance": 4.2, "decision_time": "2024-03-01T06:30:00Z"}
CONFIG = "environment: {name}\ntarget: process\nport: {port}\ntimeouts: {{ready_seconds: 300, drain_seconds: 1}}\n"

NO_KEEPALIVE = httpx.Limits(max_keepalive_connections=0)
"""For a client that opens a connection for each request. A new client for each request would reread certificates."""


@pytest.fixture
def port(trained: Trained, tmp_path: Path, configure: Callable[..., None]) -> Iterator[int]:
    """A free port, and an environment `here` that listens on it."""
    (port,) = free_ports(1)
    here = CONFIG.format(name="here", port=port)
    (tmp_path / "here.yaml").write_text(here)
    configure(deployments=tmp_path, author="ann")
    package("deliveries")
    try:
        yield port
    finally:
        blue_green.stop("here")


def break_store(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOBODY_LISTENS", "redis://127.0.0.1:9")
    file = folder / "here.yaml"
    file.write_text(file.read_text() + "secrets: {online_store: NOBODY_LISTENS}\n")


def leave_behind(servers: supervisor_client.SupervisorClient) -> None:
    """Start a server that gets no traffic, as a deployment does that is killed before the rollout gate opens."""
    log = servers.place / "left.log"
    servers.start(9, ["--version"], dict(os.environ), log)
    assert set(servers.servers()) == {1, 9}


@contextmanager
def load(port: int, pause: float = 0.02) -> Iterator[list[str]]:
    """Send requests from two clients, with and without keep-alive, until the block ends.

    Yields the list of failures: texts of answers other than 200, and errors."""
    failed: list[str] = []
    over = threading.Event()

    def send_requests(client: httpx.Client) -> None:
        while not over.is_set():
            try:
                answer = client.post(f"http://127.0.0.1:{port}/predict", json={"rows": [ROW]})
                if answer.status_code != 200:
                    failed.append(answer.text)
            except httpx.HTTPError as error:
                failed.append(repr(error))
            time.sleep(pause)

    with httpx.Client(timeout=60) as kept, httpx.Client(timeout=60, limits=NO_KEEPALIVE) as anew:
        threads = [threading.Thread(target=send_requests, args=(client,)) for client in (kept, anew)]
        for thread in threads:
            thread.start()
        try:
            yield failed
        finally:
            over.set()
            for thread in threads:
                thread.join()


def history() -> list[Deployment]:
    return deployments.ledger("here", "deliveries").entries()


def test_servers_are_replaced_and_no_request_is_lost(
    port: int, trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = len(history())
    first = deploy("here", reason="first")
    assert (first.outcome, first.author, first.reason) == ("deployed", "ann", "first")
    assert first.version == trained.version
    servers = supervisor_client.find(deployments.server_folder("here", "127.0.0.1", port))
    assert servers is not None
    leave_behind(servers)
    with load(port) as failed:
        second = deploy("here")
        assert second.previous == trained.version
        (number,) = servers.servers()
        now = deployments.running_server("here")
        assert now is not None
        assert now.server == number == 2
        break_store(tmp_path, monkeypatch)
        with pytest.raises(PlatformError):
            deploy("here")
        assert deployments.running_server("here") == now
        assert list(servers.servers()) == [number]
    assert failed == []
    outcomes = [entry.outcome for entry in history()[start:]]
    assert outcomes == ["began", "deployed", "began", "deployed", "began", "rolled back"]
    assert history()[-1].detail
    stopped = deploy("here", stop=True)
    assert stopped.outcome == "stopped"
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://127.0.0.1:{port}/readyz")
    assert deployments.running_server("here") is None
    with pytest.raises(PlatformError, match="nothing is deployed"):
        deploy("here", stop=True)


def test_a_server_that_leaves_ends_its_connections_and_one_logs_each_request(port: int, tmp_path: Path) -> None:
    """Its certificate may have another name than the address on which it listens."""
    file = tmp_path / "here.yaml"
    certificate, key = make_certificate("endpoint.example", days=(-9, -1)).write(tmp_path / "tls")
    tls = f"authentication: {{tls: {{certificate: {certificate}, key: {key}}}}}\n"
    file.write_text(f"{file.read_text()}log: {{access: true}}\n{tls}")
    with pytest.raises(SettingsError, match="expired"):
        deploy("here")
    assert supervisor_client.find(deployments.server_folder("here", "127.0.0.1", port)) is None, "nothing was started"
    make_certificate("endpoint.example").write(tmp_path / "tls")
    deploy("here")
    now, place = deployments.running_server("here"), deployments.server_folder("here", "127.0.0.1", port)
    assert now is not None
    assert [one.url for one in endpoints.expected_endpoints("deliveries")] == [f"https://127.0.0.1:{port}"]
    assert [one.answers for one in scrape_all(endpoints.expected_endpoints("deliveries"), "deliveries")] == [True]
    with httpx.Client(base_url=f"https://127.0.0.1:{port}", timeout=60, verify=False) as client:

        def ended() -> bool:
            return bool(client.post("/predict", json={"rows": [ROW]}).headers.get("connection") == "close")

        assert not ended()
        assert client.get("/no%0Awhere").status_code == 404
        (place / "admission" / str(now.server) / LEAVING).touch()
        wait_until(ended, 10, "the end of its connections")
    lines = (place / f"server-{now.server}.log").read_text().splitlines()
    assert any("127.0.0.1 POST '/predict' 200 in " in line for line in lines)
    assert any("127.0.0.1 GET '/no\\nwhere' 404 in " in line for line in lines), "a client cannot write log lines"
    assert not any("c03" in line for line in lines)


def cron_of(schedule: DeploymentSchedule) -> str:
    assert isinstance(schedule.schedule, CronSchedule)
    return schedule.schedule.cron


def test_a_batch_is_scheduled_with_its_version(port: int, trained: Trained, tmp_path: Path) -> None:
    (tmp_path / "nightly.yaml").write_text('environment: nightly\ntarget: batch\nbatch: {cron: "5 4 * * *"}\n')
    assert deploy("nightly").outcome == "deployed"
    with get_client(sync_client=True) as client:
        deployment = client.read_deployment_by_name("score/nightly-deliveries")
        assert deployment.parameters == {"problem": "deliveries", "version": 1, "explain": False}
        assert [cron_of(schedule) for schedule in deployment.schedules] == ["5 4 * * *"]
        client.update_deployment_schedule(deployment.id, deployment.schedules[0].id, active=False)
        assert "still paused in Prefect: its schedule" in deploy("nightly").detail
        (schedule,) = client.read_deployment_by_name("score/nightly-deliveries").schedules
        assert (schedule.active, cron_of(schedule)) == (False, "5 4 * * *")
        assert deploy("nightly", stop=True).outcome == "stopped"
        with pytest.raises(ObjectNotFound):
            client.read_deployment_by_name("score/nightly-deliveries")


def test_container_files_are_kept_and_written(port: int, trained: Trained, tmp_path: Path) -> None:
    config = "environment: cluster\ntarget: container\n"
    (tmp_path / "cluster.yaml").write_text(config)
    with pytest.raises(DeploymentError, match="a container is reachable from other machines"):
        deploy("cluster")
    (tmp_path / "cluster.yaml").write_text(config + "authentication: {kind: keys}\n")
    entry = deploy("cluster")
    place = Path(entry.detail.removeprefix("files are in "))
    assert (place / "bento" / "env" / "docker" / "Dockerfile").read_bytes() == (place / "Dockerfile").read_bytes()
    for name in ("Dockerfile", "compose.yaml", "kubernetes.yaml", "databases.sql"):
        assert open_store().get(f"manifests/cluster/deliveries/1/{name}") == (place / name).read_bytes()
    assert entry.bento.sha256[:12] in (place / "kubernetes.yaml").read_text()
    with pytest.raises(PlatformError, match="does not run on this machine"):
        deploy("cluster", stop=True)


def test_a_bento_whose_bytes_were_changed_is_refused(port: int, trained: Trained) -> None:
    store, key = open_store(), registry.tags(trained.version)["truecourse.bento_key"]
    data = store.get(key)
    store.put(key, data[:-1] + bytes([data[-1] ^ 1]))
    try:
        with pytest.raises(IntegrityError):
            deploy("here")
    finally:
        store.put(key, data)
    assert supervisor_client.find(deployments.server_folder("here", "127.0.0.1", port)) is None


def test_only_one_deploys_at_a_time(port: int, trained: Trained) -> None:
    with deployments.deployment_lock("here"), pytest.raises(PlatformError, match="in progress"):
        deploy("here")


def test_unknown_environments_and_versions_are_errors(port: int, trained: Trained) -> None:
    with pytest.raises(DeploymentError, match="known environments: here"):
        deploy("nowhere")
    with pytest.raises(ModelError, match="no version 7"):
        deploy("here", version=7)


def test_the_inference_configuration_is_kept_with_the_version(port: int, trained: Trained) -> None:
    config = inference_config.load_inference_config(open_store(), trained.version)
    assert config is not None
    assert config.model_sha256 == trained.version.model_sha256 == config.files["model.ubj"]
    assert config.features["courier_late_7d"].source == "view courier_history"
    assert config.features["courier_late_7d"].ttl == 7 * 86400
    assert config.features["hour"].source == "request function"
    assert config.features["distance"].source == "request"
    key = f"inference/deliveries/{trained.version.version}.json"
    before = open_store().get(key)
    open_store().put(key, before.replace(b'"request"', b'"elsewhere"'))
    try:
        with pytest.raises(IntegrityError):
            inference_config.load_inference_config(open_store(), trained.version)
    finally:
        open_store().put(key, before)
