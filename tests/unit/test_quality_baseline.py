"""The quality baseline: only days on which no model was trained."""

from datetime import date, datetime, timedelta
from typing import Any

import numpy as np
import pytest

from tests.closed_cohorts import FIRST, cohort_of
from tests.unit.test_labelling import PROBLEM
from truecourse.monitoring.quality.baseline import QualityBaseline
from truecourse.monitoring.quality.cohorts import Cohort, ScoredRows, sums_by_bin
from truecourse.monitoring.quality.compared_cohorts import reference_cohorts
from truecourse.monitoring.quality.figures import closed_figures
from truecourse.monitoring.quality.quality_check import summary_sentence

AT = datetime(2025, 1, 1)


def days(first: int, count: int, every: int = 1) -> tuple[Cohort, ...]:
    random, found, edges = np.random.default_rng(first), [], np.linspace(0, 1, 41)[1:-1]
    for number in range(count):
        score = random.random(200)
        scored = ScoredRows.of("binary", (random.random(200) < score).astype(np.int64), score)
        found.append(cohort_of(scored, first + every * number, bins=sums_by_bin(edges, scored)))
    return tuple(found)


def quality_baseline(held_out: tuple[Cohort, ...], out_of_fold: tuple[Cohort, ...]) -> QualityBaseline:
    model: Any = None
    return QualityBaseline(np.empty(0), held_out, out_of_fold, 1.0, FIRST, model, None)


def reference(measure: QualityBaseline, first: int) -> tuple[list[int], str]:
    found, words = measure.reference(PROBLEM, FIRST + timedelta(days=first), AT)
    return [(one.day - FIRST).days for one in found], words


def test_the_baseline_uses_held_out_days_first_then_validation_days() -> None:
    measure = quality_baseline(days(40, 14), days(10, 30))
    assert reference(measure, 60) == (list(range(40, 54)), "held-out days")
    assert reference(measure, 47)[0] == list(range(40, 47))
    found, words = reference(measure, 43)
    assert found == [*range(10, 40), 40, 41, 42]
    assert words == "days with out-of-fold predictions, and held-out days"
    assert reference(measure, 10) == ([], "days with out-of-fold predictions")


@pytest.mark.parametrize("earlier", [0, 4])
def test_too_few_days_are_unknown_with_the_missing_number(earlier: int) -> None:
    """Decisions on the first of each month: two chose the model, and two were held out."""
    before, now = days(0, earlier, every=30), days(150, 1)
    figures = closed_figures(PROBLEM, before, now, now)
    loss = figures["metrics"]["log_loss"]
    assert loss["now"]["value"] > 0
    assert figures["metrics"]["excess_loss"]["now"]["value"] == pytest.approx(0, abs=0.1)
    assert (loss["difference"] is None) == (loss["reference"] is None) == (earlier == 0)
    sentence = summary_sentence(PROBLEM, figures | {"reference": "held-out days"}, earlier)
    assert "no lasting change of quality" not in sentence
    assert "Whether it changed is unknown: " in sentence
    assert ("only 4 days of the 7" if earlier else "no day") in sentence
    assert date.fromisoformat(figures["window"][0]) == now[0].day


def test_figures_of_a_reference_are_those_of_its_content() -> None:
    """They are kept in memory: an equal reference has the same figures, and another one has its own."""
    now, before, other = days(150, 28), days(0, 14), days(20, 14)
    first = closed_figures(PROBLEM, before, now, now)["metrics"]
    second = closed_figures(PROBLEM, other, now, now)["metrics"]
    copy = tuple(one.model_copy() for one in before)
    assert closed_figures(PROBLEM, copy, now, now)["metrics"] == first
    assert reference_cohorts("binary", copy) is reference_cohorts("binary", before)
    for name, figure in first.items():
        assert figure["reference"] != second[name]["reference"]
        assert figure["now"] == second[name]["now"]
    changed = (before[0].model_copy(update={"loss": before[0].loss + 1}), *before[1:])
    assert closed_figures(PROBLEM, changed, now, now)["metrics"]["log_loss"] != first["log_loss"]
