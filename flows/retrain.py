"""Retrain on newer data because of findings, with the same gates as any other model."""

from datetime import datetime
from typing import Any

from prefect import flow

from flows.package import package
from flows.register import register
from flows.train import train
from tasks.hooks import hooks
from tasks.naming import run_name
from tasks.open_problem import open_problem
from tasks.training.build_snapshot import newest_decision
from tasks.training.retrain import begin_retraining, end_retraining, fail_retraining
from truecourse.errors import TruecourseError
from truecourse.monitoring.alerts.alert_record import Decision


@flow(name="retrain", flow_run_name=run_name, **hooks())
def retrain(problem: str | None = None, reason: str = "", at: datetime | None = None) -> dict[str, Any]:
    """Train on all known data, evaluate and register the model, and package it if it became champion.

    Args:
        problem: a folder of `problems/`; the settings' default if empty.
        reason: why, if not because of open findings; cool-down and budget do not apply then.
        at: the time (UTC) that the split moves to (see `Retraining`) and up to which labels count; if empty the split
            moves to the newest decision, and labels count as in `train`.

    An automation starts it when a finding makes it due. If several runs are started, one trains and the others return
    why they did not. The outcome, or the error, is recorded with the findings. Raises what its flows raise.
    """
    spec = open_problem(problem)
    name = spec.name
    attempt = begin_retraining(name, reason)
    if isinstance(attempt, Decision):
        return {"problem": name, "retrained": False, "because": attempt.because}
    moved = (at or newest_decision(name)) if spec.has_time else None
    try:
        run = train(name, until=at, moved=moved, tune=spec.monitoring.retraining.tune)
        version = register(name, run_id=run.run_id)
    except Exception as error:
        fail_retraining(
            name, attempt.number, error.what if isinstance(error, TruecourseError) else type(error).__name__
        )
        raise
    ended = end_retraining(name, attempt.number, version)
    if ended.outcome == "champion":
        package(name)
    return {"problem": name, "retrained": True, "version": version, "outcome": ended.outcome, "because": ended.detail}
