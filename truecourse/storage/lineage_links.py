"""Links of a lineage: each is one verified artifact and its state."""

from collections.abc import Iterable
from typing import Any, Literal, TypeAlias

from truecourse.errors import NotFound, TruecourseError
from truecourse.storage.object_store import ObjectStore

State = Literal["verified", "changed", "missing", "unknown"]
Link: TypeAlias = dict[str, Any]
"""{"link": kind, "id": identifier, "state": State, "verified": bool, "detail": reason}.

`changed`: it differs from the record. `missing`: it is gone. `unknown`: no record proves it, or the record cannot be
read."""


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
    """The state of several links: changed if one is changed or missing, else unknown if one is unknown."""
    states = {item["state"] for item in links}
    return "changed" if states & {"changed", "missing"} else "unknown" if "unknown" in states else "verified"


def verify_object(store: ObjectStore, kind: str, key: str, expected: str) -> Link:
    """Check whether an object's SHA-256 is the recorded one."""
    try:
        actual = store.digest(key)
    except TruecourseError as error:
        return unreadable_link(kind, key, error)
    same = actual == expected
    return link(kind, key, same, f"SHA-256 {expected}" if same else f"SHA-256 is {actual}, recorded {expected}")
