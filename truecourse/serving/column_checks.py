"""Fast checks of whole columns, equivalent to truecourse/serving/value_checks.py.

They only accept columns. Where any value may be invalid they raise Inconclusive, and the values are checked one by one.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from truecourse.arrays import Array
from truecourse.serving.contract import RequestField
from truecourse.serving.value_checks import ABSENT, EXACT, Check, InvalidValue

BulkCheck = Callable[[Sequence[Any]], Sequence[Any]]
"""Takes n values of a field, ABSENT where a row has none. Returns them as its Check would, or raises Inconclusive."""
_NUMBERS, _NOTHING = frozenset({float, int}), frozenset({type(None), type(ABSENT)})
_LEAST, _MOST = -(2**63), 2**63 - 1
_FLOATS = -1.7e308, 1.7e308


class Inconclusive(ValueError):
    """Raised where a value may violate the contract, or has an unusual form: check the values one by one."""


def check_each(check: Check) -> BulkCheck:
    def checked(values: Sequence[Any]) -> Sequence[Any]:
        try:
            return [check(value) for value in values]
        except InvalidValue:
            raise Inconclusive from None

    return checked


def bulk_check(field: RequestField, check: Check, reject: bool) -> BulkCheck:
    """Build a field's column check. `check`: its value check, used where the type has no column check. `reject`:
    refuse unknown categories."""
    of_type = {"text": _text, "integer": _integer}.get(field.type)
    if of_type is None:
        return check_each(check)
    accept, nulls = of_type(field, reject), field.nulls

    def checked(values: Sequence[Any]) -> Sequence[Any]:
        if ABSENT in values:
            values = [None if value is ABSENT else value for value in values]
        present = values
        if None in values:
            if not nulls:
                raise Inconclusive
            present = [value for value in values if value is not None]
        if present and not accept(present):
            raise Inconclusive
        return values

    return checked


def plain_range(field: RequestField) -> tuple[type | None, Any, Any]:
    """Return (type, minimum, maximum) of values that are certainly valid as they are; type None if there are none."""
    if field.one_of or field.type not in ("float", "integer"):
        return None, 0, 0
    return (float, *_bounds(field, *_FLOATS)) if field.type == "float" else (int, *_bounds(field, _LEAST, _MOST))


class FloatColumns:
    """The float fields, checked together, without those that allow only listed values."""

    def __init__(self, fields: Sequence[RequestField]) -> None:
        mine = [field for field in fields if field.type == "float" and not field.one_of]
        self.names = tuple(field.name for field in mine)
        self._kinds = [_NUMBERS | _NOTHING if field.nulls else _NUMBERS for field in mine]
        bounds = [_bounds(field, *_FLOATS) for field in mine]
        self._least, self._most = np.array(bounds, dtype=np.float64).reshape(-1, 2, 1).swapaxes(0, 1)

    def read(self, given: Mapping[str, Sequence[Any]]) -> Array:
        """Read k fields as (k, n) float64, NaN where missing. `given`: n values per field, ABSENT where a row has none.

        Raises Inconclusive."""
        if not self.names:
            return np.empty((0, 0))
        columns, missing = [], 0
        for name, kinds in zip(self.names, self._kinds, strict=True):
            values = given[name]
            found = set(map(type, values))
            if not found <= kinds:
                raise Inconclusive
            if not found <= _NUMBERS:
                values = [None if value is ABSENT else value for value in values]
                missing += values.count(None)
            columns.append(values)
        try:
            numbers = np.array(columns, dtype=np.float64)  # None becomes NaN
        except OverflowError:
            raise Inconclusive from None
        if (numbers < self._least).any() or (numbers > self._most).any():
            raise Inconclusive
        if (np.abs(numbers) >= EXACT).any():  # an integer may have been rounded into range
            raise Inconclusive
        if np.count_nonzero(np.isnan(numbers)) != missing:  # NaN itself, from a file
            raise Inconclusive
        return numbers


def _text(field: RequestField, reject: bool) -> Callable[[Sequence[Any]], bool]:
    limit, pattern = field.most_characters, re.compile(field.pattern) if field.pattern else None
    allowed = [frozenset(field.one_of)] if field.one_of else []
    allowed += [frozenset(field.known)] if reject and field.known is not None else []

    def accept(values: Sequence[Any]) -> bool:
        if set(map(type, values)) != {str} or max(map(len, values)) > limit:
            return False
        distinct = set(values)
        return (
            all(map(str.isascii, distinct))
            and all(map(distinct.issubset, allowed))
            and (pattern is None or all(map(pattern.search, distinct)))
        )

    return accept


def _integer(field: RequestField, reject: bool) -> Callable[[Sequence[Any]], bool]:
    least, most = _bounds(field, _LEAST, _MOST)
    allowed = frozenset(field.one_of or ())

    def accept(values: Sequence[Any]) -> bool:
        if set(map(type, values)) != {int} or min(values) < least or max(values) > most:
            return False
        return not allowed or allowed.issuperset(values)

    return accept


def _bounds(field: RequestField, least: float, most: float) -> tuple[Any, Any]:
    return max(least, least if field.ge is None else field.ge), min(most, most if field.le is None else field.le)
