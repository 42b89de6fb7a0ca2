"""The request contract: what it accepts and rejects, with which messages."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import existing
from tests.contracts import GOOD, NOW, Unknown, contract, problem
from truecourse.errors import RequestError
from truecourse.modeling.encoding import Vocabulary
from truecourse.problem import Float
from truecourse.serving import openapi
from truecourse.serving.contract import Contract, contract_bytes
from truecourse.serving.request_reader import RowReader, decode


def body(*rows: Any) -> bytes:
    return json.dumps({"rows": rows}).encode()


def refusal(data: bytes, unknown: Unknown = "missing") -> RequestError:
    with pytest.raises(RequestError) as caught:
        RowReader(contract(unknown)).read_request(data, NOW)
    return caught.value


def test_a_valid_row_becomes_arrays() -> None:
    rows = RowReader(contract()).read_request(
        body(GOOD, GOOD | {"id": 5, "decision_time": "2024-01-01T00:00:00Z"}), NOW
    )
    assert rows.ids == [None, 5]
    assert rows.columns["city"].tolist() == ["Ulm", "Ulm"]
    assert rows.columns["size"].dtype == np.float64
    assert rows.columns["open"].tolist() == [1.0, 1.0]
    assert rows.columns["since"].tolist() == [datetime(2020, 2, 29, 8)] * 2
    assert rows.columns["note"].tolist() == [None, None]
    assert existing(rows.decision_times).tolist() == [datetime(2024, 5, 1, 12), datetime(2024, 1, 1)]
    assert rows.columns["decision_time"] is rows.decision_times


def test_integers_that_float64_cannot_hold_stay_exact() -> None:
    rows = RowReader(contract()).read_request(body(GOOD | {"shop": 2**53 + 1}), NOW)
    assert list(rows.values["shop"]) == [2**53 + 1]


VALUES = [
    ("size", "3", "must be a number"),
    ("size", True, "must be a number"),
    ("size", [1], "must be a number"),
    ("size", None, "may not be null"),
    ("size", -0.5, "must be at least 0"),
    ("size", 11, "must be at most 10"),
    ("size", 10**400, "not a finite"),
    ("count", 1.5, "must be a whole number"),
    ("count", False, "must be a whole number"),
    ("count", "1", "must be a whole number"),
    ("count", 4, "must be one of 1, 2, 3"),
    ("shop", 2**63, "not a 64-bit integer"),
    ("shop", 1e300, "not a 64-bit integer"),
    ("city", 3, "must be text"),
    ("city", "x" * 21, "21 characters"),
    ("city", "\ud800", "surrogate"),
    ("city", {"a": 1}, "must be text"),
    ("note", "ABC", "must match"),
    ("open", 1, "must be true or false"),
    ("open", "true", "must be true or false"),
    ("since", "yesterday", "ISO 8601"),
    ("since", "2024-02-30T00:00:00Z", "ISO 8601"),
    ("since", "2024-W01-1", "ISO 8601"),
    ("since", 1700000000, "ISO 8601"),
    ("since", "0001-01-01T00:00:00Z", "years"),
    ("since", "0001-01-01T00:00:00+14:00", "years"),
    ("decision_time", "now", "ISO 8601"),
    ("decision_time", 5, "ISO 8601"),
    ("id", 1.5, "must be text"),
    ("id", ["a"], "must be text"),
    ("colour", "red", "unknown field"),
]


@pytest.mark.parametrize(("field", "value", "message"), VALUES)
def test_an_invalid_value_is_rejected_with_its_field(field: str, value: object, message: str) -> None:
    error = refusal(body(GOOD, GOOD | {field: value}))
    assert error.status == 422
    assert [(fault.row, fault.field) for fault in error.faults] == [(1, field)]
    assert message in error.faults[0].problem


BODIES = [
    (b"", 400, "not valid JSON"),
    (b"{", 400, "line 1"),
    (b'{"rows": [{"size": NaN}]}', 400, "NaN"),
    (b'{"rows": [{"size": -Infinity}]}', 400, "Infinity"),
    (b'{"rows": [{"size": 1, "size": 2}]}', 400, "duplicate name"),
    ('{"rows": [{"city": "Köln"}]}'.encode("latin-1"), 400, "UTF-8"),
    ('{"rows": []}'.encode("utf-16"), 400, "UTF-8"),
    (b'\xef\xbb\xbf{"rows": []}', 400, "not valid JSON"),
    (b"[" * 5000, 400, "not valid JSON"),
    (b'{"rows": [' + b"9" * 5000 + b"]}", 400, "not valid JSON"),
    (b"[]", 422, "not an object"),
    (b"3", 422, "not an object"),
    (b"{}", 422, 'no "rows"'),
    (b'{"rows": 3}', 422, "not a list"),
    (b'{"rows": null}', 422, "not a list"),
    (b'{"rows": []}', 422, "1 to 3"),
    (body(*[GOOD] * 4), 422, "1 to 3"),
    (b'{"rows": [], "row": []}', 422, "unknown member: "),
    (b" " * 200_000, 413, "longer than"),
]


@pytest.mark.parametrize(("data", "status", "message"), BODIES, ids=range(len(BODIES)))
def test_an_invalid_body_is_rejected(data: bytes, status: int, message: str) -> None:
    error = refusal(data)
    assert error.status == status
    assert message in str(error)


@pytest.mark.parametrize(
    ("name", "named"),
    [
        ("client", "client"),
        ("größe", "größe"),
        ('"client"', '"client"'),
        ("a\nb", r"a\nb"),
        ("\x1b[2J", r"\u001b[2J"),
        ("\ud800", r"\ud800"),
        ("", ""),
        ("x" * 41, "x" * 37 + "..."),
    ],
)
def test_an_unknown_field_is_named_without_quotation_marks(name: str, named: str) -> None:
    assert [fault.field for fault in refusal(body(GOOD | {name: 1})).faults] == [named]


@pytest.mark.parametrize(
    ("value", "shown"), [("Größe", '"Größe"'), ('"', r'"\""'), ("a\u2028b", r'"a\u2028b"'), ("x" * 20, f'"{"x" * 20}"')]
)
def test_a_refused_value_is_quoted_once(value: str, shown: str) -> None:
    (fault,) = refusal(body(GOOD | {"note": value + "0"})).faults
    assert fault.problem == f'must match ^[a-z]+$; got {shown[:-1]}0"'


def test_all_invalid_rows_and_missing_fields_are_reported() -> None:
    error = refusal(body([1], {}, GOOD))
    assert [(fault.row, fault.field) for fault in error.faults] == [
        (0, None), (1, "shop"), (1, "city"), (1, "size"), (1, "count"), (1, "open"), (1, "since"),
    ]  # fmt: skip
    assert error.count == 7


def test_an_unknown_category_is_accepted_or_rejected_as_declared() -> None:
    assert len(RowReader(contract("missing")).read_request(body(GOOD | {"city": "Trier"}), NOW)) == 1
    error = refusal(body(GOOD | {"city": "Trier"}), "reject")
    assert 'unknown category "Trier"' in error.faults[0].problem


def test_a_files_rows_are_split_into_valid_and_rejected() -> None:
    rows = RowReader(contract()).read([GOOD, {"city": 3}, GOOD | {"size": -1.0}, GOOD], NOW)
    assert rows.accepted == [0, 3]
    assert {fault.row for fault in rows.faults} == {1, 2}
    assert len(rows.columns["size"]) == 2


@pytest.mark.parametrize(
    "middle", ['"a":1,"a":2', '"a":1,"a" :2', '"a" :1,"a":2', '"a":1,"a"\n:2', '"a":1,"\\u0061":2']
)
def test_a_duplicate_member_is_found_in_any_spelling(middle: str) -> None:
    with pytest.raises(RequestError, match="duplicate name"):
        decode(f'{{"rows":[{{{middle},"t":"12:30"}}]}}'.encode())


def test_the_content_of_a_text_is_not_mistaken_for_a_member() -> None:
    text = '{"rows": [{"a": "x\\":y", "b": "12:30", "c": 1.0, "d": 18446744073709551615}]}'
    assert decode(text.encode()) == json.loads(text)


def test_limits_of_severity_info_are_not_enforced() -> None:
    spec = problem(size=Float(ge=0, severity="info"))
    read = RowReader(Contract.of(spec, Vocabulary(kinds={}, categories={}))).read([GOOD | {"size": -3}], NOW)
    assert read.accepted == [0]


def test_the_longest_request_fits() -> None:
    row = GOOD | {"city": "\U0001f600" * 20, "note": "a" * 256, "id": "\U0001f600" * 256}
    row["decision_time"] = "2024-01-01T00:00:00.123456+00:00"
    data = json.dumps({"rows": [row] * 3}).encode()
    assert len(data) <= contract().max_bytes
    assert len(RowReader(contract()).read_request(data, NOW)) == 3


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
NAMES = st.sampled_from([*GOOD, "note", "id", "decision_time"]) | st.text(max_size=4)


@given(st.lists(st.dictionaries(NAMES, JUNK, max_size=9).map(lambda row: GOOD | row) | JUNK, max_size=4) | JUNK)
def test_junk_raises_only_request_errors(rows: object) -> None:
    """Whatever is accepted can be encoded and looked up: text is Unicode, numbers are finite."""
    refused: RequestError | None = None
    try:
        read = RowReader(contract()).read_request(json.dumps({"rows": rows}).encode(), NOW)
    except RequestError as error:
        refused = error
    if refused is not None:
        assert 400 <= refused.status < 500
        json.dumps([refused.what, [fault.problem for fault in refused.faults]]).encode()
        return
    assert np.isfinite(read.columns["size"]).all()
    assert all(text.encode() for text in read.columns["city"] if text)


def test_a_contract_survives_storage() -> None:
    assert Contract.from_json(contract().to_json()) == contract()


def test_examples_come_from_the_data_and_satisfy_the_contract(tmp_path: Path) -> None:
    at = [datetime(2024, 1, 1, hour, tzinfo=UTC) for hour in range(5)]
    rows = [GOOD | {"id": str(i), "decision_time": at[i], "since": at[i], "note": None} for i in range(5)]
    rows[4]["size"] = 99.0  # in the data, but outside the contract
    frame = pa.Table.from_pylist(rows)
    frame = frame.append_column("split", pa.array(["train"] * 5))
    vocabulary = Vocabulary(kinds={}, categories={})
    made = Contract.from_json(contract_bytes(problem(), vocabulary, frame))
    assert len(made.examples) == 3
    assert all(example["size"] == 1.5 and "note" not in example for example in made.examples)
    assert len(RowReader(made).read_request(body(*made.examples), NOW)) == 3


def test_openapi_matches_what_is_enforced() -> None:
    document = openapi.document(contract("reject"), "4")
    row = document["components"]["schemas"]["Row"]
    assert row["required"] == ["shop", "city", "size", "count", "open", "since"]
    assert row["properties"]["city"]["enum"] == ["Bonn", "Ulm"]
    assert row["properties"]["note"]["type"] == ["string", "null"]
    assert row["properties"]["size"]["minimum"] == 0
    assert row["additionalProperties"] is False
    examples = document["paths"]["/predict"]["post"]["requestBody"]["content"]["application/json"]["examples"]
    assert len(RowReader(contract()).read_request(json.dumps(examples["row 1"]["value"]).encode(), NOW)) == 1
    references = set(_references(document))
    assert references <= {f"#/components/schemas/{name}" for name in document["components"]["schemas"]}


def _references(node: object) -> list[str]:
    if isinstance(node, dict):
        own = [node["$ref"]] if "$ref" in node else []
        return own + [found for part in node.values() for found in _references(part)]
    return [found for part in node for found in _references(part)] if isinstance(node, list) else []
