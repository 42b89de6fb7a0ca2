"""Check data, predictions, pipelines, endpoints, the machine and the registry, and act on the findings."""

from datetime import datetime
from typing import Any

from prefect import flow

from tasks.hooks import hooks
from tasks.monitoring.alerts import notify, record_findings
from tasks.monitoring.check_drift import check_drift
from tasks.monitoring.check_health import check_endpoint, check_machine, check_pipelines, check_registry, publish_health
from tasks.monitoring.check_quality import check_quality
from tasks.monitoring.check_skew import check_skew
from tasks.monitoring.clean_up import clean_up
from tasks.monitoring.publish_control_page import publish_control
from tasks.monitoring.summarize import require_unbroken, run_check, summary
from tasks.naming import run_name
from tasks.open_problem import open_problem
from truecourse.features.clock import clip_to_now, require_past
from truecourse.references import Window


@flow(name="monitor", flow_run_name=run_name, **hooks())
def monitor(
    problem: str | None = None,
    start: datetime | None = None,
    end: datetime | None = None,
    at: datetime | None = None,
    evidently: bool = False,
) -> dict[str, Any]:
    """Run every check, record and notify the findings, and trigger a retraining if one is due.

    Once a day it also removes what the retention settings keep no longer.

    Args:
        problem: a folder of `problems/`; the settings' default if empty.
        start: start (UTC) of the window of predictions to check; `monitoring.window` before the end if empty.
        end: end (UTC, exclusive) of that window; the end of the last whole day with predictions if empty.
        at: the reference time (UTC): drift, quality, skew and pipelines read nothing later. If empty:
            the problem's clock for drift, the newest data for skew and quality, the wall clock for everything else.
        evidently: also write Evidently's own report, on a sample of rows.

    A check that fails to run reports its failure and does not stop the others. With `start` or `end`, only the drift of
    that window is checked and nothing is recorded. Raises CheckBroken at the end if a check failed to run, and
    SettingsError for an `at` in the future.
    """
    name, at = open_problem(problem).name, require_past(at)
    window = Window(start=start, end=end) if start or end else None
    if window is not None:
        return summary(name, [check_drift(name, at or clip_to_now(end), window, evidently)])
    reports = [
        run_check("drift", check_drift, name, at, None, evidently, at=at),
        run_check("quality", check_quality, name, at, at=at),
        run_check("skew", check_skew, name, at, at=at),
        run_check("pipelines", check_pipelines, name, at, at=at),
        run_check("endpoint", check_endpoint, name),
        run_check("machine", check_machine, name),
        run_check("registry", check_registry, name),
    ]
    recorded = record_findings(name, reports, at)
    publish_health(name)
    publish_control(name)
    cleaned = clean_up(name) if at is None else {}
    recorded["notified"] = notify(name, at)
    require_unbroken(name, reports)
    return summary(name, reports) | {"alerts": recorded, "cleaned": cleaned}
