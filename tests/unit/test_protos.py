"""The online store's bytes are parsed like the protobuf library parses them."""

import math
from typing import Any

from feast.protos.feast.types.Value_pb2 import Value
from hypothesis import example, given
from hypothesis import strategies as st

from feature_repo.protos import value_decoder
from truecourse.modeling.encoding import LARGEST

LONG = 2**63
STORED = st.one_of(
    st.tuples(st.just("string_val"), st.text(max_size=300)),
    st.tuples(st.just("double_val"), st.floats(width=32)),
    st.tuples(st.just("double_val"), st.floats()),
    st.tuples(st.sampled_from(["int64_val", "unix_timestamp_val"]), st.integers(-LONG, LONG - 1)),
    st.tuples(st.just("int32_val"), st.integers(-(2**31), 2**31 - 1)),
    st.tuples(st.just("bool_val"), st.booleans()),
    st.tuples(st.just("bytes_val"), st.binary(max_size=20)),
)


@given(STORED)
@example(("string_val", "x" * 127))
@example(("string_val", "x" * 128))
@example(("string_val", "\N{SNOWMAN}" * 43))
@example(("bytes_val", b"1234567"))
@example(("int64_val", 1))
@example(("double_val", math.nan))
@example(("double_val", -math.inf))
def test_values_are_parsed_like_protobuf(stored: tuple[str, Any]) -> None:
    field, given_value = stored
    message = Value(**{field: given_value})
    expected = getattr(message, field)
    if isinstance(expected, float) and not math.isfinite(expected):
        expected = None if math.isnan(expected) else math.copysign(float(LARGEST), expected)
    found = value_decoder(field)(message.SerializeToString())
    assert (found, type(found)) == (expected, type(expected))
    other = "int64_val" if field == "double_val" else "double_val"
    assert value_decoder(other)(message.SerializeToString()) is None, "as its feature is declared now, it has no value"


def test_the_last_of_repeated_values_wins() -> None:
    cases: dict[str, Any] = {"string_val": ("a", "bc"), "double_val": (1.5, 2.5)}
    for field, values in cases.items():
        data = b"".join(Value(**dict[str, Any]({field: one})).SerializeToString() for one in values)
        assert value_decoder(field)(data) == getattr(Value.FromString(data), field) == values[1]


def test_an_empty_value_is_none() -> None:
    assert value_decoder("double_val")(Value().SerializeToString()) is None
