"""Judge a version once more, on what is known now, and put it in office past its gates."""

import logging
from typing import Any

from prefect import task
from prefect.artifacts import create_table_artifact
from prefect.context import FlowRunContext

from tasks.artifacts import artifact_key
from tasks.retry import RETRY
from tasks.training.evaluate import open_rival
from truecourse.errors import GateFailed, ModelError
from truecourse.evaluation.evaluate import HeldOut, collect_evidence
from truecourse.evaluation.gates import apply_gates, failed_gates, summarize, unknown_gates
from truecourse.evaluation.paired_comparison import shortage, unseen_rows
from truecourse.modeling.snapshot import load_frame
from truecourse.modeling.training import rows_of
from truecourse.problem import Problem
from truecourse.problem.loader import load_problem
from truecourse.references import Aliases, ModelVersion, Snapshot
from truecourse.registry import aliases
from truecourse.registry import versions as registry
from truecourse.storage.object_store import open_store
from truecourse.wording import counted, counted_of

log = logging.getLogger("truecourse.problem.promotion")


def candidate(problem: str, seen: Aliases, number: int | None) -> ModelVersion:
    """The version to promote: `number`, or the challenger. Raises ModelError if there is none, or it is in office."""
    version = registry.version(problem, number) if number is not None else seen.challenger
    where = f"model {problem}"
    if version is None:
        raise ModelError("there is no challenger", where=where, hint=f"truecourse run register --problem {problem}")
    if version == seen.champion:
        what = f"version {version.version} is champion already"
        raise ModelError(what, where=where, hint="name another: truecourse promote VERSION")
    if (
        version == seen.challenger
        and aliases.canary_in_progress(seen)
        and load_problem(problem).promotion.canary is not None
    ):
        what = f"version {version.version} is on its way: it answers {seen.share:.0%}"
        raise ModelError(what, where=where, hint=f"truecourse run guard --problem {problem}, as requests come")
    return version


@task(name="judge", **RETRY)
def evaluate_version(
    problem: str,
    version: ModelVersion,
    office: ModelVersion | None,
    snapshot: Snapshot,
    accept_unknown: bool = False,
) -> list[dict[str, Any]]:
    """The gates' verdicts on the snapshot's test rows that the version did not learn from; of those, the comparison
    with `office` takes the rows from which that one did not learn either. They are kept with the version.

    Raises ModelError if the version's features cannot be computed any more, or there are too few such rows; with
    `accept_unknown` those of its registration stand where rows are too few."""
    spec = load_problem(problem)
    test = _held_out(spec, version, snapshot)
    if short := shortage(test.rows):
        if accept_unknown and (verdicts := registry.gates(version)):
            return verdicts
        hint = "promote it once more cohorts are closed, let the split keep more rows for testing, or --accept-unknown"
        raise ModelError(short, where=f"version {version.version} of {problem}", hint=hint)
    rival = open_rival(office, spec, version.model_sha256) if office else None
    metrics = test.metrics({"model": test.judged["model"]})
    verdicts = apply_gates(spec.gates, collect_evidence(test, metrics, test.slices(), rival))
    registry.set_gates(version, verdicts)
    if FlowRunContext.get() is not None:
        told = f"Version {version.version}, on {counted(len(test.rows), 'row')} of snapshot {snapshot.sha256[:12]}"
        create_table_artifact(verdicts, key=artifact_key("promotion", problem), description=told)
    return verdicts


def _held_out(problem: Problem, version: ModelVersion, snapshot: Snapshot) -> HeldOut:
    it, frame = open_rival(version, problem), load_frame(open_store(), snapshot)
    rows = unseen_rows(problem, rows_of(frame, "test"), it.frame)
    return HeldOut(problem, it.model, it.frame, rows, it.own)


def require_passed_gates(
    version: ModelVersion, verdicts: list[dict[str, Any]], reason: str, accept_unknown: bool
) -> str:
    """The reason, with what was not judged. Raises GateFailed that carries the verdicts, and names each gate that
    failed, or could not be judged and is not accepted so."""
    failing, unknown = failed_gates(verdicts), unknown_gates(verdicts)
    if not failing and (accept_unknown or not unknown):
        return f"{reason} ({summarize(unknown)})" if unknown else reason
    told = "".join(f"\n  {gate['gate']}: {gate['detail']}" for gate in [*failing, *unknown])
    what = f"{counted_of(len(failing), len(verdicts), 'gate')} failed" if failing else ""
    what += f"{' and ' if failing else ''}{len(unknown)} could not be judged" if unknown else ""
    hint = "train a better one; there is no way around a failed gate but `truecourse rollback`"
    if not failing:
        hint = "give it more labelled rows, or promote it in spite of that: --accept-unknown"
    raise GateFailed(
        f"{what}{told}", where=f"version {version.version} of {version.problem}", hint=hint, gates=verdicts
    )


@task(name="promote", **RETRY)
def make_champion(seen: Aliases, version: ModelVersion, reason: str) -> Aliases:
    """The version is champion. `seen`: the aliases as they were before it was judged.

    Raises ModelError if they have moved since: who won against another champion has proved nothing against this one."""
    now = aliases.current(version.problem)
    if (now.number, now.champion, now.reason) == (seen.number + 1, version, reason):  # tried before, and cut off after
        registry.mirror_aliases(version.problem)
        return now
    entry = registry.promote(seen, version, reason)
    log.info("version %d is champion: %s", version.version, reason)
    return entry
