"""Compare two environments: their deployment configurations, and what is deployed."""

from typing import Any

from truecourse.deployment.config_loader import load_deployment
from truecourse.deployment.deployment_history import current_deployment
from truecourse.lineage.snapshot_diff import changed_fields


def diff_environments(problem: str, one: str, other: str) -> dict[str, Any]:
    """Compare two environments: {"kind": "environment", "from", "to", "fields"}.

    `from`, `to`: the environment, with the version of `problem` that is deployed there, or None. `fields`: the fields
    of the configurations that differ. Raises DeploymentError for an unknown or invalid configuration."""
    configurations = [load_deployment(name).model_dump(mode="json") for name in (one, other)]
    return {
        "kind": "environment",
        "from": _deployed(problem, one),
        "to": _deployed(problem, other),
        "fields": changed_fields(*configurations),
    }


def _deployed(problem: str, environment: str) -> dict[str, Any]:
    entry = current_deployment(environment, problem)
    if entry is None:
        return {"environment": environment, "version": None, "at": None, "author": None}
    at = f"{entry.at:%Y-%m-%d %H:%M} UTC"
    return {"environment": environment, "version": entry.version.version, "at": at, "author": entry.author}
