"""Put a judged model into the registry, and past its gates into office."""

import json
import logging
from typing import Any

from prefect import task

from tasks.retry import RETRY
from truecourse import registry
from truecourse.errors import ModelError
from truecourse.references import ModelVersion, TrainedRun

log = logging.getLogger("truecourse.registry")

GATES, DONE = "truecourse.gates", "truecourse.registered"


def registered(run: TrainedRun) -> ModelVersion | None:
    """The run's version, if registering it was finished once: its aliases are then nobody's but the user's to move."""
    for version in reversed(registry.versions(run.problem)):
        if version.run_id == run.run_id and DONE in registry.tags(version):
            return version
    return None


@task(name="register", **RETRY)
def register_model(run: TrainedRun, report: dict[str, Any]) -> ModelVersion:
    """A version of the run, as challenger; as champion too if every gate passed.

    Raises ModelError if another model came into office since the gates compared this one with the champion."""
    version = registry.create_version(run)
    registry.set_tags(version, {GATES: json.dumps(report["gates"])})
    passed = all(gate["passed"] for gate in report["gates"])
    with registry.lock(run.problem):
        registry.move_alias(run.problem, registry.CHALLENGER, version)
        if passed:
            _promote(run, version, report["champion"])
    registry.set_tags(version, {DONE: "promoted" if passed else "challenger"})
    log.info("version %d %s", version.version, "is champion" if passed else "stays challenger: a gate failed")
    return version


def _promote(run: TrainedRun, version: ModelVersion, judged_against: int | None) -> None:
    office = registry.champion(run.problem)
    if office is not None and office.version not in (judged_against, version.version):
        what = f"version {office.version} became champion after the gates compared with {judged_against or 'none'}"
        raise ModelError(what, where=f"model {run.problem}", cure=f"truecourse run register --problem {run.problem}")
    registry.move_alias(run.problem, registry.CHAMPION, version)
