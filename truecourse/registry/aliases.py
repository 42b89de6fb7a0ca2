"""Which version is champion, which challenger, since when, by whom and why: the history of a model's aliases.

The ledger in object storage decides; MLflow's aliases are its mirror, since MLflow has no compare-and-swap.
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
CANARY, WIDEN, WITHDRAW = "canary", "widen", "withdraw"
"""What is done to aliases, as their history tells it."""
GUARDED = (CANARY, WIDEN)
"""A share that one of these gave is the guard's: it alone widens it or takes it back."""


def ledger(problem: str) -> Ledger[Aliases]:
    return Ledger(open_store(), f"aliases/{problem}", Aliases)


def current(problem: str) -> Aliases:
    """The aliases as they stand; number 0, with nobody in office, before the first entry."""
    return ledger(problem).newest() or Aliases(
        number=0, action="none", reason="nothing is registered", author="", at=datetime.fromtimestamp(0, UTC)
    )


def history(problem: str) -> list[Aliases]:
    """Oldest first."""
    return ledger(problem).entries()


def recent(problem: str, count: int) -> list[Aliases]:
    """The newest entries of the history, oldest of them first."""
    return ledger(problem).last(count)


def move(seen: Aliases, problem: str, action: str, reason: str, **changes: Any) -> Aliases:
    """The entry after `seen`, with these changes of its champion, challenger, shadow or share.

    Raises ModelError if the aliases have moved since `seen` was read: exactly one of any number of racers wins."""
    entry = Aliases.model_validate(
        dict(seen) | changes | {"number": seen.number + 1, "action": action, "reason": reason, **signature()}
    )
    return ledger(problem).append(entry)


def canary_in_progress(now: Aliases) -> bool:
    """Whether the challenger's share is a canary's, and not set by hand."""
    return now.action in GUARDED and now.share > 0


def withdrawal(entries: Sequence[Aliases]) -> Aliases | None:
    """The entry, of all of them oldest first, by which the challenger lost its share; None where it did not, or was
    given one since, or came into office."""
    for entry in reversed(entries):
        if entry.challenger != entries[-1].challenger or entry.share > 0 or entry.champion == entry.challenger:
            return None
        if entry.action == WITHDRAW:
            return entry
    return None


def previous_champions(entries: Iterable[Aliases]) -> list[ModelVersion]:
    """Who was in office before the champion, the latest last: where rolling back leads to, step by step.

    A rollback takes back what came after the version it went to: of promotions of 1, 2 and 3 and a rollback, 1 is left
    behind 2. So that another goes on to 1, and not to 3 again."""
    line: list[ModelVersion] = []
    for entry in entries:
        if entry.champion is None or line[-1:] == [entry.champion]:
            continue
        if entry.action == ROLLBACK and entry.champion in line:
            while line[-1] != entry.champion:
                line.pop()
        else:
            line.append(entry.champion)
    return line[:-1]


def roll_back(problem: str, reason: str, to: int | None = None) -> Aliases:
    """The champion before this one into office again, or the version `to`, if it ever was in office: past no gate, for
    it came through them once. The challenger sees no traffic any more. MLflow is not asked, and mirrors it later.

    Raises ModelError if there is nobody to go back to, or the aliases were moved meanwhile."""
    entries = history(problem)
    where, hint = f"model {problem}", "`truecourse status` lists who was in office"
    seen = entries[-1] if entries else None
    if seen is None or seen.champion is None:
        raise ModelError("there is no champion to roll back", where=where, hint=hint)
    before = previous_champions(entries)
    if to is not None:
        before = [entry.champion for entry in entries if entry.champion and entry.champion.version == to]
    if not before:
        what = f"no version was champion before version {seen.champion.version}"
        raise ModelError(what if to is None else f"version {to} never was champion", where=where, hint=hint)
    if before[-1] == seen.champion:
        raise ModelError(f"version {to} is champion already", where=where, hint=hint)
    return move(seen, problem, ROLLBACK, reason, champion=before[-1], shadow=False, share=0.0)


def signature() -> dict[str, Any]:
    """Who signs an entry, and when."""
    return {"author": get_settings().author or getpass.getuser(), "at": datetime.now(UTC)}
