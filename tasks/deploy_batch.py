"""The target `batch`: the score flow as a Prefect deployment on a schedule, with the version that was deployed."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from services import launch, smoke
from tasks.prefectapi import Api
from truecourse import deployments
from truecourse.deployment import DeploymentConfig
from truecourse.errors import PlatformError
from truecourse.references import ArtifactRef, ModelVersion
from truecourse.settings import child_environment, get_settings

POOL = "truecourse"
"""The work pool of prefect.yaml."""


def schedule(config: DeploymentConfig, version: ModelVersion, bento: ArtifactRef, folder: Path) -> str:
    """Test the Bento's script, and let Prefect run `score` at the configured times. Raises PlatformError if either
    fails; the schedule is then as it was."""
    smoke.examples(folder, launch.environment(folder, get_settings().endpoint_port))
    place = deployments.place(config.environment)
    place.mkdir(parents=True, exist_ok=True)
    file = place / "prefect.yaml"
    file.write_text(yaml.safe_dump(document(config, version), sort_keys=False))
    _require_pool()
    _prefect(file, "deploy", "--all", "--prefect-file", str(file))
    return f"score is scheduled, {config.batch.cron} {config.batch.timezone}"


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


def _require_pool() -> None:
    """The work pool, if it is not there: limits that people gave it stay."""
    from prefect.settings import PREFECT_API_URL

    api = Api(PREFECT_API_URL.value() or "")
    if api.pool(POOL) is None:
        api.create_pool(POOL)


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
