"""What a check found: each finding one thing that is not as it should be, its cause, and a sentence."""

from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from truecourse.references import Reference, UtcTime

Check = Literal["drift", "quality", "skew", "pipelines", "endpoint", "machine", "registry", "canary"]

State = Literal["critical", "warning", "ok", "unknown"]
"""A report in a word: something pages, something is found, nothing is, or nobody could look or tell."""
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
"""What makes a check known whose state is unknown."""
BROKEN = "check broken"
"""The cause of the finding that a check itself broke."""


class Finding(Reference):
    """One thing that is wrong, or worth knowing.

    `subject`: what it is about: a column, a view, a flow, an objective. `cause`: a name for what is behind it, the same
    each time ("unit change", "dead feed", "new category"). `page`: somebody should be told now; otherwise it is only
    reported. `sentence`: for people, whole and by itself. `figures`: what it rests on, JSON.
    """

    check: Check
    subject: str
    cause: str
    page: bool
    sentence: str
    figures: dict[str, Any] = Field(default_factory=dict)

    @property
    def sort_key(self) -> tuple[bool, bool]:
        """Sorts what leads first: a check that broke, for nobody watches there, then what pages."""
        return self.cause != BROKEN, not self.page

    @property
    def key(self) -> str:
        """The same for the same trouble at another time: what alerts are told apart by."""
        return f"{self.check}/{self.subject}/{self.cause}"


class Report(Reference):
    """What one check says at one moment. `at`: the moment that counted as now, UTC: of a check of data with
    `clock="data"` the end of the data. `checked_at`: when the check was made, by the clock that alarms and runs go by;
    None where that is `at`. `sentence`: all of it in one.
    `made`: false where the check could not be made, or had too little to judge; what it does not find is then not gone.
    `idle`: there was nothing to judge, so that its state is unknown; what it does not find is gone nevertheless.
    `fresh`: false where it looked at nothing that had not been looked at before; then nothing is gone either.
    `page`: the key in storage of the page that people open; empty where there is none. `figures`: JSON, by check."""

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
        """The report of a check that could not be made at a moment (UTC), with what that itself is a finding of."""
        return cls(check=check, problem=problem, at=at, sentence=why, made=False, findings=findings)

    @property
    def is_broken(self) -> bool:
        """Whether the check itself broke."""
        return any(finding.cause == BROKEN for finding in self.findings)

    @property
    def state(self) -> State:
        if any(finding.page for finding in self.findings):
            return "critical"
        return "warning" if self.findings else "ok" if self.made and not self.idle else "unknown"
