"""The contract, its OpenAPI document, the request readers (by row and by column) and the Python client accept and
reject the same values, and return accepted ones unchanged."""

import json
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from tests.contracts import GOOD, NOW, Unknown, problem
from truecourse.client import PredictionResponse, encode
from truecourse.errors import RequestError
from truecourse.modeling.encoding import Vocabulary
from truecourse.problem import Boolean, Float, Integer, Text, Time
from truecourse.serving import openapi
from truecourse.serving.contract import TEXT_LENGTH, Contract
from truecourse.serving.request_reader import FEW, RowReader

MORE = {
    "any_integer": Integer(nulls=True),
    "low": Integer(ge=-5, le=5, nulls=True),
    "any_float": Float(nulls=True),
    "any_text": Text(nulls=True),
    "choice": Text(one_of=["a", "é"], nulls=True),
    "flag": Boolean(nulls=True),
    "moment": Time(nulls=True),
}
FIELDS = [*GOOD, "note", *MORE, "id", "decision_time", "unheard_of"]


def make_contract(unknown: Unknown) -> Contract:
    categories = {"city": ("Bonn", "Ulm"), "note": ("a", "b")}
    kinds = {"city": "category", "size": "float", "count": "integer", "open": "boolean", "note": "category"}
    vocabulary = Vocabulary(kinds=kinds, categories=categories, classes=("0", "1"))
    return Contract.of(problem(unknown, **MORE), vocabulary, [GOOD])


CONTRACTS = {unknown: make_contract(unknown) for unknown in ("reject", "missing")}
READERS = {unknown: RowReader(contract) for unknown, contract in CONTRACTS.items()}
SCHEMAS = {
    unknown: Draft202012Validator(
        orjson.loads(orjson.dumps(openapi.document(contract, "1")))["components"]["schemas"]["Row"]
    )
    for unknown, contract in CONTRACTS.items()
}

EDGES = [2**53, 2**63, 2**64, 10**19, 5, 10, 0, 10**400, 10**308]
INTEGERS = st.integers() | st.builds(
    lambda edge, step, sign: sign * edge + step, st.sampled_from(EDGES), st.integers(-2, 2), st.sampled_from([1, -1])
)
FLOATS = st.floats(allow_nan=False, allow_infinity=False) | st.sampled_from([e for e in EDGES if e < 10**309]).map(
    float
)
LETTERS = st.sampled_from(["\ud800", "\udfff", "\x00", "\U0001f600", "\n", "é", "a", "Ulm", "Bonn", "b", '"', "\\"])
TEXTS = (
    st.lists(LETTERS, max_size=4).map("".join)
    | st.builds(str.__mul__, LETTERS, st.sampled_from([20, 21, 256, 257, TEXT_LENGTH, TEXT_LENGTH + 1]))
    | st.text(max_size=5)
)
YEARS = st.sampled_from(
    ["1677", "1678", "1700", "1899", "2000", "2023", "2024", "2100", "2261", "2262", "0001", "٢٠٢٤"]
)
DATES = st.builds(
    lambda year, month, day: f"{year}-{month:02}-{day:02}",
    YEARS | st.integers(1600, 2300).map(str),
    st.integers(0, 13) | st.sampled_from([1, 2, 12]),
    st.integers(0, 32) | st.sampled_from([1, 29, 31]),
)
CLOCKS = st.sampled_from([
    "", "T00:00", " 12:30", "t23:59:59", "T12", "T24:00", "T12:60", "T12:30:60", "T12:30:00.5", "T1:2", "T12:30:00,123",
    "T12:30:00.123456789", "T12:30:00.1234567890", "_12:30", "T", "T12:30:00.", "\n",
])  # fmt: skip
ZONES = st.sampled_from(
    [
        "",
        "Z",
        "z",
        " Z",
        "UTC",
        " UTC",
        " utc",
        "+02:00",
        "-0530",
        "+14",
        "-00:00",
        "+99:00",
        "+05:75",
        "+24:00",
        "+1",
        "\n",
    ]
)
TIMES = st.builds(lambda *parts: "".join(parts), DATES, CLOCKS, ZONES) | st.sampled_from(
    ["now", "20240501", "2024-W01"]
)
VALUES = st.recursive(
    st.none() | st.booleans() | INTEGERS | FLOATS | TEXTS | TIMES,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=3,
)
OF_TYPE = {
    "integer": INTEGERS | FLOATS,
    "float": INTEGERS | FLOATS,
    "text": TEXTS,
    "time": TIMES,
    "boolean": st.booleans(),
}
TYPES = {field.name: field.type for field in CONTRACTS["missing"].fields} | {"decision_time": "time"}


@st.composite
def rows(draw: st.DrawFn) -> dict[str, Any]:
    """A valid row except for one or two values, most of them of their field's type."""
    row = dict(GOOD)
    for name in draw(st.lists(st.sampled_from(FIELDS), min_size=1, max_size=2)):
        own = OF_TYPE.get(TYPES.get(name, ""), INTEGERS | TEXTS)
        row[name] = draw(own | own | own | VALUES)
    return row


def accepted_values(reader: RowReader, body: bytes) -> tuple[list[Any], dict[str, Any]] | None:
    """The ids and the first row's values, or None for a rejection."""
    try:
        read = reader.read_request(body, NOW)
    except RequestError:
        return None
    return read.ids, {name: values[0] for name, values in read.values.items()}


def _meant(value: Any, type: str) -> Any:
    """The value of a JSON number: exact for an integer in any notation, else the nearest float."""
    if type == "float":
        return float(value)
    return int(Decimal(repr(value))) if isinstance(value, float) else value


@settings(max_examples=500)
@given(row=rows(), unknown=st.sampled_from(["reject", "missing"]))
@example(row=GOOD | {"any_integer": -(2**63) - 1}, unknown="missing")
@example(row=GOOD | {"any_integer": 1e17}, unknown="missing")
@example(row=GOOD | {"any_integer": 6.182337236421707e16}, unknown="reject")
@example(row=GOOD | {"id": -(2**63) - 1}, unknown="missing")
@example(row=GOOD | {"id": 3.0}, unknown="missing")
@example(row=GOOD | {"since": "1678-01-01T00:00+14:00"}, unknown="missing")
@example(row=GOOD | {"since": "2261-12-31T23:00z"}, unknown="missing")
@example(row=GOOD | {"since": "2024-05-01T12:00+05:75"}, unknown="missing")
@example(row=GOOD | {"size": 10**400}, unknown="missing")
@example(row=GOOD | {"any_text": "x" * (TEXT_LENGTH + 1)}, unknown="missing")
@example(row=GOOD | {"city": "\ud800\udfff"}, unknown="missing")
def test_all_readers_accept_the_same_values(row: dict[str, Any], unknown: str) -> None:
    reader, body = READERS[unknown], encode([row])
    (row,) = json.loads(body)["rows"]  # two halves of a surrogate pair are one character in JSON
    found, documented = accepted_values(reader, body), SCHEMAS[unknown].is_valid(row)
    assert (found is not None) is documented
    many = reader.parse_body(body) * (2 * FEW)
    read = reader.read(many, NOW)
    assert len(read) == (len(many) if documented else 0), "read by column, they are as read one by one"
    if found is None:
        return
    ids, values = found
    assert read.ids[0] == ids[0] == row.get("id")
    assert type(ids[0]) is (int if type(row.get("id")) is float else type(row.get("id")))
    for name, value in row.items():
        if value is not None and TYPES.get(name) not in (None, "time"):
            assert values[name] == read.values[name][0] == _meant(value, TYPES[name])


@given(row=rows())
def test_a_files_rows_are_checked_alike(row: dict[str, Any]) -> None:
    """They are Python values and never serialised."""
    assert bool(READERS["missing"].read([row], NOW).accepted) is SCHEMAS["missing"].is_valid(row)


NUMBERS = st.builds(
    lambda sign, digits, point, exponent: f"{sign}{digits}{point}{exponent}",
    st.sampled_from(["", "-"]),
    st.integers(0, 10**21).map(str)
    | st.sampled_from(["9223372036854775807", "9223372036854775808", "9007199254740993"]),
    st.sampled_from(["", ".0", ".000", ".5", ".00000000000000000001"]),
    st.sampled_from(["", "e0", "E1", "e+3", "e-1", "e18", "e400", "e-400", "e999999999"]),
)


@given(text=NUMBERS, field=st.sampled_from(["any_integer", "id"]))
def test_an_integer_is_exact_in_any_notation(text: str, field: str) -> None:
    """Other numbers are floats, as in JSON, and integers only if the float is one."""
    number = Decimal(text)
    is_integer = number.adjusted() < 25 and number == number.to_integral_value()
    double = float(text)
    expected = int(number) if is_integer else int(double) if abs(double) < 1e25 and double.is_integer() else None
    body = encode([GOOD])[:-3] + f', "{field}": {text}}}]}}'.encode()
    found = accepted_values(READERS["missing"], body)
    if expected is None or not -(2**63) <= expected < 2**63:
        assert found is None
    else:
        assert found is not None
        assert (found[0][0] if field == "id" else found[1][field]) == expected


@given(value=st.integers(-(2**63), 2**63 - 1) | st.text(max_size=9))
def test_the_client_returns_ids_unchanged(value: int | str) -> None:
    one: dict[str, Any] = {
        "prediction_id": "p",
        "id": value,
        "score": 0.5,
        "prediction": "1",
        "missing": [],
        "unknown": [],
    }
    answer = PredictionResponse.model_validate(
        orjson.loads(json.dumps({"model": {"version": 1, "sha256": "s"}, "predictions": [one]}).encode())
    )
    assert (answer.predictions[0].id, type(answer.predictions[0].id)) == (value, type(value))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1, 2}, b"x", object(), np.array([1, 2]), Decimal("1")])
def test_non_json_values_are_rejected_with_row_and_field_before_sending(value: object) -> None:
    with pytest.raises(RequestError) as refused:
        encode([GOOD, GOOD | {"size": value}])
    assert [(fault.row, fault.field) for fault in refused.value.faults] == [(1, "size")]


def test_python_values_with_a_json_form_are_sent() -> None:
    at = datetime(2024, 5, 1, 12, tzinfo=timezone(timedelta(hours=2)))
    row = GOOD | {"shop": np.int64(7), "size": np.float32(1.5), "open": np.True_, "city": np.str_("Ulm"), "since": at}
    read = READERS["missing"].read_request(encode([row]), NOW)
    assert read.values["since"][0] == at.astimezone(UTC).replace(tzinfo=None)
    assert [read.values[name][0] for name in ("shop", "size", "open", "city")] == [7, 1.5, True, "Ulm"]
    for wrong in ({1: 2}, [1, 2], "row"):
        with pytest.raises(RequestError):
            encode([wrong])  # type: ignore[list-item]


def test_a_text_without_max_length_has_a_documented_limit() -> None:
    field = next(field for field in CONTRACTS["missing"].fields if field.name == "any_text")
    assert field.max_length == TEXT_LENGTH
    assert SCHEMAS["missing"].schema["properties"]["any_text"]["maxLength"] == TEXT_LENGTH
    assert accepted_values(READERS["missing"], encode([GOOD | {"any_text": "x" * TEXT_LENGTH}])) is not None
    assert accepted_values(READERS["missing"], encode([GOOD | {"any_text": "x" * (TEXT_LENGTH + 1)}])) is None
