"""Log records are the same whether a value was sent, computed or looked up."""

import math
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.model.results import ENTRY, ChallengerFailure, Identity, PredictionResult
from tests.contracts import GOOD, NOW, contract
from tests.log_records import entry, logged_records, older_entry, record
from truecourse.modeling.encoding import LARGEST, Vocabulary, json_number
from truecourse.serving.prediction_log import encode_entry, entries_table, feature_event_times, record_table
from truecourse.serving.privacy import Masks
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
    events = {"sales": [EVENT if math.isfinite(value) else -(2**63) for value in sold]}
    return PredictionResult(
        Identity("shops", 3, "ab"),
        "champion",
        NOW,
        VOCABULARY,
        rows,
        columns,
        events,
        {"sales": ("sold",)},
        answers,
        seconds=0.001,
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


TIMES = st.just(-(2**63)) | st.integers(-(10**15), 2 * 10**15)
MARKS = st.dictionaries(st.sampled_from(["a0", "a1", "b0"]), st.sampled_from(["hash", "drop"]))


@st.composite
def generated_entries(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Entries of several models, whose views have other features, some of them not recorded; any may have no row."""
    found = []
    for version in range(draw(st.integers(1, 3))):
        count = draw(st.integers(1, 3))
        values = st.lists(st.none() | st.floats(-5, 5), min_size=count, max_size=count)
        times = st.lists(TIMES, min_size=count, max_size=count)
        names = {name: range(draw(st.integers(1, 3))) for name in draw(st.sets(st.sampled_from(["a", "b", "c"])))}
        views = {
            view: [draw(times), {f"{view}{number}": draw(st.none() | values) for number in numbers}]
            for view, numbers in names.items()
        }
        records = [record(f"{version}.{place}", model_version=version) for place in range(count)]
        found.append(entry(*records) | {"views": views})
    return found


@given(generated_entries(), MARKS)
def test_event_times_by_view_are_those_by_feature(written: list[dict[str, Any]], marks: dict[str, Any]) -> None:
    """The older form held the event time of each feature, also of a private one. Nothing of it is lost."""
    masked = [dict(Masks(marks, b"secret").apply(one)) for one in written]
    newer, older = (entries_table(map(encode_entry, each)) for each in (masked, map(older_entry, masked)))
    assert list(map(feature_event_times, newer.to_pylist())) == list(map(feature_event_times, older.to_pylist()))
    same = [name for name in newer.column_names if name not in ("event_times", "view_event_times", "view_features")]
    assert newer["features"].combine_chunks().is_valid().to_pylist() == [True] * len(newer)
    for one, other in zip(newer.select(same).to_pylist(), older.select(same).to_pylist(), strict=True):
        assert one == other
    assert pa.concat_tables([newer, older]).num_rows == 2 * len(newer)
    for row in newer.to_pylist():
        assert feature_event_times(record_table(row).to_pylist()[0]) == feature_event_times(row)
