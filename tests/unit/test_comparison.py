"""Models are compared on rows that neither was trained on, and chance is not taken for a difference."""

import dataclasses

import numpy as np
import pyarrow as pa
import pytest

from tests.conftest import existing
from tests.problems.deliveries.problem import PROBLEM
from truecourse.evaluation.paired_comparison import FEWEST_BLOCKS, Comparison, Pair, shortage, unseen_rows
from truecourse.problem import Monitoring, RandomSplit
from truecourse.statistics.metrics import blocks_of

FIRST = np.datetime64("2024-01-01T12:00", "us")
AT_RANDOM = dataclasses.replace(PROBLEM, split=RandomSplit())


def frame(days: int, per_day: int = 1, *, split: list[str] | None = None, first: int = 0) -> pa.Table:
    """`per_day` rows a day from day `first`, with their positions as ids."""
    places = np.arange(first * per_day, (first + days) * per_day)
    times = FIRST + (places // per_day) * np.timedelta64(1, "D")
    return pa.table(
        {
            "id": [str(place) for place in places],
            "decision_time": pa.array(times, pa.timestamp("us", tz="UTC")),
            "split": split or ["test"] * len(places),
        }
    )


def ids(rows: pa.Table) -> list[int]:
    return [int(place) for place in rows["id"].to_pylist()]


def test_rows_that_either_model_was_trained_on_are_excluded() -> None:
    rows = frame(10)
    earlier = frame(6, split=["train", "train", "validate", "validate", "test", "test"])
    later = frame(8, split=["train"] * 5 + ["validate"] + ["test"] * 2)
    assert ids(unseen_rows(PROBLEM, rows, earlier)) == [4, 5, 6, 7, 8, 9]
    assert ids(unseen_rows(PROBLEM, rows, earlier, later)) == [6, 7, 8, 9]
    assert ids(unseen_rows(PROBLEM, rows)) == ids(rows)


def test_with_time_earlier_rows_are_excluded_even_if_unused_in_training() -> None:
    trained = frame(6, split=["train"] * 4 + ["validate"] + ["test"]).take([0, 2, 4, 5])
    assert ids(unseen_rows(PROBLEM, frame(8), trained)) == [5, 6, 7]
    assert ids(unseen_rows(AT_RANDOM, frame(8), trained)) == [1, 3, 5, 6, 7]


def test_without_time_rows_are_identified_by_their_ids() -> None:
    rows = frame(6).drop_columns(["decision_time"])
    trained = frame(3, split=["train", "test", "validate"]).drop_columns(["decision_time"])
    assert ids(unseen_rows(AT_RANDOM, rows, trained)) == [1, 3, 4, 5]


def test_a_few_days_are_not_enough() -> None:
    assert shortage(frame(FEWEST_BLOCKS)) == ""
    assert "only 6 days" in shortage(frame(6, per_day=1000))
    assert "only 0 days" in shortage(frame(0))
    assert "only 3 rows" in shortage(frame(3).drop_columns(["decision_time"]))


@pytest.fixture
def world() -> tuple[pa.Table, np.ndarray, np.ndarray]:
    """Forty days of a hundred rows: labels and their true probabilities, which vary by day."""
    random, rows = np.random.default_rng(1), frame(40, 100)
    truth = np.clip(0.5 + 0.3 * np.sin(np.arange(len(rows)) // 100) + random.normal(0, 0.15, len(rows)), 0.05, 0.95)
    depot = np.where(np.arange(len(rows)) % 4 == 0, "north", "south")
    return rows.append_column("depot", pa.array(depot)), (random.random(len(rows)) < truth).astype(float), truth


def compare_models(
    world: tuple[pa.Table, np.ndarray, np.ndarray], model: np.ndarray, champion: np.ndarray
) -> Comparison:
    rows, labels, _ = world
    blocks = blocks_of(rows)
    pair = Pair(PROBLEM, labels, model, champion)
    return Comparison(1, loss=pair.loss(blocks), calibration=pair.calibration(blocks), slices=pair.slices(rows, blocks))


def test_a_model_with_less_noise_is_better_everywhere_and_not_worse_calibrated(
    world: tuple[pa.Table, np.ndarray, np.ndarray],
) -> None:
    truth = world[2]
    noisy = np.clip(truth + np.random.default_rng(2).normal(0, 0.15, len(truth)), 0.02, 0.98)
    better, worse = compare_models(world, truth, noisy), compare_models(world, noisy, truth)
    assert existing(existing(better.loss)["high"]) < 0 < existing(existing(worse.loss)["low"])
    assert existing(existing(better.calibration)["low"]) <= 0
    assert existing(existing(worse.calibration)["low"]) > 0
    assert [part["value"] for part in better.slices] == ["north", "south"]
    assert all(part["difference"]["high"] < 0 for part in better.slices)


def test_a_better_model_fails_on_a_slice_where_it_is_worse(
    world: tuple[pa.Table, np.ndarray, np.ndarray],
) -> None:
    rows, _, truth = world
    north = np.array(rows["depot"].to_pylist()) == "north"
    noise = np.random.default_rng(2).normal(0, 0.25, len(truth))
    noisy = np.clip(truth + noise, 0.02, 0.98)
    found = compare_models(world, np.where(north, noisy, truth), np.where(north, truth, noisy))
    assert existing(existing(found.loss)["high"]) < 0
    differences = {part["value"]: part["difference"] for part in found.slices}
    assert differences["north"]["low"] > 0 > differences["south"]["high"]


def test_a_model_is_not_better_than_itself(world: tuple[pa.Table, np.ndarray, np.ndarray]) -> None:
    same = compare_models(world, world[2], world[2])
    nothing = {"value": 0.0, "low": 0.0, "high": 0.0}
    assert (same.loss, same.calibration) == (nothing, nothing)
    assert all(part["difference"] == nothing for part in same.slices)


def test_equal_models_rarely_differ_despite_autocorrelated_days() -> None:
    """Two equally bad models, each on its own days, differ in about 2.5% of cases in each direction."""
    found = 0
    for seed in range(60):
        random = np.random.default_rng(seed)
        rows, truth = frame(40, 25), random.uniform(0.2, 0.8, 1000)
        labels = (random.random(1000) < truth).astype(float)
        off = np.where((random.random(40) < 0.5).repeat(25), 0.15, 0.0)
        models = np.clip(truth + off, 0.01, 0.99), np.clip(truth + 0.15 - off, 0.01, 0.99)
        blocks = blocks_of(rows)
        found += Pair(PROBLEM, labels, *models).loss(blocks)["high"] < 0  # type: ignore[operator]
    assert found <= 6


def test_slices_with_too_few_days_or_rows_give_no_result() -> None:
    rows = frame(40, 10)
    values = ["rare"] * 60 + ["common"] * 340  # six days of it
    rows = rows.append_column("depot", pa.array(values))
    blocks, half = blocks_of(rows), np.full(400, 0.5)
    pair = Pair(PROBLEM, (np.arange(400) % 2).astype(float), half, half)
    assert [part["value"] for part in pair.slices(rows, blocks)] == ["common"]
    without = dataclasses.replace(pair, problem=dataclasses.replace(PROBLEM, monitoring=Monitoring()))
    assert without.slices(rows, blocks) == ()
