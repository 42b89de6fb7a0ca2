"""Are pipelines, endpoints, the machine and the registry of models well?"""

from typing import Any

from prefect import flow

from tasks.monitoring.alerts import notify, record_findings
from tasks.monitoring.control_page import publish_control
from tasks.monitoring.health import check_endpoint, check_machine, check_pipelines, check_registry, publish_health
from tasks.monitoring.summarize import require_unbroken, run_check
from tasks.naming import run_name
from tasks.process import note_process
from truecourse.problem.loader import load_problem


@flow(name="health", flow_run_name=run_name, on_running=[note_process])
def health(problem: str | None = None) -> dict[str, Any]:
    """Look at scheduled flows, tables, the online store and the prediction log, at the endpoints that should serve, at
    this machine, and at what MLflow shows beside our record of models; tell whom a finding concerns; write the page,
    and the control page.

    Args:
        problem: a folder of `problems/`; the settings' default if empty.

    A check that cannot be made stops no other. Returns a sentence of each check, and of all of them, and what was told.
    Raises CheckBroken, when all is done, if one broke.
    """
    name = load_problem(problem).name
    reports = [
        run_check("pipelines", check_pipelines, name),
        run_check("endpoint", check_endpoint, name),
        run_check("machine", check_machine, name),
        run_check("registry", check_registry, name),
    ]
    settled = record_findings(name, reports)
    told: dict[str, Any] = {report.check: report.sentence for report in reports}
    told |= {"health": publish_health(name), "settled": settled}
    publish_control(name)
    settled["told"] = notify(name)
    require_unbroken(name, reports)
    return told
