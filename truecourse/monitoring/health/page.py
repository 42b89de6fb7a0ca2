"""The page of a problem's health: the newest reports of pipelines, endpoints, machine and registry, in one look."""

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
    """The newest report of each check that was ever made."""
    found = {check: report_store.latest(store, problem, check) for check in CHECKS}
    return {check: report for check, report in found.items() if report is not None}


def sentence(found: dict[Check, Report]) -> str:
    """All that there is to say, in one sentence."""
    findings = _findings(found)
    if not found:
        return "Nothing was checked yet."
    unknown = [check for check, report in found.items() if report.state == "unknown"]
    if not findings and unknown:
        return f"Nothing found; unknown: {', '.join(unknown)}."
    if not findings:
        return "Pipelines, endpoints, machine and registry are well."
    pages = [finding for finding in findings if finding.page]
    if not pages:
        return f"Nothing that cannot wait; {counted(len(findings), 'thing')} to see."
    others = len(pages) - 1
    return pages[0].sentence + (f" {counted(others, 'other thing')} cannot wait either." if others else "")


def _findings(found: dict[Check, Report]) -> list[Finding]:
    """What leads first."""
    return sorted((f for report in found.values() for f in report.findings), key=lambda finding: finding.sort_key)


def publish(store: ObjectStore, problem: Problem) -> str:
    """Write the page from the newest reports; its key."""
    found = newest(store, problem.name)
    html = render(
        "health.html",
        problem=problem,
        sentence=sentence(found),
        findings=_findings(found),
        reports=found,
        figures={check: report.figures for check, report in found.items() if report.figures},
        limits=_limits(problem.serving.objectives),
        format_duration=format_duration,
        moment=_moment,
    )
    store.put(page_key(problem.name), html.encode())
    return page_key(problem.name)


def _limits(objectives: Objectives) -> dict[str, float]:
    """The least burn rate that raises an alert, by the window that it is looked for in, the shortest first."""
    rates = {length: alert.rate(objectives.window) for alert in ALERTS[::-1] for length in (alert.long, alert.short)}
    return {format_duration(length): rates[length] for length in sorted(rates)}


def _moment(text: Any) -> str:
    return f"{datetime.fromisoformat(text):%Y-%m-%d %H:%M}" if text else "–"
