"""Check the champion's quality against its evaluation, and store the report and page."""

import logging
from datetime import datetime

from prefect import task

from tasks.retry import RETRY
from truecourse.monitoring import report_store
from truecourse.monitoring.findings import Report
from truecourse.monitoring.quality import quality_check as quality
from truecourse.monitoring.quality.quality_page import page
from truecourse.problem.loader import load_problem
from truecourse.storage.delta_tables import Tables

log = logging.getLogger("truecourse.quality")


@task(name="check quality", **RETRY)
def check_quality(problem: str, at: datetime | None = None) -> Report:
    """Check the champion on its closed cohorts as of `at` (UTC; the wall clock if None)."""
    tables = Tables()
    specification = load_problem(problem)
    place = f"reports/{problem}/quality.html"
    report = quality.check_quality(specification, tables, at).model_copy(update={"page": place})
    report = report_store.with_checked_at(report, at)
    tables.store.put(place, page(specification, report).encode())
    report_store.save(tables.store, report)
    log.info("%s", report.sentence)
    return report
