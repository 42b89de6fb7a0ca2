"""Promote a version that passes its gates and, where the problem requires it, a person's approval."""

from datetime import datetime

from prefect import flow

from tasks.hooks import hooks
from tasks.monitoring.publish_control_page import publish_control
from tasks.naming import run_name
from tasks.open_problem import open_problem
from tasks.release.approve import request_approval
from tasks.release.promote import candidate, evaluate_version, make_champion, require_passed_gates
from tasks.release.start_canary import start_canary, starts_as_canary
from tasks.training.build_snapshot import take_snapshot
from truecourse.references import Aliases
from truecourse.registry import aliases


@flow(name="promote", flow_run_name=run_name, **hooks())
def promote(
    reason: str,
    problem: str | None = None,
    version: int | None = None,
    until: datetime | None = None,
    accept_unknown: bool = False,
) -> Aliases:
    """Evaluate a version against the champion on closed cohorts, and make it champion, or start it as a canary.

    Args:
        reason: why, for the record.
        problem: a folder of `problems/`; the settings' default if empty.
        version: a number in the registry; the challenger if empty.
        until: the time (UTC) up to which labels count; if empty the newest label, or the data's end
            with `clock="data"`.
        accept_unknown: promote even if gates could not be evaluated for lack of rows; never if a gate failed.

    If the problem requires approval, the run pauses until a person answers in the UI. If it requires a canary, the
    version first gets a part of the traffic, which `guard` increases. Raises GateFailed if a gate failed or the person
    refused, ModelError if the aliases changed since the evaluation started.
    """
    spec = open_problem(problem)
    before = aliases.current(spec.name)
    chosen = candidate(spec.name, before, version)
    gates = evaluate_version(spec.name, chosen, before.champion, take_snapshot(spec.name, until), accept_unknown)
    reason = require_passed_gates(chosen, gates, reason, accept_unknown)
    if spec.promotion.approval:
        reason = request_approval(spec.promotion, chosen, reason, gates)
    promote_version = start_canary if starts_as_canary(spec, before, chosen) else make_champion
    after = promote_version(before, chosen, reason)
    publish_control(spec.name)
    return after
