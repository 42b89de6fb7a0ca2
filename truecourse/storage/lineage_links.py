"""Links of a lineage: what was verified, and what came of it."""

from collections.abc import Iterable
from typing import Any, Literal, TypeAlias

from truecourse.errors import NotFound, TruecourseError
from truecourse.storage.object_store import ObjectStore

State = Literal["verified", "changed", "missing", "unknown"]
Link: TypeAlias = dict[str, Any]
"""{"link": what kind, "id": which one, "state": State, "verified": bool, "detail": why, or why not}.

`changed`: it is not what was recorded. `missing`: it is gone. `unknown`: nothing was recorded that would prove it, or
what would prove it cannot be asked."""


def link(kind: str, id: str, state: State | bool, detail: str) -> Link:
    """`state`: True for verified, False for changed."""
    if isinstance(state, bool):
        state = "verified" if state else "changed"
    return {"link": kind, "id": id, "state": state, "verified": state == "verified", "detail": detail}


def unknown(kind: str, id: str, detail: str) -> Link:
    return link(kind, id, "unknown", detail)


def failed(kind: str, id: str, error: TruecourseError) -> Link:
    """Of what cannot be read."""
    return link(kind, id, "missing" if isinstance(error, NotFound) else "changed", error.what)


def combined_state(links: Iterable[Link]) -> State:
    """The state of them all: changed where one is changed or missing, else unknown where one is unknown."""
    states = {item["state"] for item in links}
    return "changed" if states & {"changed", "missing"} else "unknown" if "unknown" in states else "verified"


def verify_object(store: ObjectStore, kind: str, key: str, expected: str) -> Link:
    """Whether the object's bytes are the recorded ones."""
    try:
        actual = store.digest(key)
    except TruecourseError as error:
        return failed(kind, key, error)
    same = actual == expected
    return link(kind, key, same, f"SHA-256 {expected}" if same else f"SHA-256 is {actual}, recorded {expected}")
