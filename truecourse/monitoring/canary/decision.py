"""What becomes of a canary: at most one move, decided from the history of the aliases and the prediction log."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

from truecourse.data.arrow_types import UTC_TIME
from truecourse.deployment import history as deployments
from truecourse.deployment.loader import environment_names, load_deployment
from truecourse.errors import DeploymentError
from truecourse.evaluation.gates import failed_gates, summarize
from truecourse.monitoring.canary.quality import evaluate_quality
from truecourse.monitoring.canary.service_level import Step, StepResult, evaluate_step, step_of
from truecourse.monitoring.findings import Finding, Report
from truecourse.problem import Problem
from truecourse.problem.promotion import Canary
from truecourse.references import Aliases
from truecourse.registry import aliases
from truecourse.registry.aliases import GUARDED
from truecourse.serving.prediction_log import PARTITION, SCHEMA, log_table
from truecourse.settings import get_settings
from truecourse.storage.tables import Tables

_COLUMNS = [
    "at", "model_sha256", "role", "id", "decision_time", "request", "score", "scores", "prediction", "seconds", "batch",
    "error",
]  # fmt: skip
SILENCE = timedelta(hours=1)
"""A canary of which nothing is logged for so long is told of."""


@dataclass(frozen=True)
class Decision:
    """`reason`: as the history of the aliases is to have it. `share`: the challenger's afterwards. `cause`: of a
    withdrawal: errors, latency, distribution, refused, quality, gates, or unlogged; silent where it waits for a log."""

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


def read_log(problem: Problem, tables: Tables, since: datetime) -> pa.Table:
    """The records of the prediction log from the moment `since` (UTC) on, as evaluate_step() reads them."""
    reference = tables.version(log_table(problem.name))
    if reference is None:
        return SCHEMA.empty_table()
    recent = (pc.field("at") >= pa.scalar(since, UTC_TIME)) & (pc.field(PARTITION) >= f"{since:%Y-%m-%d}")
    return tables.read(reference, _COLUMNS, recent)


def logging_off_reason(problem: str) -> str:
    """What keeps every endpoint of the problem from logging what it answers; empty if nothing does."""
    log, places = get_settings().log, []
    for name in environment_names():
        with suppress(DeploymentError):  # edited since, and wrong now
            config = load_deployment(name)
            if config.target != "batch" and deployments.current_deployment(name, problem) is not None:
                places.append((name, config.log.predictions and log))
    if any(logs for _, logs in places) or (log and not places):
        return ""
    return f"deployments/{places[0][0]}.yaml says log: {{predictions: false}}" if log else "TRUECOURSE_LOG is false"


def decide(problem: Problem, tables: Tables, entries: list[Aliases], at: datetime | None = None) -> Decision:
    """`entries`: the history of the aliases, oldest first. `at` (UTC): now, if None. A share that was set by hand is
    only ever taken back. A canary that nobody logs is withdrawn, for it would wait for ever."""
    step, now = step_of(entries), at or datetime.now(UTC)
    if step is None:
        return Decision("rest", _at_rest(entries))
    guarded = entries[-1].action in GUARDED
    if guarded and (why := logging_off_reason(problem.name)):
        reason = f"nothing that it answers can be judged, for the prediction log is off: {why}"
        return _taken("withdraw", StepResult("withdraw", reason, "unlogged"), step, cause="unlogged")
    canary, records = problem.promotion.canary, read_log(problem, tables, step.began)
    verdict = _with_labels(
        evaluate_step(problem, canary or Canary(), step, records), evaluate_quality(problem, step, tables, records, now)
    )
    if verdict.action == "withdraw":
        return _taken("withdraw", verdict, step, cause=verdict.cause)
    if canary is None or not guarded:
        stays = replace(verdict, sentence=f"{verdict.sentence}; set by hand, and widened by hand alone")
        return _taken("wait", stays, step, step.share)
    if not len(records) and now - step.at > SILENCE:
        hint = "no request came, or its endpoint does not log (TRUECOURSE_LOG), or nobody ships what it logs"
        silent = replace(verdict, sentence=f"nothing was logged since {step.began:%Y-%m-%d %H:%M} UTC: {hint}")
        return _taken("wait", silent, step, step.share, "silent")
    if verdict.action == "wait":
        return _taken("wait", verdict, step, step.share)
    after = canary.after(step.share)
    return _taken("promote", verdict, step) if after is None else _taken("widen", verdict, step, after)


def _with_labels(verdict: StepResult, quality: StepResult) -> StepResult:
    """What labels say comes after what the log says by itself."""
    figures = {**verdict.figures, **quality.figures}
    if verdict.action == "withdraw" or quality.action == "withdraw":
        return replace(verdict if verdict.action == "withdraw" else quality, figures=figures)
    said = f"{verdict.sentence}; {quality.sentence}" if quality.sentence else verdict.sentence
    return replace(verdict, sentence=said, figures=figures)


def apply_gates(decision: Decision, verdicts: list[dict[str, Any]]) -> Decision:
    """The decision to promote, now that the gates were asked once more: one that failed withdraws the version. Of one
    that cannot be judged now, what it said before the canary began counts: it had passed."""
    shut = failed_gates(verdicts)
    if not shut:
        return replace(decision, reason=f"{decision.reason}; {summarize(verdicts)}")
    why = "; ".join(f"{gate['gate']}: {gate['detail']}" for gate in shut)
    return replace(decision, action="withdraw", cause="gates", reason=why)


def _taken(action: Any, verdict: StepResult, step: Step, share: float = 0.0, cause: str = "") -> Decision:
    return Decision(action, verdict.sentence, step, share, cause, verdict.figures)


def _at_rest(entries: Sequence[Aliases]) -> str:
    lost = aliases.withdrawal(entries) if entries else None
    if lost is None or lost.challenger is None:
        return "No challenger answers requests."
    return f"Version {lost.challenger.version} was withdrawn at {lost.at:%Y-%m-%d %H:%M} UTC: {lost.reason}."


def report(problem: Problem, decision: Decision, entries: Sequence[Aliases], at: datetime) -> Report:
    """`entries`: with the move that the decision led to. A withdrawal is told of until the challenger is another, or
    has a share again. Without a canary, or before its first look, there is nothing to judge."""
    now, lost = (entries[-1], aliases.withdrawal(entries)) if entries else (None, None)
    findings = []
    if lost is not None and lost.challenger is not None:
        who, when = f"version {lost.challenger.version}", {"entry": lost.number, "at": lost.at.isoformat()}
        said = _at_rest(entries)
        findings.append(Finding(check="canary", subject=who, cause="withdrawn", page=True, sentence=said, figures=when))
    if decision.cause == "silent" and decision.step is not None:
        who = f"version {decision.step.challenger.version}"
        findings.append(Finding(check="canary", subject=who, cause="silent", page=True, sentence=decision.sentence))
    told = {
        "entry": now.number if now else 0,
        "action": decision.action,
        "cause": decision.cause,
        "share": now.share if now else 0.0,
        "judged": dict(decision.figures),
    }
    return Report(
        check="canary",
        problem=problem.name,
        at=at,
        sentence=decision.sentence,
        idle=decision.step is None or not decision.figures.get("judged"),
        findings=tuple(findings),
        figures=told,
    )
