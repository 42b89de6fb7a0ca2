"""No private value is in the bytes that reach the spool."""

import dataclasses
import json
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import ValidationError

from tests import deliveries
from tests.faults import PROBLEM, edited
from tests.records import record
from truecourse.loading import load_problem
from truecourse.predictionlog import encoded
from truecourse.privacy import HASHED, Masks, private_names
from truecourse.problem import Problem, Text
from truecourse.schema import Float

REQUEST = {"courier": "c03", "depot": "north", "promised": 45, "distance": 4.25}
FEATURES = {"depot": "north", "promised": 45, "distance": 4.25, "hour": 12, "km_a_minute": 0.094}
PARTS = [{"feature": name, "value": value, "contribution": 0.1} for name, value in FEATURES.items()]
RECORD = record("a", request=REQUEST, features=FEATURES, contributions=PARTS)


@pytest.fixture
def problem(tmp_path: Path, configure: Callable[..., None]) -> Problem:
    configure(problems=tmp_path, problem="deliveries")
    deliveries.install(tmp_path)
    return load_problem()


def marked(problem: Problem) -> Problem:
    request = dict(problem.request) | {
        "courier": Text(feature=False, private="hash"),
        "distance": Float(ge=0, private="drop"),
    }
    return dataclasses.replace(problem, request=request)


def test_hashed_values_can_be_told_equal_and_dropped_ones_are_gone(problem: Problem) -> None:
    masks = Masks.of(marked(problem), b"secret")
    told = masks.masked(RECORD)
    assert told["request"].keys() == {"courier", "depot", "promised"}
    assert told["request"]["courier"].startswith(HASHED)
    assert told["request"]["courier"] == masks.masked(RECORD)["request"]["courier"]
    other = Masks.of(marked(problem), b"another").masked(RECORD)
    assert told["request"]["courier"] != other["request"]["courier"]
    assert b"c03" not in encoded(told)
    assert b"4.25" not in encoded(told)


def test_what_is_computed_from_a_private_field_is_dropped_too(problem: Problem) -> None:
    names = private_names(marked(problem))
    assert names == {
        "courier": "hash", "distance": "drop", "hour": "drop", "weekend": "drop", "km_a_minute": "drop"
    }  # fmt: skip
    told = Masks.of(marked(problem), b"secret").masked(RECORD)
    assert told["features"] == {"depot": "north", "promised": 45}
    assert [part["feature"] for part in told["contributions"]] == ["depot", "promised"]


def test_without_a_secret_nothing_is_hashed(problem: Problem, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        masks = Masks.of(marked(problem), b"")
    assert "TRUECOURSE_LOG_SECRET" in caplog.text
    assert "courier" in caplog.text
    assert "courier" not in masks.masked(RECORD)["request"]


def test_a_problem_that_marks_nothing_is_logged_whole(problem: Problem) -> None:
    assert private_names(problem) == {}
    assert json.loads(encoded(Masks.of(problem, b"").masked(RECORD))) == json.loads(encoded(RECORD))


def test_the_stricter_of_two_marks_holds() -> None:
    hashed, dropped = Masks({"a": "hash", "b": "hash"}, b"s"), Masks({"a": "drop"}, b"s")
    assert hashed.joined(dropped).marks == dropped.joined(hashed).marks == {"a": "drop", "b": "hash"}


def test_a_mark_on_a_table_alone_is_a_fault(problem: Problem) -> None:
    (fault,) = edited(
        problem.folder, (PROBLEM, '"distance": Float("km", ge=0)', '"distance": Float(ge=0, private="drop")')
    )
    assert "distance" in fault.where
    assert "is private in table deliveries" in fault.what
    assert 'private="drop"' in fault.cure


def test_a_mark_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValidationError, match="private"):
        Text(private="encrypt")  # type: ignore[arg-type]
