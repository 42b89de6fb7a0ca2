"""No private value is in the bytes that are written to the spool."""

import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from tests import simulated_deliveries
from tests.log_records import entry, record
from tests.planted_errors import PROBLEM, faults_after
from truecourse.problem import Problem, Text
from truecourse.problem.loader import load_problem
from truecourse.problem.schema import Float
from truecourse.serving.prediction_log import encode_entry, entry_records
from truecourse.serving.privacy import HASHED, Masks, private_names

REQUEST = {"courier": "c03", "depot": "north", "promised": 45, "distance": 4.25}
FEATURES = {"depot": "north", "promised": 45, "distance": 4.25, "hour": 12, "km_a_minute": 0.094}
PARTS = [{"feature": name, "value": value, "contribution": 0.1} for name, value in FEATURES.items()]
ENTRY = entry(record("a", request=REQUEST, features=FEATURES, contributions=PARTS))
SENT = ENTRY | {"features": ENTRY["features"] | {"depot": "category", "promised": "integer", "distance": "float"}}
"""As workers write it: values of the request are not repeated."""


def read_record(masks: Masks, written: dict[str, Any]) -> dict[str, Any]:
    """The single record of the entry, with private values hidden."""
    (found,) = entry_records(encode_entry(masks.apply(written)))
    return found


@pytest.fixture
def problem(tmp_path: Path, configure: Callable[..., None]) -> Problem:
    configure(problems=tmp_path, problem="deliveries")
    simulated_deliveries.install(tmp_path)
    return load_problem()


def marked(problem: Problem) -> Problem:
    request = dict(problem.request) | {
        "courier": Text(feature=False, private="hash"),
        "distance": Float(ge=0, private="drop"),
    }
    return dataclasses.replace(problem, request=request)


def test_hashed_values_are_comparable_and_dropped_ones_absent(problem: Problem) -> None:
    masks = Masks.of(marked(problem), b"secret")
    found = read_record(masks, SENT)
    assert found["request"].keys() == {"courier", "depot", "promised"}
    assert found["request"]["courier"].startswith(HASHED)
    assert found["request"]["courier"] == read_record(masks, SENT)["request"]["courier"]
    other = read_record(Masks.of(marked(problem), b"another"), SENT)
    assert found["request"]["courier"] != other["request"]["courier"]
    for written in (ENTRY, SENT):
        assert b"c03" not in encode_entry(masks.apply(written))
        assert b"4.25" not in encode_entry(masks.apply(written))


def test_a_feature_is_hashed_alike_everywhere(problem: Problem) -> None:
    masks = Masks({"depot": "hash", "promised": "hash"}, b"secret")
    sent, looked_up = read_record(masks, SENT), read_record(masks, ENTRY)
    assert sent["features"]["depot"] == sent["request"]["depot"] == looked_up["features"]["depot"]
    assert sent["features"]["promised"] == sent["request"]["promised"] == looked_up["features"]["promised"]
    assert sent["features"]["distance"] == 4.25


def test_features_of_a_private_field_are_dropped_too(problem: Problem) -> None:
    names = private_names(marked(problem))
    assert names == {
        "courier": "hash", "distance": "drop", "hour": "drop", "weekend": "drop", "km_a_minute": "drop"
    }  # fmt: skip
    found = read_record(Masks.of(marked(problem), b"secret"), SENT)
    assert found["features"] == {"depot": "north", "promised": 45}
    assert [part["feature"] for part in found["contributions"]] == ["depot", "promised"]


def test_without_a_secret_nothing_is_hashed(problem: Problem, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        masks = Masks.of(marked(problem), b"")
    assert "TRUECOURSE_LOG_SECRET" in caplog.text
    assert "courier" in caplog.text
    assert "courier" not in read_record(masks, SENT)["request"]


def test_a_problem_without_private_fields_is_logged_in_full(problem: Problem) -> None:
    assert private_names(problem) == {}
    assert encode_entry(Masks.of(problem, b"").apply(SENT)) == encode_entry(SENT)


def test_the_stricter_of_two_marks_applies() -> None:
    hashed, dropped = Masks({"a": "hash", "b": "hash"}, b"s"), Masks({"a": "drop"}, b"s")
    assert hashed.merge(dropped).marks == dropped.merge(hashed).marks == {"a": "drop", "b": "hash"}


def test_a_mark_on_a_table_alone_is_a_fault(problem: Problem) -> None:
    (fault,) = faults_after(
        problem.folder, (PROBLEM, '"distance": Float("km", ge=0)', '"distance": Float(ge=0, private="drop")')
    )
    assert "distance" in fault.where
    assert "is private in table deliveries" in fault.what
    assert 'private="drop"' in fault.hint


def test_an_unknown_mark_is_rejected() -> None:
    with pytest.raises(ValidationError, match="private"):
        Text(private="encrypt")  # type: ignore[arg-type]
