"""What a flow run is called in Prefect's UI."""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Any

from truecourse.settings import get_settings

SHOWN_PARAMETERS = ("version", "environment", "source", "until", "start")
"""Parameters that tell one run of a flow from another."""


def run_name() -> str:
    """For `flow_run_name` of a flow: asked by Prefect when the run starts."""
    from prefect.runtime import flow_run

    return format_run_name(str(flow_run.flow_name), flow_run.parameters or {}, datetime.now(UTC))


def format_run_name(flow: str, parameters: Mapping[str, Any], at: datetime) -> str:
    """`train wine 2024-05-06 07:08 UTC`, and what was asked for beside the problem."""
    problem = parameters.get("problem") or get_settings().problem
    asked = [f"{name} {_short(parameters[name])}" for name in SHOWN_PARAMETERS if parameters.get(name) is not None]
    return ", ".join([f"{flow} {problem} {at:%Y-%m-%d %H:%M} UTC", *asked])


def _short(value: Any) -> str:
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d}"
    return PurePosixPath(value).name[:60] if isinstance(value, str) else str(value)
