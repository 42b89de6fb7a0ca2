"""Aggregations equal plain loops over all rows, bit for bit, on every generated case."""

import math
from collections.abc import Callable
from dataclasses import replace
from datetime import date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from functools import partial
from random import Random
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import aggregate_rows as cases
from truecourse.errors import FeatureError, StorageError
from truecourse.features.aggregates import exact_sums, online_steps
from truecourse.features.aggregates.evaluation import AggregateIndex, evaluate
from truecourse.features.aggregates.online_steps import Decoder
from truecourse.features.aggregates.step_functions import encode_keys
from truecourse.problem.aggregations import Age, Aggregations, Count, Last, Mean, Min, StandardDeviation, Sum

ONE = Aggregations("events", table="events", entity="thing", time="at", features={"count": Count(), "last": Last("x")})


def key_table(decisions: list[Any]) -> pa.Table:
    k1 = pa.array([key[0] for key, _ in decisions], pa.string())
    return pa.table({"k1": k1, "k2": pa.array([key[1] for key, _ in decisions], pa.int64())})


def asked(decisions: list[Any]) -> tuple[pa.Table, Any]:
    return key_table(decisions), times_of(decisions)


def times_of(decisions: list[Any]) -> Any:
    return np.array([at for _, at in decisions], "datetime64[us]")


def assert_equal(spec: Aggregations, found: dict[str, Any], rows: list[Any], decisions: list[Any]) -> None:
    assert list(found) == list(spec.features)
    for name, function in spec.features.items():
        wanted = [cases.expected(function, rows, *decision) for decision in decisions]
        assert [*map(cases.bits, found[name])] == [*map(cases.bits, wanted)], name


@settings(max_examples=150, deadline=None)
@given(
    cases.generated_rows(),
    cases.decisions,
    st.sampled_from(cases.WINDOWS),
    st.sampled_from(cases.WINDOWS),
    st.randoms(),
)
def test_each_feature_equals_a_loop_over_all_rows(
    rows: list[Any], decisions: list[Any], first: Any, second: Any, random: Random
) -> None:
    spec = cases.spec_of(first, second)
    table = cases.stored(spec, rows)
    found = evaluate(spec, table, *asked(decisions))
    assert_equal(spec, found, rows, decisions)
    shuffled = random.sample(range(len(rows)), len(rows))
    index = AggregateIndex(spec, table.take(pa.array(shuffled, pa.int64())))
    again = index.at([key for key, _ in decisions], times_of(decisions))
    assert_equal(spec, again, rows, decisions)


@settings(max_examples=150, deadline=None)
@given(cases.generated_rows(), cases.decisions, cases.moments, st.sampled_from(cases.WINDOWS), st.integers(1, 4))
def test_the_online_steps_of_a_key_equal_a_loop_over_all_rows(
    rows: list[Any], decisions: list[Any], until: datetime, window: Any, most: int
) -> None:
    spec = cases.spec_of(window)
    loaded = [(key, at) for key, at in decisions if at >= until]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(online_steps, "MOST_STEPS", most)  # a first record ends soon
        encoded = list(encode_keys(spec, cases.stored(spec, rows), key_table(loaded), np.datetime64(until)))
    decoder, us = Decoder(spec), cases.microseconds
    for (key, at), (record, later, values) in zip(loaded, encoded, strict=True):
        wanted = {name: cases.bits(cases.expected(each, rows, key, at)) for name, each in spec.features.items()}
        found = decoder.at(record, us(at), partial(lambda later: later, later))
        found["moment_last_0"] = cases.time_of(found["moment_last_0"])
        assert {name: cases.bits(value) for name, value in found.items()} == wanted
        assert values == decoder.at(record, us(until))


@pytest.mark.parametrize("seed", range(4))
def test_many_rows_in_any_order_give_the_features_of_a_loop(seed: int) -> None:
    random = Random(seed)
    spec, rows = cases.spec_of(None, timedelta(hours=20), timedelta(hours=2)), cases.many_rows(random, 300)
    if seed % 2:
        rows = [row | {"late": 0, "until": None} for row in rows]
    decisions = [((random.choice("abc"), 1), row["event_timestamp"]) for row in random.sample(rows, 20)]
    random.shuffle(rows)
    assert_equal(spec, evaluate(spec, cases.stored(spec, rows), *asked(decisions)), rows, decisions)
    until = min(at for _, at in decisions)
    encoded = encode_keys(spec, cases.stored(spec, rows), key_table(decisions), np.datetime64(until))
    for (key, at), (record, later, _) in zip(decisions, encoded, strict=True):
        found = Decoder(spec).at(record, cases.microseconds(at), partial(lambda later: later, later))
        for name, function in spec.features.items():
            value = cases.time_of(found[name]) if name.startswith("moment") else found[name]
            assert cases.bits(value) == cases.bits(cases.expected(function, rows, key, at)), name


FAMILIES: dict[str, Callable[[Random], float]] = {
    "middles": lambda random: random.choice(cases.MIDDLES[0]),
    "beside_middles": lambda random: random.choice(cases.MIDDLES[1]),
    "cents": lambda random: random.randint(-9999, 9999) / 100,
    "near": lambda random: 1e5 + random.randint(-3, 3) * 2.0**-36,
    "wide": lambda random: random.gauss(0, 1) * 10.0 ** random.randint(-12, 12),
    "all_exponents": lambda random: math.ldexp(random.uniform(-1, 1), random.randint(-1074, 1023)),
    "smallest": lambda random: math.ldexp(random.getrandbits(30), -560),
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("others", [[], [1e300, 5e-324]])
def test_sums_and_deviations_of_many_sets_of_numbers_are_rounded_once(family: str, others: list[float]) -> None:
    """The values of other keys decide how a column is summed, but not the result."""
    random, draw = Random(family), FAMILIES[family]
    sets = [*([draw(random) for _ in range(random.randint(1, 5))] for _ in range(400)), others]
    rows = [cases.row(("a", key), cases.START, number=value) for key, values in enumerate(sets) for value in values]
    deviation, mean = StandardDeviation("number"), Mean("number")
    spec = replace(ONE, features={"sum": Sum("number"), "mean": mean, "deviation": deviation})
    decisions = [(("a", key), cases.START) for key in range(400)]
    found = evaluate(spec, cases.stored(spec, rows), *asked(decisions))
    for key in range(400):
        own = [row for row in rows if row["key"][1] == key]
        wanted = [cases.bits(cases.expected(each, own, *decisions[key])) for each in spec.features.values()]
        assert [cases.bits(found[name][key]) for name in spec.features] == wanted, sets[key]


def test_a_variance_among_the_smallest_doubles_is_rounded_once() -> None:
    """Its exact value lies so little above the middle of two doubles that a double of 53 bits is that middle."""
    for even in range(2, 4000, 2):
        middle = (2 * even + 1) << 92
        number = math.isqrt(middle) + 1
        if number < 2**53 and number**2 - middle < middle >> 55:
            break
    rows = [cases.row(("a", 1), cases.START, number=value) for value in (0.0, math.ldexp(number, -583))]
    spec = replace(ONE, features={"deviation": StandardDeviation("number")})
    found = evaluate(spec, cases.stored(spec, rows), *asked([(("a", 1), cases.START)]))["deviation"]
    assert found.tolist() == [math.sqrt(math.ldexp(even + 1, -1074))]


@pytest.mark.parametrize("remainder", [0, 1])
def test_the_remainder_of_a_division_decides_between_two_doubles(remainder: int) -> None:
    """The variance of four numbers with the sum 0 is a third of their sum of squares."""
    squares = 3 * (2**54 + 2) * 2**80 + remainder
    limbs = np.array([squares >> 32 * place & 0xFFFFFFFF for place in range(6)], np.int64)
    variance = exact_sums.round_variance(np.zeros(4, np.int64), limbs, 4, np.empty((3, 16), np.uint64), 0)
    assert variance == float(Fraction(squares, 3)) == (2**54 + 4 * remainder) * 2.0**80


def test_a_later_record_is_read_only_when_it_is_needed() -> None:
    day = timedelta(days=1)
    moments = [cases.START + timedelta(minutes=minute) for minute in range(600)]
    rows = [cases.row(("a", 1), at) for at in moments]
    spec = Aggregations(
        "events", table="events", entity="thing", time="at",
        features={"count": Count(window=day), "text": Last("text", window=day), "age": Age()},
    )  # fmt: skip
    until = moments[-1]
    ((record, later, _),) = encode_keys(
        spec, cases.stored(spec, rows), key_table([(("a", 1), until)]), np.datetime64(until)
    )
    at, kept = partial(Decoder(spec).at, record), online_steps.MOST_STEPS
    end = cases.microseconds(moments[kept - 1] + day)
    assert at(end - 1) == {"count": 600 - kept + 1, "text": "x", "age": pytest.approx(0.76, abs=0.01)}
    assert at(end, lambda: later)["count"] == 600 - kept
    gone = at(cases.microseconds(until + day), lambda: later)
    assert gone == {"count": 0, "text": None, "age": 1.0}
    with pytest.raises(StorageError, match="not in the online store"):
        at(end)
    with pytest.raises(StorageError, match="not in the online store"):
        at(end, lambda: None)


def test_a_record_of_other_features_is_refused() -> None:
    spec = cases.spec_of(None)
    rows = [cases.row(("a", 1), cases.START)]
    ((record, _, values),) = encode_keys(
        spec, cases.stored(spec, rows), key_table([(("a", 1), cases.START)]), np.datetime64("2025")
    )
    assert Decoder(spec).at(memoryview(record), cases.microseconds(datetime(2025, 1, 1))) == values
    fewer = replace(spec, features={"count": Count(), "age": Age()})
    for wrong in (b"", b"12345", bytes(800), record[:-3], record[:40]):
        with pytest.raises(StorageError, match="another format"):
            Decoder(spec).at(wrong, 0)
    with pytest.raises(StorageError, match="another format"):
        Decoder(fewer).at(record, 0)


def test_a_key_without_rows_has_counts_of_zero() -> None:
    spec = cases.spec_of(None, timedelta(days=1))
    nothing = Decoder(spec).nothing
    ((_, later, values),) = encode_keys(
        spec, cases.stored(spec, []), key_table([(("a", 1), cases.START)]), np.datetime64("2025")
    )
    assert values == nothing
    assert later is None
    assert {name for name, value in nothing.items() if value == 0} == {
        name for name in spec.features if name.split("_")[0] == "count" or "distinct" in name
    }


def test_a_sum_of_integers_beyond_64_bits_is_an_error() -> None:
    spec = Aggregations("events", table="events", entity="thing", time="at", features={"sum": Sum("whole")})
    numbers = [2**63 - 1, 1, -1]
    rows = [cases.row(("a", 1), cases.START + timedelta(hours=hour), whole=value) for hour, value in enumerate(numbers)]
    table = cases.stored(spec, rows)

    def ask(hour: int) -> Any:
        times = np.array([cases.START + timedelta(hours=hour)], "M8[us]")
        return evaluate(spec, table, key_table([(("a", 1), None)]), times)["sum"]

    assert ask(0) == float(2**63 - 1)
    assert ask(2) == float(2**63 - 1)
    with pytest.raises(FeatureError, match=r"events.sum: .*beyond 64 bits"):
        ask(1)


@pytest.mark.parametrize("function", [Sum("text"), Mean("moment"), StandardDeviation("text")])
def test_numbers_are_required_for_sums(function: Any) -> None:
    spec = Aggregations("events", table="events", entity="thing", time="at", features={"wrong": function})
    rows = cases.stored(spec, [cases.row(("a", 1), cases.START)])
    with pytest.raises(FeatureError, match="it needs numbers"):
        evaluate(spec, rows, key_table([(("a", 1), None)]), np.array([cases.START], "M8[us]"))


def test_only_the_wanted_features_are_evaluated() -> None:
    spec = Aggregations(
        "events", table="events", entity="thing", time="at", features={"wrong": Sum("text"), "right": Min("text")}
    )
    rows = cases.stored(spec, [cases.row(("a", 1), cases.START)])
    found = evaluate(spec, rows, key_table([(("a", 1), None)]), np.array([cases.START], "M8[us]"), ["right"])
    assert {name: values.tolist() for name, values in found.items()} == {"right": ["x"]}


def one_row(values: Any) -> pa.Table:
    """A row of the key ("a", 1) at 2024-01-01 with the value `x`, whose column is v0."""
    rows = cases.stored(replace(ONE, features={"count": Count()}), [cases.row(("a", 1), cases.START)])
    return rows.append_column("v0", values)


@pytest.mark.parametrize(
    ("values", "found"),
    [
        (pa.array([2.5], pa.float32()), 2.5),
        (pa.array([Decimal("2.50")]), 2.5),
        (pa.array([7], pa.uint8()), 7.0),
        (pa.array(["x"]).dictionary_encode(), "x"),
        (pa.array(["x"], pa.large_string()), "x"),
        (pa.array([True]), 1.0),
        (pa.array([date(2024, 1, 2)]), np.datetime64("2024-01-02")),
        (pa.array([datetime(2024, 1, 2)], pa.timestamp("ns")), np.datetime64("2024-01-02")),
        (pa.array([None], pa.string()), None),
        (pa.array([math.inf]), None),
        (pa.array([-0.0]), 0.0),
    ],
)
def test_values_of_every_type_are_read(values: Any, found: Any) -> None:
    result = evaluate(ONE, one_row(values), *asked([(("a", 1), cases.START)]))
    assert [*map(cases.bits, result["last"])] == [cases.bits(found)]


def test_a_type_that_cannot_be_aggregated_is_an_error() -> None:
    with pytest.raises(FeatureError, match=r"v0 is list<.*cannot be aggregated"):
        evaluate(ONE, one_row(pa.array([[1]])), *asked([(("a", 1), cases.START)]))


def test_keys_of_other_types_and_times_that_are_missing() -> None:
    keys = pl.DataFrame(
        {"k2": pl.Series([1, 1, 300, None], dtype=pl.Int32), "k1": ["a", "a", "a", "a"], "more": [1] * 4}
    )
    times = np.array(["2024-01-01", "NaT", "2024-01-01", "2024-01-01"], "M8[s]")
    result = evaluate(ONE, pl.DataFrame(one_row(pa.array(["x"]))), keys, times)
    assert result["count"].tolist() == [1.0, 0.0, 0.0, 0.0]
    assert result["last"].tolist() == ["x", None, None, None]
