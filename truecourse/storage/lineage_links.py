"""Links of a lineage: each is one verified artifact and its state."""

from collections.abc import Iterable
from typing import Any, Literal, TypeAlias

from truecourse.errors import NotFound, TruecourseError
from truecourse.storage.object_store import ObjectStore
from truecourse.storage.redactions import redacted_at

State = Literal["verified", "changed", "missing", "unknown", "redacted"]
Link: TypeAlias = dict[str, Any]
"""{"link": kind, "id": identifier, "state": State, "verified": bool, "detail": reason}.

`changed`: it differs from the record. `missing`: it is gone. `unknown`: no record proves it, or the record cannot be
read. `redacted`: a subject was removed from it by `truecourse forget`, and nothing else was changed."""


def link(kind: str, id: str, state: State | bool, detail: str) -> Link:
    """Create a link. `state`: True means verified, False means changed."""
    if isinstance(state, bool):
        state = "verified" if state else "changed"
    return {"link": kind, "id": id, "state": state, "verified": state == "verified", "detail": detail}


def unknown_link(kind: str, id: str, detail: str) -> Link:
    return link(kind, id, "unknown", detail)


def unreadable_link(kind: str, id: str, error: TruecourseError) -> Link:
    """Create the link of something that cannot be read."""
    return link(kind, id, "missing" if isinstance(error, NotFound) else "changed", error.what)


def combined_state(links: Iterable[Link]) -> State:
    """The state of several links: changed if one is changed or missing, else redacted or unknown if one is."""
    states = {item["state"] for item in links}
    if states & {"changed", "missing"}:
        return "changed"
    return "redacted" if "redacted" in states else "unknown" if "unknown" in states else "verified"


def redacted_link(store: ObjectStore, kind: str, id: str, key: str, expected: str, actual: str) -> Link | None:
    """The link of an object whose difference from its record is a redaction; None for any other. `actual`: the
    SHA-256 of its bytes, empty if it is gone."""
    at = redacted_at(store, key, expected, actual)
    return None if at is None else link(kind, id, "redacted", f"redacted on {at:%Y-%m-%d}: a subject was forgotten")


def verify_object(store: ObjectStore, kind: str, key: str, expected: str) -> Link:
    """Check whether an object's SHA-256 is the recorded one."""
    try:
        actual = store.digest(key)
    except NotFound as error:
        return redacted_link(store, kind, key, key, expected, "") or unreadable_link(kind, key, error)
    except TruecourseError as error:
        return unreadable_link(kind, key, error)
    same = actual == expected
    if not same and (redacted := redacted_link(store, kind, key, key, expected, actual)) is not None:
        return redacted
    return link(kind, key, same, f"SHA-256 {expected}" if same else f"SHA-256 is {actual}, recorded {expected}")
