"""Put a judged model into the registry, and past its gates into office."""

import json
import logging
from typing import Any

from prefect import task

from tasks.retry import RETRY
from truecourse import aliases, registry
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
    _enter(version, report, passed)
    registry.set_tags(version, {DONE: "promoted" if passed else "challenger"})
    log.info("version %d %s", version.version, "is champion" if passed else "stays challenger: a gate failed")
    return version


def _enter(version: ModelVersion, report: dict[str, Any], passed: bool) -> None:
    """Into the history of the aliases, once: a registration that was cut off is finished where it was."""
    seen = aliases.current(version.problem)
    if seen.challenger == version and (seen.champion == version) == passed:
        return registry.mirror_aliases(version.problem)
    if passed:
        _check_compared(version, seen.champion, report["champion"])
    failed = [gate["gate"] for gate in report["gates"] if not gate["passed"]]
    registry.move_aliases(
        seen,
        version.problem,
        action="promote" if passed else "register",
        reason=f"failed: {', '.join(failed)}" if failed else f"all {len(report['gates'])} gates passed",
        challenger=version,
        champion=version if passed else seen.champion,
        shadow=False,
        share=0.0,
    )
    return None


def _check_compared(version: ModelVersion, office: ModelVersion | None, judged_against: int | None) -> None:
    if office is not None and office.version not in (judged_against, version.version):
        what = f"version {office.version} became champion after the gates compared with {judged_against or 'none'}"
        cure = f"truecourse run register --problem {version.problem}"
        raise ModelError(what, where=f"model {version.problem}", cure=cure)
