"""Are pipelines, endpoints and the machine well?"""

from prefect import flow

from tasks.control import publish_control
from tasks.health import check_endpoint, check_machine, check_pipelines, publish_health
from truecourse.loading import load_problem


@flow(name="health")
def health(problem: str | None = None) -> dict[str, str]:
    """Look at scheduled flows, tables, the online store and the prediction log, at the endpoints that should serve, and
    at this machine; write the page, and the control page.

    problem: a folder of `problems/`; the settings' default if empty.

    Returns a sentence of each check, and of all of them.
    """
    name = load_problem(problem).name
    reports = [check_pipelines(name), check_endpoint(name), check_machine(name)]
    told: dict[str, str] = {"health": publish_health(name), **{report.check: report.sentence for report in reports}}
    publish_control(name)
    return told
