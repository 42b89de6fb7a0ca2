"""A model on newer data, because of findings, past the same gates as any other."""

from datetime import datetime
from typing import Any

from prefect import flow

from flows.package import package
from flows.register import register
from flows.train import train
from tasks.naming import run_name
from tasks.process import note_process
from tasks.training.retrain import begin_retraining, end_retraining, fail_retraining
from tasks.training.snapshot import newest_decision
from truecourse.errors import TruecourseError
from truecourse.monitoring.alerts.history import Decision
from truecourse.problem.loader import load_problem


@flow(name="retrain", flow_run_name=run_name, on_running=[note_process])
def retrain(problem: str | None = None, reason: str = "", at: datetime | None = None) -> dict[str, Any]:
    """Train on all that is known, judge, register, and package what came into office.

    Args:
        problem: a folder of `problems/`; the settings' default if empty.
        reason: why, if it is not for open findings: cool-down and budget do not hold then.
        at: the moment (UTC) that the split moves to, as `Retraining` says, and up to which labels count; if empty the
            split moves to the newest decision, and labels count as `train` counts them.

    An automation starts it when a finding makes it due. Of any number that are started, one trains, and the others say
    why not. What comes of it is tied to the findings in the record, an error too. Raises what its flows raise.
    """
    spec = load_problem(problem)
    name = spec.name
    begun = begin_retraining(name, reason)
    if isinstance(begun, Decision):
        return {"problem": name, "retrained": False, "because": begun.because}
    moved = (at or newest_decision(name)) if spec.has_time else None
    try:
        run = train(name, until=at, moved=moved, tune=spec.monitoring.retraining.tune)
        version = register(name, run_id=run.run_id)
    except Exception as error:
        fail_retraining(name, begun.number, error.what if isinstance(error, TruecourseError) else type(error).__name__)
        raise
    ended = end_retraining(name, begun.number, version)
    if ended.outcome == "champion":
        package(name)
    return {"problem": name, "retrained": True, "version": version, "outcome": ended.outcome, "because": ended.detail}
