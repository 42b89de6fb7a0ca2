"""Evaluate the running canary, and act on the result."""

from typing import Any

from prefect import flow

from tasks.hooks import hooks
from tasks.monitoring.alerts import notify, record_findings
from tasks.naming import run_name
from tasks.open_problem import open_problem
from tasks.release.evaluate_canary import apply_canary_decision, evaluate_canary, reevaluate_gates
from tasks.scoring.ship_log import ship_log


@flow(name="guard", flow_run_name=run_name, **hooks())
def guard(problem: str | None = None) -> dict[str, Any]:
    """Compare the challenger's responses with the champion's, then increase its traffic, promote it, or roll it back.

    Args:
        problem: a folder of `problems/`; the settings' default if empty.

    It reads the prediction log since the canary started, and makes one change at most. A traffic weight that was set by
    hand is never increased, only rolled back. Before a promotion the gates are evaluated again. A rollback is notified.
    """
    name = open_problem(problem).name
    ship_log(name)
    before, decision = evaluate_canary(name)
    if decision.action == "promote":
        decision = reevaluate_gates(name, decision)
    report = apply_canary_decision(name, before, decision)
    recorded = record_findings(name, [report])
    recorded["notified"] = notify(name)
    return {**report.model_dump(mode="json"), "alerts": recorded}
