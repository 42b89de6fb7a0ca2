"""A day of judged predictions as the cohort that monitoring keeps of it."""

from datetime import date, timedelta
from typing import Any

from truecourse.monitoring.quality.cohorts import Cohort, ScoredRows

FIRST = date(2024, 1, 1)


def cohort_of(judged: ScoredRows, day: int, **more: Any) -> Cohort:
    """`day`: after FIRST. `more`: the bins, and what else is counted."""
    count = len(judged.loss)
    return Cohort(
        day=FIRST + timedelta(days=day),
        decisions=count,
        labelled=count,
        loss=judged.loss.sum(),
        expected=judged.expected.sum(),
        variance=judged.variance.sum(),
        residual=(judged.outcome - judged.score).sum(),
        **more,
    )
