"""The skew check: compare served features and scores with values recomputed from the offline tables.

It recomputes a sample of the logged predictions: view features by a point-in-time join as of each decision, request
features from the logged request, and scores from the logged features with the logged model. Each difference has a
cause:

- code: the same inputs, or the same event time, give a different value
- missing: only one side has a value
- stale value: the online store served a value that had been replaced or had expired
- late data: the differing value was recorded after the decision; the value known then agrees
- asked afterwards: the request came after its decision time, when the store held values newer than the decision
"""

from datetime import UTC, datetime
from typing import Any

import numpy as np

from truecourse.monitoring.findings import Finding, Report
from truecourse.monitoring.predictions.log_sample import LogSample, newest_day_end, sample_log
from truecourse.monitoring.skew.causes import AFTERWARDS, CODE, LATE, MISSING, STALE, Cause, Mismatch
from truecourse.monitoring.skew.feature_audit import MODEL, SCORE, Audit, audit_sample
from truecourse.monitoring.skew.view_history import HistoryReader, read_history
from truecourse.problem import Problem
from truecourse.references import Window, naive_utc
from truecourse.storage.delta_tables import Tables
from truecourse.wording import counted, counted_of

EXAMPLES = 3


def check_skew(
    problem: Problem,
    tables: Tables,
    at: datetime | None = None,
    window: Window | None = None,
    histories: HistoryReader = read_history,
) -> Report:
    """Check predictions requested in the window; by default the problem's `monitoring.window` before `at`.

    at: the reference time (UTC); by default the end of the newest prediction's day, or the present if that is earlier.
    Later requests, decisions and records are not read. histories: reads the views' rows."""
    wall = datetime.now(UTC)
    now = naive_utc(at or min(newest_day_end(problem, tables) or wall, wall))
    assert now is not None
    start, end = (naive_utc(window.start), naive_utc(window.end)) if window else (None, None)
    end = min(end or now, now)
    span = Window(start=start or end - problem.monitoring.window, end=end)
    logged = sample_log(problem, tables, span, problem.monitoring.audit_rows)
    audit = audit_sample(problem, tables, logged, now, histories)
    found = [_finding(problem, logged, mismatch) for mismatch in audit.mismatches]
    findings = [f for f in found if f.figures["share"] > problem.monitoring.audit_share]
    findings.sort(key=lambda f: (not f.page, -f.figures["share"], f.subject))
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
    sentence = _summary(logged, findings, audit)
    at_utc = now.replace(tzinfo=UTC)
    return Report(
        check="skew",
        problem=problem.name,
        at=at_utc,
        sentence=sentence,
        made=any(audit.compared.values()),
        findings=tuple(findings),
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


_CAUSE_TEXTS: dict[Cause, str] = {
    CODE: "code (the same inputs give a different value offline)",
    MISSING: "missing (only one of the online store and the tables has a value)",
    STALE: "stale value (a newer one had been known for {median} at the median, {most} at most)",
    LATE: "late data (the value was recorded after the decision, and the one known then agrees)",
    AFTERWARDS: "request after its decision (the online store already held newer values)",
}
_SCORE = "code or model (the logged model gives a different score for the logged features)"
_MODEL = "a model that is not in the registry"


def _sentence(mismatch: Mismatch, figures: dict[str, Any]) -> str:
    named = sorted(mismatch.features, key=lambda name: (-mismatch.features[name], name))
    of = f" ({', '.join(named[:3])}{' ...' if len(named) > 3 else ''})" if named != [mismatch.subject] else ""
    times = {what: _duration(figures.get(f"overdue_{what}", 0.0)) for what in ("median", "most")}
    why = {SCORE: _SCORE, MODEL: _MODEL}.get(mismatch.subject, _CAUSE_TEXTS[mismatch.cause].format(**times))
    part = f"{100 * mismatch.share:.1f}% of {counted(mismatch.compared, 'audited prediction')}"
    return f"{mismatch.subject}{of} differs in {part}. Cause: {why}. Example: {figures['examples'][0]}."


def _duration(seconds: float) -> str:
    for size, unit in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} seconds"


def _summary(logged: LogSample, findings: list[Finding], audit: Audit) -> str:
    if not len(logged):
        return "No data yet: no prediction was logged in the window."
    if not any(audit.compared.values()):
        why = "; ".join(f"{reason} ({', '.join(names[:3])})" for reason, names in audit.not_compared.items())
        return f"None of {counted(len(logged), 'prediction')} could be recomputed: {why or 'no reason given'}."
    of = f"{counted_of(len(logged), logged.total, 'prediction')} were recomputed"
    rest = ", in part" if audit.not_compared else ""
    if not findings:
        return f"{of}{rest}: they agree with the offline tables."
    differences = [f"{f.subject} ({f.cause}, {100 * f.figures['share']:.1f}%)" for f in findings]
    more = f" and {len(differences) - 3} more" if len(differences) > 3 else ""
    return f"{of}{rest}: {', '.join(differences[:3])}{more} differ{'s' if len(differences) == 1 else ''}."
