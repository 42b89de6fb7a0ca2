"""Training because of findings: when it is due, when not, and why. What comes of it is attempts.py."""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any

from truecourse.monitoring.alerts.history import Alarm, Decision, Event, Kind, Notification, Record, write
from truecourse.monitoring.alerts.lifecycle import EVENTS
from truecourse.problem import Problem
from truecourse.problem.monitoring import Retraining
from truecourse.references import aware_utc
from truecourse.storage.object_store import ObjectStore

WEEK = timedelta(days=7)
ATTEMPT_TIMEOUT = timedelta(days=1)
"""After this long a training that has not ended is thought dead."""
_MODELS = ("drift", "quality", "skew")
"""The checks whose findings are about data and models: for those of others nobody asks to retrain."""


def decide(problem: Problem, seen: Record | None, at: datetime) -> Decision | None:
    """Whether a training is due at the moment `at` (UTC) because of what is open, and why, or why not.

    All open findings of a cause in `Retraining.causes` are one reason: many at once are one training. None where
    nothing is open that asks for a decision."""
    alarms = [alarm for alarm in (seen.open if seen else ()) if alarm.finding.check in _MODELS and not alarm.clean]
    if seen is None or not alarms:
        return None
    policy = problem.monitoring.retraining
    curable = [alarm for alarm in alarms if alarm.finding.cause in policy.causes]
    if not curable:
        named = ", ".join(dict.fromkeys(alarm.finding.cause for alarm in alarms))
        return Decision(retrain=False, because=f"newer data fixes no {named}", alarms=_ids(alarms))
    obstacle = _obstacle(policy, seen, alarms, aware_utc(at))
    if obstacle:
        return Decision(retrain=False, because=obstacle, alarms=_ids(curable))
    because = "; ".join(f"{alarm.finding.subject}: {alarm.finding.cause}" for alarm in curable)
    return Decision(retrain=True, because=because, alarms=_ids(curable))


def _obstacle(policy: Retraining, seen: Record, alarms: Sequence[Alarm], at: datetime) -> str:
    if policy.budget == 0:
        return "the problem's budget of retrainings is 0"
    for alarm in alarms:
        if alarm.finding.cause in policy.spoilers:
            return f"first mend the {alarm.finding.cause} of {alarm.finding.subject}, or a model would learn it"
    last = seen.attempts[-1] if seen.attempts else None
    if last and last.outcome == "running" and at - last.at < ATTEMPT_TIMEOUT:
        return f"the retraining of {_time(last.at)} has not ended"
    if last and at - last.at < policy.cooldown:
        return f"the last one was on {_time(last.at)}, and the cool-down ends on {_time(last.at + policy.cooldown)}"
    spent = [attempt.at for attempt in seen.attempts if at - attempt.at < WEEK]
    if len(spent) >= policy.budget:
        free = spent[-policy.budget] + WEEK
        return f"{len(spent)} of {policy.budget} are spent within a week; the next may be from {_time(free)} on"
    return ""


def _time(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"


def _ids(alarms: Iterable[Alarm]) -> tuple[str, ...]:
    return tuple(alarm.id for alarm in alarms)


def record_decision(
    store: ObjectStore, problem: Problem, at: datetime, channels: Sequence[str] = ()
) -> Decision | None:
    """decide(), into the record: once, as long as it stays the same. That one is due is told again each day until it
    begins, with a notice to start it."""

    decision: Decision | None = None

    def change(seen: Record | None) -> dict[str, Any] | None:
        nonlocal decision
        decision = decide(problem, seen, at)
        if seen is None or decision is None or _is_told(decision, seen, at):
            return None
        event = decision_event(decision, seen, at)
        made = {"events": (event,), "decision": decision, "decided": at}
        if not decision.retrain or EVENTS not in channels or event.finding is None:
            return made
        id = f"{problem.name}/{event.alarm}/due/{at:%Y%m%dT%H%M%S}"
        notice = Notification(id=id, kind="due", at=at, finding=event.finding, sentence=event.sentence, owed=(EVENTS,))
        return made | {"outbox": (*seen.outbox, notice)}

    write(store, problem.name, at, "decided", change)
    return decision


def _is_told(decision: Decision, seen: Record, at: datetime) -> bool:
    if decision != seen.decision:
        return False
    return not decision.retrain or (seen.decided is not None and aware_utc(at) - seen.decided < ATTEMPT_TIMEOUT)


def decision_event(decision: Decision, seen: Record, at: datetime) -> Event:
    """The decision as the record tells it, of the first of its alarms."""
    alarm = seen.alarm(decision.alarms[0])
    kind: Kind = "due" if decision.retrain else "not now"
    words = "Retraining is due" if decision.retrain else "No retraining now"
    said = f"{words}: {decision.because}."
    return Event(kind=kind, at=at, sentence=said, alarm=decision.alarms[0], finding=alarm.finding if alarm else None)
