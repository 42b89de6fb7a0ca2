"""Objects that `truecourse forget` changed: which digest each had before, and which it has since.

`forgotten/objects/<key>.json` lists the changes of one object. Lineage compares digests with those that were recorded
when an object was written; a difference that is listed here is a redaction, and any other is a change.
"""

from datetime import datetime

from pydantic import ValidationError

from truecourse.errors import IntegrityError, NotFound
from truecourse.hashing import seal, sha256, unseal
from truecourse.references import ArtifactRef, Reference, UtcTime
from truecourse.storage.object_store import ObjectStore

PLACE = "forgotten/objects"


class Redaction(Reference):
    """One change. `before`, `after`: SHA-256 of the object's bytes; `after` is empty if the object was deleted."""

    before: str
    after: str
    at: UtcTime


def redactions_of(store: ObjectStore, key: str) -> list[Redaction]:
    """The redactions of an object, oldest first; none if their record was changed."""
    try:
        document = unseal(store.get(_place(key)))
        return [Redaction.model_validate(one) for one in (document or {}).get("changes", ())]
    except (NotFound, ValidationError):
        return []


def record_redaction(store: ObjectStore, key: str, redaction: Redaction) -> None:
    """Record a redaction, before the object is changed: an interrupted one is then still recognised."""
    known = redactions_of(store, key)
    if any((one.before, one.after) == (redaction.before, redaction.after) for one in known):
        return
    changes = [one.model_dump(mode="json") for one in (*known, redaction)]
    store.put(_place(key), seal({"format": 2, "key": key, "changes": changes}))


def redacted_at(store: ObjectStore, key: str, expected: str, actual: str) -> datetime | None:
    """When the object with the SHA-256 `expected` was redacted to that of `actual` (empty: deleted); None if it was
    not, or not by redactions alone."""
    reached, at = {expected}, None
    for one in redactions_of(store, key):
        if one.before in reached:
            reached.add(one.after)
            at = one.at
    return at if actual != expected and actual in reached else None


def is_changed(store: ObjectStore, key: str, expected: str, actual: str) -> bool:
    """Whether an object differs from its record by more than redactions."""
    return actual != expected and redacted_at(store, key, expected, actual) is None


def _place(key: str) -> str:
    return f"{PLACE}/{key}.json"


def get_artifact(store: ObjectStore, reference: ArtifactRef) -> bytes:
    """Read an object's bytes. Raises IntegrityError if their SHA-256 is neither the recorded one, nor that after a
    subject was forgotten."""
    data = store.get(reference.key)
    if is_changed(store, reference.key, reference.sha256, sha256(data)):
        raise IntegrityError(
            f"SHA-256 is not {reference.sha256}", where=reference.key, hint="restore or rebuild the object"
        )
    return data
