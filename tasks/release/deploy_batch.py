"""The target `batch`: a scheduled Prefect deployment of the score flow with the deployed version."""

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from services.process import endpoint_process, smoke_test
from tasks.release.prefect_deployments import Api
from truecourse.deployment import deployment_history as deployments
from truecourse.deployment.config import DeploymentConfig
from truecourse.errors import PlatformError
from truecourse.references import ArtifactRef, ModelVersion
from truecourse.settings import child_environment, get_settings

POOL = "truecourse"
"""The work pool of prefect.yaml."""


def schedule(config: DeploymentConfig, version: ModelVersion, bento: ArtifactRef, folder: Path) -> str:
    """Test the Bento's scoring script, and schedule `score` in Prefect at the configured times.

    Raises PlatformError if either fails; the schedule is not changed then."""
    smoke_test.examples(folder, endpoint_process.environment(folder, get_settings().endpoint_port))
    place = deployments.environment_folder(config.environment)
    place.mkdir(parents=True, exist_ok=True)
    file = place / "prefect.yaml"
    file.write_text(yaml.safe_dump(document(config, version), sort_keys=False))
    api, title = _api(), f"score/{name(config.environment, version.problem)}"
    if api.pool(POOL) is None:  # an existing pool keeps its limits
        api.create_pool(POOL)
    before = api.deployments().get(title)
    _prefect(file, "deploy", "--all", "--prefect-file", str(file))
    note = _keep_stopped(api, title, before) if before else ""
    return f"score is scheduled, {config.batch.cron} {config.batch.timezone}{note}"


def _keep_stopped(api: Api, title: str, before: Mapping[str, Any]) -> str:
    """Keep a deployment, or its schedule, stopped if a person stopped it in Prefect; returns a note for the user."""
    now = api.deployments()[title]
    active = any(schedule["active"] for schedule in before["schedules"])
    api.stop(now, paused=before["paused"], schedules=not active)
    stopped = [part for part, is_off in (("the deployment", before["paused"]), ("its schedule", not active)) if is_off]
    return f"; still paused in Prefect: {' and '.join(stopped)}" if stopped else ""


def unschedule(environment: str, problem: str) -> None:
    """Delete the environment's Prefect deployment. Raises PlatformError if Prefect has no such deployment."""
    place = deployments.environment_folder(environment)
    _prefect(place / "prefect.yaml", "deployment", "delete", f"score/{name(environment, problem)}")
    (place / "prefect.yaml").unlink(missing_ok=True)


def name(environment: str, problem: str) -> str:
    return f"{environment}-{problem}"


def document(config: DeploymentConfig, version: ModelVersion) -> dict[str, Any]:
    """The content of the environment's prefect.yaml: a deployment of the score flow."""
    parameters = {"problem": version.problem, "version": version.version, "explain": config.batch.explain}
    deployment = {
        "name": name(config.environment, version.problem),
        "description": config.description,
        "entrypoint": "flows.score.score",
        "parameters": parameters,
        "work_pool": {"name": POOL},
        "schedules": [{"cron": config.batch.cron, "timezone": config.batch.timezone, "slug": config.environment}],
    }
    return {"name": "truecourse", "pull": [], "deployments": [deployment]}


def _api() -> Api:
    """The API of this flow run's Prefect server."""
    from prefect.settings import PREFECT_API_URL

    return Api(PREFECT_API_URL.value() or "")


def _prefect(file: Path, *arguments: str) -> None:
    """Run the `prefect` command against this flow run's server. Raises PlatformError if it fails."""
    from prefect.settings import PREFECT_API_URL

    process = subprocess.run(  # noqa: S603
        [sys.executable, "-m", "prefect", "--no-prompt", *arguments], cwd=file.parent, stdin=subprocess.DEVNULL,
        env=child_environment(PREFECT_API_URL=PREFECT_API_URL.value() or ""), capture_output=True, text=True,
        check=False, start_new_session=True,
    )  # fmt: skip
    if process.returncode:
        output = (process.stdout + process.stderr)[-1500:]
        raise PlatformError(f"`prefect {' '.join(arguments)}` failed\n{output}", where="Prefect")
