"""The Prefect server that a command's flows report to: one that is named or running, else one of the command's own."""

import json
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path

from truecourse.errors import PlatformError
from truecourse.processes import Child, free_port, require_writable, start, supervised, terminable
from truecourse.settings import (
    child_environment,
    elsewhere,
    get_settings,
    prefect_api_url,
    prefect_environment,
    prefect_retention,
)


@dataclass(frozen=True)
class Platform:
    """A running `truecourse up`: its process, when that started (pids are used again), and where its servers are."""

    pid: int
    started: float
    prefect: str
    mlflow: str
    control: str
    endpoint: str

    @property
    def alive(self) -> bool:
        import psutil

        try:
            return abs(float(psutil.Process(self.pid).create_time()) - self.started) < 1
        except psutil.NoSuchProcess:
            return False


def platform_file() -> Path:
    return get_settings().home / "up.json"


def running_platform() -> Platform | None:
    """What `truecourse up` left word of, if it still runs."""
    try:
        platform = Platform(**json.loads(platform_file().read_text()))
    except (OSError, ValueError, TypeError):
        return None
    return platform if platform.alive else None


def announce(platform: Platform) -> None:
    platform_file().write_text(json.dumps(asdict(platform)))


def answers(url: str) -> bool:
    """Whether a GET is answered with success."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310
            return bool(answer.status == 200)
    except (urllib.error.URLError, ConnectionError, TimeoutError, ValueError):
        return False


def start_prefect(port: int, *, ui: bool) -> Child:
    """A server with its database in our home; not ready yet."""
    host = get_settings().host
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", host, "--port", str(port)]
    prefect_environment()
    environment = child_environment(
        PREFECT_UI_ENABLED=str(ui).lower(),
        PREFECT_SERVER_UI_API_URL=f"http://{host}:{port}/api",
        PREFECT_API_URL=f"http://{host}:{port}/api",
        PREFECT_SERVER_LOGGING_LEVEL="WARNING",
        **prefect_retention(),
    )
    return start("the Prefect server", command, environment, get_settings().home / "logs" / f"prefect-{port}.log")


@contextmanager
def prefect_api() -> Iterator[str]:
    """The API URL that this process's flows report to, until the block ends. Raises PlatformError if there is none."""
    require_writable(get_settings().home)
    prefect_environment()
    platform = running_platform()
    url = prefect_api_url() or (platform.prefect + "/api" if platform else "")
    if url:
        if not answers(f"{url}/health"):
            cure = "start it, or unset PREFECT_API_URL to have one started for the command"
            raise PlatformError("the Prefect server does not answer", where=url, cure=cure)
        shown = f"{platform.control}/reports" if platform and not get_settings().reports_url else None
        with terminable(), _reporting_to(url), elsewhere(reports_url=shown) if shown else nullcontext():
            yield url
        return
    with supervised() as children:
        port = free_port(get_settings().host)
        children.append(start_prefect(port, ui=False))
        import prefect.main  # noqa: F401  its import takes as long as the server takes to start

        url = f"http://{get_settings().host}:{port}/api"
        children[0].wait_ready(lambda: answers(f"{url}/health"))
        with _reporting_to(url):
            yield url


@contextmanager
def _reporting_to(url: str) -> Iterator[None]:
    from prefect.logging.handlers import APILogHandler
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings({PREFECT_API_URL: url}):
        try:
            yield
        finally:
            APILogHandler().flush()  # or the last lines would look for a server that is gone
