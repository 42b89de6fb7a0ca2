"""Start and finish a retraining in the record of findings."""

import logging
from datetime import UTC, datetime

from prefect import task

from tasks.retry import RETRY
from truecourse.monitoring.alerts import retraining_runs
from truecourse.monitoring.alerts.alert_record import Attempt, Decision
from truecourse.problem.loader import load_problem
from truecourse.references import ModelVersion
from truecourse.registry import versions as registry
from truecourse.storage.object_store import open_store

log = logging.getLogger("truecourse.retraining")


@task(name="begin retraining", **RETRY)
def begin_retraining(problem: str, reason: str = "") -> Attempt | Decision:
    """Start the retraining that open findings or a person's `reason` trigger; else return why it is skipped."""
    attempt = retraining_runs.begin(open_store(), load_problem(problem), datetime.now(UTC), reason)
    if isinstance(attempt, Decision):
        log.warning("retraining skipped: %s", attempt.because)
    return attempt


@task(name="end retraining", **RETRY)
def end_retraining(problem: str, number: int, version: ModelVersion) -> Attempt:
    """Record the outcome of a retraining with the findings that triggered it."""
    champion = registry.champion(problem) == version
    gates = registry.gates(version)
    return retraining_runs.end(open_store(), problem, number, datetime.now(UTC), version, gates, champion)


@task(name="fail retraining", **RETRY)
def fail_retraining(problem: str, number: int, what: str) -> Attempt:
    """Record the error that ended a retraining."""
    return retraining_runs.fail(open_store(), problem, number, datetime.now(UTC), what)
