"""Parse text to times: ISO 8601, strptime formats, and numbers since 1970. Times are UTC in microseconds.

Times lie in the years 1678 to 2261, the range of 64-bit nanoseconds, which other libraries use.
"""

import re
from datetime import UTC, datetime
from functools import cache

import pyarrow as pa
import pyarrow.compute as pc

from truecourse.data.numbers import cast_by_bisection, consists_of
from truecourse.problem.schema import Csv

IN_RANGE = datetime(1678, 1, 1, tzinfo=UTC), datetime(2262, 1, 1, tzinfo=UTC)
"""The first time in range, and the first time after the range."""
_UTC = pa.timestamp("us", tz="UTC")
_CLOCK = (
    r"(?:[Tt ](?:[01][0-9]|2[0-3])(?::[0-5][0-9](?::[0-5][0-9](?:[.,][0-9]{1,9})?)?)?"
    r"(?: ?(?:[Zz]|UTC|GMT|[+-](?:[01][0-9]|2[0-3])(?::?[0-5][0-9])?))?)?"
)
_ISO = rf"[0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}}{_CLOCK}"
_ISO_TEXT = re.compile(_ISO)
_YEAR = "(?:167[89]|16[89][0-9]|1[7-9][0-9]{2}|2[01][0-9]{2}|22[0-5][0-9]|226[01])"
_LEAP_YEAR = (
    "(?:16(?:8[048]|9[26])|(?:1[789]|2[01])(?:0[48]|[2468][048]|[13579][26])|2000|22(?:0[48]|[24][048]|[135][26]|60))"
)
_DATE = (
    f"(?:{_YEAR}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)"
    f"|02-(?:0[1-9]|1[0-9]|2[0-8]))|{_LEAP_YEAR}-02-29)"
)
TIME_PATTERN = rf"^(?!1678-01-01.*\+)(?!2261-12-31[^-]*-){_DATE}{_CLOCK}(?![\s\S])"
"""The times allowed in requests, as a regular expression for JSON Schema: ISO 8601 with an existing day, in the years
1678 to 2261 as written and in UTC. On the first and last day, no offset may lead out of this range."""
_EDGES = {1678, 2261}
_IN_REQUESTS = re.compile(TIME_PATTERN)
_EPOCH = r"^(?P<sign>[+-]?)(?P<whole>\d{1,18})(?:POINT(?P<part>\d*))?$"


class OutOfRange(ValueError):
    """The time is not in the years 1678 to 2261."""


def parse_time(text: str) -> datetime:
    """Parse one ISO 8601 time to naive UTC, as read_time() does. Raises ValueError, OutOfRange."""
    if not _ISO_TEXT.fullmatch(text):
        raise ValueError(f"not an ISO 8601 time: {text}")
    if text[-1] in "CT":  # UTC, GMT
        text = text[:-3].rstrip() + "Z"
    elif len(text) > 10:
        text = text[:11] + text[11:].upper().replace(" ", "")
    return naive(datetime.fromisoformat(text))


def parse_request_time(text: str) -> datetime:
    """Parse a time that matches TIME_PATTERN, as parse_time() does. Raises ValueError, OutOfRange."""
    moment = parse_time(text)
    if moment.year in _EDGES and not _IN_REQUESTS.match(text):
        raise OutOfRange
    return moment


def naive(moment: datetime) -> datetime:
    """Convert a time to UTC without zone. A time without zone is UTC. Raises OutOfRange."""
    try:
        moment = moment.astimezone(UTC).replace(tzinfo=None) if moment.tzinfo else moment
    except OverflowError:
        raise OutOfRange from None
    if not 1678 <= moment.year <= 2261:
        raise OutOfRange
    return moment


def read_time(texts: pa.Array, format: str | None = None) -> pa.Array:
    """Parse n texts to times; null if a text is invalid or out of range. `format`: of strptime; None is ISO 8601."""
    if format is not None:
        return _in_range(_by_format(pc.utf8_trim_whitespace(texts), format))
    if consists_of(texts, "0123456789-:.T "):
        try:
            return _in_range(pc.assume_timezone(texts.cast(pa.timestamp("us")), "UTC"))
        except pa.ArrowInvalid:
            pass
    elif consists_of(texts, "0123456789-:.T Z+"):
        try:
            return _in_range(texts.cast(_UTC))
        except pa.ArrowInvalid:
            pass
    return _in_range(cast_by_bisection(_canonical(pc.utf8_trim_whitespace(texts)), _UTC))


def read_epoch(texts: pa.Array, csv: Csv, unit: int) -> pa.Array:
    """Parse n numbers since 1970 to times. `unit`: microseconds per unit. Fractions are truncated to microseconds."""
    parts = pc.extract_regex(pc.utf8_trim_whitespace(texts), _EPOCH.replace("POINT", re.escape(csv.decimal)))
    whole = pc.struct_field(parts, "whole").cast(pa.int64())
    part = pc.utf8_slice_codeunits(pc.utf8_rpad(pc.struct_field(parts, "part"), 6, "0"), 0, 6).cast(pa.int64())
    fits = pc.less(whole, 2**62 // unit)
    size = pc.add(pc.multiply(pc.if_else(fits, whole, None), unit), pc.divide(pc.multiply(part, unit), 1_000_000))
    moments = pc.if_else(pc.equal(pc.struct_field(parts, "sign"), "-"), pc.negate(size), size)
    return _in_range(moments.cast(_UTC))


def _in_range(moments: pa.Array) -> pa.Array:
    if not len(moments) or moments.null_count == len(moments):
        return moments
    first, end = (pa.scalar(bound, _UTC) for bound in IN_RANGE)
    bounds = pc.min_max(moments)  # Arrow's times reach further than Python's datetimes
    if pc.greater_equal(bounds["min"], first).as_py() and pc.less(bounds["max"], end).as_py():
        return moments
    return pc.if_else(pc.and_(pc.greater_equal(moments, first), pc.less(moments, end)), moments, None)


def _canonical(texts: pa.Array) -> pa.Array:
    """Rewrite ISO times for Arrow's cast to UTC: "2024-05-01" as "2024-05-01T00:00:00Z". Null for other texts."""
    texts = pc.if_else(pc.match_substring_regex(texts, f"^{_ISO}$"), texts, None)
    parts = pc.extract_regex(
        pc.utf8_upper(texts),
        r"^(?P<date>.{10})(?:[T ](?P<clock>[0-9:]*)(?:[.,](?P<part>[0-9]+))?(?: ?(?P<zone>[ZUG+-].*))?)?$",
    )
    clock, part, zone = (pc.struct_field(parts, name) for name in ("clock", "part", "zone"))
    clock = pc.utf8_slice_codeunits(pc.binary_join_element_wise(clock, _tail(clock), ""), 0, 8)
    micro = pc.utf8_slice_codeunits(pc.utf8_rpad(part, 6, "0"), 0, 6)
    zone = pc.if_else(pc.match_substring_regex(zone, "^[+-]"), zone, "Z")
    first = pc.binary_join_element_wise(pc.struct_field(parts, "date"), clock, "T")
    return pc.binary_join_element_wise(pc.binary_join_element_wise(first, micro, "."), zone, "")


def _tail(clock: pa.Array) -> pa.Array:
    """The missing end of a clock time: of "", "10", "10:30" or "10:30:00"."""
    length = pc.utf8_length(clock)
    return pc.case_when(
        pc.make_struct(pc.equal(length, 0), pc.equal(length, 2), pc.equal(length, 5)), "00:00:00", ":00:00", ":00", ""
    )


def _by_format(texts: pa.Array, format: str) -> pa.Array:
    import pandas as pd

    # pandas accepts "2024013" for %Y%m%d, and ISO forms shorter than the format; the pattern does not.
    texts = pc.if_else(pc.match_substring_regex(texts, _pattern(format)), texts, None)
    times = pd.to_datetime(pd.Series(texts.to_pylist(), dtype=object), format=format, errors="coerce", utc=True)
    return pa.array(times, pa.timestamp("ns", tz="UTC"), from_pandas=True).cast(_UTC, safe=False)


@cache
def _pattern(format: str) -> str:
    pieces = re.findall(r"%.|\s+|.", format)
    patterns = []
    for number, piece in enumerate(pieces):
        neighbours = [*pieces[max(0, number - 1) : number], *pieces[number + 1 : number + 2]]
        tight = any(other[:1] == "%" and other[1:] in "YymdHIMSjf" for other in neighbours)
        patterns.append(_piece(piece, tight))
    return f"^(?i:{''.join(patterns)})$"


def _piece(piece: str, tight: bool) -> str:
    """The pattern of one directive or character. `tight`: it is adjacent to the digits of another directive."""
    if piece.isspace():
        return r"\s+"
    if piece[0] != "%" or piece == "%%":
        return re.escape(piece[-1])
    name = piece[1]
    if name in "bBaA":
        return r"\pL+"
    if name == "p":
        return "[AP]M"
    if name == "z":
        return r"(?:Z|[+-]\d\d:?\d\d)"
    least, most = {"Y": (4, 4), "y": (2, 2), "j": (1, 3), "f": (1, 9)}.get(name, (1, 2))
    return rf"\d{{{most if tight and name != 'f' else least},{most}}}"
