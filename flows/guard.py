"""May the canary go on?"""

from typing import Any

from prefect import flow

from tasks.monitoring.alerts import notify, record_findings
from tasks.naming import run_name
from tasks.process import note_process
from tasks.release.judge_canary import apply_canary_decision, evaluate_canary, reevaluate_gates
from tasks.scoring.ship_log import ship_log
from truecourse.problem.loader import load_problem


@flow(name="guard", flow_run_name=run_name, on_running=[note_process])
def guard(problem: str | None = None) -> dict[str, Any]:
    """Hold the challenger's answers against the champion's, and widen its share, promote it, or take its share back.

    Args:
        problem: a folder of `problems/`; the settings' default if empty.

    It reads the prediction log since the canary began, and makes one move at most. A share that was set by hand is only
    ever taken back. Before a version comes into office, its gates are asked once more. Whom a withdrawal concerns is
    told.
    """
    name = load_problem(problem).name
    ship_log(name)
    seen, decision = evaluate_canary(name)
    if decision.action == "promote":
        decision = reevaluate_gates(name, decision)
    report = apply_canary_decision(name, seen, decision)
    settled = record_findings(name, [report])
    settled["told"] = notify(name)
    return {**report.model_dump(mode="json"), "settled": settled}
