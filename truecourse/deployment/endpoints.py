"""The endpoints that should answer for a problem: those that commands serve on this machine, those that were deployed
here, and those elsewhere that the settings name."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import ValidationError

from truecourse.addresses import local_url
from truecourse.deployment import history as deployments
from truecourse.deployment.loader import environment_names, load_deployment
from truecourse.errors import DeploymentError, PlatformError
from truecourse.references import Reference
from truecourse.settings import get_settings


class ExpectedEndpoint(Reference):
    """`name`: of its environment, `local` for what `truecourse serve` or `up` runs, or its host. `certificate`:
    the file of the one that it shows, where we serve it."""

    name: str
    url: str
    problem: str
    certificate: str = ""


@contextmanager
def announce_endpoint(problem: str, url: str) -> Iterator[None]:
    """Leave word that an endpoint serves until the block ends. One that is killed, or ends by itself (PlatformError),
    leaves it behind, and is missed."""
    file = _place() / f"{urlsplit(url).port}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    local = ExpectedEndpoint(name="local", url=url, problem=problem, certificate=get_settings().tls_certificate)
    file.write_text(local.model_dump_json())
    meant = True
    try:
        yield
    except PlatformError:
        meant = False
        raise
    finally:
        if meant:
            file.unlink(missing_ok=True)


def expected_endpoints(problem: str) -> list[ExpectedEndpoint]:
    """Those of one problem. An endpoint elsewhere counts for every problem: only it knows which it serves."""
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
        with suppress(OSError, ValidationError):  # ended meanwhile, or half-written as it began
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
    except DeploymentError:  # edited since, and wrong now
        return ""
    return tls.certificate if tls else ""


def _host(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.hostname}-{parts.port}" if parts.port else str(parts.hostname)
