"""Deployment history of an environment in object storage, and its running server on this machine."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from pydantic import ValidationError

from truecourse.addresses import local_url
from truecourse.errors import PlatformError
from truecourse.references import ArtifactRef, Deployment, ModelVersion, StoredRecord
from truecourse.settings import get_settings
from truecourse.storage.ledger import Ledger
from truecourse.storage.object_store import open_store


class RunningServer(StoredRecord):
    """The server of an environment. `server`: its number at the supervisor. `folder`: the unpacked Bento. `since`: in
    UTC."""

    server: int
    version: ModelVersion
    bento: ArtifactRef
    config_sha256: str
    host: str
    port: int
    folder: Path
    since: datetime

    @property
    def url(self) -> str:
        return local_url(self.host, self.port)


def ledger(environment: str, problem: str) -> Ledger[Deployment]:
    return Ledger(open_store(), f"deployments/{environment}/{problem}", Deployment)


def current_deployment(environment: str, problem: str) -> Deployment | None:
    """Return the current deployment: the newest that neither failed nor was interrupted; None if it was stopped."""
    for entry in reversed(ledger(environment, problem).entries()):
        if entry.outcome in ("deployed", "stopped"):
            return entry if entry.outcome == "deployed" else None
    return None


def environment_folder(environment: str) -> Path:
    """Return the folder for the state of an environment on this machine."""
    return get_settings().home / "deployments" / environment


def server_folder(environment: str, host: str, port: int) -> Path:
    """Return the folder of the supervisor that listens on this address, and of its servers."""
    return environment_folder(environment) / f"{host.replace(':', '_')}-{port}"


def running_server(environment: str) -> RunningServer | None:
    """Return the last server deployed on this machine; only its supervisor knows whether it is alive."""
    try:
        return RunningServer.model_validate_json((environment_folder(environment) / "server.json").read_bytes())
    except (OSError, ValidationError):
        return None


def record_running_server(environment: str, now: RunningServer | None) -> None:
    file = environment_folder(environment) / "server.json"
    if now is None:
        file.unlink(missing_ok=True)
        return
    aside = file.with_suffix(".new")
    aside.write_text(now.model_dump_json(indent=1))
    aside.replace(file)


@contextmanager
def deployment_lock(environment: str) -> Iterator[None]:
    """Lock the environment on this machine. Raises PlatformError while another process deploys to it; a dead process
    holds no lock."""
    folder = environment_folder(environment)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            what = "another deployment is in progress"
            raise PlatformError(what, where=f"environment {environment}", hint="wait until it has ended") from None
        yield
