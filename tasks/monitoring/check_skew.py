"""Check for skew between served and offline features, and store the report and page."""

import logging
from datetime import datetime

from prefect import task

from tasks.retry import RETRY
from truecourse.html import render
from truecourse.monitoring import report_store
from truecourse.monitoring.findings import Report
from truecourse.monitoring.skew import skew_check as skew
from truecourse.problem import Problem
from truecourse.problem.loader import load_problem
from truecourse.references import Window
from truecourse.storage.delta_tables import Tables

log = logging.getLogger("truecourse.audit")


def run_audit(problem: Problem, tables: Tables, at: datetime | None = None, window: Window | None = None) -> Report:
    """Run the skew check, and store its report and page."""
    report = skew.check_skew(problem, tables, at, window)
    page = f"reports/{problem.name}/skew.html"
    report = report_store.with_checked_at(report.model_copy(update={"page": page}), at)
    tables.store.put(page, render("skew.html", report=report, problem=problem).encode())
    report_store.save(tables.store, report)
    log.info("%s", report.sentence)
    return report


@task(name="check skew", **RETRY)
def check_skew(problem: str, at: datetime | None = None, window: Window | None = None) -> Report:
    """Recompute logged predictions from the offline tables and compare. `at` (UTC): the reference time."""
    return run_audit(load_problem(problem), Tables(), at, window)
