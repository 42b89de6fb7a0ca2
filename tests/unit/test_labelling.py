"""Missing and late labels are reported."""

from collections.abc import Sequence
from datetime import date, timedelta

import pytest

from benchmarks.truth.quality import HELD_OUT, cancelling_days, find_permanent_selection, labelled_days
from truecourse.monitoring.findings import Finding
from truecourse.monitoring.quality.cohorts import Cohort
from truecourse.monitoring.quality.label_delay import check_labels, check_selection, measure_selection
from truecourse.problem import Boolean, Files, Label, Problem, Table

PROBLEM = Problem(
    "plain", kind="binary", tables=[Table("rows", source=Files("rows.csv"), columns={"y": Boolean()})],
    label=Label(column="y"),
)  # fmt: skip


def cohorts(hours: Sequence[float], labelled: int = 98) -> list[Cohort]:
    """One cohort per day, whose labels took so many hours: a quarter half as long, a quarter twice as long."""
    return [
        Cohort(
            day=date(2024, 1, 1) + timedelta(days=number), decisions=100, labelled=labelled, loss=40.0, expected=40.0,
            variance=20.0, residual=0.0, bins=((labelled, 20.0, 20.0),), lag=(took / 2, took, took * 2),
        )
        for number, took in enumerate(hours)
    ]  # fmt: skip


def find_problems(days: list[Cohort]) -> list[Finding]:
    return check_labels(PROBLEM, 0.98, days)


USUAL = [5.0, 5.5, 4.5, 5.2, 4.8, 6.0, 5.1, 5.0]


def test_labels_with_usual_delay_are_no_finding() -> None:
    assert find_problems(cohorts([*USUAL, 5.3])) == []


def test_late_labels_are_a_warning() -> None:
    (found,) = find_problems(cohorts([*USUAL, 9.5]))
    assert (found.check, found.subject, found.cause, found.page) == ("quality", "labels", "labels late", False)
    assert found.sentence == "Half of the labels of 2024-01-09 took 9.5 hours or more, 5.0 hours is usual."
    assert (found.figures["lag"], found.figures["usual_lag"]) == (9.5, pytest.approx(5.05))


@pytest.mark.parametrize(
    ("hours", "why"),
    [
        ([*USUAL, 7.0], "slower by less than half"),
        ([*USUAL[:-1], 9.6, 9.5], "not longer than in the weeks before"),
        ([*USUAL[:5], 20.0], "no week of its own to compare with"),
    ],
    ids=lambda one: one if isinstance(one, str) else "",
)
def test_slightly_late_labels_are_no_finding(hours: list[float], why: str) -> None:
    assert find_problems(cohorts(hours)) == [], why


def base_rate(days: list[Cohort]) -> float:
    return sum(part[2] for one in days for part in one.bins) / sum(one.labelled for one in days)


def test_labels_missing_for_positives_are_selective_and_mark_the_figures() -> None:
    for seed in range(5):
        days = labelled_days(lambda score, came: 1 - 0.3 * came, seed)
        assert base_rate(days) == pytest.approx(0.28, abs=0.02)  # of 0.36
        (finding,) = check_selection(PROBLEM, days, base_rate(days))
        assert (finding.cause, finding.page) == ("selective labels", True)
        assert finding.sentence.startswith("Decisions with high scores get a label less often, by ")
        assert finding.figures["base_rate"] > base_rate(days)


def test_labels_that_are_missing_at_random_are_not_selective() -> None:
    for seed in range(20):
        for count, a_day in ((28, 300), (3, 20), (28, 10), (1, 500)):
            assert check_selection(PROBLEM, labelled_days(lambda score, _: 0.7 + 0 * score, seed, count, a_day)) == []


def test_unlabelled_storm_days_are_not_selective() -> None:
    calm = labelled_days(lambda score, _: 1 - 0.02 * score, seed=1)
    storm = labelled_days(lambda score, _: 1 - 0.8 * score, seed=2, days=1)
    for days in (storm, [*calm[:3], *storm], [*calm[:9], *storm], [*calm, *storm]):
        assert check_selection(PROBLEM, days) == []


def test_reweighting_by_score_corrects_selection_by_score_only() -> None:
    days = labelled_days(lambda score, _: 1 - 0.6 * score, seed=1)
    (finding,) = check_selection(PROBLEM, days, base_rate(days))
    assert base_rate(days) < 0.33
    assert finding.figures["base_rate"] == pytest.approx(0.357, abs=0.015)


def test_selection_that_the_baseline_has_too_is_no_finding() -> None:
    """Cancelled decisions never get a label, and weather that cancels raises the scores: nothing changed."""
    days = cancelling_days(seed=1, days=HELD_OUT + 28)
    before, window = days[:HELD_OUT], days[HELD_OUT:]
    (alone,) = check_selection(PROBLEM, window)
    assert alone.figures["usual"] is None
    selection = measure_selection(window, before)
    assert selection is not None
    assert selection.share == alone.figures["difference"] > 0.05
    assert abs(selection.excess) < 0.02
    assert selection.base_rate == alone.figures["base_rate"]
    assert not any(find_permanent_selection(PROBLEM, seed) for seed in range(6))  # three months with a check each day


def test_correlated_days_do_not_look_like_selection() -> None:
    """Weekly checks of three months, with a correlation of .7 between days; a standard error for independent days names
    4 of 16."""
    named = 0
    for seed in range(16):
        days = cancelling_days(seed, HELD_OUT + 90, memory=0.7)
        windows = (days[max(HELD_OUT, last - 28) : last] for last in range(HELD_OUT + 14, len(days) + 1, 7))
        named += any(check_selection(PROBLEM, window, reference=days[:HELD_OUT]) for window in windows)
    assert named <= 1


def test_positives_that_lose_their_labels_are_found_beside_permanent_selection() -> None:
    for seed in range(1, 6):
        days = cancelling_days(seed, HELD_OUT + 56, unlabelled=lambda day: 0.3 * (day >= HELD_OUT + 28))
        before = days[:HELD_OUT]
        assert check_selection(PROBLEM, days[HELD_OUT : HELD_OUT + 28], reference=before) == []
        (finding,) = check_selection(PROBLEM, days[-28:], base_rate(days[-28:]), before)
        assert (finding.cause, finding.page) == ("selective labels", True)
        assert finding.sentence.startswith("Decisions with high scores get a label less often relative to the baseline")
        assert finding.figures["difference"] > finding.figures["usual"] + 0.05


def test_selection_that_ends_is_a_change_too() -> None:
    days = labelled_days(lambda score, _: 1 - 0.6 * score, seed=1, days=70)
    every = labelled_days(lambda score, _: 1 + 0 * score, seed=2)
    assert check_selection(PROBLEM, days[42:], reference=days[:42]) == []
    (finding,) = check_selection(PROBLEM, every, reference=days[:42])
    assert finding.sentence.startswith("Decisions with low scores get a label less often relative to the baseline, by")


def test_delays_of_five_weeks_ago_no_longer_count() -> None:
    assert find_problems(cohorts([9.6, *USUAL * 4, 9.5]))[0].cause == "labels late"


def test_missing_labels_take_precedence_over_late_ones() -> None:
    days = cohorts([*USUAL, 9.5])
    few = days[-1].model_copy(update={"labelled": 60})
    (found,) = find_problems([*days[:-1], few])
    assert (found.cause, found.page) == ("labels missing", False)
    (found,) = find_problems([*days[:-1], few.model_copy(update={"labelled": 30})])
    assert (found.cause, found.page) == ("labels missing", True)
