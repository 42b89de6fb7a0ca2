"""`schedules show` and `schedules reset`: deployments in Prefect compared with prefect.yaml."""

from typing import Annotated

import typer
from rich.text import Text

from cli.platform import flow_deployments
from cli.terminal.output import Answer, Json, command_without_storage
from services.process.platform_state import running_platform
from tasks.release.prefect_deployments import Api
from truecourse.errors import PlatformError, SettingsError
from truecourse.settings import prefect_api_url
from truecourse.wording import counted, nearest

_SECONDS = 5.0
"""Seconds that `status` waits for the Prefect server."""


@command_without_storage
def show(json: Json = False) -> Answer:
    """Show settings in Prefect that differ from prefect.yaml."""
    found = flow_deployments.differences(_api())
    return Answer({"differences": found}, Text("\n".join(found) or "Prefect matches prefect.yaml"))


@command_without_storage
def reset(
    flows: Annotated[list[str] | None, typer.Argument(metavar="[FLOW]...", help="All flows if empty.")] = None,
    json: Json = False,
) -> Answer:
    """Apply prefect.yaml to the deployments in Prefect, over changes that people made there."""
    known = sorted({one.flow for one in flow_deployments.load_declared()})
    for name in flows or ():
        if name not in known:
            raise SettingsError(f"no such flow {name!r}", where="prefect.yaml", hint=nearest(name, known))
    done = list(flow_deployments.reset(_api(), flows or ()))
    return Answer({"reset": done}, Text(f"{counted(len(done), 'deployment')} reset to prefect.yaml"))


def _url() -> str:
    platform = running_platform()
    return prefect_api_url() or (f"{platform.prefect}/api" if platform else "")


def _api() -> Api:
    if not _url():
        hint = "start `truecourse up`, or set PREFECT_API_URL to your Prefect server"
        raise PlatformError("no Prefect server is running", where="schedules", hint=hint)
    return Api(_url())


def schedule_differences() -> list[str]:
    """The differences for `status`, or why they are unknown; empty if no Prefect server is running."""
    if not _url():
        return []
    try:
        return flow_deployments.differences(Api(_url(), _SECONDS))
    except PlatformError as error:
        return [f"Prefect: {error.what}; its schedules are unknown"]
