"""The target `batch`: the score flow as a Prefect deployment on a schedule, with the version that was deployed."""

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from services.process import launch, smoke_test
from tasks.release.prefect_deployments import Api
from truecourse.deployment import history as deployments
from truecourse.deployment.config import DeploymentConfig
from truecourse.errors import PlatformError
from truecourse.references import ArtifactRef, ModelVersion
from truecourse.settings import child_environment, get_settings

POOL = "truecourse"
"""The work pool of prefect.yaml."""


def schedule(config: DeploymentConfig, version: ModelVersion, bento: ArtifactRef, folder: Path) -> str:
    """Test the Bento's script, and let Prefect run `score` at the configured times. Raises PlatformError if either
    fails; the schedule is then as it was."""
    smoke_test.examples(folder, launch.environment(folder, get_settings().endpoint_port))
    place = deployments.place(config.environment)
    place.mkdir(parents=True, exist_ok=True)
    file = place / "prefect.yaml"
    file.write_text(yaml.safe_dump(document(config, version), sort_keys=False))
    api, title = _api(), f"score/{name(config.environment, version.problem)}"
    if api.pool(POOL) is None:  # limits that people gave it stay
        api.create_pool(POOL)
    before = api.deployments().get(title)
    _prefect(file, "deploy", "--all", "--prefect-file", str(file))
    kept = _keep_stopped(api, title, before) if before else ""
    return f"score is scheduled, {config.batch.cron} {config.batch.timezone}{kept}"


def _keep_stopped(api: Api, title: str, before: Mapping[str, Any]) -> str:
    """What a person stopped in Prefect stays stopped: the deployment, or its schedule; what that is, in words."""
    now = api.deployments()[title]
    active = any(schedule["active"] for schedule in before["schedules"])
    api.stop(now, paused=before["paused"], schedules=not active)
    stopped = [word for word, is_so in (("paused", before["paused"]), ("its schedule is off", not active)) if is_so]
    return f"; in Prefect it is {' and '.join(stopped)}, and stays so" if stopped else ""


def unschedule(environment: str, problem: str) -> None:
    """Raises PlatformError if Prefect has no such deployment."""
    place = deployments.place(environment)
    _prefect(place / "prefect.yaml", "deployment", "delete", f"score/{name(environment, problem)}")
    (place / "prefect.yaml").unlink(missing_ok=True)


def name(environment: str, problem: str) -> str:
    return f"{environment}-{problem}"


def document(config: DeploymentConfig, version: ModelVersion) -> dict[str, Any]:
    """The prefect.yaml of the environment: the parameters are the score flow's."""
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
    """The server that this run reports to."""
    from prefect.settings import PREFECT_API_URL

    return Api(PREFECT_API_URL.value() or "")


def _prefect(file: Path, *words: str) -> None:
    """Prefect's own command, against the server that this run reports to."""
    from prefect.settings import PREFECT_API_URL

    done = subprocess.run(  # noqa: S603
        [sys.executable, "-m", "prefect", "--no-prompt", *words], cwd=file.parent, stdin=subprocess.DEVNULL,
        env=child_environment(PREFECT_API_URL=PREFECT_API_URL.value() or ""), capture_output=True, text=True,
        check=False, start_new_session=True,
    )  # fmt: skip
    if done.returncode:
        said = (done.stdout + done.stderr)[-1500:]
        raise PlatformError(f"`prefect {' '.join(words)}` failed\n{said}", where="Prefect")
