"""The deployment target `process`: blue-green deployment of a server on this machine, without lost requests.

The new server starts beside the old one. Each worker is tested on its own loopback port before the rollout gate opens.
Then both accept from the public socket until the old one has drained. If a step fails, the old server stays.
"""

import shutil
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from services.http.rollout_gate import LEAVING, OPEN
from services.process import endpoint_process, smoke_test, supervisor_client
from services.process.supervisor_client import SupervisorClient
from truecourse.addresses import local_url
from truecourse.deployment import deployment_history as deployments
from truecourse.deployment.config import DeploymentConfig
from truecourse.deployment.config_loader import server_variables
from truecourse.deployment.deployment_history import RunningServer
from truecourse.errors import PlatformError, SettingsError
from truecourse.references import ArtifactRef, ModelVersion
from truecourse.registry import aliases
from truecourse.settings import variable
from truecourse.tls import read_certificate

PERIOD = 0.1
FAILED = "Application startup failed"
"""uvicorn's message of a worker that does not start; BentoML restarts it for ever."""


def swap(config: DeploymentConfig, version: ModelVersion, bento: ArtifactRef, folder: Path) -> RunningServer:
    """Serve the unpacked Bento in the environment.

    Raises PlatformError if it does not start, fails the smoke test or does not answer on the public port, SettingsError
    if its certificate is not usable; the server before it is then untouched."""
    if tls := config.authentication.tls:
        read_certificate(tls.certificate, tls.key)
    before = deployments.running_server(config.environment)
    here = before if before and (before.host, before.port) == (config.host, config.port) else None
    place = deployments.server_folder(config.environment, config.host, config.port)
    place.mkdir(parents=True, exist_ok=True)
    servers = supervisor_client.find(place) or supervisor_client.launch(place, config.host, config.port)
    left = _sweep(servers, here, config)
    number = max([*left, here.server if here else 0]) + 1
    try:
        _start(servers, number, config, version, folder)
        _admit(servers, number, config)
    except BaseException:
        servers.stop(number)
        if not left:
            supervisor_client.shut_down(servers)  # else connections would wait on a socket without a server
        raise
    now = RunningServer(
        server=number, version=version, bento=bento, config_sha256=config.digest, host=config.host, port=config.port,
        folder=folder, since=datetime.now(UTC),
    )  # fmt: skip
    deployments.record_running_server(config.environment, now)
    _retire(config, before, here)
    if config.log.predictions:
        shipper = [sys.executable, "-m", "services.log.shipper", version.problem]
        servers.start_companion(
            shipper, server_environment(config, folder, _gate_folder(place, number)), place / "shipper.log"
        )
    return now


def _retire(config: DeploymentConfig, before: RunningServer | None, here: RunningServer | None) -> None:
    """Let the previous server drain, then stop it; if it listened elsewhere, with its supervisor."""
    if before is None:
        return
    servers = supervisor_client.find(deployments.server_folder(config.environment, before.host, before.port))
    if servers is None or before.server not in servers.servers():
        return
    (_gate_folder(servers.place, before.server) / LEAVING).touch()
    time.sleep(config.timeouts.drain_seconds)
    if here is None:
        supervisor_client.shut_down(servers)
    else:
        servers.stop(before.server)


def stop(environment: str) -> None:
    """Stop the environment's server and supervisor, and any that a killed deployment left at other addresses."""
    for place in deployments.environment_folder(environment).glob("*/"):
        servers = supervisor_client.find(place)
        if servers is not None:
            supervisor_client.shut_down(servers)
    deployments.record_running_server(environment, None)


def _sweep(servers: SupervisorClient, here: RunningServer | None, config: DeploymentConfig) -> list[int]:
    """Stop servers that a killed deployment left, after draining those that were admitted.

    Returns the numbers of the servers that stay."""
    current = here.server if here else None
    leftovers = [_gate_folder(servers.place, number) for number in servers.servers() if number != current]
    admitted = [gate for gate in leftovers if (gate / OPEN).exists()]
    for gate in admitted:
        (gate / LEAVING).touch()
    if admitted:
        time.sleep(config.timeouts.drain_seconds)
    for number in servers.servers():
        if number != current:
            servers.stop(number)
    for folder in servers.place.glob("admission/*"):
        if folder.name != str(current):
            shutil.rmtree(folder)
    return list(servers.servers())


def _gate_folder(place: Path, number: int) -> Path:
    return place / "admission" / str(number)


def _start(
    servers: SupervisorClient, number: int, config: DeploymentConfig, version: ModelVersion, folder: Path
) -> None:
    """Start the server and test each of its workers."""
    gate = _gate_folder(servers.place, number)
    gate.mkdir(parents=True)
    environment = server_environment(config, folder, gate) | _follow_variable(version)
    servers.start(
        number, endpoint_process.command(folder, config.port)[3:], environment, servers.place / f"server-{number}.log"
    )
    tested = smoke_test.examples(folder, environment)
    for port in _ports(servers, number, config):
        smoke_test.test(f"http://127.0.0.1:{port}", version.model_sha256, tested)


def _ports(servers: SupervisorClient, number: int, config: DeploymentConfig) -> list[int]:
    """The loopback port of every worker, once all of them are ready."""
    gate, deadline = _gate_folder(servers.place, number), time.monotonic() + config.timeouts.ready_seconds
    while True:
        ports = [int(file.read_text()) for file in gate.glob("*.port")]
        if len(ports) == config.workers and all(
            endpoint_process.is_ready(port, f"http://127.0.0.1:{port}") for port in ports
        ):
            return ports
        server, late = servers.servers()[number], time.monotonic() > deadline
        if not server["alive"] or FAILED in server["tail"] or late:
            what = f"is not ready after {config.timeouts.ready_seconds:.0f} s" if late else "does not start"
            log = servers.place / f"server-{number}.log"
            raise PlatformError(f"{what}\n{server['tail']}", where="the new server", hint=f"the full log is {log}")
        time.sleep(PERIOD)


def _admit(servers: SupervisorClient, number: int, config: DeploymentConfig) -> None:
    """Open the rollout gate, and wait until the server answers on the public socket."""
    gate = _gate_folder(servers.place, number)
    (gate / OPEN).touch()
    servers.keep(number)
    deadline = time.monotonic() + config.timeouts.ready_seconds
    while list(gate.glob("*.port")):
        if time.monotonic() > deadline:
            raise PlatformError("did not start accepting public connections", where="the new server")
        time.sleep(PERIOD)
    tls = config.authentication.tls
    url = local_url(config.host, config.port, "https" if tls else "http")
    if not endpoint_process.is_ready(config.port, url, tls.certificate if tls else ""):
        raise PlatformError(f"no answer at {url}", where="the new server")


def server_environment(config: DeploymentConfig, folder: Path, gate: Path) -> dict[str, str]:
    """The environment variables of a server. Raises SettingsError that names every secret whose variable is not set."""
    home = gate / "bentoml"
    (home / "tmp").mkdir(parents=True, exist_ok=True)
    return endpoint_process.environment(folder, config.port) | {
        **server_variables(config),
        **_secrets(config),
        "TRUECOURSE_ADMISSION": str(gate),
        "BENTOML_HOME": str(home),  # servers that share one delete each other's metrics
        "TMPDIR": str(home / "tmp"),
    }


def _follow_variable(version: ModelVersion) -> dict[str, str]:
    """A server of the champion follows the aliases; one of another version serves only that version."""
    return {"TRUECOURSE_FOLLOW": str(aliases.current(version.problem).champion == version).lower()}


def _secrets(config: DeploymentConfig) -> dict[str, str]:
    values = {setting: variable(name) for setting, name in config.secrets.items()}
    absent = sorted(config.secrets[setting] for setting, value in values.items() if value is None)
    if absent:
        hint = "set them where the deploy flow runs"
        raise SettingsError(f"not set: {', '.join(absent)}", where=f"environment {config.environment}", hint=hint)
    return {f"TRUECOURSE_{setting.upper()}": value for setting, value in values.items() if value is not None}
