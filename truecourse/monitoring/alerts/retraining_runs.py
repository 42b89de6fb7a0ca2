"""Retrainings, as the record of findings tells them: claimed by one, ended, and followed into office or out of it."""

from collections.abc import Sequence
from datetime import datetime
from itertools import pairwise
from typing import Any

from truecourse.evaluation.gates import summarize
from truecourse.monitoring.alerts.history import Attempt, Change, Decision, Event, Kind, Record, load_record, write
from truecourse.monitoring.alerts.retraining_policy import decide, decision_event
from truecourse.problem import Problem
from truecourse.references import Aliases, ModelVersion, aware_utc
from truecourse.registry.aliases import ROLLBACK, WITHDRAW
from truecourse.storage.object_store import ObjectStore


def begin(store: ObjectStore, problem: Problem, at: datetime, reason: str = "") -> Attempt | Decision:
    """Claim the retraining that is due: of any number who ask, one gets the attempt, and the others why not.

    `reason`: a person's, who wants one whatever the rules say."""
    claimed: Attempt | Decision

    def change(seen: Record | None) -> dict[str, Any] | None:
        nonlocal claimed
        decision = decide(problem, seen, at) or Decision(retrain=False, because="no open finding asks for it")
        if reason:
            decision = decision.model_copy(update={"retrain": True, "because": reason})
        if not decision.retrain:
            claimed = decision
            if seen is None or decision == seen.decision or not decision.alarms:
                return None
            return {"events": (decision_event(decision, seen, at),), "decision": decision}
        number = seen.number + 1 if seen else 1
        claimed = Attempt(number=number, alarms=decision.alarms, at=aware_utc(at))
        event = Event(kind="retraining", at=at, sentence=f"Retraining begins: {decision.because}.", attempt=claimed)
        return {"events": (event,), "attempts": (*(seen.attempts if seen else ()), claimed), "decision": None}

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
    """What came of an attempt: the version, its gates, and whether it came into office."""
    said = summarize(list(gates))
    changes = {
        "outcome": "champion" if champion else "challenger",
        "run_id": version.run_id,
        "version": version.version,
        "gates": tuple(gates),
        "detail": said,
    }
    stays = "is champion" if champion else "stays challenger"
    return _ended(store, problem, number, at, f"Version {version.version} {stays}: {said}.", changes)


def fail(store: ObjectStore, problem: str, number: int, at: datetime, what: str) -> Attempt:
    """An attempt that ended with an error."""
    return _ended(store, problem, number, at, f"Retraining failed: {what}", {"outcome": "failed", "detail": what})


def _ended(
    store: ObjectStore, problem: str, number: int, at: datetime, sentence: str, changes: dict[str, Any]
) -> Attempt:
    change = _change(number, at, "retrained", sentence, changes | {"ended": aware_utc(at)})
    entry = write(store, problem, at, "retrained", change)
    assert entry is not None
    return next(attempt for attempt in entry.attempts if attempt.number == number)


def _change(number: int, at: datetime, kind: Kind, sentence: str, changes: dict[str, Any]) -> Change:
    def change(seen: Record | None) -> dict[str, Any]:
        assert seen is not None  # the attempt was begun
        attempts = tuple(a.model_copy(update=changes) if a.number == number else a for a in seen.attempts)
        changed = next(attempt for attempt in attempts if attempt.number == number)
        return {"attempts": attempts, "events": (Event(kind=kind, at=at, sentence=sentence, attempt=changed),)}

    return change


def follow(store: ObjectStore, problem: str, history: Sequence[Aliases], at: datetime) -> list[Event]:
    """Tell of versions of attempts that came into office since they ended, past a canary or a person, or were rolled
    back or withdrawn. `history`: of the aliases, oldest first."""
    seen, events = load_record(store, problem), list[Event]()
    for attempt in seen.attempts if seen else ():
        entry = _fate(attempt, history)
        if entry is None:
            continue
        into_office = entry.champion is not None and entry.champion.version == attempt.version
        kind: Kind = "promoted" if into_office else "rolled back"
        said = f"Version {attempt.version} {'came into office' if into_office else 'was rolled back'}: {entry.reason}."
        changes = {"outcome": "champion" if into_office else "rolled back", "detail": entry.reason}
        written = write(store, problem, at, kind, _change(attempt.number, at, kind, said, changes))
        events += written.events if written else ()
    return events


def _fate(attempt: Attempt, history: Sequence[Aliases]) -> Aliases | None:
    """The last entry that changed what is told of the attempt; None if none did."""
    found = None
    if attempt.outcome not in ("challenger", "champion"):
        return None
    for before, entry in pairwise(history):
        office, challenger = (v.version if v else None for v in (before.champion, before.challenger))
        came = entry.champion is not None and entry.champion.version == attempt.version
        exposed = challenger == attempt.version and (before.shadow or before.share > 0)
        fell = entry.action in (ROLLBACK, WITHDRAW) and not came and (office == attempt.version or exposed)
        if fell or (came and attempt.outcome == "challenger"):
            found = entry
    return found
