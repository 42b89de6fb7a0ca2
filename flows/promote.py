"""Put a version in office, past the gates and, where the problem asks for it, past a person."""

from datetime import datetime

from prefect import flow

from tasks.monitoring.control_page import publish_control
from tasks.naming import run_name
from tasks.process import note_process
from tasks.release.approve import request_approval
from tasks.release.promote import candidate, evaluate_version, make_champion, require_passed_gates
from tasks.release.start_canary import start_canary, starts_as_canary
from tasks.training.snapshot import take_snapshot
from truecourse.problem.loader import load_problem
from truecourse.references import Aliases
from truecourse.registry import aliases


@flow(name="promote", flow_run_name=run_name, on_running=[note_process])
def promote(
    reason: str,
    problem: str | None = None,
    version: int | None = None,
    until: datetime | None = None,
    accept_unknown: bool = False,
) -> Aliases:
    """Judge a version against the champion on the cohorts that are closed by now, and make it champion, or a canary.

    Args:
        reason: why, for the record.
        problem: a folder of `problems/`; the settings' default if empty.
        version: a number in the registry; the challenger if empty.
        until: the moment (UTC) up to which labels count; if empty the newest label, or the data's end
            with `clock="data"`.
        accept_unknown: promote it though gates could not be judged, for want of rows; not though one failed.

    Where the problem asks for approval, the run pauses until a person has answered in the UI. Where it asks for a
    canary, the version answers a share of the requests first, which `guard` widens. Raises GateFailed if a gate is shut
    or the person says no, ModelError if the aliases were moved since the judging began.
    """
    spec = load_problem(problem)
    seen = aliases.current(spec.name)
    chosen = candidate(spec.name, seen, version)
    verdicts = evaluate_version(spec.name, chosen, seen.champion, take_snapshot(spec.name, until), accept_unknown)
    reason = require_passed_gates(chosen, verdicts, reason, accept_unknown)
    if spec.promotion.approval:
        reason = request_approval(spec.promotion, chosen, reason, verdicts)
    enter = start_canary if starts_as_canary(spec, seen, chosen) else make_champion
    entered = enter(seen, chosen, reason)
    publish_control(spec.name)
    return entered
