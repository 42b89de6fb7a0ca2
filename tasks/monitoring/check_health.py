"""Health checks of pipelines, endpoints, the machine and the registry; each is a task that stores its report."""

import logging
from datetime import UTC, datetime

from prefect import task

from services.process import platform_state
from tasks.monitoring.flow_schedules import scheduled_flows
from tasks.retry import RETRY
from truecourse.deployment import endpoints
from truecourse.errors import PlatformError
from truecourse.monitoring import report_store
from truecourse.monitoring.findings import Report
from truecourse.monitoring.health import endpoint_health, machine, pipelines, registry
from truecourse.monitoring.health import health_page as healthpage
from truecourse.problem.loader import load_problem
from truecourse.settings import get_settings
from truecourse.storage.delta_tables import Tables
from truecourse.storage.object_store import open_store

log = logging.getLogger("truecourse.health")


def _save(report: Report) -> Report:
    saved = report.model_copy(update={"page": healthpage.page_key(report.problem)})
    report_store.refresh(open_store(), saved)
    log.info("%s: %s", report.check, report.sentence)
    return saved


@task(name="check pipelines", **RETRY)
def check_pipelines(problem: str, at: datetime | None = None) -> Report:
    """Check scheduled flows, tables, feature tables, the online store and the prediction log's backlog.

    `at`: the reference time (UTC), for which only storage is checked; the wall clock if None."""
    from feature_repo.online_location import loaded_marks

    spec = load_problem(problem)
    flows = scheduled_flows(spec.name, datetime.now(UTC)) if at is None else []
    try:
        loaded = loaded_marks(spec)
    except PlatformError as error:
        log.error("%s", error)
        loaded = None
    others = platform_state.findings(datetime.now(UTC), _api()) if at is None else []
    return _save(pipelines.check_pipelines(spec, Tables(), at, flows, loaded, others))


def _api() -> str:
    """The API URL of this process's Prefect server; empty without one."""
    from prefect.settings import PREFECT_API_URL

    return str(PREFECT_API_URL.value() or "")


@task(name="check endpoint", **RETRY)
def check_endpoint(problem: str) -> Report:
    """Read the metrics of every endpoint that should serve the problem, and compare them with its objectives.

    Uses the wall clock."""
    from services.process.scrape import scrape_all

    spec = load_problem(problem)
    scrapes = scrape_all(endpoints.expected_endpoints(spec.name), spec.name)
    return _save(endpoint_health.check_endpoint(spec, open_store(), scrapes, datetime.now(UTC)))


@task(name="check machine", **RETRY)
def check_machine(problem: str) -> Report:
    """Check processors, memory and disks of this machine. Uses the wall clock."""
    return _save(machine.check_machine(load_problem(problem), get_settings(), datetime.now(UTC)))


@task(name="check registry", **RETRY)
def check_registry(problem: str) -> Report:
    """Check the files of champion and challenger, and MLflow's copy against our record. Uses the wall clock."""
    return _save(registry.check_registry(load_problem(problem), open_store(), datetime.now(UTC)))


@task(name="health page", **RETRY)
def publish_health(problem: str) -> str:
    """Write the health page from the newest reports; returns its summary sentence."""
    store = open_store()
    healthpage.publish(store, load_problem(problem))
    return healthpage.sentence(healthpage.newest(store, problem))
