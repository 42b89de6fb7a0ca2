"""The Prefect server of a command's flows: the configured or running one, else a temporary one."""

import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from http.client import HTTPException

from cli.platform.server_logs import prefect_logging
from services.process.platform_state import running_platform, serving_since
from tasks.compat import prefect_logging as prefect_log
from tasks.compat import prefect_tables, prefect_unreachable
from truecourse.addresses import bind_address, free_port, local_url, open_url
from truecourse.errors import PlatformError
from truecourse.processes import Child, interrupted_by_signals, require_writable, start, supervised
from truecourse.settings import (
    child_environment,
    get_settings,
    override_settings,
    prefect_api_url,
    prefect_environment,
    prefect_retention,
)

RESTARTS = 120.0
"""Seconds within which `truecourse up` restarts its Prefect server, on a busy machine."""
_WITHOUT_BLOCK_TYPES = {
    "PREFECT_SERVER_REGISTER_BLOCKS_ON_START": "false",
    "PREFECT_SERVER_MEMOIZE_BLOCK_AUTO_REGISTRATION": "false",  # else the next server takes them as registered
}
"""Variables of a temporary server, which registers no block types: only the Prefect UI lists them."""


def answers(url: str, seconds: float = 5) -> bool:
    """Whether a GET returns status 200."""
    try:
        with open_url(urllib.request.Request(url), seconds) as answer:  # noqa: S310
            return bool(answer.status == 200)
    except (OSError, ValueError, HTTPException):
        return False


def start_prefect(port: int, *, ui: bool) -> Child:
    """Start a Prefect server with its database in our home, without waiting for it. `ui`: whether people browse it."""
    host = get_settings().host
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", bind_address(host), "--port", str(port)]
    prefect_environment()
    prefect_tables.create()
    api = f"{local_url(host, port)}/api"
    environment = child_environment(
        PREFECT_UI_ENABLED=str(ui).lower(),
        PREFECT_SERVER_UI_API_URL=api,
        PREFECT_API_URL=api,
        PREFECT_SERVER_LOGGING_LEVEL="WARNING",
        **({} if ui else _WITHOUT_BLOCK_TYPES),
        **prefect_retention(),
        **prefect_logging(),
        # The default keeps leases in memory: after a restart slots stay taken, and runs that renew leases are ended.
        PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE="prefect.server.concurrency.lease_storage.filesystem",
    )
    return start("the Prefect server", command, environment, get_settings().home / "logs" / f"prefect-{port}.log")


@contextmanager
def prefect_api(meanwhile: Callable[[], object]) -> Iterator[str]:
    """Provide the API URL that this process's flows report to. Raises PlatformError if no server answers.

    `meanwhile`: imports what the block needs; it is called while a temporary server starts."""
    require_writable(get_settings().home)
    prefect_environment()
    platform = running_platform()
    url = prefect_api_url() or (platform.prefect + "/api" if platform else "")
    if url:
        require_answer(url)
        shown = f"{platform.control}/reports" if platform and not get_settings().reports_url else None
        with (
            interrupted_by_signals(),
            reporting_to(url),
            override_settings(reports_url=shown) if shown else nullcontext(),
        ):
            yield url
        return
    with supervised() as children:
        port = free_port(get_settings().host)
        children.append(start_prefect(port, ui=False))
        meanwhile()
        url = f"{local_url(get_settings().host, port)}/api"
        children[0].wait_ready(lambda: answers(f"{url}/health"))
        with reporting_to(url):
            yield url


def require_answer(url: str) -> None:
    """Wait for the server: a running `truecourse up` restarts it if it dies.

    Raises PlatformError if it does not answer in time."""
    ours = serving_since(url) is not None
    deadline = time.monotonic() + (RESTARTS if ours else 0)
    waiting = False
    while not answers(f"{url}/health"):
        if time.monotonic() > deadline or (ours and serving_since(url) is None):
            hint = "start it, or unset PREFECT_API_URL: the command then starts one"
            if ours:
                hint = "see `truecourse status`"
            raise PlatformError("the Prefect server does not answer", where=url, hint=hint)
        if ours and not waiting:
            sys.stderr.write("waiting for the Prefect server of `truecourse up`\n")
            waiting = True
        time.sleep(0.5)


@contextmanager
def reporting_to(url: str) -> Iterator[None]:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings({PREFECT_API_URL: url}):
        try:
            yield
        except Exception as error:
            if not prefect_unreachable.is_unreachable(error, url):
                raise
            hint = "run the command again once it is up: every step is safe to repeat"
            raise PlatformError("the Prefect server stopped answering during the run", where=url, hint=hint) from error
        finally:
            prefect_log.flush()  # while the server still runs
