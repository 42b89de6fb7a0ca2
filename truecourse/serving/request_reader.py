"""Parsing and validation of requests by the contract, from bytes or rows of a file.

An invalid row is refused with all its faults, each with row and field. Nothing is coerced: "3" and true are no numbers.
"""

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from decimal import Decimal
from operator import itemgetter
from typing import Any, NoReturn

import numpy as np
import orjson

from truecourse.arrays import Values
from truecourse.errors import RequestError, RowFault
from truecourse.serving.column_checks import FloatColumns, Inconclusive, bulk_check, check_each, plain_range
from truecourse.serving.contract import DECISION_TIME, ID, Contract, FieldType, RequestField
from truecourse.serving.rows import Rows
from truecourse.serving.value_checks import (
    ABSENT,
    CHECKS,
    EXACT,
    Check,
    InvalidValue,
    check_id,
    check_time,
    json_type,
    nullable,
    shorten,
    shorten_name,
)
from truecourse.wording import counted, plural, suggestion

MAX_FAULTS = 100
MAX_HINTS, LONGEST_NAME = 20, 100
SHORT = 4096
"""Bytes up to which Python counts faster than NumPy."""
FEW = 8
"""Fewer rows than this are read row by row, which is then faster."""


class RowReader:
    """A contract compiled to checks. Thread-safe.

    `times_required`: rows must have a decision time (if the problem has one); otherwise it defaults to now. `clock`:
    converts the wall clock's time to the problem's."""

    def __init__(
        self, contract: Contract, times_required: bool = False, clock: Callable[[datetime], datetime] | None = None
    ) -> None:
        self.contract = contract
        self._clock = clock
        reject = contract.unknown_category == "reject"
        self._checks = [(f.name, nullable(CHECKS[f.type](f, reject), f.nulls)) for f in contract.fields]
        offered: dict[str, Check] = {
            ID: check_id,
            DECISION_TIME: check_time(RequestField(name=DECISION_TIME, type="time")),
        }
        optionals = {ID} if times_required else {ID, DECISION_TIME}
        self._extras = [(name, nullable(offered[name], name in optionals)) for name in contract.extras]
        quick = [plain_range(field) for field in contract.fields] + [(None, 0, 0)] * len(self._extras)
        both = zip(self._checks + self._extras, quick, strict=True)
        self._each = [(name, check, *surely) for (name, check), surely in both]
        self._names = frozenset(contract.names + contract.extras)
        self._integers = tuple(f.name for f in contract.fields if f.type == "integer")
        self._integers += (ID,) if ID in contract.extras else ()
        self._types: dict[str, FieldType] = {f.name: f.type for f in contract.fields}
        if contract.has_time:
            self._types[DECISION_TIME] = "time"
        by_name = dict(self._checks)
        self._fields = contract.names + tuple(name for name, _ in self._extras)
        self._floats = FloatColumns(contract.fields)
        others = [f for f in contract.fields if f.name not in self._floats.names]
        self._bulk = [(f.name, bulk_check(f, by_name[f.name], reject)) for f in others]
        self._bulk += [(name, check_each(check)) for name, check in self._extras]

    def read_request(self, body: bytes, now: datetime) -> Rows:
        """Read and validate the rows of a request body. `now`: the default decision time.

        Raises RequestError: 400 for invalid JSON, 413 for a body too large, 422 for rows that violate the contract."""
        return self.accept_rows(self.parse_body(body), now)

    def parse_body(self, body: bytes) -> list[Any]:
        """Parse the rows of a request body without validation.

        Raises RequestError: 400 for invalid JSON, 413 for a body too large, 422 for a body without rows."""
        if len(body) > self.contract.max_bytes:
            raise too_large(self.contract)
        rows = self._rows(decode(body))
        return self._rows(_decode(body, exact=True)) if self._is_rounded(rows) else rows

    def _is_rounded(self, rows: list[Any]) -> bool:
        """Return whether an integer may have been rounded: orjson reads integers beyond 64 bits as floats."""
        names = self._integers
        for row in rows:
            if row.__class__ is dict:
                for name in names:
                    value = row.get(name)
                    if value.__class__ is float and not -EXACT < value < EXACT:
                        return True
        return False

    def accept_rows(self, sent: Sequence[Any], now: datetime) -> Rows:
        """Validate parsed rows. Raises RequestError (422) unless all are valid."""
        rows = self.read(sent, now)
        if rows.faults:
            count = len(rows.faults)
            raise RequestError(
                counted(count, "fault"), status=422, faults=rows.faults[:MAX_FAULTS], count=count, hint=_HINT
            )
        return rows

    def _rows(self, document: Any) -> list[Any]:
        limit = self.contract.max_rows
        if not isinstance(document, dict):
            _refuse(f"the body is {json_type(document)}, not an object")
        unknown = sorted(set(document) - {"rows"})
        if unknown:
            _refuse(f"the body has unknown {plural(len(unknown), 'member')}: {', '.join(map(shorten, unknown[:10]))}")
        rows = document.get("rows", ABSENT)
        if rows is ABSENT:
            _refuse('the body has no "rows"')
        if not isinstance(rows, list):
            _refuse(f'"rows" is {json_type(rows)}, not a list')
        if not 1 <= len(rows) <= limit:
            _refuse(f'"rows" has {counted(len(rows), "row")}; 1 to {limit:,} are allowed')
        return rows

    def read(self, rows: Sequence[Any], now: datetime) -> Rows:
        """Validate rows; invalid ones are left out and listed in `faults`."""
        if len(rows) >= FEW:
            try:
                return self._build(list(rows), list(range(len(rows))), self._by_column(rows), [], now)
            except Inconclusive:
                pass  # the checks row by row find the row and the fault
        return self._one_by_one(rows, now)

    def _by_column(self, rows: Sequence[Any]) -> dict[str, Values]:
        """Check rows by column; returns the values by field. Raises Inconclusive unless all rows are clearly valid."""
        if set(map(type, rows)) != {dict}:
            raise Inconclusive
        given = self._by_field(rows)
        lists: dict[str, Values] = dict(zip(self._floats.names, self._floats.read(given), strict=True))
        return lists | {name: check(given[name]) for name, check in self._bulk}

    def _by_field(self, rows: Sequence[Any]) -> dict[str, Sequence[Any]]:
        """Return the values by field. Raises Inconclusive if a row has an unknown member."""
        count = sum(map(len, rows))
        present = [name for name in self._fields if name in rows[0]]
        if len(present) > 1 and count == len(present) * len(rows):
            with suppress(KeyError):  # the rows have different members
                values = zip(*map(itemgetter(*present), rows), strict=True)
                return dict.fromkeys(self._fields, (ABSENT,) * len(rows)) | dict(zip(present, values, strict=True))
        given: dict[str, Sequence[Any]] = {name: [row.get(name, ABSENT) for row in rows] for name in self._fields}
        if sum(len(rows) - values.count(ABSENT) for values in given.values()) != count:
            raise Inconclusive
        return given

    def _one_by_one(self, rows: Sequence[Any], now: datetime) -> Rows:
        values: list[list[Any]] = []
        accepted: list[int] = []
        faults: list[RowFault] = []
        hints: dict[str, str] = {}
        for place, row in enumerate(rows):
            if row.__class__ is not dict:
                faults.append(RowFault(place, None, f"is {json_type(row)}, not an object"))
                continue
            before, read = len(faults), []
            for name, check, kind, least, most in self._each:
                value = row.get(name, ABSENT)
                if value.__class__ is kind and least <= value <= most:
                    read.append(value)
                    continue
                try:
                    read.append(check(value))
                except InvalidValue as refused:
                    faults.append(RowFault(place, name, str(refused)))
            if not self._names.issuperset(row):
                unknown = sorted(set(row) - self._names)
                faults.extend(RowFault(place, shorten_name(name), self._unknown_field(name, hints)) for name in unknown)
            if len(faults) == before:
                accepted.append(place)
                values.append(read)
        names = self._fields
        by_field: dict[str, Values] = dict.fromkeys(names, ())
        if values:
            by_field = dict(zip(names, zip(*values, strict=True), strict=True))
        return self._build([rows[i] for i in accepted], accepted, by_field, faults, now)

    def _unknown_field(self, name: str, hints: dict[str, str]) -> str:
        """Describe the fault of an unknown field. `hints`: similar names found so far; limited, since the search is
        slow."""
        if name not in hints and len(hints) < MAX_HINTS and len(name) <= LONGEST_NAME:
            hints[name] = suggestion(name, self._names)
        close = hints.get(name)
        return f"unknown field; {close}" if close else "unknown field: not in the contract"

    def _build(
        self,
        given: list[Any],
        accepted: list[int],
        values: dict[str, Values],
        faults: list[RowFault],
        now: datetime,
    ) -> Rows:
        ids = list(values.pop(ID)) if ID in self.contract.extras else [None] * len(accepted)
        if self.contract.has_time:
            times = values[DECISION_TIME]
            if None in times:
                reference = now if self._clock is None else self._clock(now)
                moment = reference.astimezone(UTC).replace(tzinfo=None)
                times = [moment if time is None else time for time in times]
            values[DECISION_TIME] = list(times)
        return Rows(accepted, ids, self._types, values, self.contract.has_time, faults, given)


def decode(body: bytes) -> Any:
    """Parse strict JSON: UTF-8, without NaN, Infinity or duplicate names. Raises RequestError 400."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        return _decode(body)  # for a better error message
    return document if _without_duplicates(document, body) else _decode(body)


def _without_duplicates(document: Any, body: bytes) -> bool:
    """Return whether the parsed rows certainly have as many members as the text; of duplicate names, orjson keeps one.

    Every member has a colon: if the text has no more colons than members, none is missing. Otherwise pairs of quotation
    mark and colon are counted: if no colon follows whitespace, there are at least as many pairs as members. A pair
    within a string makes the result False, which is safe."""
    if document.__class__ is not dict or document.get("rows").__class__ is not list:
        return False
    rows = document["rows"]
    if not rows or set(map(type, rows)) != {dict}:
        return False
    members = len(document) + sum(map(len, rows))
    if len(body) < SHORT and body.count(b":") == members:
        return True
    text = np.frombuffer(body, np.uint8)
    colons = text[1:] == ord(":")
    if np.count_nonzero(colons) == members:
        return True
    pairs = np.count_nonzero(colons & (text[:-1] == ord('"')))
    if pairs != members:
        return False
    return not any(space in body for space in (b" :", b"\t:", b"\n:", b"\r:"))


def _decode(body: bytes, exact: bool = False) -> Any:
    """Parse strict JSON with Python's decoder. `exact`: integers in any notation (1e17, 3.0) stay exact."""
    try:
        return (_EXACT_DECODER if exact else _DECODER).decode(body.decode())
    except UnicodeDecodeError as error:
        _malformed(f"byte {error.start} is not UTF-8")
    except json.JSONDecodeError as error:
        _malformed(f"{error.msg}, line {error.lineno} column {error.colno}")
    except RecursionError:
        _malformed("nested too deep")
    except ValueError as error:
        _malformed(str(error))


def _malformed(why: str) -> NoReturn:
    raise RequestError(f"the body is not valid JSON: {why}", status=400, hint="send JSON as UTF-8") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("duplicate name in an object")
    return members


def _constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not valid in JSON; send null")


def _exact(text: str) -> int | float:
    """Parse a number with a point or an exponent: an integer if it is integral and not too long, else a float."""
    number = Decimal(text)
    return int(number) if number.adjusted() <= _DIGITS and number == number.to_integral_value() else float(text)


_DIGITS = 19
"""Maximum digits after the first of integers that stay exact; more than 64 bits hold."""
_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_constant)
_EXACT_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_constant, parse_float=_exact)
_HINT = "correct the rows; the contract is at /docs.json"


def too_large(contract: Contract) -> RequestError:
    what = f"the body is longer than {counted(contract.max_bytes, 'byte')}"
    return RequestError(what, status=413, hint=f"send fewer rows at once; the maximum is {contract.max_rows:,}")


def _refuse(what: str) -> NoReturn:
    raise RequestError(what, status=422, hint='send {"rows": [{...}]}; the contract is at /docs.json')
