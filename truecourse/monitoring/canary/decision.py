"""The canary decision: wait, increase traffic, promote, or roll back; from the alias history and the prediction log."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

from truecourse.data.arrow_types import UTC_TIME
from truecourse.deployment import deployment_history as deployments
from truecourse.deployment.config_loader import environment_names, load_deployment
from truecourse.errors import DeploymentError
from truecourse.evaluation.gates import failed_gates, summarize
from truecourse.monitoring.canary.canary_quality import evaluate_quality
from truecourse.monitoring.canary.service_level import Step, StepResult, evaluate_step, step_of
from truecourse.monitoring.finding_causes import RollbackCause
from truecourse.monitoring.findings import Finding, Report
from truecourse.problem import Problem
from truecourse.problem.promotion import Canary
from truecourse.references import Aliases
from truecourse.registry import aliases
from truecourse.registry.aliases import CANARY_ROLLBACK, CANARY_STOP, GUARDED
from truecourse.serving.prediction_log import PARTITION, SCHEMA, log_table
from truecourse.settings import get_settings
from truecourse.storage.delta_tables import Tables

_COLUMNS = [
    "at", "model_sha256", "role", "id", "decision_time", "request", "score", "scores", "prediction", "seconds", "batch",
    "error",
]  # fmt: skip
SILENCE = timedelta(hours=1)
"""A canary without logged requests for this long is reported."""


@dataclass(frozen=True)
class Decision:
    """What to do with the canary: "rest" (there is none), "wait", "widen" (increase traffic), "promote" or "roll back".

    `reason`: for the alias history. `share`: the challenger's share of traffic afterwards. `cause`: why it is rolled
    back; "silent" while nothing is logged; else empty."""

    action: Literal["rest", "wait", "widen", "promote", "roll back"]
    reason: str
    step: Step | None = None
    share: float = 0.0
    cause: RollbackCause | Literal["silent", ""] = ""
    figures: Mapping[str, Any] = field(default_factory=dict)

    @property
    def sentence(self) -> str:
        if self.step is None:
            return self.reason
        before, who = f"{self.step.share:.0%}", f"Version {self.step.challenger.version}"
        outcomes = {
            "widen": f"{who} now answers {self.share:.0%}, up from {before}",
            "promote": f"{who} is champion",
            "roll back": f"{who} is rolled back from {before}",
        }
        return f"{outcomes.get(self.action, f'{who} answers {before}')}: {self.reason}."


def read_log(problem: Problem, tables: Tables, since: datetime) -> pa.Table:
    """Read the records of the prediction log since `since` (UTC), with the columns that evaluate_step() uses."""
    reference = tables.version(log_table(problem.name))
    if reference is None:
        return SCHEMA.empty_table()
    recent = (pc.field("at") >= pa.scalar(since, UTC_TIME)) & (pc.field(PARTITION) >= f"{since:%Y-%m-%d}")
    return tables.read(reference, _COLUMNS, recent)


def logging_off_reason(problem: str) -> str:
    """Return why no endpoint of the problem logs its predictions; empty if at least one does."""
    log, places = get_settings().log, []
    for name in environment_names():
        with suppress(DeploymentError):  # the configuration was edited and is invalid now
            config = load_deployment(name)
            if config.target != "batch" and deployments.current_deployment(name, problem) is not None:
                places.append((name, config.log.predictions and log))
    if any(logs for _, logs in places) or (log and not places):
        return ""
    return f"deployments/{places[0][0]}.yaml says log: {{predictions: false}}" if log else "TRUECOURSE_LOG is false"


def decide(problem: Problem, tables: Tables, entries: list[Aliases], at: datetime | None = None) -> Decision:
    """Decide the canary's next move. `entries`: the alias history, oldest first. `at` (UTC): now, if None.

    A share of traffic that was set by hand is never increased, only rolled back. A canary whose predictions are not
    logged is rolled back, because it would wait forever."""
    step, now = step_of(entries), at or datetime.now(UTC)
    if step is None:
        return Decision("rest", _describe_rest(entries))
    guarded = entries[-1].action in GUARDED
    if guarded and (why := logging_off_reason(problem.name)):
        reason = f"its predictions cannot be evaluated, because the prediction log is off: {why}"
        return _decision("roll back", StepResult("roll back", reason, "unlogged"), step, cause="unlogged")
    canary, records = problem.promotion.canary, read_log(problem, tables, step.canary_started)
    result = _combine(
        evaluate_step(problem, canary or Canary(), step, records), evaluate_quality(problem, step, tables, records, now)
    )
    if result.action == "roll back":
        return _decision("roll back", result, step, cause=result.cause)
    if canary is None or not guarded:
        manual = replace(
            result, sentence=f"{result.sentence}; its traffic was set by hand and is increased by hand only"
        )
        return _decision("wait", manual, step, step.share)
    if not len(records) and now - step.started > SILENCE:
        hint = "there was no request, its endpoint does not log (TRUECOURSE_LOG), or its log is not shipped"
        silent = replace(result, sentence=f"nothing was logged since {step.canary_started:%Y-%m-%d %H:%M} UTC: {hint}")
        return _decision("wait", silent, step, step.share, "silent")
    if result.action == "wait":
        return _decision("wait", result, step, step.share)
    after = canary.after(step.share)
    return _decision("promote", result, step) if after is None else _decision("widen", result, step, after)


def _combine(service: StepResult, quality: StepResult) -> StepResult:
    """Combine the results of the service level and of quality; the service level comes first."""
    figures = {**service.figures, **quality.figures}
    if service.action == "roll back" or quality.action == "roll back":
        return replace(service if service.action == "roll back" else quality, figures=figures)
    sentence = f"{service.sentence}; {quality.sentence}" if quality.sentence else service.sentence
    return replace(service, sentence=sentence, figures=figures)


def apply_gates(decision: Decision, results: list[dict[str, Any]]) -> Decision:
    """Confirm a decision to promote with the newly evaluated gates: a failed gate turns it into a rollback.

    A gate that cannot be evaluated now counts as passed, since it passed before the canary started."""
    failed = failed_gates(results)
    if not failed:
        return replace(decision, reason=f"{decision.reason}; {summarize(results)}")
    why = "; ".join(f"{gate['gate']}: {gate['detail']}" for gate in failed)
    return replace(decision, action="roll back", cause="gates", reason=why)


def _decision(
    action: Any, result: StepResult, step: Step, share: float = 0.0, cause: RollbackCause | Literal["silent", ""] = ""
) -> Decision:
    return Decision(action, result.sentence, step, share, cause, result.figures)


def _describe_rest(entries: Sequence[Aliases]) -> str:
    ended = aliases.ended_canary(entries) if entries else None
    if ended is None or ended.challenger is None or (ended.action == CANARY_STOP and entries[-1].shadow):
        return "No challenger answers requests."
    how = f"stopped by {ended.author}" if ended.action == CANARY_STOP else "rolled back"
    return f"Version {ended.challenger.version} was {how} at {ended.at:%Y-%m-%d %H:%M} UTC: {ended.reason}."


def report_stop(problem: Problem) -> Report:
    """Build the canary report after aliases.stop_canary(), which `truecourse status` shows until the next guard."""
    entries = aliases.history(problem.name)
    return report(problem, Decision("rest", _describe_rest(entries)), entries, datetime.now(UTC))


def report(problem: Problem, decision: Decision, entries: Sequence[Aliases], at: datetime) -> Report:
    """Build the canary report. `entries`: the alias history, with the change that the decision led to.

    A rollback is a finding until there is another challenger or it gets traffic again. A stop by hand is none. The
    report is idle without a canary, or before the canary's first evaluation."""
    now, lost = (entries[-1], aliases.ended_canary(entries)) if entries else (None, None)
    findings = []
    if lost is not None and lost.challenger is not None and lost.action == CANARY_ROLLBACK:
        who, entry = f"version {lost.challenger.version}", {"entry": lost.number, "at": lost.at.isoformat()}
        text = _describe_rest(entries)
        findings.append(
            Finding(check="canary", subject=who, cause="rolled back", page=True, sentence=text, figures=entry)
        )
    if decision.cause == "silent" and decision.step is not None:
        who = f"version {decision.step.challenger.version}"
        findings.append(Finding(check="canary", subject=who, cause="silent", page=True, sentence=decision.sentence))
    figures = {
        "entry": now.number if now else 0,
        "action": decision.action,
        "cause": decision.cause,
        "share": now.share if now else 0.0,
        "evaluated": dict(decision.figures),
    }
    return Report(
        check="canary",
        problem=problem.name,
        at=at,
        sentence=decision.sentence,
        idle=decision.step is None or not decision.figures.get("evaluated"),
        findings=tuple(findings),
        figures=figures,
    )
