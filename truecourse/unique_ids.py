"""Time-ordered ids of predictions and calls: UUIDs of versions 7 and 8 (RFC 9562), 48 bits of which are milliseconds.

Ids sort by the moment that they name, so files of rows in the order of time exclude most ids by their statistics. An id
of version 7 is random, and never repeats. One of version 8 derives from a call's key and content: a call that is sent
again has the same ids. Both have 74 other bits.
"""

import hashlib
import os
import re
import time
from datetime import datetime

LONGEST_KEY = 255
"""Most characters of a call's key."""
PUSH_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
"""The id of a push."""
NO_MOMENT = "0" * 12
"""The milliseconds of ids that derive from a key without a moment."""
_RANDOM, _DERIVED = "7", "8"
_VARIANT = {digit: "89ab"[int(digit, 16) % 4] for digit in "0123456789abcdef"}
_DIGITS = 20
"""Hexadecimal digits that one id takes from a random or derived text; five bits of them are not used."""
_FORM = re.compile(r"[0-9a-f]{12}[78][0-9a-f]{3}[89ab][0-9a-f]{15}")


def new_ids(count: int, at: datetime) -> list[str]:
    """Create ids of 32 hexadecimal digits for predictions of one moment (timezone-aware)."""
    return _ids(_milliseconds(at.timestamp()), _RANDOM, os.urandom(count * _DIGITS // 2).hex())


def derived_ids(count: int, key: str, content: bytes) -> list[str]:
    """Derive the ids of a call's predictions, in the order of its rows.

    `key`: of the call; its moment, if it is a UUID of version 7, is that of the ids. `content`: everything else that
    tells calls apart."""
    digits = hashlib.shake_128(key.encode() + b"\0" + content).hexdigest(count * _DIGITS // 2)
    return _ids(_moment_of(key), _DERIVED, digits)


def is_derived(id: str) -> bool:
    """Whether an id may derive from a call's key, so that several records may have it. Random ids of earlier versions
    rarely look so."""
    return id[12:13] == _DERIVED and _FORM.fullmatch(id) is not None


def new_call_key() -> str:
    """Create the key of a call: a UUID of version 7, as text with hyphens."""
    (id,) = _ids(_milliseconds(time.time()), _RANDOM, os.urandom(_DIGITS // 2).hex())
    return f"{id[:8]}-{id[8:12]}-{id[12:16]}-{id[16:20]}-{id[20:]}"


def is_call_key(key: str) -> bool:
    """Whether a header can hold this key of a call in quotes."""
    return 0 < len(key) <= LONGEST_KEY and key.isascii() and key.isprintable() and not set(key) & {'"', "\\"}


def _milliseconds(seconds: float) -> str:
    """Milliseconds since 1970 as 12 digits; times before it count as 1970."""
    return f"{int(seconds * 1000):012x}" if seconds > 0 else NO_MOMENT


def _moment_of(key: str) -> str:
    digits = key.lower().replace("-", "")
    return digits[:12] if digits[12:13] == _RANDOM and _FORM.fullmatch(digits) else NO_MOMENT


def _ids(moment: str, version: str, digits: str) -> list[str]:
    head = moment + version
    return [
        f"{head}{digits[i : i + 3]}{_VARIANT[digits[i + 3]]}{digits[i + 4 : i + 19]}"
        for i in range(0, len(digits), _DIGITS)
    ]
