"""Names of flow runs in Prefect's UI."""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Any

from truecourse.settings import get_settings

SHOWN_PARAMETERS = ("version", "environment", "source", "until", "start")
"""Parameters that are shown in the name of a flow run."""


def run_name() -> str:
    """The name of the current flow run; Prefect calls it for `flow_run_name` when the run starts."""
    from prefect.runtime import flow_run

    return format_run_name(str(flow_run.flow_name), flow_run.parameters or {}, datetime.now(UTC))


def format_run_name(flow: str, parameters: Mapping[str, Any], at: datetime) -> str:
    """`train wine 2024-05-06 07:08 UTC`, followed by the parameters in SHOWN_PARAMETERS that are set."""
    problem = parameters.get("area") or parameters.get("problem") or get_settings().problem
    shown = [f"{name} {_short(parameters[name])}" for name in SHOWN_PARAMETERS if parameters.get(name) is not None]
    return ", ".join([f"{flow} {problem} {at:%Y-%m-%d %H:%M} UTC", *shown])


def _short(value: Any) -> str:
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d}"
    return PurePosixPath(value).name[:60] if isinstance(value, str) else str(value)
