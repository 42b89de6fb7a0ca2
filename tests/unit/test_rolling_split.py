"""A split that moves with the reference time: the rows of a retraining's training, validation and test sets."""

import dataclasses
from datetime import UTC, date, datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import simulated_deliveries
from truecourse.data.arrow_types import UTC_TIME
from truecourse.features.frame import add_split
from truecourse.modeling.splitting import problem_at
from truecourse.problem import Problem, RandomSplit, Retraining, TimeSplit, days
from truecourse.problem.loader import load_problem

MOMENTS = st.datetimes(datetime(2024, 3, 1), datetime(2024, 12, 31))


@pytest.fixture(scope="module")
def problem(tmp_path_factory: pytest.TempPathFactory) -> Problem:
    problems = tmp_path_factory.mktemp("problems")
    simulated_deliveries.install(problems)
    return load_problem("deliveries", problems)


def with_policy(problem: Problem, policy: Retraining) -> Problem:
    return dataclasses.replace(problem, monitoring=dataclasses.replace(problem.monitoring, retraining=policy))


def hourly(start: datetime, end: datetime) -> pa.Table:
    times = np.arange(np.datetime64(start), np.datetime64(end), np.timedelta64(1, "h")).astype("datetime64[us]")
    return pa.table({"id": [str(n) for n in range(len(times))], "decision_time": pa.array(times, UTC_TIME)})


@given(at=MOMENTS, validate=st.integers(1, 30), test=st.integers(1, 30), history=st.none() | st.integers(1, 60))
def test_the_sides_of_the_split_end_at_the_last_closed_day(
    problem: Problem, at: datetime, validate: int, test: int, history: int | None
) -> None:
    policy = Retraining(validate=days(validate), test=days(test), history=days(history) if history else None)
    moved = add_split(problem_at(with_policy(problem, policy), at), hourly(datetime(2023, 11, 1), at))
    closed = at - problem.label.closes_after
    spans = {}
    for side in ("train", "validate", "test"):
        times = moved.filter(pc.equal(moved["split"], side))["decision_time"].cast(pa.timestamp("us"))
        spans[side] = (pc.min(times).as_py(), pc.max(times).as_py() + timedelta(hours=1))
    assert closed - timedelta(days=1) < spans["test"][1] <= closed
    assert spans["test"][0] == spans["validate"][1] == spans["test"][1] - timedelta(days=test)
    assert spans["validate"][0] == spans["train"][1] == spans["validate"][1] - timedelta(days=validate)
    first = spans["train"][1] - timedelta(days=history) if history else datetime(2023, 11, 1)
    assert spans["train"][0] == first


def test_every_time_of_a_day_gives_the_same_split(problem: Problem) -> None:
    morning, evening = datetime(2024, 5, 6), datetime(2024, 5, 6, 23, 59, 59, tzinfo=UTC)
    assert problem_at(problem, morning) == problem_at(problem, evening)
    assert problem_at(problem, evening + timedelta(seconds=1)) != problem_at(problem, evening)
    assert problem_at(problem, morning).split == TimeSplit(
        train_until=date(2024, 3, 24), validate_until=date(2024, 4, 21), test_until=date(2024, 5, 5)
    )


def test_rows_that_are_split_by_their_ids_stay_where_they_are(problem: Problem) -> None:
    hashed = dataclasses.replace(problem, split=RandomSplit())
    assert problem_at(hashed, datetime(2024, 5, 6)) is hashed
