"""`release`: free flow runs that are stuck, and what they hold."""

from typing import Annotated, Any

import typer

from cli.platform.flow_deployments import POOL
from cli.terminal.output import Answer, Json, command
from services.process.flow_runs import FlowRuns
from services.process.platform import running_platform
from truecourse.errors import PlatformError
from truecourse.settings import prefect_api_url
from truecourse.wording import counted


@command
def release(
    run: Annotated[
        str | None, typer.Argument(help="A flow run's id, or its name; every run whose process is dead if empty.")
    ] = None,
    json: Json = False,
) -> Answer:
    """Free a flow run that is stuck: its process on this machine is ended, it is marked crashed (cancelled, if it had
    not begun), and its concurrency slot is free. Without a run: all whose process is dead, and slots nobody holds."""
    runs = FlowRuns(_api())
    if run is not None:
        found = runs.find(run)
        done = runs.release(found)
        return Answer({"run": found["id"], "name": found["name"], "done": done}, f"{found['name']}: {done}")
    freed = runs.reconcile(POOL)
    names = [{"run": one["id"], "name": one["name"], "was": one["state_name"]} for one in freed.runs]
    document: dict[str, Any] = {"released": names, "slots": freed.slots}
    lines = [f"{one['name']}: its process is dead; it is marked, and its slot is free" for one in names]
    lines.append(f"{counted(freed.slots, 'slot')} that no run held {'was' if freed.slots == 1 else 'were'} freed")
    return Answer(document, "\n".join(lines))


def _api() -> str:
    platform = running_platform()
    api = prefect_api_url() or (f"{platform.prefect}/api" if platform else "")
    if not api:
        hint = "start `truecourse up`, which frees what is dead, or name your Prefect server in PREFECT_API_URL"
        raise PlatformError("no Prefect server is running", hint=hint)
    return api
