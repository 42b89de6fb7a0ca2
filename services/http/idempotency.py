"""The header `Idempotency-Key` (draft-ietf-httpapi-idempotency-key-header-07): a call that is sent again counts once.

The ids of a call's predictions derive from its key, its caller, its path and its body, so the prediction log keeps one
record of each (truecourse/serving/repeated_calls.py). A worker refuses a key that it has answered with another body.
Workers share no memory: what another worker answered is a call of its own, with other ids.
"""

import hashlib
import threading
from collections.abc import Sequence
from dataclasses import dataclass

from services.http.exchange import Exchange
from truecourse.errors import RequestError
from truecourse.unique_ids import LONGEST_KEY, PUSH_ID, derived_ids, is_call_key

HEADER = b"idempotency-key"
REMEMBERED = 16_384
"""Calls that a worker remembers, of all callers; about 6 MB."""


@dataclass(frozen=True, slots=True)
class Call:
    """A call with a key. `scope`: caller and path, to which the key belongs. `body`: SHA-256."""

    key: str
    scope: str
    body: bytes

    def ids(self, rows: int) -> list[str]:
        """The prediction ids of the call's rows."""
        return derived_ids(rows, self.key, self.scope.encode() + b"\0" + self.body)


class RecentCalls:
    """The last calls with a key that a worker answered. Thread-safe."""

    def __init__(self) -> None:
        self._bodies: dict[tuple[str, str], bytes] = {}
        self._lock = threading.Lock()

    def identify(self, exchange: Exchange, body: bytes) -> Call | None:
        """The call of a request; None without a key. Raises RequestError: 400 for an invalid key, 422 for one that was
        answered with another body."""
        key = read_key(exchange.scope["headers"])
        if key is None:
            return None
        call = Call(key, f"{exchange.holder} {exchange.path}", hashlib.sha256(body).digest())
        with self._lock:
            known = self._bodies.get((call.scope, key))
        if known is not None and known != call.body:
            what = f"the idempotency-key {key[:80]!r} was already used with another body"
            raise RequestError(
                what, status=422, hint="send a new key with each call, and the same key only to repeat it"
            )
        return call

    def remember(self, call: Call | None) -> None:
        """Remember an answered call."""
        if call is None:
            return
        with self._lock:
            if len(self._bodies) >= REMEMBERED:
                del self._bodies[next(iter(self._bodies))]
            self._bodies[call.scope, call.key] = call.body


def push_id(headers: Sequence[tuple[bytes, bytes]]) -> str:
    """The id of a push that has a key: the key itself if it can be an id, else its SHA-256. Empty without a key.

    Raises RequestError with status 400 for an invalid key."""
    key = read_key(headers) or ""
    return key if not key or PUSH_ID.fullmatch(key) else hashlib.sha256(key.encode()).hexdigest()


def read_key(headers: Sequence[tuple[bytes, bytes]]) -> str | None:
    """Read the key, a text in quotes or without them. Raises RequestError unless it is valid and there is only one."""
    found = [value for name, value in headers if name == HEADER]
    if not found:
        return None
    key = found[0].decode("latin-1").strip()
    if len(key) > 1 and key[0] == key[-1] == '"':
        key = key[1:-1]
    if len(found) > 1 or not is_call_key(key):
        what = "the request needs at most one idempotency-key" if len(found) > 1 else "the idempotency-key is invalid"
        hint = f"send one of 1 to {LONGEST_KEY} printable ASCII characters without quotes, as a UUID"
        raise RequestError(what, status=400, hint=hint)
    return key
