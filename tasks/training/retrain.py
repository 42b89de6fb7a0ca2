"""A retraining, from its claim in the record of findings to what came of it."""

import logging
from datetime import UTC, datetime

from prefect import task

from tasks.retry import RETRY
from truecourse import registry
from truecourse.loading import load_problem
from truecourse.monitoring import attempts
from truecourse.monitoring.record import Attempt, Decision
from truecourse.references import ModelVersion
from truecourse.storage import open_store

log = logging.getLogger("truecourse.retraining")


@task(name="begin retraining", **RETRY)
def begin_retraining(problem: str, reason: str = "") -> Attempt | Decision:
    """Claim the retraining that open findings, or a person's `reason`, make due; else why there is none."""
    begun = attempts.begin(open_store(), load_problem(problem), datetime.now(UTC), reason)
    if isinstance(begun, Decision):
        log.warning("no retraining: %s", begun.because)
    return begun


@task(name="end retraining", **RETRY)
def end_retraining(problem: str, number: int, version: ModelVersion) -> Attempt:
    """Enter what came of it beside the findings that asked for it."""
    champion = registry.champion(problem) == version
    gates = registry.gates(version)
    return attempts.end(open_store(), problem, number, datetime.now(UTC), version, gates, champion)


@task(name="fail retraining", **RETRY)
def fail_retraining(problem: str, number: int, what: str) -> Attempt:
    return attempts.fail(open_store(), problem, number, datetime.now(UTC), what)
