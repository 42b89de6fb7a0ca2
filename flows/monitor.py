"""Is all well with data, predictions, pipelines, endpoints and the machine, and what is to be done where it is not?"""

from datetime import datetime
from typing import Any

from prefect import flow

from tasks.monitoring.alerts import notify, record_findings
from tasks.monitoring.clean_up import clean_up
from tasks.monitoring.control_page import publish_control
from tasks.monitoring.drift import check_drift
from tasks.monitoring.health import check_endpoint, check_machine, check_pipelines, check_registry, publish_health
from tasks.monitoring.quality import check_quality
from tasks.monitoring.skew import check_skew
from tasks.monitoring.summarize import require_unbroken, run_check, summary
from tasks.naming import run_name
from tasks.process import note_process
from truecourse.features.clock import clip_to_now, require_past
from truecourse.problem.loader import load_problem
from truecourse.references import Window


@flow(name="monitor", flow_run_name=run_name, on_running=[note_process])
def monitor(
    problem: str | None = None,
    start: datetime | None = None,
    end: datetime | None = None,
    at: datetime | None = None,
    evidently: bool = False,
) -> dict[str, Any]:
    """Make every check, enter what they find into the record, tell whom it concerns, ask for a retraining if one is
    due, and remove, once a day, what the retention settings keep no longer.

    Args:
        problem: a folder of `problems/`; the settings' default if empty.
        start: the first moment (UTC) of the predictions to look at; `monitoring.window` before the end if empty.
        end: that window's end (UTC, not included); the end of the last whole day with predictions if empty.
        at: the moment (UTC) that counts as now: of drift, quality, skew and pipelines nothing later is read; if empty,
            the problem's clock, the data's newest for skew and quality, and the wall clock for the others and the
            record.
        evidently: also write Evidently's own report, on a sample of rows.

    A check that cannot be made says so in its report, and stops no other. Raises CheckBroken, when all is done, if one
    broke, and SettingsError for an `at` in the future. Where a window is named, its drift alone is looked at, and
    nothing is entered into the record: it is no news.
    """
    name, at = load_problem(problem).name, require_past(at)
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
    settled = record_findings(name, reports, at)
    publish_health(name)
    publish_control(name)
    cleaned = clean_up(name) if at is None else {}
    settled["told"] = notify(name, at)
    require_unbroken(name, reports)
    return summary(name, reports) | {"settled": settled, "cleaned": cleaned}
