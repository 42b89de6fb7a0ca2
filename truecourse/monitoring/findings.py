"""The report of a check, and its findings: one problem each, with cause, severity and a sentence."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from truecourse.references import Reference, StoredRecord, UtcTime
from truecourse.stored_format import Cause
from truecourse.wording import counted

Check = Literal["drift", "quality", "skew", "pipelines", "endpoint", "machine", "registry", "canary"]

State = Literal["critical", "warning", "ok", "unknown"]
"""`critical`: a finding notifies people; `warning`: other findings only; `ok`: no finding; `unknown`: the check could
not run or had too little data."""
PREREQUISITES: dict[Check, str] = {
    "drift": "predictions: `truecourse run score`, or an endpoint that logs; then `truecourse run monitor`",
    "quality": "predictions of the champion whose labels are complete; then `truecourse run monitor`",
    "skew": "predictions in the log of an endpoint (`truecourse serve`), then `truecourse run monitor`",
    "pipelines": "`truecourse run health`",
    "endpoint": "an endpoint (`truecourse serve`), then `truecourse run health`",
    "machine": "`truecourse run health`",
    "registry": "a champion (`truecourse run lifecycle`), then `truecourse run health`",
    "canary": "a canary (Promotion(canary=...)) with enough requests, then `truecourse run guard`",
}
"""What a check needs before its state is known."""
BROKEN = "check broken"
"""The cause of a finding about a check that failed with an error."""


class Finding(Reference):
    """One problem that a check found.

    `subject`: the column, view, flow or objective it concerns. `cause`: a fixed name such as "unit change", "dead feed"
    or "new category". `page`: whether it is critical and notifies people at once; otherwise it is a warning.
    `sentence`: a complete sentence for people. `figures`: the numbers behind it, JSON.
    """

    check: Check
    subject: str
    cause: Cause
    page: bool
    sentence: str
    figures: dict[str, Any] = Field(default_factory=dict)

    @property
    def sort_key(self) -> tuple[bool, bool]:
        """Sort key: failed checks first, then critical findings, then warnings."""
        return self.cause != BROKEN, not self.page

    @property
    def key(self) -> str:
        """Identifies the problem over time; alerts are keyed by it."""
        return f"{self.check}/{self.subject}/{self.cause}"


class Report(StoredRecord):
    """The result of one check at one time.

    `at`: the reference time (UTC); with `clock="data"` it is the end of the data. `checked_at`: the wall-clock time of
    the check (UTC), which alerts and runs use; None where it equals `at`. `sentence`: a one-sentence summary.
    `made`: false where the check could not run or had too little data; it then resolves no alert.
    `idle`: there was nothing to check, so the state is unknown; alerts without a finding are resolved all the same.
    `fresh`: false where the check saw no data that is newer than the last check's; it then resolves no alert.
    `page`: the storage key of the HTML page, empty without one. `figures`: JSON; the keys depend on the check."""

    check: Check
    problem: str
    at: UtcTime
    checked_at: UtcTime | None = None
    sentence: str
    made: bool = True
    idle: bool = False
    fresh: bool = True
    findings: tuple[Finding, ...] = ()
    page: str = ""
    figures: dict[str, Any] = Field(default_factory=dict)

    @classmethod
    def unavailable(cls, check: Check, problem: str, at: datetime, why: str, *findings: Finding) -> "Report":
        """Build the report of a check that could not run at `at` (UTC). `why`: its sentence."""
        return cls(check=check, problem=problem, at=at, sentence=why, made=False, findings=findings)

    @property
    def is_broken(self) -> bool:
        """Whether the check failed with an error."""
        return any(finding.cause == BROKEN for finding in self.findings)

    @property
    def state(self) -> State:
        if any(finding.page for finding in self.findings):
            return "critical"
        return "warning" if self.findings else "ok" if self.made and not self.idle else "unknown"


def summarize(findings: Sequence[Finding], if_none: str) -> str:
    """Summarize a report: the first finding's sentence and the number of others, or `if_none` without findings."""
    if not findings:
        return if_none
    first = min(findings, key=lambda finding: finding.sort_key)
    others = len(findings) - 1
    return first.sentence if not others else f"{first.sentence} {counted(others, 'more finding').capitalize()}."
