"""Parts of times as features: equal in training, batches and requests, and equal to Python's own calendar."""

import dataclasses
import json
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from truecourse.authoring.checks.features import feature_faults
from truecourse.features.definition_digests import feature_definitions
from truecourse.features.frame import add_request_features, compute_request_features
from truecourse.modeling.encoding import Vocabulary
from truecourse.problem import Boolean, Files, Float, Integer, Label, Problem, RequestFeatures, Since, Table, Time
from truecourse.problem.time_parts import Part
from truecourse.serving.contract import Contract
from truecourse.serving.privacy import private_names
from truecourse.serving.request_reader import RowReader

EVERY: tuple[Part, ...] = ("year", "month", "day", "day_of_week", "hour", "days_to_decision", Since("signed"))
MOMENTS = st.datetimes(datetime(1678, 1, 1), datetime(2261, 12, 31))


def half(columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {"half": columns["size"] / 2}


def problem(**changes: object) -> Problem:
    columns = {
        "number": Integer(), "at": Time(), "size": Float(), "signed": Time(nulls=True, parts=["month"]),
        "due": Time(nulls=True, parts=EVERY), "late": Boolean(),
    }  # fmt: skip
    table = Table("orders", source=Files("orders.csv"), columns=columns, key=["number"], time="at")
    options = {"kind": "binary", "tables": [table], "label": Label(table="orders", column="late")}
    return Problem("orders", **(options | changes))  # type: ignore[arg-type]


def expected(due: datetime | None, signed: datetime | None, at: datetime) -> dict[str, float | None]:
    day = timedelta(days=1)
    found: dict[str, float | None] = {"signed_month": None if signed is None else signed.month}
    parts = None if due is None else (due.year, due.month, due.day, due.isoweekday(), due.hour)
    for place, name in enumerate(EVERY[:5]):
        found[f"due_{name}"] = None if parts is None else parts[place]
    found["due_days_to_decision"] = None if due is None else (at - due) / day
    found["due_days_since_signed"] = None if due is None or signed is None else (due - signed) / day
    return found


@given(st.lists(st.tuples(st.none() | MOMENTS, st.none() | MOMENTS, MOMENTS), min_size=1, max_size=9))
def test_parts_are_those_of_the_calendar_in_training_and_requests(
    rows: list[tuple[datetime, datetime, datetime]],
) -> None:
    spec = problem()
    utc = pa.timestamp("us", "UTC")
    frame = pa.table(
        {
            "decision_time": pa.array([at for *_, at in rows], utc), "size": [1.0] * len(rows),
            "signed": pa.array([signed for _, signed, _ in rows], utc),
            "due": pa.array([due for due, *_ in rows], utc),
        }
    )  # fmt: skip
    trained = add_request_features(spec, frame).select(list(spec.time_features)).to_pylist()
    sent = [
        {"size": 1.0, "decision_time": f"{at.isoformat()}Z"}
        | {name: None if time is None else f"{time.isoformat()}Z" for name, time in (("due", due), ("signed", signed))}
        for due, signed, at in rows
    ]
    kinds = dict.fromkeys(spec.features, "float")
    reader = RowReader(Contract.of(spec, Vocabulary(kinds=kinds, categories={})))
    read = reader.read_request(json.dumps({"rows": sent}).encode(), datetime.now(UTC))
    computed = spec.computed_features
    assert computed is not None
    served = compute_request_features(spec, {name: read.columns[name] for name in computed.inputs}, len(rows))
    for place, (due, signed, at) in enumerate(rows):
        for name, value in expected(due, signed, at).items():
            one = trained[place][name]
            assert (one is None) == (value is None)
            assert value is None or one == pytest.approx(value, abs=1e-9)
            np.testing.assert_equal(float(served[name][place]), np.nan if one is None else float(one))


def test_parts_join_request_features_and_keep_their_order() -> None:
    spec = problem(request_features=RequestFeatures(half, inputs=["size"], features={"half": Float()}))
    assert list(spec.features) == ["size", *spec.time_features, "half"]
    assert spec.computed_features is not None
    assert set(spec.computed_features.inputs) == {"due", "signed", "decision_time", "size"}
    none, at = np.array(["NaT"], "datetime64[us]"), np.array(["2024-01-01"], "datetime64[us]")
    columns = {"size": np.array([3.0]), "due": none, "signed": none, "decision_time": at}
    assert compute_request_features(spec, columns, 1)["half"].tolist() == [1.5]


def test_a_time_without_declared_parts_has_those_that_later_years_have_too() -> None:
    timed = problem().label_table
    columns = dict(timed.columns) | {"due": Time(), "signed": Time(format="%d/%m/%Y")}
    with_time = problem(tables=[dataclasses.replace(timed, columns=columns)])
    assert list(with_time.time_features) == [
        "signed_days_to_decision", "signed_month", "signed_day_of_week",
        "due_days_to_decision", "due_month", "due_day_of_week", "due_hour",
    ]  # fmt: skip
    without = problem(tables=[dataclasses.replace(timed, columns=columns, time=None)])
    assert list(without.time_features)[-4:] == ["due_year", "due_month", "due_day_of_week", "due_hour"]
    unused = {name: dataclasses.replace(c, feature=False) if isinstance(c, Time) else c for name, c in columns.items()}
    assert not problem(tables=[dataclasses.replace(timed, columns=unused)]).time_features


def test_parts_of_the_decision_time() -> None:
    spec = problem(decision_parts=["hour", "day_of_week"])
    at = np.array(["2024-03-03T17:45"], "datetime64[us]")
    none = np.array(["NaT"], "datetime64[us]")
    given_ = {"decision_time": at, "due": none, "signed": none}
    found = compute_request_features(spec, given_, 1)
    assert (found["decision_time_hour"][0], found["decision_time_day_of_week"][0]) == (17, 7)


@pytest.mark.parametrize(
    ("columns", "changes", "message"),
    [
        ({"due": Time(parts=["month", "month"])}, {}, "two parts are called 'month'"),
        ({"due": Time(parts=[Since("size")])}, {}, "names no other time field"),
        ({"due": Time(parts=[Since("due")])}, {}, "names no other time field"),
        ({"due": Time(), "due_month": Float()}, {}, "the name 'due_month' is also declared"),
        ({"due": Time()}, {"decision_parts": ["hour", "hour"]}, "two parts"),
    ],
)
def test_faulty_parts_are_named(columns: dict[str, object], changes: dict[str, object], message: str) -> None:
    table = problem().label_table
    spec = problem(tables=[dataclasses.replace(table, columns=dict(table.columns) | columns)], **changes)
    assert any(message in fault.what for fault in feature_faults(spec))


def test_parts_that_need_a_decision_time_are_refused_without_one() -> None:
    table = dataclasses.replace(problem().label_table, time=None)
    found = [fault.what for fault in feature_faults(problem(tables=[table], decision_parts=["hour"]))]
    assert sum("have no time" in what for what in found) == 2


def test_parts_of_private_times_are_not_logged() -> None:
    table = problem().label_table
    columns = dict(table.columns) | {
        "signed": Time(private="hash", parts=["month"]),
        "due": Time(parts=["hour", Since("signed")]),
    }
    private = private_names(problem(tables=[dataclasses.replace(table, columns=columns)]))
    assert private == {"signed": "hash", "signed_month": "drop", "due_days_since_signed": "drop"}


def test_the_definition_of_a_part_changes_with_the_part_and_with_its_field() -> None:
    before = feature_definitions(problem())
    table = problem().label_table
    other = dict(table.columns) | {"signed": Time(nulls=True, parts=["month"], format="%d/%m/%Y")}
    after = feature_definitions(problem(tables=[dataclasses.replace(table, columns=other)]))
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {
        "signed_month",
        "due_days_since_signed",
        "due_days_to_decision",
    }
