"""Deploy a packaged model version: verify its Bento, start it in the environment, and record the deployment."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from prefect import task

from services.process import blue_green, endpoint_process
from tasks.open_problem import open_problem
from tasks.release.deploy_batch import schedule, unschedule
from tasks.release.deploy_container import write_manifests
from tasks.release.package import find_version
from truecourse.deployment import deployment_history as deployments
from truecourse.deployment.bento import load_package
from truecourse.deployment.config import DeploymentConfig
from truecourse.deployment.config_loader import load_deployment
from truecourse.errors import ModelError, PlatformError, TruecourseError
from truecourse.references import ArtifactRef, Deployment, ModelVersion
from truecourse.registry import aliases
from truecourse.registry import versions as registry
from truecourse.storage.object_store import open_store
from truecourse.storage.redactions import get_artifact

log = logging.getLogger("truecourse.deploy")
Target = Callable[[DeploymentConfig, ModelVersion, ArtifactRef, Path], str]
"""Deploys an unpacked Bento; returns a short description of the result."""


@task(name="deploy")
def deploy_version(environment: str, problem: str | None, number: int | None, reason: str) -> Deployment:
    """Deploy a version, by default the champion, and record the deployment.

    Raises IntegrityError for a Bento whose bytes were changed, and what the target raises. The previous version then
    stays deployed, and the record has the reason."""
    config = load_deployment(environment)
    name = open_problem(problem or config.problem).name
    version = find_version(name, number)
    bento = _verify_bento(version)
    with deployments.deployment_lock(environment):
        started = _record_start(config, version, bento, reason)
        try:
            folder = endpoint_process.prepare(name, version.version)
            detail = TARGETS[config.target](config, version, bento, folder)
        except BaseException as error:
            what = error.what if isinstance(error, TruecourseError) else f"{type(error).__name__}: {error}"
            _record_end(started, "rolled back", what.splitlines()[0])
            raise
        entry = _record_end(started, "deployed", detail)
    split_traffic(config, name)
    log.info("version %d of %s in %s: %s", version.version, name, environment, detail)
    return entry


@task(name="stop deployment")
def stop_deployment(environment: str, problem: str | None, reason: str) -> Deployment:
    """Stop the deployment in an environment. Raises PlatformError if there is none, or if it runs elsewhere."""
    config = load_deployment(environment)
    name = open_problem(problem or config.problem).name
    newest = deployments.current_deployment(environment, name)
    if newest is None or newest.target == "container":
        what = "nothing is deployed" if newest is None else "it does not run on this machine"
        raise PlatformError(what, where=f"{name} in {environment}", hint="see `truecourse status`")
    with deployments.deployment_lock(environment):
        if newest.target == "process":
            _stop_server(environment, name)
        else:
            unschedule(environment, name)
        entry = newest.model_copy(update={"number": _next_number(environment, name)})
        return _append_entry(entry, "stop", reason, "stopped", "")


def _stop_server(environment: str, problem: str) -> None:
    now = deployments.running_server(environment)
    if now is not None and now.version.problem != problem:
        what = f"its server runs {now.version.problem} now"
        raise PlatformError(what, where=f"{problem} in {environment}", hint="stop the deployment of that problem")
    blue_green.stop(environment)


def _verify_bento(version: ModelVersion) -> ArtifactRef:
    package = load_package(version.problem, version.version)
    if package is None:
        hint = f"truecourse run package --problem {version.problem} --version {version.version}"
        raise ModelError(f"version {version.version} was never packaged", where=version.problem, hint=hint)
    get_artifact(open_store(), package.bento)
    return package.bento


def _next_number(environment: str, problem: str) -> int:
    newest = deployments.ledger(environment, problem).newest()
    return newest.number + 1 if newest else 1


def _record_start(config: DeploymentConfig, version: ModelVersion, bento: ArtifactRef, reason: str) -> Deployment:
    """Append the first of a deployment's two entries; one without a second entry was interrupted."""
    before = deployments.current_deployment(config.environment, version.problem)
    entry = Deployment(
        number=_next_number(config.environment, version.problem), action="deploy", reason=reason, **aliases.signature(),
        environment=config.environment, target=config.target, version=version, bento=bento,
        config_sha256=config.digest, previous=before.version if before else None, outcome="began",
    )  # fmt: skip
    return deployments.ledger(config.environment, version.problem).append(entry)


def _record_end(started: Deployment, outcome: str, detail: str) -> Deployment:
    entry = started.model_copy(update={"number": started.number + 1})
    return _append_entry(entry, "deploy", started.reason, outcome, detail)


def _append_entry(base: Deployment, action: str, reason: str, outcome: str, detail: str) -> Deployment:
    changes: dict[str, Any] = {"action": action, "reason": reason, "outcome": outcome, "detail": detail}
    entry = Deployment.model_validate(dict(base) | changes | aliases.signature())
    return deployments.ledger(entry.environment, entry.version.problem).append(entry)


def split_traffic(config: DeploymentConfig, problem: str) -> None:
    """Apply the configured traffic weight and shadow mode to the challenger, if they differ from the current ones.

    A canary in progress is not changed: only `guard` does that. A canary that was rolled back or stopped by hand gets
    no traffic."""
    entries, configured = aliases.history(problem), config.traffic
    if configured is None or not entries or entries[-1].challenger is None or aliases.canary_in_progress(entries[-1]):
        return
    now, share = entries[-1], configured.share
    if share and (ended := aliases.ended_canary(entries)):
        how = "stopped by hand" if ended.action == aliases.CANARY_STOP else "rolled back"
        log.warning("version %d gets no traffic: it was %s, %s", entries[-1].challenger.version, how, ended.reason)
        share = 0.0
    if (now.shadow, now.share) != (configured.shadow, share):
        reason = f"deployment to {config.environment}"
        registry.move_aliases(now, problem, "split", reason, shadow=configured.shadow, share=share)


def _serve(config: DeploymentConfig, version: ModelVersion, bento: ArtifactRef, folder: Path) -> str:
    return f"serves at {blue_green.swap(config, version, bento, folder).url}"


TARGETS: dict[str, Target] = {"process": _serve, "batch": schedule, "container": write_manifests}
