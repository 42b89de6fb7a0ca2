"""Which version is champion, which challenger, since when, by whom and why: the history of a model's aliases.

The ledger in object storage decides; MLflow's aliases are its mirror, since MLflow has no compare-and-swap.
"""

import getpass
from datetime import UTC, datetime
from typing import Any

from truecourse.ledger import Ledger
from truecourse.references import Aliases
from truecourse.settings import get_settings
from truecourse.storage import open_store


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


def move(seen: Aliases, problem: str, action: str, reason: str, **changes: Any) -> Aliases:
    """The entry after `seen`, with these changes of its champion, challenger, shadow or share.

    Raises ModelError if the aliases have moved since `seen` was read: exactly one of any number of racers wins."""
    entry = Aliases.model_validate(
        dict(seen) | changes | {"number": seen.number + 1, "action": action, "reason": reason, **signature()}
    )
    ledger(problem).append(entry)
    return entry


def signature() -> dict[str, Any]:
    """Who signs an entry, and when."""
    return {"author": get_settings().author or getpass.getuser(), "at": datetime.now(UTC)}
