"""The drift check as a task, its report and page kept, with Evidently's own page where it is asked for."""

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
from truecourse.monitoring.drift.check import DriftCheck, list_names, run_check, update_daily_counts
from truecourse.monitoring.drift.evidently_report import run_evidently, sample_sides
from truecourse.monitoring.drift.profile_builder import load_profile
from truecourse.monitoring.findings import Report
from truecourse.problem import Problem
from truecourse.problem.loader import load_problem
from truecourse.references import ModelVersion, Window
from truecourse.registry import versions as registry
from truecourse.storage.tables import Tables

log = logging.getLogger("truecourse.monitor")


def run_drift_check(
    problem: Problem,
    tables: Tables,
    at: datetime | None = None,
    window: Window | None = None,
    evidently: bool = False,
) -> Report:
    """The check's report, kept with its pages: the newest, and one named after the window."""
    found = run_check(problem, tables, at, window)
    folder = f"reports/{problem.name}"
    parts = _parts(problem, tables, found.report)
    report = _with_parts(found.report, parts).model_copy(update={"page": f"{folder}/drift.html"})
    report = report_store.with_checked_at(report, at)
    if evidently:
        report = _with_opinions(problem, tables, report, f"{folder}/evidently-{_name(report)}")
    report_store.save(tables.store, report)
    named = f"{folder}/drift-{_name(report)}.html"
    drawn = _page(problem, found, report, parts)
    for key in (report.page, named):
        tables.store.put(key, drawn)
    log.info("%s", report.sentence)
    show_page(named, "drift", problem.name, "Drift")
    return report


def _page(problem: Problem, found: DriftCheck, report: Report, parts: AttributionDrift | None) -> bytes:
    return render(
        "drift.html", problem=problem, report=report, data=found.data, scores=found.scores, parts=parts
    ).encode()


def _parts(problem: Problem, tables: Tables, report: Report) -> AttributionDrift | None:
    """Asked for here alone: a replay, which looks every day, has no time to explain them."""
    if not problem.has_time:
        return None
    version, span = _looked_at(problem, report)
    return attribution_drift.compute_attribution_drift(problem, tables, load_profile(problem, version), span)


def _looked_at(problem: Problem, report: Report) -> tuple[ModelVersion, Window]:
    version = registry.version(problem.name, report.figures["model"]["version"])
    return version, Window.model_validate(report.figures["window"])


def _with_parts(report: Report, parts: AttributionDrift | None) -> Report:
    if parts is None:
        return report
    told: dict[str, Any] = {"figures": report.figures | {"contributions": parts.figures()}}
    if parts.drifted:
        told["findings"] = (*report.findings, *attribution_drift.findings(parts.drifted))
        of = list_names([part.name for part in parts.drifted])
        told["sentence"] = f"{report.sentence.rstrip('.')}; contributions moved: {of}."
    return report.model_copy(update=told)


def _name(report: Report) -> str:
    span = Window.model_validate(report.figures["window"])
    if span.start is None or span.end is None:
        return "all"
    return f"{span.start:%Y%m%dT%H%M}-{span.end:%Y%m%dT%H%M}"


def _with_opinions(problem: Problem, tables: Tables, report: Report, place: str) -> Report:
    """Evidently's page and figures of a sample of both sides, which is kept beside them."""
    version, span = _looked_at(problem, report)
    reference, window = sample_sides(problem, tables, version, span)
    second = run_evidently(reference, window)
    sample, sides = pa.BufferOutputStream(), (("reference", reference), ("window", window))
    told = [rows.append_column("side", pa.repeat(pa.scalar(name), len(rows))) for name, rows in sides]
    pq.write_table(pa.concat_tables(told), sample)
    tables.store.put(f"{place}.parquet", sample.getvalue().to_pybytes())
    tables.store.put(f"{place}.html", second.page.encode())
    opinions = {name: one.model_dump() for name, one in second.results.items()}
    figures = {"evidently": f"{place}.html", "sample": f"{place}.parquet", "opinions": opinions}
    return report.model_copy(update={"figures": report.figures | figures})


@task(name="check drift", **RETRY)
def check_drift(
    problem: str, at: datetime | None = None, window: Window | None = None, evidently: bool = False
) -> Report:
    """Data drift and prediction drift, and what broke. `at` (UTC): the moment that counts as now."""
    return run_drift_check(load_problem(problem), Tables(), at, window, evidently)


@task(name="sketch days", **RETRY)
def update_daily_histograms(problem: str) -> int:
    """Count what arrived by the champion's bins, day by day, so that a check reads counts and no rows; how many days
    there are to look at. What cannot be counted is left to the check, which says why."""
    try:
        days = update_daily_counts(load_problem(problem), Tables())
    except TruecourseError as error:
        log.warning("no sketches were made: %s", error)
        return 0
    log.info("%s days are sketched", days)
    return days
