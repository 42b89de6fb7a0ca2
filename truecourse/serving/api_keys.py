"""API keys with scopes and expiry.

Only hashes are stored, in a ledger in object storage that every endpoint follows; its newest entry lists all valid
keys. A key is 32 random bytes, so that SHA-256 suffices: a slow hash would add no protection.
"""

import secrets
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Literal, get_args

from pydantic import Field

from truecourse.errors import ModelError, NotFound
from truecourse.hashing import sha256
from truecourse.references import Entry, Reference
from truecourse.registry.aliases import signature
from truecourse.storage.ledger import Ledger
from truecourse.storage.object_store import open_store
from truecourse.stored_format import FORMAT, Format

Scope = Literal["predict", "explain", "features", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
_TRIES = 5


class ApiKey(Reference):
    """A stored key: `sha256` of its text; `expires`: None for never. Times are UTC."""

    id: str
    name: str
    scopes: tuple[Scope, ...]
    sha256: str
    created: datetime
    expires: datetime | None = None


class Keys(Entry):
    """All valid keys. A revoked key is only in earlier entries. `format`: as in Aliases, read but not written yet."""

    format: Format = Field(FORMAT, exclude=True)
    keys: tuple[ApiKey, ...] = ()


def ledger() -> Ledger[Keys]:
    return Ledger(open_store(), "keys", Keys)


def current() -> Keys:
    """Return the newest entry; before the first one, number 0 without keys."""
    return ledger().newest() or Keys(number=0, action="none", reason="", author="", at=datetime.fromtimestamp(0, UTC))


def create(name: str, scopes: tuple[Scope, ...], days: float | None = None) -> tuple[ApiKey, str]:
    """Create a key. Returns it with its text, which is not stored. `days`: how long it is valid, None for ever."""
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
    """Revoke a key and return it. Raises NotFound if there is none with this id."""
    found: list[ApiKey] = []

    def without(keys: tuple[ApiKey, ...]) -> tuple[ApiKey, ...]:
        found[:] = [key for key in keys if key.id == number]
        if not found:
            raise NotFound("there is no such key", where=f"key {number}", hint="truecourse key list")
        return tuple(key for key in keys if key.id != number)

    _change(without, "revoke", number)
    return found[0]


def _change(edit: Callable[[tuple[ApiKey, ...]], tuple[ApiKey, ...]], action: str, reason: str) -> None:
    """Append an edited entry. If another writer takes the number first, read again and retry, so both changes apply."""
    for left in reversed(range(_TRIES)):
        seen = current()
        changed = {"keys": edit(seen.keys), "number": seen.number + 1, "action": action, "reason": reason}
        try:
            ledger().append(Keys.model_validate(changed | signature()))
            return
        except ModelError:
            if not left:
                raise
