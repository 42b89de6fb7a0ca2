"""Cells to declared types. What does not parse becomes null and is kept, as text, beside the row: nothing is lost."""

import json
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from truecourse.frame import arrow_type
from truecourse.schema import AnyColumn, Boolean, Columns, Float, Integer, Text, Time

UNREADABLE = "_tc_unreadable"
LINE = "_tc_line"
"""The key under which a line that could not be split into cells is kept."""

_WRITTEN_AS = {
    Integer: r"^[+-]?\d+(\.0*)?$",
    Float: r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$|^(?i:nan|[+-]?inf(inity)?)$",
    Boolean: r"^(?i:true|false|1|0)$",
    Time: r"^\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d(\.\d{1,9})?)?([Zz]|[+-]\d\d(:?\d\d)?)?)?$",
}
_ZONE = r"[T ].*(Z|[+-]\d\d(:?\d\d)?)$"


def batch_schema(columns: Columns) -> pa.Schema:
    """The declared columns and `_tc_unreadable`."""
    return pa.schema([*((name, arrow_type(column)) for name, column in columns.items()), (UNREADABLE, pa.string())])


def typed(cells: Mapping[str, pa.Array], columns: Columns) -> pa.RecordBatch:
    """One batch of `cells` (an array of text, or of any Arrow type, by column) under batch_schema."""
    arrays: list[pa.Array] = []
    bad: dict[int, dict[str, str]] = {}
    for name, column in columns.items():
        array, failed = read_cells(cells[name], column)
        arrays.append(array)
        for row, text in failed.items():
            bad.setdefault(row, {})[name] = text
    rows = len(arrays[0])
    lost = [None] * rows if bad else pa.nulls(rows, pa.string())
    for row, texts in bad.items():
        lost[row] = json.dumps(texts, ensure_ascii=False)
    return pa.record_batch([*arrays, pa.array(lost, pa.string())], schema=batch_schema(columns))


def lines(texts: list[str], columns: Columns) -> pa.RecordBatch:
    """Rows for lines that have the wrong number of fields, or are not JSON: all null, the text kept."""
    nulls = [pa.nulls(len(texts), arrow_type(column)) for column in columns.values()]
    kept = pa.array([json.dumps({LINE: text}, ensure_ascii=False) for text in texts], pa.string())
    return pa.record_batch([*nulls, kept], schema=batch_schema(columns))


def read_cells(cells: pa.Array, column: AnyColumn) -> tuple[pa.Array, dict[int, str]]:
    """The typed array (null where a cell did not parse) and the text of those cells by row."""
    kind = arrow_type(column)
    if pa.types.is_dictionary(cells.type):
        cells = cells.dictionary_decode()
    try:
        return _finish(_direct(cells, kind), column), {}
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        texts = as_text(cells)
    try:
        array = _normalised(texts, column).cast(kind)
    except pa.ArrowInvalid:
        return _salvage(texts, column)
    return _finish(array, column), {}


def _direct(cells: pa.Array, kind: pa.DataType) -> pa.Array:
    """A cast that keeps every value exactly, save nanoseconds. Raises ArrowInvalid when one would change."""
    given = cells.type
    if pa.types.is_timestamp(kind) and (pa.types.is_timestamp(given) or pa.types.is_date(given)):
        micro = cells.cast(pa.timestamp("us", getattr(given, "tz", None)), safe=False)
        return micro.cast(kind) if micro.type.tz else pc.assume_timezone(micro, "UTC")
    if pa.types.is_timestamp(kind) and not _is_text(given):
        raise pa.ArrowInvalid("a number is no time")
    if pa.types.is_boolean(kind) and not pa.types.is_boolean(given):
        raise pa.ArrowInvalid("only true, false, 1 and 0")
    return cells.cast(kind)


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def as_text(cells: pa.Array) -> pa.Array:
    """Every cell as text; bytes that are not UTF-8 with replacement characters."""
    try:
        return cells.cast(pa.string())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return pa.array([_text(value) for value in cells.to_pylist()], pa.string())


def _text(value: Any) -> str | None:
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return None if value is None else str(value)


def _normalised(texts: pa.Array, column: AnyColumn) -> pa.Array:
    """The same values as Arrow writes them: "+3.0" as "3", "2024-05-01" as "2024-05-01T00:00:00Z"."""
    if isinstance(column, Text):
        return texts
    texts = pc.utf8_trim_whitespace(texts)
    if isinstance(column, Integer):
        return pc.replace_substring_regex(pc.utf8_ltrim(texts, characters="+"), r"\.0*$", "")
    if isinstance(column, Boolean):
        return pc.utf8_lower(texts)
    if isinstance(column, Time):
        texts = pc.replace_substring_regex(pc.utf8_upper(texts), r"(\.\d{6})\d+", r"\1")
        texts = pc.replace_substring_regex(texts, r"^(\d{4}-\d\d-\d\d)$", r"\1T00:00:00")
        return pc.if_else(pc.match_substring_regex(texts, _ZONE), texts, pc.binary_join_element_wise(texts, "Z", ""))
    return texts


def _salvage(texts: pa.Array, column: AnyColumn) -> tuple[pa.Array, dict[int, str]]:
    """Keep what parses: drop what is not written like the type, then look for the rest (31 February) by halves."""
    shaped = texts
    if type(column) in _WRITTEN_AS:
        looks_right = pc.match_substring_regex(pc.utf8_trim_whitespace(texts), _WRITTEN_AS[type(column)])
        shaped = pc.if_else(looks_right, texts, None)
    array = _finish(_by_halves(_normalised(shaped, column), arrow_type(column)), column)
    missing = pc.and_(pc.is_valid(texts), pc.is_null(array))
    if isinstance(column, Float):
        missing = pc.and_not(missing, pc.match_substring_regex(texts, r"^\s*(?i:nan)\s*$"))
    rows = pc.indices_nonzero(pc.fill_null(missing, False))
    return array, dict(zip(rows.to_pylist(), texts.take(rows).to_pylist(), strict=True))


def _by_halves(texts: pa.Array, kind: pa.DataType) -> pa.Array:
    try:
        return texts.cast(kind)
    except pa.ArrowInvalid:
        if len(texts) == 1:
            return pa.nulls(1, kind)
        middle = len(texts) // 2
        return pa.concat_arrays([_by_halves(texts[:middle], kind), _by_halves(texts[middle:], kind)])


def _finish(array: pa.Array, column: AnyColumn) -> pa.Array:
    """Not-a-number is a missing value."""
    return pc.if_else(pc.is_nan(array), None, array) if isinstance(column, Float) else array
