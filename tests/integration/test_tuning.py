"""Searches of parameters: folds with an embargo, pruning, kills, and rows that must not take part."""

import math
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.training.tuning_study import Budget, best_of
from tasks.training.tuning_workers import evaluator_of
from tests.tuned_shops import FEATURES, frame, shops, study_of, trials_of
from truecourse.errors import ModelError
from truecourse.evaluation.tuning_gain import measure_gain
from truecourse.modeling.splitting import FOLDS, folds
from truecourse.modeling.training import with_parameters
from truecourse.modeling.trials import FEWEST, is_hopeless
from truecourse.problem.definition import Kind

KINDS: list[tuple[Kind, bool]] = [("binary", True), ("regression", False), ("multiclass", False)]


def with_other(rows: pa.Table, sides: list[str], other: pa.Table) -> pa.Table:
    """Replace the features and labels of the rows of some sides by those of another frame."""
    chosen = pc.is_in(rows["split"], pa.array(sides))
    for name in (*FEATURES, "label"):
        values = pc.if_else(chosen, other[name].combine_chunks(), rows[name].combine_chunks())
        rows = rows.set_column(rows.column_names.index(name), name, values)
    return rows


@pytest.mark.parametrize(("kind", "monthly"), KINDS)
def test_rows_of_validation_and_test_never_influence_the_search(kind: Kind, monthly: bool, home: Path) -> None:
    rows, other = frame(kind, monthly), frame(kind, monthly, seed=1)
    planted = with_other(rows, ["validate", "test"], other)
    studies = [study_of(kind, monthly, one) for one in (rows, planted, with_other(rows, ["train"], other))]
    assert len({study.identity for study in studies}) == 3
    first, same, different = (trials_of(study, 3) for study in studies)
    assert same == first
    assert different != first
    chosen = with_parameters(studies[0].problem.model, best_of(studies[0].finished()).parameters)
    tested = with_other(rows, ["test"], other)
    assert measure_gain(studies[0].problem, tested, chosen) == measure_gain(studies[0].problem, rows, chosen)
    assert measure_gain(studies[0].problem, planted, chosen) != measure_gain(studies[0].problem, rows, chosen)


@given(
    st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 900)), min_size=8, max_size=60),
    st.sampled_from([1, 24, 24 * 30]),
    st.booleans(),
)
def test_a_fold_is_fitted_to_labels_that_were_known_before_its_scored_decisions(
    drawn: list[tuple[int, int]], grain: int, dated: bool
) -> None:
    start, problem = datetime(2023, 1, 1, tzinfo=UTC), shops("binary", True)
    decided = [start + timedelta(hours=hours // grain * grain) for hours, _ in drawn]
    known = [at + (timedelta(hours=delay) if dated else problem.label.closes_after)
             for at, (_, delay) in zip(decided, drawn, strict=True)]  # fmt: skip
    rows = pa.table({"decision_time": decided, **({"known_at": known} if dated else {})})
    try:
        masks = folds(problem, rows)
    except ModelError:
        return
    times, cleared = np.array(decided, dtype=object), np.array(known, dtype=object)
    assert len(masks) == FOLDS
    for fit, score in masks:
        first = times[score].min()
        assert cleared[fit].max() <= first
        assert times[fit].max() < first
    assert np.sum([score for _, score in masks], axis=0).max() <= 1


def test_monthly_decisions_have_folds_by_months() -> None:
    problem, rows = shops("binary", True), frame("binary", True)
    training = rows.filter(pc.equal(rows["split"], "train"))
    months = pc.month(training["decision_time"]).to_numpy()
    found = [(set(months[fit]), set(months[score])) for fit, score in folds(problem, training)]
    assert found == [({1, 2, 3, 4, 5}, {6}), ({1, 2, 3, 4, 5, 6}, {7}), ({1, 2, 3, 4, 5, 6, 7}, {8})]


@given(st.lists(st.lists(st.floats(0, 1), min_size=1, max_size=FOLDS), max_size=12), st.lists(st.floats(0, 1)))
def test_a_trial_is_pruned_only_if_most_trials_were_better_on_the_same_folds(
    others: list[list[float]], losses: list[float]
) -> None:
    losses = losses[:FOLDS]
    comparable = [one[: len(losses)] for one in others if len(one) >= len(losses)]
    better = sum(np.mean(one) < np.mean(losses) for one in comparable) if losses else 0
    pruned = is_hopeless(losses, others)
    possible = 0 < len(losses) < FOLDS and len(comparable) >= FEWEST
    assert not pruned or (possible and better >= len(comparable) / 2)
    assert pruned or not possible or better <= math.ceil(len(comparable) / 2)


def test_after_its_time_a_search_begins_no_trial_but_the_default(home: Path) -> None:
    study = study_of("regression", False, frame("regression", False))
    study.open()
    for _ in range(2):
        study.work(evaluator_of(study), Budget(None, until=0.0))
        assert [one.number for one in study.finished()] == [0]


def test_a_trial_of_another_machine_is_taken_over_only_without_signs_of_life(home: Path) -> None:
    rows = frame("binary", False)
    study = study_of("binary", False, rows)
    evaluator = evaluator_of(study)
    trial = study.claim(Budget(1))
    trial.set_user_attr("worker", trial.user_attrs["worker"] | {"machine": "another"})
    assert study.claim(Budget(1)) is None
    patient = study_of("binary", False, rows, expiry=0.0)
    assert patient.claim(Budget(1)) is None, "it was seen for the first time"
    trial.set_user_attr("beat", 1)
    assert patient.claim(Budget(1)) is None, "it lives"
    again = patient.claim(Budget(1))
    assert again.number == trial.number == 0
    patient.make(again, evaluator)
    patient.make(trial, evaluator)  # the other machine was only slow: its result changes nothing
    assert [one.number for one in patient.finished()] == [0]


def test_a_trial_that_its_process_finished_before_it_died_is_not_taken_over(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = frame("binary", False)
    study, other = study_of("binary", False, rows), study_of("binary", False, rows)
    evaluator = evaluator_of(study)
    trial = study.claim(Budget(2))

    def finishes_and_dies(process: object) -> bool:
        study.make(trial, evaluator)
        return True

    with monkeypatch.context() as patch:
        patch.setattr("tasks.training.tuning_study.is_dead", finishes_and_dies)
        assert other.claim(Budget(2)).number == 1
    assert [one.number for one in other.finished()] == [0]


def test_feature_groups_are_searched_and_one_is_always_used(home: Path) -> None:
    study = study_of("binary", True, frame("binary", True), groups=True)
    trials_of(study, 14)
    dropped = {one.dropped for one in study.finished()}
    assert study.finished()[0].dropped == ()
    assert dropped > {()}
    assert all(len(one) < len(study.members) for one in dropped)
    for one in study.finished():
        if "history" in one.dropped:
            assert one.losses[0] > study.finished()[0].losses[0], "its features help"


def test_a_default_outside_the_search_space_is_the_first_trial(home: Path) -> None:
    study = study_of("regression", False, frame("regression", False))
    assert study.default == {"max_depth": 6, "learning_rate": 0.3, "gamma": 0.0}
    (first, second) = trials_of(study, 2)
    assert first[1] == study.default
    assert second[1]["max_depth"] in (2, 3, 4)
