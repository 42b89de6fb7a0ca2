"""The format of stored records: its number, and the names that earlier formats used.

Format 1 has no number. Format 2 has the number in each record that is read again, and other names for some fields,
values and objects. Records of both are read; `truecourse migrate` rewrites what is not part of a chain of hashes.
"""

import json
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, AliasChoices, Field

from truecourse.errors import FormatError

FORMAT = 2
"""The format that this release writes."""
UNNUMBERED = 1
"""The format of records and storages without a number."""

FORMER_FIELDS: Mapping[str, str] = {
    "notified_at": "told",  # of an alarm
    "channels": "owed",  # of a notification
    "pending": "outbox",  # of the alert record
    "without_id": "nameless",  # of a cohort
    "label_residuals": "hindsight",  # of a cohort
    "label_residual_squares": "hindsight_squares",  # of a cohort
    "label_model": "hindsight",  # of a quality baseline
    "rules_sha256": "judged_by",  # of a validation result
    "blockers": "spoilers",  # of Retraining, in a user's problem
    "last_line": "said",  # of a part of the platform
    "hint": "cure",  # of an endpoint's error
}
"""The name of a field in format 1, by its name in format 2."""
_FORMER_ACTIONS = {"withdraw": "canary rollback", "judge": "evaluate", "settled": "update"}
_FORMER_CAUSES = {"not told": "metrics unreadable"}
FORMER_EVALUATION_TAG = "truecourse.judged_by"
FORMER_SUPERVISOR_FILE = "keeper.json"
HISTOGRAMS, FORMER_HISTOGRAMS = "histograms", "sketches"
"""The first part of the keys of daily counts, now and in format 1."""
_FORMER_OBJECTS = {
    "profile.json": "frozen.json",
    "baseline.json": "yardstick.json",
    "label_model.ubj": "hindsight.ubj",
}
_PLACES = (HISTOGRAMS, "quality")


def supported_format(number: int, where: str = "") -> int:
    """Return today's format for a record of a supported one. Raises FormatError for a newer one."""
    if number > FORMAT:
        what = f"it was written in format {number} by a newer Truecourse; this release reads formats up to {FORMAT}"
        raise FormatError(what, where=where or "a stored record", hint="upgrade Truecourse")
    return FORMAT


Format = Annotated[int, AfterValidator(supported_format)]
"""The format of a record: it is checked when the record is read, and is then today's, since that is its form now."""


def _current_action(action: str) -> str:
    return _FORMER_ACTIONS.get(action, action)


def _current_cause(cause: str) -> str:
    return _FORMER_CAUSES.get(cause, cause)


Action = Annotated[str, AfterValidator(_current_action)]
Cause = Annotated[str, AfterValidator(_current_cause)]


def renamed(name: str) -> Any:
    """Annotate a field that is also read by its former name."""
    return Field(validation_alias=AliasChoices(name, FORMER_FIELDS[name]))


def field_of(document: Mapping[str, Any], name: str, default: Any = None) -> Any:
    """Return a field of a JSON object by its current or former name."""
    return document.get(name, document.get(FORMER_FIELDS[name], default))


def numbered(document: Mapping[str, Any]) -> dict[str, Any]:
    """Add today's format to a JSON object that is written."""
    return {"format": FORMAT, **document}


def read_numbered(data: bytes, where: str) -> dict[str, Any]:
    """Decode a JSON object written with numbered(), or in format 1. Raises FormatError for a newer format."""
    document: dict[str, Any] = json.loads(data)
    supported_format(document.pop("format", UNNUMBERED), where)
    return document


def with_former_names(document: Any) -> Any:
    """Return a problem's definition with the names of format 1."""
    if isinstance(document, list):
        return [with_former_names(part) for part in document]
    if not isinstance(document, dict):
        return document
    names = FORMER_FIELDS if document.get("is") == "Retraining" else {}
    return {names.get(name, name): with_former_names(part) for name, part in document.items()}


def former_key(key: str) -> str | None:
    """Return the key that an object had in format 1; None if it had the same one."""
    place, _, rest = key.partition("/")
    folder, slash, name = rest.rpartition("/")
    if place not in _PLACES:
        return None
    before = FORMER_HISTOGRAMS if place == HISTOGRAMS else place
    found = f"{before}/{folder}{slash}{_FORMER_OBJECTS.get(name, name)}"
    return found if found != key else None


def current_key(key: str) -> str:
    """Return the key of an object that format 1 stored under `key`."""
    place, _, rest = key.partition("/")
    folder, slash, name = rest.rpartition("/")
    place = HISTOGRAMS if place == FORMER_HISTOGRAMS else place
    names = {old: new for new, old in _FORMER_OBJECTS.items()} if place in _PLACES else {}
    return f"{place}/{folder}{slash}{names.get(name, name)}"
