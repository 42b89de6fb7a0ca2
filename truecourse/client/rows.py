"""Encoding of rows, mappings or a pandas frame, as the body of a request."""

import json
import sys
from collections.abc import Mapping, Sequence
from datetime import date
from typing import TYPE_CHECKING, Any, TypeAlias

from truecourse.errors import RequestError, RowFault

if TYPE_CHECKING:
    import pandas as pd

Row: TypeAlias = Mapping[str, Any]
Rows: TypeAlias = "Row | pd.DataFrame"
"""One row, or a frame of rows."""
_UNSENDABLE = (TypeError, ValueError, RecursionError)


def encode(rows: "Sequence[Row | pd.DataFrame]") -> bytes:
    """Encode rows, and the rows of frames, as a request body. Raises RequestError (422), by row and field, for values
    that JSON cannot represent.

    Values may be datetimes and NumPy scalars. In a frame NaN, NaT and NA are missing values, which are sent as null;
    its index is not sent."""
    encoded: list[str] = []
    faults: list[RowFault] = []
    for number, row in enumerate(_flatten(rows)):
        if not isinstance(row, Mapping):
            faults.append(RowFault(number, None, f"is {type(row).__name__}, not a mapping of fields to values"))
            continue
        try:
            encoded.append(_json({_name(name): _plain(value) for name, value in row.items()}))
        except _UNSENDABLE:
            faults += _faults(number, row)
    if faults:
        first, hint = faults[0], "send text, numbers, true, false, null or times; null for what is missing"
        what = f"row {first.row}{f', field {first.field}' if first.field else ''}: {first.problem}"
        raise RequestError(what, status=422, faults=tuple(faults), count=len(faults), hint=hint)
    return f'{{"rows": [{", ".join(encoded)}]}}'.encode()


def _flatten(given: Sequence[Any]) -> list[Any]:
    """Replace frames by their rows. pandas is not imported: without it, there are no frames."""
    pandas = sys.modules.get("pandas")
    if pandas is None:
        return list(given)
    rows: list[Any] = []
    for one in given:
        rows += _frame_rows(one) if isinstance(one, pandas.DataFrame) else [one]
    return rows


def _frame_rows(frame: "pd.DataFrame") -> list[Row]:
    """Convert a frame to rows, with None for missing values. Raises RequestError (422) for a repeated column."""
    repeated = frame.columns[frame.columns.duplicated()]
    if len(repeated):
        raise RequestError(f"the frame has two columns {repeated[0]!r}", status=422, hint="rename one of them")
    columns = [
        [None if missing else value for value, missing in zip(column.tolist(), column.isna(), strict=True)]
        for _, column in frame.items()
    ]
    return [dict(zip(frame.columns, values, strict=True)) for values in zip(*columns, strict=True)]


def _json(value: Any) -> str:
    return json.dumps(value, allow_nan=False)


def _faults(number: int, row: Row) -> list[RowFault]:
    faults = []
    for name, value in row.items():
        try:
            _json({_name(name): _plain(value)})
        except _UNSENDABLE as error:
            faults.append(RowFault(number, str(name), f"cannot be sent: {error}"))
    return faults


def _name(name: Any) -> str:
    if not isinstance(name, str):
        raise TypeError(f"a field name must be text, not {type(name).__name__}")
    return name


def _plain(value: Any) -> Any:
    """Convert a value to one that JSON can represent."""
    if isinstance(value, date):  # datetimes are dates
        return value.isoformat()
    item = getattr(value, "item", None)  # a NumPy scalar
    return item() if callable(item) else value
