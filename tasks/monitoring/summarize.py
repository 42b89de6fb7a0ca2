"""Run the checks of a problem independently of each other, and summarize their reports."""

import logging
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from truecourse.errors import CheckBroken, FeatureError, ModelError, NotFound, TruecourseError
from truecourse.monitoring import report_store
from truecourse.monitoring.findings import BROKEN, Check, Finding, Report, summarize
from truecourse.storage.object_store import open_store

log = logging.getLogger("truecourse.monitor")
_NOT_YET = (NotFound, ModelError, FeatureError)
"""Errors of a check that has no data yet: no champion, no predictions."""


def run_check(
    check: Check, task: Callable[..., Report], problem: str, *arguments: Any, at: datetime | None = None
) -> Report:
    """Run a check's task; returns its report.

    If there is no data yet, the report's state is unknown. If the check itself fails, its report has a critical
    finding, which every page shows first. Both are stored, so that no older report takes their place."""
    try:
        return task(problem, *arguments)
    except _NOT_YET as error:
        log.warning("%s: %s", check, error.what)
        return _save(Report.unavailable(check, problem, at or datetime.now(UTC), _unknown(error)))
    except Exception as error:
        log.exception("the check of %s failed", check)
        sentence = f"The check of {check} failed: {type(error).__name__}."  # the error's text may be private
        broken = Finding(check=check, subject="check", cause=BROKEN, page=True, sentence=sentence)
        return _save(Report.unavailable(check, problem, at or datetime.now(UTC), sentence, broken))


def _unknown(error: TruecourseError) -> str:
    return f"Not checked: {error.what}." + (f" Hint: {error.hint}." if error.hint else "")


def _save(report: Report) -> Report:
    try:
        report_store.save(open_store(), report)
    except Exception:  # storage may be the cause of the failure: return the report anyway
        log.exception("the report of %s was not stored", report.check)
    return report


def require_unbroken(problem: str, reports: Sequence[Report]) -> None:
    """Raise CheckBroken if a check itself failed: a flow run must not succeed without its checks."""
    broken = [report for report in reports if report.is_broken]
    if broken:
        what = " ".join(report.sentence for report in broken)
        hint = "the tracebacks are in this run's log; the findings of the other checks are in their reports"
        raise CheckBroken(what, where=f"problem {problem}", hint=hint)


def summary(problem: str, reports: Sequence[Report]) -> dict[str, Any]:
    """Summary of the reports: one sentence, whether a finding is critical (`alarm`), and each report by its check."""
    findings = [finding for report in reports for finding in report.findings]
    unknown = [report.check for report in reports if report.state == "unknown"]
    checked = [report.check for report in reports if report.check not in unknown]
    ok = f"No findings: {', '.join(checked)}" if checked else "Nothing could be checked"
    ok += f"; unknown: {', '.join(unknown)}." if unknown and checked else "."
    return {
        "problem": problem,
        "sentence": summarize(findings, ok),
        "alarm": any(finding.page for finding in findings),
        "reports": {report.check: report for report in reports},
    }
