"""Register an evaluated model, and promote it if its gates passed."""

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
from truecourse.registry.aliases import CANARY_ROLLBACK, CANARY_STOP, GUARDED, REGISTER
from truecourse.stored_format import FORMER_EVALUATION_TAG
from truecourse.wording import counted

log = logging.getLogger("truecourse.registry.versions")

DONE, EVALUATION_DIGEST = "truecourse.registered", "truecourse.evaluation_digest"


def find_registered(run: TrainedRun) -> ModelVersion | None:
    """The version of this run, or one with the same bytes, snapshot and problem, if it was registered by today's gates.

    Its aliases are then left as they are: only the user changes them."""
    identity, digest = _training_identity(run.problem, run.run_id), evaluation_digest(load_problem(run.problem))
    for version in reversed(registry.versions(run.problem)):
        same = version.run_id == run.run_id or (
            version.model_sha256 == run.model_sha256 and _training_identity(run.problem, version.run_id) == identity
        )
        tags = registry.tags(version) if same else {}
        if DONE in tags and tags.get(EVALUATION_DIGEST, tags.get(FORMER_EVALUATION_TAG)) == digest:
            return version
    return None


def _training_identity(problem: str, run_id: str) -> tuple[str | None, ...]:
    """The digests of a model's snapshot and problem."""
    tags = runs.load_record(problem, run_id).tags
    return tuple(tags.get(f"truecourse.{name}") for name in ("snapshot", "training_digest"))


@task(name="register", **RETRY)
def register_model(run: TrainedRun, report: dict[str, Any]) -> ModelVersion:
    """Register the run as a version and challenger.

    If every gate passed and no approval is required, it becomes champion, or a canary if the problem requires one.
    While another version is a canary, it gets no alias. Raises ModelError if the champion changed since the
    evaluation."""
    version = registry.create_version(run)
    registry.set_gates(version, report["gates"], report.get(SEAL, ""))
    reason, failing = summarize(report["gates"]), not all(gate["passed"] for gate in report["gates"])
    problem = load_problem(run.problem)
    if problem.promotion.approval and not failing:
        reason += ", and `truecourse promote` awaits approval"
    promotable = not failing and not problem.promotion.approval
    now = _update_aliases(problem, version, report["champion"], reason, promotable)
    registry.describe(version, problem.description or problem.name, _description(run, version, reason))
    registry.set_tags(version, {DONE: _role(now, version), EVALUATION_DIGEST: evaluation_digest(problem)})
    log.info("version %d is %s: %s", version.version, _role(now, version), reason)
    return version


def _description(run: TrainedRun, version: ModelVersion, reason: str) -> str:
    rows = f"{counted(run.snapshot.rows, 'row')} of snapshot `{run.snapshot.sha256}`"
    form = runs.load_record(run.problem, run.run_id).tags[runs.FORM]
    again = f"`truecourse reproduce {version.version} --problem {run.problem}`"
    gates = f"Gates when it was registered: {reason}"
    return f"Trained on {rows}. Its form: {form}. {gates}. Model SHA-256 `{run.model_sha256}`; {again}."


def _role(now: Aliases, version: ModelVersion) -> str:
    if now.champion == version:
        return "promoted"
    if now.challenger != version:
        return f"registered, for version {now.challenger.version if now.challenger else None} is a canary"
    return "canary" if aliases.canary_in_progress(now) else "challenger"


def _update_aliases(
    problem: Problem, version: ModelVersion, compared_with: int | None, reason: str, promotable: bool
) -> Aliases:
    """Append the version to the history of the aliases, once; continues an interrupted registration."""
    before = aliases.current(problem.name)
    tried = before.action in (*GUARDED, CANARY_ROLLBACK, CANARY_STOP)
    if before.challenger == version and (tried or (before.champion == version) == promotable):
        registry.mirror_aliases(problem.name)
        return before
    if aliases.canary_in_progress(before):
        return before
    if not promotable:
        changes = {"challenger": version, "shadow": False, "share": 0.0}
        return registry.move_aliases(before, problem.name, REGISTER, reason, **changes)
    _check_compared(version, before.champion, compared_with)
    if starts_as_canary(problem, before, version):
        return start_canary.fn(before, version, reason)
    return registry.promote(before, version, reason, challenger=version)


def _check_compared(version: ModelVersion, champion: ModelVersion | None, compared_with: int | None) -> None:
    """Raise ModelError if the champion is not the version that the gates compared with."""
    if champion is not None and champion.version not in (compared_with, version.version):
        what = f"version {champion.version} became champion after the gates compared with {compared_with or 'none'}"
        hint = f"truecourse run register --problem {version.problem}"
        raise ModelError(what, where=f"model {version.problem}", hint=hint)
