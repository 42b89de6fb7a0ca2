"""The health page of a problem: the newest reports of pipelines, endpoints, machine and registry."""

from datetime import datetime
from typing import Any

from truecourse.html import render
from truecourse.monitoring import report_store
from truecourse.monitoring.findings import Check, Finding, Report
from truecourse.monitoring.health.slo import ALERTS
from truecourse.problem import Problem
from truecourse.problem.objectives import Objectives
from truecourse.storage.object_store import ObjectStore
from truecourse.wording import counted, format_duration

CHECKS: tuple[Check, ...] = ("pipelines", "endpoint", "machine", "registry")


def page_key(problem: str) -> str:
    return f"reports/{problem}/health.html"


def newest(store: ObjectStore, problem: str) -> dict[Check, Report]:
    """Return the newest report of each check that has one."""
    reports = {check: report_store.latest(store, problem, check) for check in CHECKS}
    return {check: report for check, report in reports.items() if report is not None}


def sentence(reports: dict[Check, Report]) -> str:
    """Summarize all reports in one sentence."""
    findings = _findings(reports)
    if not reports:
        return "No check has run yet."
    unknown = [check for check, report in reports.items() if report.state == "unknown"]
    if not findings and unknown:
        return f"No findings; unknown: {', '.join(unknown)}."
    if not findings:
        return "Pipelines, endpoints, machine and registry are ok."
    critical = [finding for finding in findings if finding.page]
    if not critical:
        return f"No critical finding; {counted(len(findings), 'warning')}."
    others = len(critical) - 1
    return critical[0].sentence + (f" {counted(others, 'other critical finding')}." if others else "")


def _findings(reports: dict[Check, Report]) -> list[Finding]:
    """Return the findings of all reports, the most important first."""
    return sorted((f for report in reports.values() for f in report.findings), key=lambda finding: finding.sort_key)


def publish(store: ObjectStore, problem: Problem) -> str:
    """Write the page from the newest reports, and return its key."""
    reports = newest(store, problem.name)
    html = render(
        "health.html",
        problem=problem,
        sentence=sentence(reports),
        findings=_findings(reports),
        reports=reports,
        figures={check: report.figures for check, report in reports.items() if report.figures},
        limits=_limits(problem.serving.objectives),
        format_duration=format_duration,
        moment=_moment,
    )
    store.put(page_key(problem.name), html.encode())
    return page_key(problem.name)


def _limits(objectives: Objectives) -> dict[str, float]:
    """Return the burn rate that raises an alert, by window, the shortest window first."""
    rates = {length: alert.rate(objectives.window) for alert in ALERTS[::-1] for length in (alert.long, alert.short)}
    return {format_duration(length): rates[length] for length in sorted(rates)}


def _moment(text: Any) -> str:
    return f"{datetime.fromisoformat(text):%Y-%m-%d %H:%M}" if text else "–"
