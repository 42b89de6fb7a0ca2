"""A canary with worse predictions is detected as labels come; an equally good one is not."""

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pytest

from tests.cleaned import write_clean
from tests.log_records import entry, record
from tests.simulated_deliveries import deliveries
from tests.unit.test_canary_decisions import STEPS, CanaryHistory, Log, history, problem, version
from truecourse.monitoring.canary.canary_quality import FIRST, Labelled, compare_losses
from truecourse.monitoring.canary.service_level import ALPHA, TESTS
from truecourse.problem.promotion import BeatsChampion
from truecourse.serving import prediction_log
from truecourse.storage.delta_tables import Tables

__all__ = ["history"]
COUNT = 1200
CLOSED = timedelta(days=3)


@pytest.fixture
def late(history: CanaryHistory) -> np.ndarray[Any, Any]:
    """Labels of deliveries 0 to COUNT, one decided per minute from the canary's first step."""
    rows = deliveries(days=1, a_day=COUNT)
    began = history.entries[-1].at
    rows["ordered_at"] = [(began + timedelta(minutes=i)).isoformat() for i in range(COUNT)]
    rows["took"] = rows["took"].fillna(20)
    write_clean(problem(), Tables(), "deliveries", rows)
    couriers = rows[["courier"]].drop_duplicates().assign(vehicle="van", since=2020)
    write_clean(problem(), Tables(), "couriers", couriers)
    return (rows["took"] > rows["promised"]).to_numpy(dtype=bool)


def make_requests(since: datetime, late: np.ndarray[Any, Any], share: float, wrong: bool, skip: int = 0) -> Log:
    """One request per minute, each for its own delivery. Both models' scores have the same distribution; those of a
    `wrong` challenger are independent of the labels."""
    pick = np.random.default_rng(1)
    records = []
    for i in range(skip, COUNT):
        mine = bool(pick.random() < share)
        likely = pick.random() < late.mean() if mine and wrong else late[i]
        score = pick.beta(5, 2) if likely else pick.beta(2, 5)
        at = since + timedelta(minutes=i - skip)
        values: dict[str, Any] = {
            "at": at,
            "decision_time": at.isoformat(),
            "request": {"courier": f"x{i}", "depot": "north"},
            "model_version": 2 if mine else 1,
            "model_sha256": version(2 if mine else 1).model_sha256,
            "role": "challenger" if mine else "champion",
            "score": float(score),
            "prediction": str(int(score >= 0.5)),
            "seconds": float(0.002 + pick.exponential(0.0004)),
            "batch": 1,
            "error": None,
        }
        records.append(prediction_log.encode_entry(entry(record(f"{i}", **values) | {"id": i})))
    return records


def test_a_worse_challenger_is_detected_when_labels_are_complete(
    history: CanaryHistory, late: np.ndarray[Any, Any]
) -> None:
    log = make_requests(history.entries[-1].at, late, STEPS[0], wrong=True)
    before = history.decide(log, after=timedelta(hours=23))
    assert (before.action, before.figures["quality"]) == ("widen", {"labelled": 0}), "by the log alone nothing is wrong"
    found = history.decide([], after=CLOSED)
    assert (found.action, found.cause) == ("roll back", "quality")
    assert "its quality is worse: its log loss is" in found.reason
    assert "labelled predictions, the champion's" in found.reason


def test_labels_of_earlier_steps_count_at_the_last_step(history: CanaryHistory, late: np.ndarray[Any, Any]) -> None:
    first = history.entries[-1].at
    history.decide(make_requests(first, late, STEPS[0], wrong=True)[:700])
    last = history.move("widen", share=1.0)
    last = history.entries[-1] = last.model_copy(update={"at": first + timedelta(minutes=700)})
    history.decide(make_requests(last.at, late, 1.0, wrong=True, skip=700))
    found = history.decide([], after=CLOSED)
    assert (found.action, found.cause) == ("roll back", "quality")


def test_an_equally_good_challenger_continues(history: CanaryHistory, late: np.ndarray[Any, Any]) -> None:
    found = history.decide(make_requests(history.entries[-1].at, late, STEPS[0], wrong=False), after=CLOSED)
    assert found.action == "widen"
    assert "; its quality is no worse on" in found.sentence
    assert found.figures["quality"]["labelled"] > 2 * FIRST


def draw_losses(seed: int, worse: float = 0.0, rows: int = 2000) -> Labelled:
    """Losses of two steps with different shares; the challenger's have the same distribution, shifted by `worse`."""
    random = np.random.default_rng(seed)
    step = np.repeat([1, 2], rows // 2)
    mine = random.random(rows) < np.where(step == 1, 0.1, 0.5)
    loss = random.exponential(0.5, rows) + (step == 2) + worse * mine
    return Labelled(np.arange(rows), step, random.integers(0, 400, rows), mine, loss)


def test_the_false_alarm_rate_holds() -> None:
    alarms = sum(bool(compare_losses(problem(), draw_losses(seed), 0.2)[0]) for seed in range(60))
    assert alarms <= 12, "at one chance in five: the looks share it"
    assert all(compare_losses(problem(), draw_losses(seed, worse=0.2), ALPHA / TESTS)[0] for seed in range(10))


def test_the_gates_margin_is_allowed() -> None:
    worse = draw_losses(0, worse=0.2)
    allowing = replace(problem(), gates=[BeatsChampion(margin=0.2)])
    fault, figures = compare_losses(allowing, worse, ALPHA / TESTS)
    assert not fault
    assert figures["difference"] == pytest.approx(0.2, abs=0.1)
    assert compare_losses(problem(), worse, ALPHA / TESTS)[0]
