"""The history of a model's aliases: champion and challenger, with time, author and reason of each change.

The ledger in object storage decides. MLflow's aliases are a copy, since MLflow has no compare-and-swap.
"""

import getpass
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from truecourse.errors import ModelError
from truecourse.references import Aliases, ModelVersion
from truecourse.settings import get_settings
from truecourse.storage.ledger import Ledger
from truecourse.storage.object_store import open_store

PROMOTE, REGISTER, ROLLBACK = "promote", "register", "rollback"
CANARY, WIDEN, CANARY_ROLLBACK, CANARY_STOP = "canary", "widen", "canary rollback", "canary stop"
"""Actions in the history of aliases. CANARY_STOP: a person ended a canary or a shadow."""
GUARDED = (CANARY, WIDEN)
"""Actions of a canary. Only the guard flow changes a traffic weight that one of these set."""


def ledger(problem: str) -> Ledger[Aliases]:
    return Ledger(open_store(), f"aliases/{problem}", Aliases)


def current(problem: str) -> Aliases:
    """Return the current aliases; before the first entry, number 0 without a champion."""
    return ledger(problem).newest() or Aliases(
        number=0, action="none", reason="nothing is registered", author="", at=datetime.fromtimestamp(0, UTC)
    )


def history(problem: str) -> list[Aliases]:
    """Return all entries, oldest first."""
    return ledger(problem).entries()


def recent(problem: str, count: int) -> list[Aliases]:
    """Return the newest `count` entries, oldest first."""
    return ledger(problem).last(count)


def move(seen: Aliases, problem: str, action: str, reason: str, **changes: Any) -> Aliases:
    """Append the entry after `seen`, with changes of champion, challenger, shadow or share (the traffic weight).

    Raises ModelError if the aliases have changed since `seen` was read: of concurrent writers exactly one succeeds."""
    entry = Aliases.model_validate(
        dict(seen) | changes | {"number": seen.number + 1, "action": action, "reason": reason, **signature()}
    )
    return ledger(problem).append(entry)


def canary_in_progress(now: Aliases) -> bool:
    """Return whether the challenger's traffic weight was set by a canary, not by hand."""
    return now.action in GUARDED and now.share > 0


def is_challenger_active(now: Aliases) -> bool:
    """Return whether the challenger scores any request, as a canary or as a shadow."""
    return now.challenger is not None and (now.shadow or now.share > 0)


def ended_canary(entries: Sequence[Aliases]) -> Aliases | None:
    """Return the entry that rolled the challenger back or stopped it; `entries`: all, oldest first.

    None if there is none, or if the challenger got traffic again or was promoted since."""
    for entry in reversed(entries):
        if entry.challenger != entries[-1].challenger or entry.share > 0 or entry.champion == entry.challenger:
            return None
        if entry.action in (CANARY_ROLLBACK, CANARY_STOP):
            return entry
    return None


def previous_champions(entries: Iterable[Aliases]) -> list[ModelVersion]:
    """Return the champions before the current one, most recent last: the targets of repeated rollbacks.

    A rollback removes the champions after its target: after promotions of 1, 2 and 3 and one rollback, 2 is champion
    and 1 is left, so that the next rollback leads to 1 and not back to 3."""
    champions: list[ModelVersion] = []
    for entry in entries:
        if entry.champion is None or champions[-1:] == [entry.champion]:
            continue
        if entry.action == ROLLBACK and entry.champion in champions:
            while champions[-1] != entry.champion:
                champions.pop()
        else:
            champions.append(entry.champion)
    return champions[:-1]


def roll_back(problem: str, reason: str, to: int | None = None) -> Aliases:
    """Make the previous champion champion again, or the former champion `to`.

    Gates are not evaluated again. The challenger gets no more traffic. MLflow is not needed, and is updated later.
    Raises ModelError if there is no previous champion, or if the aliases have changed meanwhile."""
    entries = history(problem)
    target = rollback_target(problem, entries, to)
    return move(entries[-1], problem, ROLLBACK, reason, champion=target, shadow=False, share=0.0)


def rollback_target(problem: str, entries: Sequence[Aliases], to: int | None = None) -> ModelVersion:
    """Return the version that roll_back() makes champion. `entries`: all, oldest first. Raises ModelError like it."""
    where, hint = f"model {problem}", "`truecourse status` lists former champions"
    seen = entries[-1] if entries else None
    if seen is None or seen.champion is None:
        raise ModelError("there is no champion to roll back", where=where, hint=hint)
    before = previous_champions(entries)
    if to is not None:
        before = [entry.champion for entry in entries if entry.champion and entry.champion.version == to]
    if not before:
        what = f"no version was champion before version {seen.champion.version}"
        raise ModelError(what if to is None else f"version {to} was never champion", where=where, hint=hint)
    if before[-1] == seen.champion:
        raise ModelError(f"version {to} is already champion", where=where, hint=hint)
    return before[-1]


def stop_canary(problem: str, reason: str) -> Aliases:
    """End the canary or the shadow: the challenger gets no more requests, and the champion stays.

    If another process changes the aliases meanwhile, as a guard does, this is tried again. MLflow is not needed, and is
    updated later. Raises ModelError if the challenger gets no requests."""
    while True:
        seen = current(problem)
        if not is_challenger_active(seen):
            what = f"no canary and no shadow is running; {_describe_champion(seen)}"
            raise ModelError(what, where=f"model {problem}", hint="`truecourse status` shows the last changes")
        try:
            return move(seen, problem, CANARY_STOP, reason, shadow=False, share=0.0)
        except ModelError:
            if current(problem).number == seen.number:
                raise


def _describe_champion(now: Aliases) -> str:
    return f"version {now.champion.version} is champion" if now.champion else "there is no champion"


def signature() -> dict[str, Any]:
    """Return the author and the time (UTC) for an entry."""
    return {"author": get_settings().author or getpass.getuser(), "at": datetime.now(UTC)}
