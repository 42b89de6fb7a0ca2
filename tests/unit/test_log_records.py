"""Log records are the same whether a value was sent, computed or looked up."""

import math
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest

from services.model.results import ENTRY, ChallengerFailure, Identity, PredictionResult
from tests.contracts import GOOD, NOW, contract
from tests.log_records import logged_records
from truecourse.modeling.encoding import LARGEST, Vocabulary, json_number
from truecourse.serving.request_reader import RowReader
from truecourse.serving.rows import Rows
from truecourse.unique_ids import new_ids

VOCABULARY = Vocabulary(
    kinds={
        "city": "category", "size": "float", "count": "integer", "open": "boolean", "note": "category", "sold": "float"
    },
    categories={"city": ("Bonn", "Ulm"), "note": ("a", "b")},
)  # fmt: skip
EVENT = round(datetime(2024, 5, 1, 11, microsecond=500_000, tzinfo=UTC).timestamp() * 1e6)


def read(*given: dict[str, Any]) -> Rows:
    rows = RowReader(contract()).read(given, NOW)
    assert not rows.faults
    return rows


def make_answer(rows: Rows, sold: list[float], computed: bool = False, **changes: Any) -> PredictionResult:
    """`sold` is looked up, or `computed` as an array."""
    answers = [{"prediction_id": id, "score": 0.25, "prediction": "0"} | changes for id in new_ids(len(rows), NOW)]
    columns = rows.values | {"sold": np.array(sold) if computed else [json_number(value) for value in sold]}
    events = {"sold": [EVENT if math.isfinite(value) else -(2**63) for value in sold]}
    return PredictionResult(
        Identity("shops", 3, "ab"), "champion", NOW, VOCABULARY, rows, columns, events, answers, seconds=0.001
    )


@pytest.mark.parametrize("computed", [False, True])
def test_values_are_logged_as_the_model_reads_them(computed: bool) -> None:
    other = {"shop": 7, "city": "nowhere", "size": 0.5, "count": 1.0, "open": False, "since": GOOD["since"]}
    rows = read(GOOD | {"size": 2, "id": 2**60}, other | {"note": None})
    first, second = logged_records(make_answer(rows, [math.inf, math.nan], computed))
    assert first["features"] == {
        "city": "Ulm", "size": 2.0, "count": 3, "open": True, "note": None, "sold": float(LARGEST)
    }  # fmt: skip
    assert isinstance(first["features"]["size"], float)
    assert isinstance(second["features"]["count"], int)
    assert second["features"] == {
        "city": "nowhere", "size": 0.5, "count": 1.0, "open": False, "note": None, "sold": None
    }  # fmt: skip
    assert (first["request"], second["request"]) == tuple(rows.given)
    assert list(first["features"]) == list(VOCABULARY.features)
    assert (first["batch"], first["seconds"], first["at"]) == (2, 0.001, NOW.isoformat())


def test_event_times_are_logged_to_the_microsecond() -> None:
    known, unknown = logged_records(make_answer(read(GOOD, GOOD), [1.0, math.nan]))
    assert known["event_times"] == {"sold": "2024-05-01T11:00:00.500000Z"}
    assert unknown["event_times"] == {"sold": None}


@pytest.mark.parametrize("count", [1, ENTRY, ENTRY + 1])
def test_a_large_request_is_logged_in_parts(count: int) -> None:
    rows = read(*[GOOD | {"shop": i} for i in range(count)])
    answer = make_answer(rows, [float(i) for i in range(count)])
    assert len(list(answer.entries())) == math.ceil(count / ENTRY)
    found = logged_records(answer)
    assert [record["request"]["shop"] for record in found] == list(range(count))
    assert [record["features"]["sold"] for record in found] == list(range(count))
    assert [record["prediction_id"] for record in found] == [answer["prediction_id"] for answer in answer.answers]
    assert {record["batch"] for record in found} == {count}


def test_a_failed_challenger_is_logged_under_the_answers_ids() -> None:
    rows = read(GOOD)
    given = make_answer(rows, [1.0], base=0.5, contributions=[{"feature": "size", "value": 1.5, "contribution": 0.1}])
    (record,) = logged_records(ChallengerFailure(Identity("shops", 4, "cd"), NOW, rows, given.answers, "KeyError"))
    assert record["prediction_id"] == given.answers[0]["prediction_id"]
    assert (record["model_version"], record["role"], record["error"]) == (4, "shadow", "KeyError")
    nothing = ("score", "scores", "prediction", "base", "contributions", "seconds")
    assert [record[name] for name in nothing] == [None] * len(nothing)
    assert (record["features"], record["event_times"], record["request"]) == ({}, {}, GOOD)
