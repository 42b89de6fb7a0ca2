"""API keys: who may ask the endpoint for what, until when.

Only hashes are stored, as a ledger in object storage that every endpoint follows: its newest entry lists all keys that
hold. A key is 32 random bytes, so no guess at it can succeed and a slow hash would protect nothing more: SHA-256 it is.
"""

import secrets
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Literal, get_args

from truecourse.errors import ModelError, NotFound
from truecourse.hashing import sha256
from truecourse.references import Entry, Reference
from truecourse.registry.aliases import signature
from truecourse.storage.ledger import Ledger
from truecourse.storage.object_store import open_store

Scope = Literal["predict", "explain", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
_TRIES = 5


class ApiKey(Reference):
    """A key as it is stored: `sha256` of its text, `expires` None for never. Times are UTC."""

    id: str
    name: str
    scopes: tuple[Scope, ...]
    sha256: str
    created: datetime
    expires: datetime | None = None


class Keys(Entry):
    """All keys that hold; one that was revoked is only in earlier entries."""

    keys: tuple[ApiKey, ...] = ()


def ledger() -> Ledger[Keys]:
    return Ledger(open_store(), "keys", Keys)


def current() -> Keys:
    """The keys as they stand; number 0, with no key, before the first entry."""
    return ledger().newest() or Keys(number=0, action="none", reason="", author="", at=datetime.fromtimestamp(0, UTC))


def create(name: str, scopes: tuple[Scope, ...], days: float | None = None) -> tuple[ApiKey, str]:
    """A new key, and its text, which nobody can find out again. `days`: how long it holds."""
    now, number = datetime.now(UTC), secrets.token_hex(4)
    text = f"tc_{number}_{secrets.token_urlsafe(32)}"
    key = ApiKey(
        id=number,
        name=name,
        scopes=tuple(scope for scope in SCOPES if scope in scopes),
        sha256=sha256(text.encode()),
        created=now,
        expires=None if days is None else now + timedelta(days=days),
    )
    _change(lambda keys: (*keys, key), "create", f"{number} for {name}")
    return key, text


def revoke(number: str) -> ApiKey:
    """The key that no longer holds. Raises NotFound if there is none of that id."""
    found: list[ApiKey] = []

    def without(keys: tuple[ApiKey, ...]) -> tuple[ApiKey, ...]:
        found[:] = [key for key in keys if key.id == number]
        if not found:
            raise NotFound("there is no such key", where=f"key {number}", hint="truecourse key list")
        return tuple(key for key in keys if key.id != number)

    _change(without, "revoke", number)
    return found[0]


def _change(edit: Callable[[tuple[ApiKey, ...]], tuple[ApiKey, ...]], action: str, reason: str) -> None:
    """Two changes at once both come to hold: who loses the race for the number reads again."""
    for left in reversed(range(_TRIES)):
        seen = current()
        changed = {"keys": edit(seen.keys), "number": seen.number + 1, "action": action, "reason": reason}
        try:
            ledger().append(Keys.model_validate(changed | signature()))
            return
        except ModelError:
            if not left:
                raise
