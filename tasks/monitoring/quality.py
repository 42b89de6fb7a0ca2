"""Is the champion as good as it was held out to be? The check as a task, its report and page kept."""

import logging
from datetime import datetime

from prefect import task

from tasks.retry import RETRY
from truecourse.loading import load_problem
from truecourse.monitoring import quality, reports
from truecourse.monitoring.findings import Report
from truecourse.monitoring.qualitypage import page
from truecourse.tables import Tables

log = logging.getLogger("truecourse.quality")


@task(name="check quality", **RETRY)
def check_quality(problem: str, at: datetime | None = None) -> Report:
    """The champion on its closed cohorts at a moment (UTC; the wall clock if None)."""
    tables = Tables()
    specification = load_problem(problem)
    place = f"reports/{problem}/quality.html"
    report = quality.check_quality(specification, tables, at).model_copy(update={"page": place})
    report = reports.checked(report, at)
    tables.store.put(place, page(specification, report).encode())
    reports.save(tables.store, report)
    log.info("%s", report.sentence)
    return report
