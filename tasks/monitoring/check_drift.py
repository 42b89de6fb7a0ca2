"""Run the drift check, and store its report and pages, with Evidently's report on request."""

import logging
from datetime import datetime
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from prefect import task

from tasks.artifacts import show_page
from tasks.retry import RETRY
from truecourse.errors import TruecourseError
from truecourse.html import render
from truecourse.monitoring import report_store
from truecourse.monitoring.drift import attribution_drift
from truecourse.monitoring.drift.attribution_drift import AttributionDrift
from truecourse.monitoring.drift.drift_check import DriftCheck, list_names, run_check, update_daily_counts
from truecourse.monitoring.drift.evidently_report import run_evidently, sample_sides
from truecourse.monitoring.drift.reference_profile import load_profile
from truecourse.monitoring.findings import Report
from truecourse.problem import Problem
from truecourse.problem.loader import load_problem
from truecourse.references import ModelVersion, Window
from truecourse.registry import versions as registry
from truecourse.storage.delta_tables import Tables

log = logging.getLogger("truecourse.monitor")


def run_drift_check(
    problem: Problem,
    tables: Tables,
    at: datetime | None = None,
    window: Window | None = None,
    evidently: bool = False,
) -> Report:
    """Run the check; store the report and two pages, the newest and one named after the window."""
    check = run_check(problem, tables, at, window)
    folder = f"reports/{problem.name}"
    attributions = _attribution_drift(problem, tables, check.report)
    report = _with_attributions(check.report, attributions).model_copy(update={"page": f"{folder}/drift.html"})
    report = report_store.with_checked_at(report, at)
    if evidently:
        report = _with_evidently(problem, tables, report, f"{folder}/evidently-{_window_name(report)}")
    report_store.save(tables.store, report)
    named = f"{folder}/drift-{_window_name(report)}.html"
    html = _render_page(problem, check, report, attributions)
    for key in (report.page, named):
        tables.store.put(key, html)
    log.info("%s", report.sentence)
    show_page(named, "drift", problem.name, "Drift")
    return report


def _render_page(problem: Problem, check: DriftCheck, report: Report, parts: AttributionDrift | None) -> bytes:
    return render(
        "drift.html", problem=problem, report=report, data=check.data, scores=check.scores, parts=parts
    ).encode()


def _attribution_drift(problem: Problem, tables: Tables, report: Report) -> AttributionDrift | None:
    """Attribution drift; None for a problem without time. A replay, which checks daily, skips it to save time."""
    if not problem.has_time:
        return None
    version, span = _checked_window(problem, report)
    return attribution_drift.compute_attribution_drift(problem, tables, load_profile(problem, version), span)


def _checked_window(problem: Problem, report: Report) -> tuple[ModelVersion, Window]:
    version = registry.version(problem.name, report.figures["model"]["version"])
    return version, Window.model_validate(report.figures["window"])


def _with_attributions(report: Report, parts: AttributionDrift | None) -> Report:
    if parts is None:
        return report
    changes: dict[str, Any] = {"figures": report.figures | {"contributions": parts.figures()}}
    if parts.drifted:
        changes["findings"] = (*report.findings, *attribution_drift.build_findings(parts.drifted))
        names = list_names([part.name for part in parts.drifted])
        changes["sentence"] = f"{report.sentence.rstrip('.')}; attribution drift: {names}."
    return report.model_copy(update=changes)


def _window_name(report: Report) -> str:
    span = Window.model_validate(report.figures["window"])
    if span.start is None or span.end is None:
        return "all"
    return f"{span.start:%Y%m%dT%H%M}-{span.end:%Y%m%dT%H%M}"


def _with_evidently(problem: Problem, tables: Tables, report: Report, place: str) -> Report:
    """Store Evidently's page of a sample of reference and window, with the sample; adds its figures to the report."""
    version, span = _checked_window(problem, report)
    reference, window = sample_sides(problem, tables, version, span)
    second = run_evidently(reference, window)
    sample, sides = pa.BufferOutputStream(), (("reference", reference), ("window", window))
    labelled = [rows.append_column("side", pa.repeat(pa.scalar(name), len(rows))) for name, rows in sides]
    pq.write_table(pa.concat_tables(labelled), sample)
    tables.store.put(f"{place}.parquet", sample.getvalue().to_pybytes())
    tables.store.put(f"{place}.html", second.page.encode())
    opinions = {name: one.model_dump() for name, one in second.results.items()}
    figures = {"evidently": f"{place}.html", "sample": f"{place}.parquet", "opinions": opinions}
    return report.model_copy(update={"figures": report.figures | figures})


@task(name="check drift", **RETRY)
def check_drift(
    problem: str, at: datetime | None = None, window: Window | None = None, evidently: bool = False
) -> Report:
    """Check data drift, prediction drift and data breakage. `at` (UTC): the reference time."""
    return run_drift_check(load_problem(problem), Tables(), at, window, evidently)


@task(name="update daily histograms", **RETRY)
def update_daily_histograms(problem: str) -> int:
    """Count new rows by day and by the champion's bins, so that the drift check reads counts instead of rows.

    Returns the number of days with counts. Errors are logged; the drift check then reports the cause."""
    try:
        days = update_daily_counts(load_problem(problem), Tables())
    except TruecourseError as error:
        log.warning("daily histograms were not updated: %s", error)
        return 0
    log.info("%s days have histograms", days)
    return days
