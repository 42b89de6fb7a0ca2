"""Checks of single request values by field type, compiled once: each returns the value or raises InvalidValue."""

import json
import re
from collections.abc import Callable
from datetime import datetime
from typing import Any

from truecourse.data.times import OutOfRange, naive, parse_request_time
from truecourse.serving.contract import ID, ID_LIMIT, INTEGERS, LARGEST_FLOAT, RequestField
from truecourse.wording import counted

ABSENT: Any = object()
Check = Callable[[Any], Any]
EXACT = 2**53
"""From here on, floats do not represent integers exactly."""


class InvalidValue(ValueError):
    """A value violates the contract; the message says how."""


def shorten(value: Any) -> str:
    """Format a value as JSON, cut at 40 characters, for error messages. Only unprintable text is escaped."""
    try:
        text = json.dumps(value, ensure_ascii=False)
        return _cut(text if text.isprintable() else json.dumps(value))
    except (TypeError, ValueError):
        return _cut(str(value))


def shorten_name(name: str) -> str:
    """Format the name of a field, without quotation marks, cut at 40 characters. Unprintable text is escaped."""
    return _cut(name if name.isprintable() else json.dumps(name)[1:-1])


def _cut(text: str) -> str:
    return text if len(text) <= 40 else text[:37] + "..."


def json_type(value: Any) -> str:
    kinds = {dict: "an object", list: "a list", bool: "true or false", type(None): "null", str: "text"}
    return kinds.get(type(value), "a number")


def nullable(check: Check, nulls: bool) -> Check:
    if nulls:
        return optional(check)

    def required(value: Any) -> Any:
        if value is ABSENT:
            raise InvalidValue("is missing")
        if value is None:
            raise InvalidValue("may not be null")
        return check(value)

    return required


def optional(check: Check) -> Check:
    return lambda value: None if value is None or value is ABSENT else check(value)


def _text(field: RequestField, reject: bool = False) -> Check:
    limit = field.most_characters
    allowed = frozenset(field.one_of or ())
    pattern = re.compile(field.pattern) if field.pattern else None
    known = frozenset(field.known) if reject and field.known is not None else None

    def check(value: Any) -> str:
        if value.__class__ is not str:
            raise InvalidValue(f"must be text, not {json_type(value)}")
        if allowed and value not in allowed:
            raise InvalidValue(f"must be one of {_listed(field.one_of)}; got {shorten(value)}")
        if len(value) > limit:
            raise InvalidValue(f"has {counted(len(value), 'character')}; the maximum is {limit}")
        if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
            raise InvalidValue("contains a lone surrogate")
        if pattern and not pattern.search(value):
            raise InvalidValue(f"must match {field.pattern}; got {shorten(value)}")
        if known is not None and value not in known:
            raise InvalidValue(f"unknown category {shorten(value)}")
        return str(value)

    return check


def _integer(field: RequestField, reject: bool = False) -> Check:
    within = _bounds(field)

    def check(value: Any) -> int:
        value = _as_integer(value)
        if value.__class__ is not int:
            raise InvalidValue(f"must be a whole number, not {shorten(value)}")
        if value not in INTEGERS:
            raise InvalidValue(f"is not a 64-bit integer: {shorten(value)}")
        within(value)
        return int(value)

    return check


def _as_integer(value: Any) -> Any:
    """Convert an integral float to an integer: JSON does not distinguish 3 and 3.0."""
    return int(value) if value.__class__ is float and value.is_integer() else value


def _float(field: RequestField, reject: bool = False) -> Check:
    within = _bounds(field)

    def check(value: Any) -> float:
        if value.__class__ is not float and value.__class__ is not int:
            raise InvalidValue(f"must be a number, not {shorten(value)}")
        if not -LARGEST_FLOAT <= value <= LARGEST_FLOAT:
            raise InvalidValue("is not a finite 64-bit number")
        within(value)
        return float(value)

    return check


def _bounds(field: RequestField) -> Check:
    least, most, allowed = field.ge, field.le, frozenset(field.one_of or ())

    def within(value: Any) -> None:
        if least is not None and value < least:
            raise InvalidValue(f"must be at least {least}; got {shorten(value)}")
        if most is not None and value > most:
            raise InvalidValue(f"must be at most {most}; got {shorten(value)}")
        if allowed and value not in allowed:
            raise InvalidValue(f"must be one of {_listed(field.one_of)}; got {shorten(value)}")

    return within


def _boolean(field: RequestField, reject: bool = False) -> Check:
    def check(value: Any) -> bool:
        if value.__class__ is not bool:
            raise InvalidValue(f"must be true or false, not {shorten(value)}")
        return bool(value)

    return check


def check_time(field: RequestField, reject: bool = False) -> Check:
    def check(value: Any) -> datetime:
        """Return naive UTC. Values from files are times, values from JSON are text."""
        try:
            if value.__class__ is str:
                return parse_request_time(value)
            if isinstance(value, datetime):
                return naive(value)
        except OutOfRange:
            raise InvalidValue(f"must lie between the years 1678 and 2261; got {shorten(value)}") from None
        except ValueError:
            pass
        raise InvalidValue(f"must be an ISO 8601 time, as 2024-05-01T12:30:00Z; got {shorten(value)}")

    return check


def check_id(value: Any) -> Any:
    """Check an id: text or an integer."""
    value = _as_integer(value)
    if value.__class__ is str:
        return _ID(value)
    if value.__class__ is not int:
        raise InvalidValue(f"must be text or a whole number, not {shorten(value)}")
    if value not in INTEGERS:
        raise InvalidValue(f"is not a 64-bit integer: {shorten(value)}")
    return value


def _listed(values: Any) -> str:
    shown = ", ".join(map(str, values[:20]))
    return shown + (f" and {len(values) - 20} more" if len(values) > 20 else "")


_ID = _text(RequestField(name=ID, type="text", max_length=ID_LIMIT))
CHECKS: dict[str, Callable[[RequestField, bool], Check]] = {
    "text": _text, "integer": _integer, "float": _float, "boolean": _boolean, "time": check_time,
}  # fmt: skip
