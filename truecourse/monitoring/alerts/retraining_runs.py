"""Retraining attempts in the alert record: claim one, record how it ended, and follow its promotion or rollback."""

from collections.abc import Sequence
from datetime import datetime
from itertools import pairwise
from typing import Any

from truecourse.evaluation.gates import summarize
from truecourse.monitoring.alerts.alert_record import Attempt, Change, Decision, Event, Kind, Record, load_record, write
from truecourse.monitoring.alerts.retraining_policy import decide, decision_event
from truecourse.problem import Problem
from truecourse.references import Aliases, ModelVersion, aware_utc
from truecourse.registry.aliases import CANARY_ROLLBACK, CANARY_STOP, ROLLBACK
from truecourse.storage.object_store import ObjectStore


def begin(store: ObjectStore, problem: Problem, at: datetime, reason: str = "") -> Attempt | Decision:
    """Claim the triggered retraining. Of concurrent callers one gets the attempt, the others the decision against it.

    `reason`: of a person who starts one regardless of the policy."""
    claimed: Attempt | Decision

    def change(record: Record | None) -> dict[str, Any] | None:
        nonlocal claimed
        decision = decide(problem, record, at) or Decision(retrain=False, because="no open finding triggers it")
        if reason:
            decision = decision.model_copy(update={"retrain": True, "because": reason})
        if not decision.retrain:
            claimed = decision
            if record is None or decision == record.decision or not decision.alarms:
                return None
            return {"events": (decision_event(decision, record, at),), "decision": decision}
        number = record.number + 1 if record else 1
        claimed = Attempt(number=number, alarms=decision.alarms, at=aware_utc(at))
        event = Event(kind="retraining", at=at, sentence=f"Retraining started: {decision.because}.", attempt=claimed)
        return {"events": (event,), "attempts": (*(record.attempts if record else ()), claimed), "decision": None}

    write(store, problem.name, at, "retraining", change)
    return claimed


def end(
    store: ObjectStore,
    problem: str,
    number: int,
    at: datetime,
    version: ModelVersion,
    gates: Sequence[dict[str, Any]],
    champion: bool,
) -> Attempt:
    """Record the result of an attempt: the version, its gates, and whether it is champion."""
    summary = summarize(list(gates))
    changes = {
        "outcome": "champion" if champion else "challenger",
        "run_id": version.run_id,
        "version": version.version,
        "gates": tuple(gates),
        "detail": summary,
    }
    stays = "is champion" if champion else "stays challenger"
    return _record_end(store, problem, number, at, f"Version {version.version} {stays}: {summary}.", changes)


def fail(store: ObjectStore, problem: str, number: int, at: datetime, what: str) -> Attempt:
    """Record that an attempt ended with an error."""
    return _record_end(store, problem, number, at, f"Retraining failed: {what}", {"outcome": "failed", "detail": what})


def _record_end(
    store: ObjectStore, problem: str, number: int, at: datetime, sentence: str, changes: dict[str, Any]
) -> Attempt:
    change = _change(number, at, "retrained", sentence, changes | {"ended": aware_utc(at)})
    entry = write(store, problem, at, "retrained", change)
    assert entry is not None
    return next(attempt for attempt in entry.attempts if attempt.number == number)


def _change(number: int, at: datetime, kind: Kind, sentence: str, changes: dict[str, Any]) -> Change:
    def change(record: Record | None) -> dict[str, Any]:
        assert record is not None  # the attempt was recorded when it started
        attempts = tuple(a.model_copy(update=changes) if a.number == number else a for a in record.attempts)
        changed = next(attempt for attempt in attempts if attempt.number == number)
        return {"attempts": attempts, "events": (Event(kind=kind, at=at, sentence=sentence, attempt=changed),)}

    return change


def follow(store: ObjectStore, problem: str, history: Sequence[Aliases], at: datetime) -> list[Event]:
    """Record which versions of ended attempts were promoted (by a canary or a person) or rolled back since.

    `history`: of the aliases, oldest first."""
    record, events = load_record(store, problem), list[Event]()
    for attempt in record.attempts if record else ():
        entry = _last_change(attempt, history)
        if entry is None:
            continue
        is_promoted = entry.champion is not None and entry.champion.version == attempt.version
        kind: Kind = "promoted" if is_promoted else "rolled back"
        verb = "stopped" if entry.action == CANARY_STOP else kind
        message = f"Version {attempt.version} was {verb}: {entry.reason}."
        changes = {"outcome": "champion" if is_promoted else "rolled back", "detail": entry.reason}
        written = write(store, problem, at, kind, _change(attempt.number, at, kind, message, changes))
        events += written.events if written else ()
    return events


def _last_change(attempt: Attempt, history: Sequence[Aliases]) -> Aliases | None:
    """Return the last entry that promoted the attempt's version, rolled it back or stopped its canary, if any."""
    last = None
    if attempt.outcome not in ("challenger", "champion"):
        return None
    for before, entry in pairwise(history):
        champion, challenger = (v.version if v else None for v in (before.champion, before.challenger))
        is_champion = entry.champion is not None and entry.champion.version == attempt.version
        had_traffic = challenger == attempt.version and (before.shadow or before.share > 0)
        undone = entry.action in (ROLLBACK, CANARY_ROLLBACK) and not is_champion
        rolled_back = undone and (champion == attempt.version or had_traffic)
        stopped = entry.action == CANARY_STOP and challenger == attempt.version and before.share > 0
        if rolled_back or stopped or (is_champion and attempt.outcome == "challenger"):
            last = entry
    return last
