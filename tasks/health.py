"""Whether the endpoints and the machine are well: each check a task, its report kept."""

import logging
from datetime import UTC, datetime

from prefect import task

from tasks.retry import RETRY
from truecourse import endpoints
from truecourse.loading import load_problem
from truecourse.monitoring import endpoint, machine, reports
from truecourse.monitoring.findings import Report
from truecourse.settings import get_settings
from truecourse.storage import open_store

log = logging.getLogger("truecourse.health")


def _kept(report: Report) -> Report:
    reports.refresh(open_store(), report)
    log.info("%s: %s", report.check, report.sentence)
    return report


@task(name="check endpoint", **RETRY)
def check_endpoint(problem: str) -> Report:
    """Ask every endpoint that should serve the problem for its meters, and hold it to its objectives. Wall clock."""
    from services.scraping import looks

    spec = load_problem(problem)
    found = looks(endpoints.expected(spec.name), spec.name)
    return _kept(endpoint.check_endpoint(spec, open_store(), found, datetime.now(UTC)))


@task(name="check machine", **RETRY)
def check_machine(problem: str) -> Report:
    """Processors, memory and disks of the machine that this runs on. Wall clock."""
    return _kept(machine.check_machine(load_problem(problem), get_settings(), datetime.now(UTC)))
