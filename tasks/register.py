"""Put a judged model into the registry, and past its gates into office."""

import logging
from typing import Any

from prefect import task

from tasks.retry import RETRY
from truecourse import aliases, registry
from truecourse.aliases import REGISTER
from truecourse.errors import ModelError
from truecourse.gates import failed
from truecourse.loading import load_problem
from truecourse.references import ModelVersion, TrainedRun

log = logging.getLogger("truecourse.registry")

DONE = "truecourse.registered"


def registered(run: TrainedRun) -> ModelVersion | None:
    """The run's version, if registering it was finished once: its aliases are then nobody's but the user's to move."""
    for version in reversed(registry.versions(run.problem)):
        if version.run_id == run.run_id and DONE in registry.tags(version):
            return version
    return None


@task(name="register", **RETRY)
def register_model(run: TrainedRun, report: dict[str, Any]) -> ModelVersion:
    """A version of the run, as challenger; as champion too if every gate passed and nobody has to approve it.

    Raises ModelError if another model came into office since the gates compared this one with the champion."""
    version = registry.create_version(run)
    registry.set_gates(version, report["gates"])
    failing = [gate["gate"] for gate in failed(report["gates"])]
    reason = f"failed: {', '.join(failing)}" if failing else f"all {len(report['gates'])} gates passed"
    approval = load_problem(run.problem).promotion.approval
    if approval and not failing:
        reason += ", and `truecourse promote` awaits approval"
    promoted = not failing and not approval
    _enter(version, report["champion"], reason, promoted)
    registry.set_tags(version, {DONE: "promoted" if promoted else "challenger"})
    log.info("version %d %s: %s", version.version, "is champion" if promoted else "stays challenger", reason)
    return version


def _enter(version: ModelVersion, judged_against: int | None, reason: str, promoted: bool) -> None:
    """Into the history of the aliases, once: a registration that was cut off is finished where it was."""
    seen = aliases.current(version.problem)
    if seen.challenger == version and (seen.champion == version) == promoted:
        return registry.mirror_aliases(version.problem)
    if not promoted:
        registry.move_aliases(seen, version.problem, REGISTER, reason, challenger=version, shadow=False, share=0.0)
        return None
    _check_compared(version, seen.champion, judged_against)
    registry.promote(seen, version, reason, challenger=version)
    return None


def _check_compared(version: ModelVersion, office: ModelVersion | None, judged_against: int | None) -> None:
    if office is not None and office.version not in (judged_against, version.version):
        what = f"version {office.version} became champion after the gates compared with {judged_against or 'none'}"
        cure = f"truecourse run register --problem {version.problem}"
        raise ModelError(what, where=f"model {version.problem}", cure=cure)
