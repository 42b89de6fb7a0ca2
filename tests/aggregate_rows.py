"""Generated stored rows of aggregations, and their features by plain loops over all rows."""

import math
import struct
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import strategies as st

from truecourse.problem.aggregations import (
    Age,
    Aggregations,
    AnyAggregate,
    Count,
    CountDistinct,
    First,
    Last,
    Max,
    Mean,
    Min,
    Share,
    StandardDeviation,
    Sum,
)

Row = dict[str, Any]
START = datetime(2024, 1, 1)
MICROSECOND = timedelta(microseconds=1)
VALUES = {
    "number": pa.float64(),
    "whole": pa.int64(),
    "text": pa.string(),
    "flag": pa.bool_(),
    "moment": pa.timestamp("us"),
}
"""The columns of the source table."""
WINDOWS = (None, timedelta(hours=1), timedelta(hours=3), timedelta(microseconds=1), timedelta(days=10**6))


def mostly(usual: st.SearchStrategy[Any], other: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Nine of ten values from `usual`."""
    return st.integers(0, 9).flatmap(lambda number: usual if number else other)


moments = st.builds(
    lambda hour, more: START + timedelta(hours=hour) + more * MICROSECOND,
    st.integers(0, 5),
    st.sampled_from([0, 0, 0, 0, 0, 0, 0, -1, 1]),
)
EXTREMES = [0.0, -0.0, 1e300, -1e300, 1e-300, 1.7e308, -1.7e308, 5e-324, 2.0**-1040, 1e16, 1.0, 0.1]
MIDDLES = ([2.0**53, 1.0, -1.0, 3.0], [2.0**70, 2.0**17, -(2.0**17), 1.0])
"""Doubles whose sums lie in the middle of two doubles, or little beside it."""
NUMBERS = (
    st.sampled_from(EXTREMES),
    *(st.sampled_from(numbers) for numbers in MIDDLES),
    *(st.sampled_from([*numbers, *numbers, 1e300]) for numbers in MIDDLES),
    st.floats(allow_nan=True, allow_infinity=False),
    st.sampled_from([1e15, 1e15 + 0.125, -1e15, 0.1, 0.2, 0.3, -0.3]),
    st.integers(-(10**6), 10**6).map(lambda cents: cents / 100),
    st.integers(-(10**6), 10**6).map(float),
    st.integers(-9, 9).map(lambda eighths: eighths / 8),
    st.integers(1, 2**52).map(lambda number: math.ldexp(number, -1074)),
    st.integers(-(2**52), 2**52).map(lambda number: math.ldexp(number, 960)),
)
"""Families of doubles: each has its own way to be summed exactly."""
WHOLES = (
    st.integers(-9, 9), st.integers(-(2**63), 2**63 - 1), st.sampled_from([2**53, 2**53 + 1, -(2**63), 2**63 - 1])
)  # fmt: skip
texts = st.sampled_from([None, "", "a", "b", "Ä", "zz", "\U0001f600", "\uffff"])
keys = st.sampled_from([("a", 1), ("a", 1), ("a", 1), ("b", 1), ("a", 2)])


@st.composite
def generated_rows(draw: st.DrawFn) -> list[Row]:
    """Rows of a few keys at a few times: ties, late and superseded rows, missing values and keys."""
    number, whole = draw(st.sampled_from(NUMBERS)), draw(st.sampled_from(WHOLES))
    all_in_time = draw(st.booleans())
    row = {
        "key": mostly(keys, st.just((None, 1))),
        "event_timestamp": mostly(moments, st.none()),
        "late": st.just(0) if all_in_time else st.sampled_from([0, 0, 0, 1, 2, 5, -1]),
        "until": st.none() if all_in_time else mostly(st.none(), moments),
        "number": mostly(number, st.none()), "whole": mostly(whole, st.none()), "text": texts,
        "flag": st.sampled_from([None, True, False]), "moment": st.none() | moments,
    }  # fmt: skip
    count = draw(st.integers(0, 16))
    return draw(st.lists(st.fixed_dictionaries(row), min_size=count, max_size=count))


decisions = st.lists(st.tuples(mostly(keys, st.sampled_from([("d", 1), (None, 1)])), moments), max_size=8)


def functions(window: timedelta | None) -> dict[str, AnyAggregate]:
    return {
        "count": Count(window=window),
        "count_true": Count(window=window, where="flag"),
        "sum": Sum("number", window=window),
        "mean": Mean("number", window=window),
        "deviation": StandardDeviation("number", window=window),
        "least": Min("number", window=window),
        "most": Max("number", window=window),
        "first": First("number", window=window),
        "last": Last("number", window=window),
        "distinct": CountDistinct("number", window=window),
        "whole_mean": Mean("whole", window=window),
        "whole_deviation": StandardDeviation("whole", window=window),
        "whole_least": Min("whole", window=window),
        "whole_most": Max("whole", window=window),
        "whole_last": Last("whole", window=window),
        "whole_distinct": CountDistinct("whole", window=window),
        "text_least": Min("text", window=window),
        "text_most": Max("text", window=window),
        "text_first": First("text", window=window),
        "text_last": Last("text", window=window, where="flag"),
        "text_distinct": CountDistinct("text", window=window),
        "true": Sum("flag", window=window),
        "any_true": Max("flag", window=window),
        "share": Share("flag", window=window),
        "moment_last": Last("moment", window=window),
        "age": Age(window=window),
        "age_first": Age(window=window, of="first", unit="hours", where="flag"),
    }


def spec_of(*windows: timedelta | None, **more: AnyAggregate) -> Aggregations:
    features = {
        f"{name}_{place}": each for place, window in enumerate(windows) for name, each in functions(window).items()
    }
    return Aggregations("events", table="events", entity="thing", time="at", features=features | more)


def stored(spec: Aggregations, given: list[Row]) -> pa.Table:
    """The stored rows as feature tables hold them. The conditions of `functions` are the column `flag`."""
    columns: dict[str, Any] = {
        "k1": pa.array([row["key"][0] for row in given], pa.string()),
        "k2": pa.array([row["key"][1] for row in given], pa.int64()),
        "event_timestamp": _times(row["event_timestamp"] for row in given),
        "created_timestamp": _times(_known(row) for row in given),
        "_tc_until": _times(row["until"] for row in given),
        "_tc_row": pa.array([row.get("row", number) for number, row in enumerate(given)], pa.int64()),
    }
    for name, each in spec.inputs.items():
        kind = VALUES[each.expression] if each.expression else pa.bool_()
        columns[name] = pa.array([_input(row, each.expression, each.where) for row in given], kind, from_pandas=False)
    return pa.table(columns)


def _input(row: Row, expression: str | None, where: str | None) -> Any:
    if expression is None:
        return row[where or ""] is True
    return row[expression] if where is None or row[where] is True else None


def _times(values: Any) -> pa.Array:
    return pa.array([value and value.replace(tzinfo=UTC) for value in values], pa.timestamp("us", tz="UTC"))


def _known(row: Row) -> datetime | None:
    event: datetime | None = row["event_timestamp"]
    return event and event + timedelta(hours=row["late"])


def expected(function: AnyAggregate, given: list[Row], key: tuple[Any, ...], at: datetime) -> Any:
    """The value of a feature for one decision, None if missing: a float, or text, or a time."""
    counted = [(row["event_timestamp"], _known(row), row.get("row", number), row) for number, row in enumerate(given)
               if _counts(function, row, key, at)]  # fmt: skip
    counted.sort(key=lambda each: each[:3])
    if isinstance(function, Count):
        return float(len(counted))
    if isinstance(function, Age):
        if not counted:
            return None
        event = counted[-1 if function.of == "last" else 0][0]
        return float((at - event) // MICROSECOND) / (timedelta(**{function.unit: 1}) // MICROSECOND)
    found = [row[function.value] for *_, row in counted]
    found = [value for value in found if value is not None and value == value]
    if isinstance(function, CountDistinct):
        return float(len(set(found)))
    return _reduced(function, found) if found else None


def _counts(function: AnyAggregate, row: Row, key: tuple[Any, ...], at: datetime) -> bool:
    event, known, until = row["event_timestamp"], _known(row), row["until"]
    if None in key or row["key"] != key or event is None or known is None:
        return False
    if function.where is not None and row[function.where] is not True:
        return False
    in_window = function.window is None or at - event < function.window
    return bool(event <= at and in_window and known <= at and (until is None or at < until))


def _reduced(function: AnyAggregate, found: list[Any]) -> Any:
    if isinstance(function, First | Last | Min | Max):
        pick = {First: lambda: found[0], Last: lambda: found[-1], Min: lambda: min(found), Max: lambda: max(found)}
        value = pick[type(function)]()  # type: ignore[index, no-untyped-call]
        return value if isinstance(value, str | datetime) else float(value) + 0.0
    exact = [Fraction(value) for value in found]
    if isinstance(function, StandardDeviation):
        if len(found) < 2:
            return None
        mean = sum(exact, Fraction()) / len(exact)
        variance = _rounded(sum(((each - mean) ** 2 for each in exact), Fraction()) / (len(exact) - 1))
        return None if variance is None else math.sqrt(variance)
    total = _rounded(sum(exact, Fraction()))
    return total if total is None or isinstance(function, Sum) else total / len(found)


def _rounded(exact: Fraction) -> float | None:
    try:
        return float(exact)
    except OverflowError:
        return None


def bits(value: Any) -> Any:
    """A value that is equal only for equal bits. A missing value of an array is None."""
    if isinstance(value, np.datetime64):
        return None if np.isnat(value) else value.astype("datetime64[us]").item()
    if isinstance(value, float | int | np.floating | np.bool_):
        return None if math.isnan(value) else struct.pack("<d", value)
    return value


def many_rows(random: Random, count: int) -> list[Row]:
    """Rows of two keys over some days, a tenth of them late and a third superseded, of one family of numbers."""
    cents = random.random() < 0.5
    found = []
    for place in range(count):
        at = START + timedelta(minutes=30 * random.randint(0, 100))
        number = random.randint(-999, 999) / 100 if cents else random.gauss(0, 1) * 10.0 ** random.randint(-30, 30)
        values: Row = {"number": random.choice([number, number, None]), "whole": random.getrandbits(60)}
        values |= {"text": random.choice("abcdefgh"), "flag": random.choice([True, False, None])}
        new = row((random.choice("ab"), 1), at, **values)
        new["late"] = random.choice([0] * 9 + [random.randint(1, 30)])
        new["until"] = random.choice([None, None, at + timedelta(minutes=15 * random.randint(0, 90))])
        new["row"] = place
        found.append(new)
    return found


def row(key: tuple[Any, ...], at: datetime, **values: Any) -> Row:
    """A row in time with values of every column."""
    usual = {"number": 1.0, "whole": 1, "text": "x", "flag": True, "moment": at}
    return {"key": key, "event_timestamp": at, "late": 0, "until": None} | usual | values


def microseconds(moment: datetime) -> int:
    return (moment - datetime(1970, 1, 1)) // MICROSECOND


def time_of(number: int | None) -> datetime | None:
    """The time of a number of microseconds since 1970."""
    return None if number is None else datetime(1970, 1, 1) + number * MICROSECOND
