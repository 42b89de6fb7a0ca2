"""Parse cells to declared types, for ingest, profile, scoring and the times of requests.

The result for a cell depends only on the cell, its column and the file's dialect, not on other cells. A cell that does
not parse becomes null, and its text is kept in another column of the row.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from truecourse.data.arrow_types import arrow_type
from truecourse.data.numbers import read_boolean, read_float, read_integer, text_bytes
from truecourse.data.times import IN_RANGE, read_epoch, read_time
from truecourse.problem.schema import EPOCHS, AnyColumn, Boolean, Columns, Csv, Float, Integer, Text, Time

UNREADABLE = "_tc_unreadable"
"""The column with the text of every cell of a row that did not parse, as a JSON object by column name."""
LINE, LINE_NUMBER, LINE_FAULT = "_tc_line", "_tc_line_number", "_tc_line_fault"
"""Keys of that object for a malformed line: its text, its number in the file (from 1, as text) and its fault."""
PLAIN = Csv(null_values=(), trim=False)
"""The dialect of texts in other formats than CSV: no text means null, numbers have a decimal point."""


@dataclass(frozen=True)
class Malformed:
    """A physical line that is not a valid row. `row`: its position in its chunk; `line`: its number in the file."""

    row: int
    line: int
    text: str
    fault: str


def batch_schema(columns: Columns) -> pa.Schema:
    """The declared columns and `UNREADABLE`."""
    return pa.schema([*((name, arrow_type(column)) for name, column in columns.items()), (UNREADABLE, pa.string())])


def parse_batch(
    cells: Mapping[str, pa.Array], columns: Columns, csv: Csv = PLAIN, malformed: Sequence[Malformed] = ()
) -> pa.RecordBatch:
    """Parse `cells` (by column: an array of text or of any Arrow type) to one batch with batch_schema(). The rows of
    `malformed` lines are null in every column."""
    arrays: list[pa.Array] = []
    unparsed: dict[int, dict[str, str]] = {}
    for name, column in columns.items():
        array, failed = read_cells(cells[name], column, csv)
        arrays.append(array)
        for row, text in failed.items():
            unparsed.setdefault(row, {})[name] = text
    for line in malformed:
        unparsed[line.row] = {LINE: line.text, LINE_NUMBER: str(line.line), LINE_FAULT: line.fault}
    rows = len(arrays[0])
    unreadable = [None] * rows if unparsed else pa.nulls(rows, pa.string())
    for row, texts in unparsed.items():
        unreadable[row] = json.dumps(texts, ensure_ascii=False)
    return pa.record_batch([*arrays, pa.array(unreadable, pa.string())], schema=batch_schema(columns))


def unreadable_texts(kept: str) -> dict[str, str]:
    """The texts of a row's unreadable cells by column, from its UNREADABLE value. For a malformed line: under LINE, a
    sentence with its number, fault and text."""
    texts: dict[str, str] = json.loads(kept)
    if LINE in texts:
        return {LINE: f"line {texts[LINE_NUMBER]}: {texts[LINE_FAULT]}: {texts[LINE]}"}
    return texts


def read_cells(cells: pa.Array, column: AnyColumn, csv: Csv = PLAIN) -> tuple[pa.Array, dict[int, str]]:
    """Parse n cells. Return the typed array (null if a cell is missing or did not parse), and the text of each cell
    that did not parse, by row.

    `cells`: texts from the file, or values of any Arrow type. A text in the null values of `csv` is missing, and so is
    NaN in a Float column. Integers are exact; infinity does not parse; times lie in the years 1678 to 2261."""
    if pa.types.is_dictionary(cells.type):
        cells = cells.dictionary_decode()
    if is_text(cells.type):
        cells = _without_nulls(cells.cast(pa.string()), csv)
        return _with_failures(*_parse_texts(cells, column, csv), cells)
    if pa.types.is_floating(cells.type):
        cells = pc.if_else(pc.is_nan(cells), None, cells)
    array = _direct(cells, column)
    if array is not None:
        return array, {}
    texts = as_text(cells)
    if isinstance(column, Time) and pa.types.is_floating(cells.type):  # pandas stores integers with nulls as floats
        texts = pc.replace_substring_regex(texts, r"\.0$", "")
    return _with_failures(*_parse_texts(texts, _standard(column, cells.type), PLAIN), texts)


def is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _without_nulls(texts: pa.Array, csv: Csv) -> pa.Array:
    if csv.trim:
        codes = text_bytes(texts)
        if ((codes <= ord(" ")) | (codes >= 128)).any():  # white space, or a character that may be
            texts = pc.utf8_trim_whitespace(texts)
    for value in csv.null_values:
        null = pc.equal(texts, value)
        texts = pc.if_else(null, None, texts) if pc.any(null).as_py() else texts
    return texts


def _parse_texts(texts: pa.Array, column: AnyColumn, csv: Csv) -> tuple[pa.Array, pa.Array | None]:
    """Parse to the typed array and a mask of nulls that are not failures (None: only the nulls of `texts`)."""
    if isinstance(column, Text):
        return texts, None
    if isinstance(column, Integer):
        return read_integer(texts, csv, column.symbol), None
    if isinstance(column, Float):
        return read_float(texts, csv, column.symbol)
    if isinstance(column, Boolean):
        return read_boolean(texts), None
    if column.format is not None and column.format in EPOCHS:
        return read_epoch(texts, csv, EPOCHS[column.format]), None
    return read_time(texts, column.format), None


def _with_failures(array: pa.Array, missing: pa.Array | None, texts: pa.Array) -> tuple[pa.Array, dict[int, str]]:
    if array.null_count == texts.null_count:
        return array, {}
    failed = pc.and_(pc.is_valid(texts), pc.is_null(array))
    if missing is not None:
        failed = pc.and_not(failed, missing)
    rows = pc.indices_nonzero(failed)
    return array, dict(zip(rows.to_pylist(), texts.take(rows).to_pylist(), strict=True))


def _standard(column: AnyColumn, given: pa.DataType) -> AnyColumn:
    """The column to parse values with that were not text and were converted to it. A whole number in a Time column may
    be an epoch or 20240131; other values of a Time column are ISO 8601."""
    if isinstance(column, Integer | Float) and column.symbol:
        return replace(column, symbol="")
    return Time() if isinstance(column, Time) and not _is_number(given) else column


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def _direct(cells: pa.Array, column: AnyColumn) -> pa.Array | None:
    """Cast the cells directly, if every value is preserved (except nanoseconds); None: convert to text and parse."""
    kind, given = arrow_type(column), cells.type
    if pa.types.is_null(given):
        return pa.nulls(len(cells), kind)
    if isinstance(column, Time):
        return _moments(cells) if pa.types.is_timestamp(given) or pa.types.is_date(given) else None
    if isinstance(column, Boolean):
        return cells if pa.types.is_boolean(given) else None
    if isinstance(column, Float) and pa.types.is_floating(given):
        cells = cells.cast(kind)
        return None if pc.any(pc.is_inf(cells)).as_py() else cells
    if pa.types.is_integer(given) or pa.types.is_boolean(given) or (
        isinstance(column, Integer) and pa.types.is_floating(given)
    ):  # fmt: skip
        try:
            return cells.cast(kind)
        except pa.ArrowInvalid:
            return None
    return None


def _moments(cells: pa.Array) -> pa.Array | None:
    """Convert timestamps and dates to UTC microseconds; None if one is out of range."""
    zone = getattr(cells.type, "tz", None)
    seconds = cells.cast(pa.timestamp("s", zone), safe=False)
    numbers = np.asarray(pc.fill_null(seconds.cast(pa.int64()), 0))
    least, end = (int(bound.timestamp()) for bound in IN_RANGE)
    if len(numbers) and not least <= numbers.min() <= numbers.max() < end:
        return None
    micro = cells.cast(pa.timestamp("us", zone), safe=False)
    return micro.cast(arrow_type(Time())) if zone else pc.assume_timezone(micro, "UTC")


def as_text(cells: pa.Array) -> pa.Array:
    """Convert values to text that a column of their type can parse: numbers in full, lists and structs as JSON."""
    kind = cells.type
    if pa.types.is_timestamp(kind):  # Python's datetime and Arrow's text conversion end in 9999
        moments = np.asarray(cells.cast(pa.timestamp(kind.unit)))
        return pa.array(np.datetime_as_string(moments), mask=np.isnat(moments))
    if is_text(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind):
        return cells.cast(pa.string())
    return pa.array([value_text(value) for value in cells.to_pylist()], pa.string())


def value_text(value: Any) -> str | None:
    """Convert a value of Parquet, a database or JSON to text that a column of its type can parse. Bytes that are not
    UTF-8 become 0x and hexadecimal digits."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        whole = value.is_integer() and abs(value) < 2**63
        return format(value, ".1f") if whole else repr(value)
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, bytes | bytearray | memoryview):
        return _bytes_text(bytes(value))
    if isinstance(value, list | tuple | dict | int):
        return json.dumps(value, ensure_ascii=False, default=value_text)
    return str(value)


def _bytes_text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return f"0x{value.hex()}"
