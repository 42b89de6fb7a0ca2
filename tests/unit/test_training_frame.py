"""Which decisions become training rows, with an account of all others."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest

from tasks.training.build_snapshot import training_frame, unlabelled_rows
from tests import simulated_deliveries
from truecourse.data.arrow_types import UTC_TIME
from truecourse.errors import FeatureError
from truecourse.problem import Problem
from truecourse.problem.loader import load_problem

DAYS = [datetime(2024, 2, day, 12, tzinfo=UTC) for day in (1, 5, 12, 15, 22, 25, 27)]


@pytest.fixture
def problem(tmp_path: Path, configure: Callable[..., None]) -> Problem:
    simulated_deliveries.install(tmp_path)
    configure(problems=tmp_path)
    return load_problem("deliveries")


def decisions(problem: Problem, known_after: list[timedelta | None]) -> pa.Table:
    """One decision a day; its label becomes known the given time after it, or never."""
    rows = {
        "id": [str(n) for n in range(len(DAYS))],
        "label": [None if wait is None else n % 2 for n, wait in enumerate(known_after)],
        "decision_time": pa.array(DAYS, UTC_TIME),
        "known_at": pa.array(
            [None if wait is None else t + wait for t, wait in zip(DAYS, known_after, strict=True)], UTC_TIME
        ),
    }
    names = dict.fromkeys([*problem.request_fields, *problem.features])
    return pa.table(rows | {name: pa.nulls(len(DAYS)) for name in names})


def ids(frame: pa.Table) -> str:
    return "".join(frame["id"].to_pylist())


def test_every_decision_is_used_or_accounted_for(problem: Problem) -> None:
    waits = [timedelta(hours=1)] * 6 + [None]
    frame, account = training_frame(problem, decisions(problem, waits), until=None)
    assert ids(frame) == "01234"
    assert account == {
        "decisions": 7, "open": 2, "unlabelled": 0, "after_test": 0, "train": 2, "validate": 2, "test": 1,
    }  # fmt: skip


def test_an_open_cohort_is_left_out_entirely(problem: Problem) -> None:
    waits: list[timedelta | None] = [timedelta(hours=1)] * 7
    late = DAYS[-1].replace(tzinfo=None) + timedelta(days=1)
    assert ids(training_frame(problem, decisions(problem, waits), until=late)[0]) == "0123456"
    earlier = late - timedelta(microseconds=1)
    assert ids(training_frame(problem, decisions(problem, waits), until=earlier)[0]) == "012345"


def test_a_label_not_known_yet_does_not_count(problem: Problem) -> None:
    waits: list[timedelta | None] = [timedelta(hours=1)] * 7
    waits[2] = timedelta(days=30)
    late = DAYS[-1].replace(tzinfo=None) + timedelta(days=1)
    frame, account = training_frame(problem, decisions(problem, waits), until=late)
    assert ids(frame) == "013456"
    assert account["unlabelled"] == 1
    frame, _ = training_frame(problem, decisions(problem, waits), until=datetime(2024, 3, 20))
    assert ids(frame) == "0123456"


def test_decisions_without_a_label_are_kept_of_the_validation_and_test_days(problem: Problem) -> None:
    waits: list[timedelta | None] = [timedelta(hours=1)] * 7
    waits[1] = waits[2] = waits[4] = None
    waits[5] = timedelta(days=30)
    frame = decisions(problem, waits)
    late = DAYS[-1].replace(tzinfo=None) + timedelta(days=1)
    without = unlabelled_rows(problem, frame, late)
    assert without is not None
    assert dict(zip(without["id"].to_pylist(), without["split"].to_pylist(), strict=True)) == {
        "2": "validate", "4": "test", "5": "test",
    }  # fmt: skip
    assert set(problem.features) < set(without.column_names)
    assert "label" not in without.column_names
    open_ones = unlabelled_rows(problem, frame, DAYS[4].replace(tzinfo=None))
    assert open_ones is not None
    assert ids(open_ones) == "2"
    assert unlabelled_rows(problem, frame.drop_columns(["known_at"]), late) is None


def test_an_empty_side_is_reported(problem: Problem) -> None:
    waits: list[timedelta | None] = [timedelta(hours=1)] * 7
    with pytest.raises(FeatureError, match="no test rows"):
        training_frame(problem, decisions(problem, waits), until=datetime(2024, 2, 20))
