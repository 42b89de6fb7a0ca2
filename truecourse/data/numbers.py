"""Parse text to numbers and booleans: decimal signs, digit groups, currency and per cent signs.

Every function takes n texts (string array with nulls) and returns n values, null if a text is null or does not parse.
A fast cast is tried first if the characters show that it accepts exactly what the patterns below accept.
"""

import re
from functools import cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from truecourse.problem.schema import Csv

_MINUS = "−-"
_GROUPED = {"": "", ",": ",", ".": r"\.", " ": "[ \u00a0\u2009\u202f]", "'": "['’]"}
_BOOLEANS = ("true", "false", "t", "f", "1", "0", "1.0", "0.0")


def read_integer(texts: pa.Array, csv: Csv, symbol: str = "") -> pa.Array:
    """Parse to int64. "3.0" is 3; "3.5" and values beyond int64 are null."""
    if not symbol and consists_of(texts, "0123456789-"):
        try:
            return texts.cast(pa.int64())
        except pa.ArrowInvalid:
            pass
    if not symbol and csv.decimal == "." and consists_of(texts, "0123456789-."):
        integers = _whole_floats(texts)
        if integers is not None:
            return integers
    return cast_by_bisection(_canonical(texts, csv, symbol, whole=True), pa.int64())


def _whole_floats(texts: pa.Array) -> pa.Array | None:
    """Parse integers written as floats ("3.0", as pandas writes a column with missing values), if all are exact."""
    if any(pc.any(pc.starts_with(texts, begin)).as_py() for begin in (".", "-.")):
        return None
    try:
        floats = texts.cast(pa.float64())
        ends = pc.min_max(floats).as_py()
        return None if max(-(ends["min"] or 0), ends["max"] or 0) >= 2**53 else floats.cast(pa.int64())
    except pa.ArrowInvalid:
        return None


def read_float(texts: pa.Array, csv: Csv, symbol: str = "") -> tuple[pa.Array, pa.Array | None]:
    """Parse to the nearest float64; infinity and NaN are null. Also return a mask of the NaN texts, or None."""
    if not symbol and csv.decimal == "." and consists_of(texts, "0123456789-+.eE"):
        try:
            return _finite(texts.cast(pa.float64())), None
        except pa.ArrowInvalid:
            pass
    numbers = _canonical(texts, csv, symbol, whole=False).cast(pa.float64())
    return _finite(numbers), pc.fill_null(pc.match_substring_regex(texts, r"^\s*[+-]?(?i:nan)\s*$"), False)


def read_boolean(texts: pa.Array) -> pa.Array:
    """Parse true, false, t, f, 1 and 0, in any case, to bool."""
    lowered = pc.utf8_lower(pc.utf8_trim_whitespace(texts))
    places = pc.index_in(lowered, value_set=pa.array(_BOOLEANS))
    return pc.equal(pc.bit_wise_and(places, 1), 0)


def consists_of(texts: pa.Array, characters: str) -> bool:
    """Whether the texts consist only of these ASCII characters. With nulls it may return False."""
    return not text_bytes(texts).tobytes().translate(None, characters.encode())


def text_bytes(texts: pa.Array) -> np.ndarray:
    """The concatenated bytes of all texts, (k,) uint8. They may include bytes of nulls."""
    _, offsets, data = texts.buffers()
    if data is None or not len(texts):
        return np.empty(0, np.uint8)
    ends = np.frombuffer(offsets, np.int32, len(texts) + 1, texts.offset * 4)
    return np.frombuffer(data, np.uint8)[ends[0] : ends[-1]]


def cast_by_bisection(texts: pa.Array, kind: pa.DataType) -> pa.Array:
    """Cast texts by bisection; those that cannot be cast become null. Fast if few cannot."""
    try:
        return texts.cast(kind)
    except pa.ArrowInvalid:
        if len(texts) == 1:
            return pa.nulls(1, kind)
        middle = len(texts) // 2
        return pa.concat_arrays([cast_by_bisection(texts[:middle], kind), cast_by_bisection(texts[middle:], kind)])


def _finite(numbers: pa.Array) -> pa.Array:
    return numbers if pc.all(pc.is_finite(numbers)).as_py() is not False else pc.if_else(
        pc.is_finite(numbers), numbers, None
    )  # fmt: skip


def _canonical(texts: pa.Array, csv: Csv, symbol: str, whole: bool) -> pa.Array:
    """Rewrite numbers for Arrow's cast: "−1.234,50 €" as "-1234.50", integers without fraction. Null for others."""
    texts = pc.utf8_trim_whitespace(texts)
    numbers = None
    for pattern in _patterns(csv.decimal, csv.thousands, symbol, whole):
        parts = pc.extract_regex(texts, pattern)
        minus = pc.if_else(pc.match_substring_regex(pc.struct_field(parts, "sign"), f"[{_MINUS}]"), "-", "")
        digits = pc.struct_field(parts, "digits")
        if csv.thousands:
            digits = pc.replace_substring_regex(digits, _GROUPED[csv.thousands], "")
        if csv.decimal == "," and not whole:
            digits = pc.replace_substring(digits, ",", ".")
        matched = pc.binary_join_element_wise(minus, digits, "")
        numbers = matched if numbers is None else pc.coalesce(numbers, matched)
    return numbers


@cache
def _patterns(decimal: str, thousands: str, symbol: str, whole: bool) -> tuple[str, ...]:
    point, group, sign = re.escape(decimal), _GROUPED[thousands], rf"(?P<sign>[+{_MINUS}]?)"
    whole_part = rf"\d+|\d{{1,3}}(?:{group}\d{{2,3}})*{group}\d{{3}}" if group else r"\d+"
    if whole:
        number = rf"(?P<digits>{whole_part})(?:{point}0*)?"
    else:
        number = rf"(?P<digits>(?:(?:{whole_part})(?:{point}\d*)?|{point}\d+)(?:[eE][+-]?\d+)?)"
    if not symbol:
        return (f"^{sign}{number}$",)
    mark = re.escape(symbol)
    return (f"^{sign}{number}(?:\\s*{mark})?$", f"^{sign}{mark}\\s*{number}$", f"^{mark}\\s*{sign}{number}$")
