"""The retraining policy: whether open findings trigger a retraining, and why. Its runs are in retraining_runs.py."""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any

from truecourse.monitoring.alerts.alert_lifecycle import EVENTS
from truecourse.monitoring.alerts.alert_record import Alarm, Decision, Event, Kind, Notification, Record, write
from truecourse.problem import Problem
from truecourse.problem.monitoring import Retraining
from truecourse.references import aware_utc
from truecourse.storage.object_store import ObjectStore

WEEK = timedelta(days=7)
ATTEMPT_TIMEOUT = timedelta(days=1)
"""A retraining that has not ended after this long is considered dead."""
_MODELS = ("drift", "quality", "skew")
"""The checks whose findings can trigger a retraining."""


def decide(problem: Problem, record: Record | None, at: datetime) -> Decision | None:
    """Decide at `at` (UTC) whether the open alarms trigger a retraining, and why.

    All open findings with a cause in `Retraining.causes` together trigger one retraining. None if no open finding is
    about data or models."""
    alarms = [alarm for alarm in (record.open if record else ()) if alarm.finding.check in _MODELS and not alarm.clean]
    if record is None or not alarms:
        return None
    policy = problem.monitoring.retraining
    triggers = [alarm for alarm in alarms if alarm.finding.cause in policy.causes]
    if not triggers:
        causes = ", ".join(dict.fromkeys(alarm.finding.cause for alarm in alarms))
        return Decision(retrain=False, because=f"retraining does not fix: {causes}", alarms=_ids(alarms))
    blocker = _find_blocker(policy, record, alarms, aware_utc(at))
    if blocker:
        return Decision(retrain=False, because=blocker, alarms=_ids(triggers))
    because = "; ".join(f"{alarm.finding.subject}: {alarm.finding.cause}" for alarm in triggers)
    return Decision(retrain=True, because=because, alarms=_ids(triggers))


def _find_blocker(policy: Retraining, record: Record, alarms: Sequence[Alarm], at: datetime) -> str:
    if policy.budget == 0:
        return "the problem's budget of retrainings is 0"
    for alarm in alarms:
        if alarm.finding.cause in policy.blockers:
            return f"fix the {alarm.finding.cause} of {alarm.finding.subject} first, or the model would learn it"
    last = record.attempts[-1] if record.attempts else None
    if last and last.outcome == "running" and at - last.at < ATTEMPT_TIMEOUT:
        return f"the retraining of {_time(last.at)} has not ended"
    if last and at - last.at < policy.cooldown:
        ends = last.at + policy.cooldown
        return f"the last retraining was on {_time(last.at)}, and the cool-down ends on {_time(ends)}"
    recent = [attempt.at for attempt in record.attempts if at - attempt.at < WEEK]
    if len(recent) >= policy.budget:
        free = recent[-policy.budget] + WEEK
        return f"{len(recent)} of {policy.budget} retrainings a week are used; the next is possible from {_time(free)}"
    return ""


def _time(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"


def _ids(alarms: Iterable[Alarm]) -> tuple[str, ...]:
    return tuple(alarm.id for alarm in alarms)


def record_decision(
    store: ObjectStore, problem: Problem, at: datetime, channels: Sequence[str] = ()
) -> Decision | None:
    """Decide whether to retrain, and record the decision if it has changed.

    A triggered retraining is recorded again each day until it starts, with a notification that starts it."""

    decision: Decision | None = None

    def change(record: Record | None) -> dict[str, Any] | None:
        nonlocal decision
        decision = decide(problem, record, at)
        if record is None or decision is None or _is_recorded(decision, record, at):
            return None
        event = decision_event(decision, record, at)
        fields = {"events": (event,), "decision": decision, "decided": at}
        if not decision.retrain or EVENTS not in channels or event.finding is None:
            return fields
        id = f"{problem.name}/{event.alarm}/due/{at:%Y%m%dT%H%M%S}"
        notification = Notification(
            id=id, kind="due", at=at, finding=event.finding, sentence=event.sentence, channels=(EVENTS,)
        )
        return fields | {"pending": (*record.pending, notification)}

    write(store, problem.name, at, "decided", change)
    return decision


def _is_recorded(decision: Decision, record: Record, at: datetime) -> bool:
    if decision != record.decision:
        return False
    return not decision.retrain or (record.decided is not None and aware_utc(at) - record.decided < ATTEMPT_TIMEOUT)


def decision_event(decision: Decision, record: Record, at: datetime) -> Event:
    """Return the decision as an event of its first alarm."""
    alarm = record.alarm(decision.alarms[0])
    kind: Kind = "due" if decision.retrain else "not now"
    message = f"{'Retraining triggered' if decision.retrain else 'Retraining skipped'}: {decision.because}."
    return Event(kind=kind, at=at, sentence=message, alarm=decision.alarms[0], finding=alarm.finding if alarm else None)
