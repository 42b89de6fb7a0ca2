"""Check the health of pipelines, endpoints, the machine and the model registry."""

from typing import Any

from prefect import flow

from tasks.hooks import hooks
from tasks.monitoring.alerts import notify, record_findings
from tasks.monitoring.check_health import check_endpoint, check_machine, check_pipelines, check_registry, publish_health
from tasks.monitoring.publish_control_page import publish_control
from tasks.monitoring.summarize import require_unbroken, run_check
from tasks.naming import run_name
from tasks.open_problem import open_problem


@flow(name="health", flow_run_name=run_name, **hooks())
def health(problem: str | None = None) -> dict[str, Any]:
    """Check scheduled flows, tables, the online store, the prediction log, endpoints, this machine and the registry.

    Findings are recorded and notified, and the health page and the control page are written. The registry check
    compares MLflow with our own record of models.

    Args:
        problem: a folder of `problems/`; the settings' default if empty.

    A check that fails to run does not stop the others. Returns a sentence for each check, one for all of them, and the
    notifications. Raises CheckBroken at the end if a check failed to run.
    """
    name = open_problem(problem).name
    reports = [
        run_check("pipelines", check_pipelines, name),
        run_check("endpoint", check_endpoint, name),
        run_check("machine", check_machine, name),
        run_check("registry", check_registry, name),
    ]
    recorded = record_findings(name, reports)
    result: dict[str, Any] = {report.check: report.sentence for report in reports}
    result |= {"health": publish_health(name), "alerts": recorded}
    publish_control(name)
    recorded["notified"] = notify(name)
    require_unbroken(name, reports)
    return result
