"""The checks of a problem: each is made whatever becomes of the others, and one that cannot be made says so."""

import logging
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from truecourse.errors import CheckBroken, FeatureError, ModelError, NotFound, TruecourseError
from truecourse.monitoring import report_store
from truecourse.monitoring.findings import BROKEN, Check, Finding, Report
from truecourse.monitoring.wording import summarize
from truecourse.storage.object_store import open_store

log = logging.getLogger("truecourse.monitor")
_NOT_YET = (NotFound, ModelError, FeatureError)
"""What a check raises where there is nothing to look at yet: no champion, no predictions."""


def run_check(
    check: Check, task: Callable[..., Report], problem: str, *arguments: Any, at: datetime | None = None
) -> Report:
    """The task's report. Where there is nothing yet to check, one that says so; where the check itself breaks, one that
    pages, and leads every page: nobody watches there. Those are kept too, so that no older report stands for them."""
    try:
        return task(problem, *arguments)
    except _NOT_YET as error:
        log.warning("%s: %s", check, error.what)
        return _save(Report.unavailable(check, problem, at or datetime.now(UTC), _unknown(error)))
    except Exception as error:
        log.exception("the check of %s broke", check)
        told = f"The check of {check} broke: {type(error).__name__}."  # its text may hold what is private
        broken = Finding(check=check, subject="check", cause=BROKEN, page=True, sentence=told)
        return _save(Report.unavailable(check, problem, at or datetime.now(UTC), told, broken))


def _unknown(error: TruecourseError) -> str:
    return f"Not checked: {error.what}." + (f" To make it known: {error.hint}." if error.hint else "")


def _save(report: Report) -> Report:
    try:
        report_store.save(open_store(), report)
    except Exception:  # storage may be what broke: the report still goes to whoever asked
        log.exception("the report of %s could not be kept", report.check)
    return report


def require_unbroken(problem: str, found: Sequence[Report]) -> None:
    """Raises CheckBroken where a check itself broke: a flow that ends well says that somebody looked."""
    broken = [report for report in found if report.is_broken]
    if broken:
        what = " ".join(report.sentence for report in broken)
        hint = "the tracebacks are in this run's log; what the other checks found is in their reports"
        raise CheckBroken(what, where=f"problem {problem}", hint=hint)


def summary(problem: str, found: Sequence[Report]) -> dict[str, Any]:
    """What the reports say: all of them in one sentence, whether one pages, and each by its check."""
    findings = [finding for report in found for finding in report.findings]
    unknown = [report.check for report in found if report.state == "unknown"]
    checked = [report.check for report in found if report.check not in unknown]
    well = f"Nothing found: {', '.join(checked)}" if checked else "Nothing could be checked"
    well += f"; unknown: {', '.join(unknown)}." if unknown and checked else "."
    return {
        "problem": problem,
        "sentence": summarize(findings, well),
        "alarm": any(finding.page for finding in findings),
        "reports": {report.check: report for report in found},
    }
