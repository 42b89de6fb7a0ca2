"""Build the cohort that monitoring stores for one day of predictions with known labels."""

from datetime import date, timedelta
from typing import Any

from truecourse.monitoring.quality.cohorts import Cohort, ScoredRows

FIRST = date(2024, 1, 1)


def cohort_of(scored: ScoredRows, day: int, **more: Any) -> Cohort:
    """`day`: number of days after FIRST. `more`: the bins, and other fields of the cohort."""
    count = len(scored.loss)
    return Cohort(
        day=FIRST + timedelta(days=day),
        decisions=count,
        labelled=count,
        loss=scored.loss.sum(),
        expected=scored.expected.sum(),
        variance=scored.variance.sum(),
        residual=(scored.outcome - scored.score).sum(),
        **more,
    )
