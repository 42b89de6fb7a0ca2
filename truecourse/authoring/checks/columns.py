"""Checks that a column's constraints do not contradict each other."""

import math
import re
from collections.abc import Iterator, Sequence
from datetime import datetime

from truecourse.authoring.checks.names import place
from truecourse.errors import Fault
from truecourse.problem.schema import AnyColumn, Boolean, Columns, Float, Integer, Text, Time


def constraint_faults(columns: Columns, *path: str) -> Iterator[Fault]:
    """Faults for constraints that contradict each other; `path` is where the columns are declared."""
    for name, column in columns.items():
        if isinstance(column, Text):
            yield from _text_faults(column, place(*path, name))
        elif isinstance(column, Integer | Float):
            yield from _range_faults(column, place(*path, name))


def _range_faults(column: Integer | Float, where: str) -> Iterator[Fault]:
    low, high = column.ge, column.le
    if any(bound is not None and math.isnan(bound) for bound in (low, high)):
        yield Fault(f"{where}", "a bound is not a number", "give a number, or leave it out")
    if low is not None and high is not None and low > high:
        yield Fault(f"{where}", f"no value is at least {low} and at most {high}", "swap or correct ge and le")
    allowed = column.one_of if isinstance(column, Integer) else None
    if allowed is None:
        return
    yield from _choice_faults(allowed, where)
    for value in allowed:
        if (low is not None and value < low) or (high is not None and value > high):
            hint = "leave it out of one_of, or widen ge and le"
            yield Fault(f"{where}.one_of", f"{value} lies outside {low} to {high}", hint)


def _text_faults(column: Text, where: str) -> Iterator[Fault]:
    pattern = None
    if column.pattern is not None:
        try:
            pattern = re.compile(column.pattern)
        except re.error as error:
            yield Fault(
                f"{where}.pattern", f"{column.pattern!r} is not a regular expression: {error}", "correct or remove it"
            )
    if column.max_length is not None and column.max_length < 1:
        yield Fault(f"{where}.max_length", f"is {column.max_length}, which allows no text", "give 1 or more")
    if column.one_of is None:
        return
    yield from _choice_faults(column.one_of, where)
    for value in column.one_of:
        if pattern is not None and not pattern.search(value):
            yield Fault(f"{where}.one_of", f"{value!r} does not match {column.pattern}", "correct one of the two")
        if column.max_length is not None and len(value) > column.max_length >= 1:
            yield Fault(f"{where}.one_of", f"{value!r} is longer than {column.max_length}", "correct one of the two")


def _choice_faults(allowed: Sequence[object], where: str) -> Iterator[Fault]:
    if not allowed:
        yield Fault(f"{where}.one_of", "no value is allowed", "list the allowed values, or leave it out")
    if len(set(allowed)) < len(allowed):
        yield Fault(f"{where}.one_of", "a value is listed twice", "list each once")


def feature_type_faults(columns: Columns, *path: str) -> Iterator[Fault]:
    """Faults for features of type Time: a model takes numbers, categories and booleans."""
    for name, column in columns.items():
        if isinstance(column, Time):
            hint = "derive a number from it, such as the hour of the day"
            yield Fault(place(*path, name), "a feature cannot be a Time", hint)


def edit_faults(columns: Columns, *path: str) -> Iterator[Fault]:
    """Faults of `renamed_from` and `default`."""
    renamed: dict[str, str] = {}
    for name, column in columns.items():
        former, where = column.renamed_from, place(*path, name)
        if former in columns:
            yield Fault(f"{where}.renamed_from", f"{former!r} is still declared", "remove the former column")
        elif former in renamed:
            what = f"{renamed[former]} is renamed from {former!r} too"
            yield Fault(f"{where}.renamed_from", what, "a column can be renamed to one name only")
        elif former:
            renamed[former] = name
        if column.default is not None and not _fits(column, column.default):
            hint = "give a value of the column's type; a time as ISO 8601 text"
            yield Fault(f"{where}.default", f"{column.default!r} is no {type(column).__name__}", hint)


def _fits(column: AnyColumn, value: str | int | float | bool) -> bool:
    if isinstance(column, Time):
        try:
            return isinstance(value, str) and bool(datetime.fromisoformat(value))
        except ValueError:
            return False
    if isinstance(value, bool) or isinstance(column, Boolean):
        return isinstance(value, bool) and isinstance(column, Boolean)
    if isinstance(column, Text):
        return isinstance(value, str)
    return isinstance(value, int if isinstance(column, Integer) else int | float)


def same_type(one: AnyColumn, other: AnyColumn) -> bool:
    return type(one) is type(other)
