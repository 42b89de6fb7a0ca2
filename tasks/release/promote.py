"""Evaluate a version on the data known now, and promote it if its gates pass."""

import logging
from typing import Any

from prefect import task
from prefect.artifacts import create_table_artifact
from prefect.context import FlowRunContext

from tasks.artifacts import artifact_key
from tasks.retry import RETRY
from tasks.training.evaluate_model import open_rival
from truecourse.errors import GateFailed, ModelError
from truecourse.evaluation.gates import apply_gates, failed_gates, summarize, unknown_gates
from truecourse.evaluation.model_evaluation import HeldOut, collect_evidence
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


def candidate(problem: str, before: Aliases, number: int | None) -> ModelVersion:
    """The version to promote: `number`, or the challenger.

    Raises ModelError if there is none, or if it is champion or a canary already."""
    version = registry.version(problem, number) if number is not None else before.challenger
    where = f"model {problem}"
    if version is None:
        raise ModelError("there is no challenger", where=where, hint=f"truecourse run register --problem {problem}")
    if version == before.champion:
        what = f"version {version.version} is already champion"
        raise ModelError(what, where=where, hint="name another version: truecourse promote VERSION")
    if (
        version == before.challenger
        and aliases.canary_in_progress(before)
        and load_problem(problem).promotion.canary is not None
    ):
        what = f"version {version.version} is a canary already, with {before.share:.0%} of the traffic"
        raise ModelError(
            what, where=where, hint=f"truecourse run guard --problem {problem}, once it has served requests"
        )
    return version


@task(name="evaluate version", **RETRY)
def evaluate_version(
    problem: str,
    version: ModelVersion,
    champion: ModelVersion | None,
    snapshot: Snapshot,
    accept_unknown: bool = False,
) -> list[dict[str, Any]]:
    """Evaluate the gates on the snapshot's test rows that the version was not trained on; store and return the results.

    The comparison with `champion` uses the rows that neither was trained on. Raises ModelError if the version's
    features cannot be computed any more, or if there are too few such rows. With `accept_unknown` and
    too few rows, the results of its registration are returned."""
    spec = load_problem(problem)
    test = _held_out(spec, version, snapshot)
    if short := shortage(test.rows):
        if accept_unknown and (results := registry.gates(version)):
            return results
        hint = "promote it once more cohorts are closed, let the split keep more rows for testing, or --accept-unknown"
        raise ModelError(short, where=f"version {version.version} of {problem}", hint=hint)
    rival = open_rival(champion, spec, version.model_sha256) if champion else None
    metrics = test.metrics({"model": test.core_predictions["model"]})
    results = apply_gates(spec.gates, collect_evidence(test, metrics, test.slices(), rival))
    registry.set_gates(version, results)
    if FlowRunContext.get() is not None:
        title = f"Version {version.version}, on {counted(len(test.rows), 'row')} of snapshot {snapshot.sha256[:12]}"
        create_table_artifact(results, key=artifact_key("promotion", problem), description=title)
    return results


def _held_out(problem: Problem, version: ModelVersion, snapshot: Snapshot) -> HeldOut:
    it, frame = open_rival(version, problem), load_frame(open_store(), snapshot)
    rows = unseen_rows(problem, rows_of(frame, "test"), it.frame)
    return HeldOut(problem, it.model, it.frame, rows, it.lookup)


def require_passed_gates(
    version: ModelVersion, results: list[dict[str, Any]], reason: str, accept_unknown: bool
) -> str:
    """Require that no gate failed; returns the reason with the gates that could not be evaluated.

    Raises GateFailed, with the results, if a gate failed, or if one could not be evaluated and `accept_unknown` is
    False."""
    failing, unknown = failed_gates(results), unknown_gates(results)
    if not failing and (accept_unknown or not unknown):
        return f"{reason} ({summarize(unknown)})" if unknown else reason
    details = "".join(f"\n  {gate['gate']}: {gate['detail']}" for gate in [*failing, *unknown])
    what = f"{counted_of(len(failing), len(results), 'gate')} failed" if failing else ""
    what += f"{' and ' if failing else ''}{len(unknown)} could not be evaluated" if unknown else ""
    hint = "train a better model; a failed gate cannot be skipped, except with `truecourse rollback`"
    if not failing:
        hint = "add labelled rows, or promote it anyway with --accept-unknown"
    raise GateFailed(
        f"{what}{details}", where=f"version {version.version} of {version.problem}", hint=hint, gates=results
    )


@task(name="promote", **RETRY)
def make_champion(before: Aliases, version: ModelVersion, reason: str) -> Aliases:
    """Promote the version to champion. `before`: the aliases from before its evaluation.

    Raises ModelError if they changed since: the evaluation compared the version with another champion then."""
    now = aliases.current(version.problem)
    if (now.number, now.champion, now.reason) == (before.number + 1, version, reason):
        # an earlier attempt was interrupted here
        registry.mirror_aliases(version.problem)
        return now
    entry = registry.promote(before, version, reason)
    log.info("version %d is champion: %s", version.version, reason)
    return entry
