"""Whether labels come: how many of a cohort's decisions have one when it closes, and how long they took."""

from collections.abc import Sequence

import numpy as np

from truecourse.monitoring.cohorts import Cohort
from truecourse.monitoring.findings import Finding
from truecourse.problem import Problem
from truecourse.wording import counted_of

_OWN_DAYS = 7
_SLOWER = 1.5


def labelling(problem: Problem, usual: float, days: Sequence[Cohort]) -> list[Finding]:
    """What is said of the newest closed cohort. `usual`: the share with labels in the training data, until the model
    has a week of its own."""
    newest, earlier = days[-1], [one for one in days[:-1] if one.decisions]
    if len(earlier) >= _OWN_DAYS:
        usual = float(np.median([one.labelled / one.decisions for one in earlier[-4 * _OWN_DAYS :]]))
    share = newest.labelled / newest.decisions
    least = problem.monitoring.quality.coverage * usual
    figures = {"day": str(newest.day), "coverage": share, "usual": usual, "nameless": newest.nameless}
    if share < least:
        decisions = counted_of(newest.labelled, newest.decisions, "decision")
        said = f"{decisions} of {newest.day} have a label, {100 * usual:.0f}%"
        why = f"; {newest.nameless:,} were logged with no id to find one by" if newest.nameless else ""
        return [_finding("labels missing", share < least / 2, f"{said} is usual{why}.", figures)]
    slow = _slower(newest, earlier)
    if slow is None:
        return []
    said = f"Half of the labels of {newest.day} took {newest.lag[1]:.1f} hours or more, {slow:.1f} hours is usual."
    return [_finding("labels late", False, said, figures | {"lag": newest.lag[1], "usual_lag": slow})]


def _slower(newest: Cohort, earlier: Sequence[Cohort]) -> float | None:
    """The usual median lag in hours, where the newest cohort's is abnormal."""
    lags = [one.lag[1] for one in earlier[-4 * _OWN_DAYS :] if one.lag]
    if not newest.lag or len(lags) < _OWN_DAYS:
        return None
    usual = float(np.median(lags))
    return usual if newest.lag[1] > _SLOWER * max(usual, max(lags) / _SLOWER) else None


def _finding(cause: str, page: bool, sentence: str, figures: dict[str, object]) -> Finding:
    return Finding(check="quality", subject="labels", cause=cause, page=page, sentence=sentence, figures=figures)
