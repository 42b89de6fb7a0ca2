"""The endpoints that should be running for a problem: served by commands on this machine, deployed here, or listed in
the settings."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import ValidationError

from truecourse.addresses import local_url
from truecourse.deployment import deployment_history as deployments
from truecourse.deployment.config_loader import environment_names, load_deployment
from truecourse.errors import DeploymentError, PlatformError
from truecourse.references import StoredRecord
from truecourse.settings import get_settings


class ExpectedEndpoint(StoredRecord):
    """An endpoint that should be running. `name`: its environment, `local` for `truecourse serve` and `up`, or its
    host. `certificate`: the file of its TLS certificate, if we serve it."""

    name: str
    url: str
    problem: str
    certificate: str = ""


@contextmanager
def announce_endpoint(problem: str, url: str) -> Iterator[None]:
    """Register an endpoint as running until the block ends.

    If it is killed or fails (PlatformError), the registration stays, so that monitoring reports it as down."""
    file = _place() / f"{urlsplit(url).port}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    local = ExpectedEndpoint(name="local", url=url, problem=problem, certificate=get_settings().tls_certificate)
    file.write_text(local.model_dump_json())
    stopped = True
    try:
        yield
    except PlatformError:
        stopped = False
        raise
    finally:
        if stopped:
            file.unlink(missing_ok=True)


def expected_endpoints(problem: str) -> list[ExpectedEndpoint]:
    """List the expected endpoints of a problem. Endpoints from the settings are listed for every problem."""
    settings = get_settings()
    elsewhere = [url.strip().rstrip("/") for url in settings.endpoints.split(",") if url.strip()]
    found = [
        *_local(),
        *_deployed(),
        *(ExpectedEndpoint(name=_host(url), url=url, problem=problem) for url in elsewhere),
    ]
    return list({one.url: one for one in found if one.problem == problem}.values())


def _place() -> Path:
    return get_settings().home / "endpoints"


def _local() -> Iterator[ExpectedEndpoint]:
    for file in sorted(_place().glob("*.json")):
        with suppress(OSError, ValidationError):  # stopped meanwhile, or still being written
            yield ExpectedEndpoint.model_validate_json(file.read_bytes())


def _deployed() -> Iterator[ExpectedEndpoint]:
    for environment in environment_names():
        now = deployments.running_server(environment)
        if now is not None:
            certificate = _certificate(environment)
            url = local_url(now.host, now.port, "https" if certificate else "http")
            yield ExpectedEndpoint(name=environment, url=url, problem=now.version.problem, certificate=certificate)


def _certificate(environment: str) -> str:
    try:
        tls = load_deployment(environment).authentication.tls
    except DeploymentError:  # edited since, and now invalid
        return ""
    return tls.certificate if tls else ""


def _host(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.hostname}-{parts.port}" if parts.port else str(parts.hostname)
