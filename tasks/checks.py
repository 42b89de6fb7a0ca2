"""The checks of a problem: each is made whatever becomes of the others, and one that cannot be made says so."""

import logging
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from truecourse.errors import FeatureError, ModelError, NotFound
from truecourse.monitoring.findings import Check, Finding, Report
from truecourse.monitoring.statements import summed

log = logging.getLogger("truecourse.monitor")
_NOT_YET = (NotFound, ModelError, FeatureError)
"""What a check raises where there is nothing to look at yet: no champion, no predictions."""


def made(check: Check, task: Callable[..., Report], problem: str, *arguments: Any) -> Report:
    """The task's report. Where there is nothing yet to check, one that says so; where the check itself breaks, one that
    pages: a watchman who is gone is missed."""
    try:
        return task(problem, *arguments)
    except _NOT_YET as error:
        log.warning("%s: %s", check, error.what)
        return Report.unmade(check, problem, datetime.now(UTC), f"Not checked: {error.what}.")
    except Exception as error:
        log.exception("the check of %s broke", check)
        told = f"The check of {check} broke: {type(error).__name__}."
        broken = Finding(check=check, subject="check", cause="check broken", page=True, sentence=told)
        return Report.unmade(check, problem, datetime.now(UTC), told, broken)


def summary(problem: str, reports: Sequence[Report]) -> dict[str, Any]:
    """What the reports say: all of them in one sentence, whether one pages, and each by its check."""
    findings = [finding for report in reports for finding in report.findings]
    checked = [report.check for report in reports if report.made]
    well = f"Nothing to see: {', '.join(checked)}." if checked else "Nothing could be checked."
    return {
        "problem": problem,
        "sentence": summed(findings, well),
        "alarm": any(finding.page for finding in findings),
        "reports": {report.check: report for report in reports},
    }
