"""What becomes of a canary: at most one move, decided from the history of the aliases and the prediction log."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

from truecourse import aliases
from truecourse.aliases import GUARDED
from truecourse.frame import UTC_TIME
from truecourse.gates import failed
from truecourse.monitoring.canary import Step, Verdict, judge_step, step_of
from truecourse.monitoring.findings import Finding, Report
from truecourse.predictionlog import PARTITION, SCHEMA, log_table
from truecourse.problem import Problem
from truecourse.promotion import Canary
from truecourse.references import Aliases
from truecourse.tables import Tables

_COLUMNS = ["at", "model_sha256", "role", "id", "request", "score", "prediction", "seconds", "batch", "error"]


@dataclass(frozen=True)
class Decision:
    """`reason`: as the history of the aliases is to have it. `share`: the challenger's afterwards. `cause`: of a
    withdrawal: errors, latency, distribution, refused, or gates."""

    action: Literal["rest", "wait", "widen", "promote", "withdraw"]
    reason: str
    step: Step | None = None
    share: float = 0.0
    cause: str = ""
    figures: Mapping[str, Any] = field(default_factory=dict)

    @property
    def sentence(self) -> str:
        if self.step is None:
            return self.reason
        before, who = f"{self.step.share:.0%}", f"Version {self.step.challenger.version}"
        done = {
            "widen": f"{who} answers {self.share:.0%} now, after {before}",
            "promote": f"{who} is champion",
            "withdraw": f"{who} is withdrawn from {before}",
        }
        return f"{done.get(self.action, f'{who} answers {before}')}: {self.reason}."


def logged(problem: Problem, tables: Tables, since: datetime) -> pa.Table:
    """The records of the prediction log from the moment `since` (UTC) on, as judge_step() reads them."""
    reference = tables.version(log_table(problem.name))
    if reference is None:
        return SCHEMA.empty_table()
    recent = (pc.field("at") >= pa.scalar(since, UTC_TIME)) & (pc.field(PARTITION) >= f"{since:%Y-%m-%d}")
    return tables.read(reference, _COLUMNS, recent)


def decide(problem: Problem, tables: Tables, entries: list[Aliases]) -> Decision:
    """`entries`: the history of the aliases, oldest first. A share that was set by hand is only ever taken back."""
    step = step_of(entries)
    if step is None:
        return Decision("rest", _at_rest(entries))
    canary = problem.promotion.canary
    verdict = judge_step(problem, canary or Canary(), step, logged(problem, tables, step.began))
    if verdict.action == "withdraw":
        return _taken("withdraw", verdict, step, cause=verdict.cause)
    if canary is None or entries[-1].action not in GUARDED:
        stays = replace(verdict, sentence=f"{verdict.sentence}; set by hand, and widened by hand alone")
        return _taken("wait", stays, step, step.share)
    if verdict.action == "wait":
        return _taken("wait", verdict, step, step.share)
    after = canary.after(step.share)
    return _taken("promote", verdict, step) if after is None else _taken("widen", verdict, step, after)


def past_gates(decision: Decision, verdicts: list[dict[str, Any]]) -> Decision:
    """The decision to promote, now that the gates were asked once more: a shut one withdraws the version."""
    shut = failed(verdicts)
    if not shut:
        return replace(decision, reason=f"{decision.reason}; all {len(verdicts)} gates passed")
    why = "; ".join(f"{gate['gate']}: {gate['detail']}" for gate in shut)
    return replace(decision, action="withdraw", cause="gates", reason=why)


def _taken(action: Any, verdict: Verdict, step: Step, share: float = 0.0, cause: str = "") -> Decision:
    return Decision(action, verdict.sentence, step, share, cause, verdict.figures)


def _at_rest(entries: Sequence[Aliases]) -> str:
    lost = aliases.withdrawal(entries) if entries else None
    if lost is None or lost.challenger is None:
        return "No challenger answers requests."
    return f"Version {lost.challenger.version} was withdrawn at {lost.at:%Y-%m-%d %H:%M} UTC: {lost.reason}."


def report(problem: Problem, decision: Decision, entries: Sequence[Aliases], at: datetime) -> Report:
    """`entries`: with the move that the decision led to. A withdrawal is told of until the challenger is another, or
    has a share again."""
    now, lost = (entries[-1], aliases.withdrawal(entries)) if entries else (None, None)
    findings = []
    if lost is not None and lost.challenger is not None:
        who, when = f"version {lost.challenger.version}", {"entry": lost.number, "at": lost.at.isoformat()}
        said = _at_rest(entries)
        findings.append(Finding(check="canary", subject=who, cause="withdrawn", page=True, sentence=said, figures=when))
    told = {
        "entry": now.number if now else 0,
        "action": decision.action,
        "cause": decision.cause,
        "share": now.share if now else 0.0,
        "judged": dict(decision.figures),
    }
    return Report(
        check="canary", problem=problem.name, at=at, sentence=decision.sentence, findings=tuple(findings), figures=told
    )
