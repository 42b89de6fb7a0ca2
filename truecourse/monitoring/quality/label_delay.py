"""Whether labels come: how many of a cohort's decisions have one when it closes, how long they took, and whether which
decisions get one goes by their scores."""

from collections.abc import Sequence

import numpy as np

from truecourse.arrays import Array
from truecourse.monitoring.findings import Finding
from truecourse.monitoring.quality.cohorts import Cohort
from truecourse.problem import Problem
from truecourse.wording import counted_of

_OWN_DAYS = 7
_SLOWER = 1.5
_FEWEST = 5
_SURE = 4.0
"""Standard errors, for it is looked at every day."""


def check_labels(problem: Problem, usual: float, days: Sequence[Cohort]) -> list[Finding]:
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


def check_selection(problem: Problem, days: Sequence[Cohort], base_rate: float | None = None) -> list[Finding]:
    """Whether the labelled share goes by the score: that of the third of decisions with the lowest scores less that of
    the third with the highest. `days`: of the window, with labels. Standard errors are those between days, or of the
    rows where they are larger. `base_rate`: of the labelled; a reweighted one is set against it."""
    counted = [one for one in days if one.decided and one.labelled]
    if len(counted) < _FEWEST:  # in a storm many decisions get no label: a day, or four, tell of nothing that lasts
        return []
    decided = np.array([one.decided for one in counted], dtype=np.float64)
    sums = np.array([one.bins for one in counted], dtype=np.float64)
    found = selection_finding(problem, decided, sums[..., 0])
    if found is None or base_rate is None:
        return [found] if found else []
    rows, whole, came = sums[..., 0].sum(axis=0), decided.sum(axis=0), sums[..., 2].sum(axis=0)
    there = rows > 0
    reweighted = float((whole[there] * came[there] / rows[there]).sum() / whole[there].sum())
    said = f"base rate {base_rate:.3f}, and {reweighted:.3f} if each score counts as often as decided"
    told = {"sentence": f"{found.sentence[:-1]} ({said}).", "figures": found.figures | {"base_rate": reweighted}}
    return [found.model_copy(update=told)]


def selection_finding(problem: Problem, decided: Array, labelled: Array) -> Finding | None:
    """(days, bins) decisions and labels by rising score: a finding where the labelled share goes by the score."""
    share, error = coverage_difference(decided, labelled)
    if not np.isfinite(share) or abs(share) < max(problem.monitoring.quality.selective, _SURE * error):
        return None
    whose = "high" if share > 0 else "low"
    said = f"Decisions of {whose} scores get a label less often, by {100 * abs(share):.0f} of 100: the figures are of "
    said += "the labelled alone, which are no fair sample."
    return _finding("selective labels", True, said, {"difference": share, "error": error})


def coverage_difference(decided: Array, labelled: Array) -> tuple[float, float]:
    """(days, bins) decisions and labels by rising score: the labelled share of the lowest third of decisions less that
    of the highest, and its standard error."""
    place = np.cumsum(decided.sum(axis=0)) - decided.sum(axis=0) / 2
    sides = (place <= place[-1] / 3, place >= 2 * place[-1] / 3)
    whole, found = (np.column_stack([part[:, mask].sum(axis=1) for mask in sides]) for part in (decided, labelled))
    if not whole.sum(axis=0).all():
        return float("nan"), float("inf")
    shares = found.sum(axis=0) / whole.sum(axis=0)
    chance = float(np.sqrt((shares * (1 - shares) / whole.sum(axis=0)).sum()))
    if len(decided) < 2:
        return float(shares[0] - shares[1]), chance
    if len(decided) < _FEWEST:
        return float("nan"), float("inf")
    off = ((found - shares * whole) / whole.sum(axis=0)) @ np.array([1, -1])
    between = float(np.sqrt((off**2).sum() * len(off) / (len(off) - 1)))
    return float(shares[0] - shares[1]), max(chance, between)


def _slower(newest: Cohort, earlier: Sequence[Cohort]) -> float | None:
    """The usual median lag in hours, where the newest cohort's is abnormal."""
    lags = [one.lag[1] for one in earlier[-4 * _OWN_DAYS :] if one.lag]
    if not newest.lag or len(lags) < _OWN_DAYS:
        return None
    usual = float(np.median(lags))
    return usual if newest.lag[1] > _SLOWER * max(usual, max(lags) / _SLOWER) else None


def _finding(cause: str, page: bool, sentence: str, figures: dict[str, object]) -> Finding:
    return Finding(check="quality", subject="labels", cause=cause, page=page, sentence=sentence, figures=figures)
