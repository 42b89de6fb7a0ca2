"""Skew: do the features and scores that were served hold when they are computed again from the offline tables?

A sample of the logged predictions is taken apart. Features of views are joined again as of each decision, features of
the request are computed again from what was asked, and scores from the logged features by the logged model. What
differs is told with its cause:

- code: from the same inputs, or at the same event time, another value comes out
- missing: there is a value on one side only
- stale value: the online store answered with a value that had been replaced, or that had run out meanwhile
- late data: what differs was recorded after the decision; what was known then agrees
- asked afterwards: the request came after its decision time, when the store held newer values than the decision may see
"""

from datetime import UTC, datetime
from typing import Any

import numpy as np

from truecourse.monitoring.findings import Finding, Report
from truecourse.monitoring.predictions.log_sample import LogSample, newest_day_end, sample_log
from truecourse.monitoring.skew.audit import Audit, audit_sample
from truecourse.monitoring.skew.causes import AFTERWARDS, CODE, LATE, MISSING, STALE, Cause, Mismatch
from truecourse.monitoring.skew.recompute import MODEL, SCORE
from truecourse.problem import Problem
from truecourse.references import Window, naive_utc
from truecourse.storage.tables import Tables
from truecourse.wording import counted, counted_of

EXAMPLES = 3


def check_skew(problem: Problem, tables: Tables, at: datetime | None = None, window: Window | None = None) -> Report:
    """Audit predictions asked for in the window; by default the problem's `monitoring.window` before `at`.

    at: the moment that counts as now, UTC; if None the end of the day of the newest prediction, or the present where
    that is not over. Nothing asked, decided or recorded after it is read."""
    wall = datetime.now(UTC)
    now = naive_utc(at or min(newest_day_end(problem, tables) or wall, wall))
    assert now is not None
    start, end = (naive_utc(window.start), naive_utc(window.end)) if window else (None, None)
    end = min(end or now, now)
    span = Window(start=start or end - problem.monitoring.window, end=end)
    logged = sample_log(problem, tables, span, problem.monitoring.audit_rows)
    audit = audit_sample(problem, tables, logged, now)
    found = [_finding(problem, logged, mismatch) for mismatch in audit.mismatches]
    weighty = [f for f in found if f.figures["share"] > problem.monitoring.audit_share]
    weighty.sort(key=lambda f: (not f.page, -f.figures["share"], f.subject))
    figures = {
        "window": span.model_dump(mode="json"),
        "asked": logged.total,
        "audited": len(logged),
        "compared": audit.compared,
        "not_compared": audit.not_compared,
        "mismatches": [{"subject": f.subject, "cause": f.cause, **f.figures} for f in found],
        "audit_share": problem.monitoring.audit_share,
        "audit_lag": problem.monitoring.audit_lag.total_seconds(),
    }
    said = _summary(logged, weighty, audit)
    moment = now.replace(tzinfo=UTC)
    return Report(
        check="skew",
        problem=problem.name,
        at=moment,
        sentence=said,
        made=any(audit.compared.values()),
        findings=tuple(weighty),
        figures=figures,
    )


def _finding(problem: Problem, logged: LogSample, mismatch: Mismatch) -> Finding:
    rows = len(mismatch.places)
    figures: dict[str, Any] = {
        "rows": rows,
        "compared": mismatch.compared,
        "share": round(mismatch.share, 6),
        "features": dict(mismatch.features),
        "examples": [logged.ids[place] for place in mismatch.places[:EXAMPLES]],
    }
    page = mismatch.cause in (CODE, MISSING)
    if len(mismatch.overdue):
        beyond = np.count_nonzero(mismatch.overdue > problem.monitoring.audit_lag.total_seconds())
        page = bool(beyond / mismatch.compared > problem.monitoring.audit_share)
        middle, most = np.quantile(mismatch.overdue, [0.5, 1.0]).tolist()
        figures |= {"overdue_median": middle, "overdue_most": most, "beyond_lag": int(beyond)}
    return Finding(
        check="skew",
        subject=mismatch.subject,
        cause=mismatch.cause,
        page=page,
        sentence=_sentence(mismatch, figures),
        figures=figures,
    )


_WORDS: dict[Cause, str] = {
    CODE: "code: the same inputs give another value offline",
    MISSING: "missing: only one of the online store and the tables has a value",
    STALE: "a stale value: what the online store held had been replaced {median} before at the median, {most} at most",
    LATE: "late data: it was recorded after the decision, and what was known then agrees",
    AFTERWARDS: "asked afterwards: the store had moved on past the decision when the request came",
}
_SCORE = "code or model: the logged model gives another score for the logged features"
_MODEL = "a model that the registry does not hold"


def _sentence(mismatch: Mismatch, figures: dict[str, Any]) -> str:
    named = sorted(mismatch.features, key=lambda name: (-mismatch.features[name], name))
    of = f" ({', '.join(named[:3])}{' ...' if len(named) > 3 else ''})" if named != [mismatch.subject] else ""
    times = {what: _duration(figures.get(f"overdue_{what}", 0.0)) for what in ("median", "most")}
    why = {SCORE: _SCORE, MODEL: _MODEL}.get(mismatch.subject, _WORDS[mismatch.cause].format(**times))
    part = f"{100 * mismatch.share:.1f}% of {counted(mismatch.compared, 'prediction')} audited"
    return f"{mismatch.subject}{of} differs in {part}, by {why}; for example in {figures['examples'][0]}."


def _duration(seconds: float) -> str:
    for size, unit in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} seconds"


def _summary(logged: LogSample, findings: list[Finding], audit: Audit) -> str:
    if not len(logged):
        return "No prediction was logged in the window: there is nothing to audit."
    if not any(audit.compared.values()):
        why = "; ".join(f"{reason} ({', '.join(names[:3])})" for reason, names in audit.not_compared.items())
        return f"None of {counted(len(logged), 'prediction')} could be computed again: {why or 'no reason'}."
    of = f"{counted_of(len(logged), logged.total, 'prediction')} were computed again"
    rest = ", as far as the log tells" if audit.not_compared else ""
    if not findings:
        return f"{of}{rest}: they agree with the offline tables."
    told = [f"{f.subject} ({f.cause}, {100 * f.figures['share']:.1f}%)" for f in findings]
    more = f" and {len(told) - 3} more" if len(told) > 3 else ""
    return f"{of}{rest}: {', '.join(told[:3])}{more} differ{'s' if len(told) == 1 else ''}."
