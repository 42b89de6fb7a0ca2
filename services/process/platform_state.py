"""The platform that `truecourse up` runs: its addresses, and the state of its parts, from the file up.json."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from services.process import flow_runs
from truecourse import processes
from truecourse.errors import PlatformError
from truecourse.monitoring.findings import Finding
from truecourse.monitoring.health import stuck_runs as stuckruns
from truecourse.monitoring.health.freshness import pipeline_finding
from truecourse.settings import get_settings
from truecourse.stored_format import field_of
from truecourse.wording import counted, format_duration

Document = dict[str, Any]


@dataclass(frozen=True)
class Platform:
    """A platform process with its start time (pids are reused), server URLs and the state of each part.

    `began`: when the platform started (UTC, ISO 8601)."""

    pid: int
    started: str
    prefect: str
    mlflow: str
    control: str
    endpoint: str
    began: str = ""
    parts: list[Document] = field(default_factory=list)

    @property
    def alive(self) -> bool:
        return processes.started_at(self.pid) == self.started

    def is_up(self, part: str) -> bool:
        return any(one["part"] == part and one["standing"] == "up" for one in self.parts)


def platform_file() -> Path:
    return get_settings().home / "up.json"


def last_platform() -> Platform | None:
    """The last platform of this home, whether it still runs or was killed."""
    try:
        return Platform(**json.loads(platform_file().read_text()))
    except (OSError, ValueError, TypeError):
        return None


def running_platform() -> Platform | None:
    """The platform of this home, if it runs."""
    platform = last_platform()
    return platform if platform is not None and platform.alive else None


def serving_since(api: str) -> datetime | None:
    """Start time of the platform whose Prefect server has this API URL; None for any other server."""
    platform = running_platform()
    ours = platform is not None and platform.began and api.rstrip("/") == f"{platform.prefect}/api"
    return datetime.fromisoformat(platform.began) if platform is not None and ours else None


def write_platform(platform: Platform) -> None:
    aside = platform_file().with_suffix(".new")
    aside.write_text(json.dumps(asdict(platform)))
    aside.replace(platform_file())


def state() -> Document | None:
    """The state for `status` and the control page: each part, leftovers of a killed platform, and stuck runs.

    None if no platform runs or was killed."""
    platform = last_platform()
    if platform is None:
        return None
    document: Document = {"prefect": platform.prefect, "mlflow": platform.mlflow, "alive": platform.alive}
    if not platform.alive:
        left = sorted({one.name for one in processes.leftovers(get_settings().home)})
        return {**document, "left": left, "parts": [], "stuck": [], "stuck_unknown": ""}
    stuck, unknown = stuck_runs(f"{platform.prefect}/api")
    return {**document, "parts": platform.parts, "stuck": stuck, "stuck_unknown": unknown}


def stuck_runs(api: str) -> tuple[list[Document], str]:
    """The stuck runs, and why they are unknown, empty if they are known."""
    try:
        return [one.document() for one in flow_runs.FlowRuns(api).stuck(datetime.now(UTC))], ""
    except PlatformError as error:
        return [], error.what


def findings(now: datetime, api: str) -> list[Finding]:
    """Findings about parts of the running platform that are down, and about stuck runs of the server `api`.

    Raises PlatformError if the server does not answer."""
    platform = running_platform()
    down = [_finding(part, now) for part in (platform.parts if platform else []) if part["standing"] in _FAULTS]
    return down + (stuckruns.findings(flow_runs.FlowRuns(api).stuck(now)) if api else [])


_FAULTS = {"down": "is down", "silent": "does not answer"}


def _finding(part: Document, now: datetime) -> Finding:
    figures = {name: part[name] for name in ("since", "restarts", "log")} | {
        "last_line": field_of(part, "last_line", "")
    }
    return pipeline_finding(f"platform {part['part']}", part["standing"], True, sentence(part, now), **figures)


def sentence(part: Document, now: datetime) -> str:
    """A sentence about one part: state, duration, restarts, and its last log line."""
    name, standing = part["part"], part["standing"]
    lasted = format_duration(now - datetime.fromisoformat(part["since"]))
    restarts = f", restarted {counted(part['restarts'], 'time')}" if part["restarts"] else ""
    if standing in _FAULTS:
        line = field_of(part, "last_line", "")
        last = f'; last log line: "{line}"' if line else ""
        return f"{name} {_FAULTS[standing]} for {lasted}: {part['cause']}{restarts}{last}."
    why = f": {part['cause']}" if part["cause"] else ""
    return f"{name} is {standing} for {lasted}{restarts}{why}."


def sentences(parts: Iterable[Document], now: datetime) -> list[str]:
    return [sentence(part, now) for part in parts]
