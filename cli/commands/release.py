"""`release`: free stuck flow runs and their concurrency slots."""

from typing import Annotated, Any

import typer

from cli.platform.flow_deployments import POOL
from cli.terminal.output import Answer, Json, command
from services.process.flow_runs import FlowRuns
from services.process.platform_state import running_platform
from truecourse.errors import PlatformError
from truecourse.settings import prefect_api_url
from truecourse.wording import counted


@command
def release(
    run: Annotated[
        str | None, typer.Argument(help="A flow run's id, or its name; by default every run whose process is dead.")
    ] = None,
    json: Json = False,
) -> Answer:
    """Free a stuck flow run: end its process on this machine, mark it crashed (cancelled, if it had not started), and
    free its concurrency slot. Without a run: every run whose process is dead, and slots that no run holds."""
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
        hint = "start `truecourse up`, which frees dead runs, or set PREFECT_API_URL to your Prefect server"
        raise PlatformError("no Prefect server is running", hint=hint)
    return api
