"""Put a judged model into the registry, and past its gates into office."""

import logging
from typing import Any

from prefect import task

from tasks.release.start_canary import start_canary, starts_as_canary
from tasks.retry import RETRY
from truecourse.errors import ModelError
from truecourse.evaluation.gates import summarize
from truecourse.hashing import SEAL
from truecourse.problem import Problem
from truecourse.problem.loader import evaluation_digest, load_problem
from truecourse.references import Aliases, ModelVersion, TrainedRun
from truecourse.registry import aliases, runs
from truecourse.registry import versions as registry
from truecourse.registry.aliases import GUARDED, REGISTER, WITHDRAW
from truecourse.wording import counted

log = logging.getLogger("truecourse.registry.versions")

DONE, JUDGED_BY = "truecourse.registered", "truecourse.judged_by"


def find_registered(run: TrainedRun) -> ModelVersion | None:
    """The run's version, or one of the same bytes, snapshot and problem, if registering it by today's gates was
    finished once: its aliases are then nobody's but the user's to move."""
    told, judging = _training_identity(run.problem, run.run_id), evaluation_digest(load_problem(run.problem))
    for version in reversed(registry.versions(run.problem)):
        same = version.run_id == run.run_id or (
            version.model_sha256 == run.model_sha256 and _training_identity(run.problem, version.run_id) == told
        )
        tags = registry.tags(version) if same else {}
        if DONE in tags and tags.get(JUDGED_BY) == judging:
            return version
    return None


def _training_identity(problem: str, run_id: str) -> tuple[str | None, ...]:
    """What a model was trained on, and the problem it was trained for."""
    tags = runs.load_record(problem, run_id).tags
    return tuple(tags.get(f"truecourse.{name}") for name in ("snapshot", "training_digest"))


@task(name="register", **RETRY)
def register_model(run: TrainedRun, report: dict[str, Any]) -> ModelVersion:
    """A version of the run, as challenger; as champion too if every gate passed and nobody has to approve it, or as a
    canary where the problem asks for that. While another is one, it stays out of the aliases.

    Raises ModelError if another model came into office since the gates compared this one with the champion."""
    version = registry.create_version(run)
    registry.set_gates(version, report["gates"], report.get(SEAL, ""))
    reason, failing = summarize(report["gates"]), not all(gate["passed"] for gate in report["gates"])
    problem = load_problem(run.problem)
    if problem.promotion.approval and not failing:
        reason += ", and `truecourse promote` awaits approval"
    fit = not failing and not problem.promotion.approval
    now = _update_aliases(problem, version, report["champion"], reason, fit)
    registry.describe(version, problem.description or problem.name, _description(run, version, reason))
    registry.set_tags(version, {DONE: _role(now, version), JUDGED_BY: evaluation_digest(problem)})
    log.info("version %d is %s: %s", version.version, _role(now, version), reason)
    return version


def _description(run: TrainedRun, version: ModelVersion, reason: str) -> str:
    rows = f"{counted(run.snapshot.rows, 'row')} of snapshot `{run.snapshot.sha256}`"
    form = runs.load_record(run.problem, run.run_id).tags[runs.FORM]
    again = f"`truecourse reproduce {version.version} --problem {run.problem}`"
    judged = f"Gates when it was registered: {reason}"
    return f"Trained on {rows}. Its form: {form}. {judged}. Model SHA-256 `{run.model_sha256}`; {again}."


def _role(now: Aliases, version: ModelVersion) -> str:
    if now.champion == version:
        return "promoted"
    if now.challenger != version:
        return f"registered, for version {now.challenger.version if now.challenger else None} is a canary"
    return "canary" if aliases.canary_in_progress(now) else "challenger"


def _update_aliases(
    problem: Problem, version: ModelVersion, judged_against: int | None, reason: str, fit: bool
) -> Aliases:
    """Into the history of the aliases, once: a registration that was cut off is finished where it was."""
    seen = aliases.current(problem.name)
    tried = seen.action in (*GUARDED, WITHDRAW)
    if seen.challenger == version and (tried or (seen.champion == version) == fit):
        registry.mirror_aliases(problem.name)
        return seen
    if aliases.canary_in_progress(seen):
        return seen
    if not fit:
        changes = {"challenger": version, "shadow": False, "share": 0.0}
        return registry.move_aliases(seen, problem.name, REGISTER, reason, **changes)
    _check_compared(version, seen.champion, judged_against)
    if starts_as_canary(problem, seen, version):
        return start_canary.fn(seen, version, reason)
    return registry.promote(seen, version, reason, challenger=version)


def _check_compared(version: ModelVersion, office: ModelVersion | None, judged_against: int | None) -> None:
    if office is not None and office.version not in (judged_against, version.version):
        what = f"version {office.version} became champion after the gates compared with {judged_against or 'none'}"
        hint = f"truecourse run register --problem {version.problem}"
        raise ModelError(what, where=f"model {version.problem}", hint=hint)
