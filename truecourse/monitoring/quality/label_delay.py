"""Label checks: the share of a closed cohort's decisions with a label, the delay of labels, and selective labelling."""

from collections.abc import Sequence

import numpy as np

from truecourse.arrays import Array
from truecourse.monitoring.finding_causes import Cause
from truecourse.monitoring.findings import Finding
from truecourse.monitoring.quality.cohorts import Cohort
from truecourse.problem import Problem
from truecourse.wording import counted_of

_OWN_DAYS = 7
_SLOWER = 1.5
_FEWEST = 5
_SURE = 4.0
"""Standard errors; high, because the check runs every day."""


def check_labels(problem: Problem, usual: float, days: Sequence[Cohort]) -> list[Finding]:
    """Check the newest closed cohort for missing and late labels.

    `usual`: the labelled share in the training data; it is used until the model has a week of closed cohorts."""
    newest, earlier = days[-1], [one for one in days[:-1] if one.decisions]
    if len(earlier) >= _OWN_DAYS:
        usual = float(np.median([one.labelled / one.decisions for one in earlier[-4 * _OWN_DAYS :]]))
    share = newest.labelled / newest.decisions
    least = problem.monitoring.quality.coverage * usual
    figures = {"day": str(newest.day), "coverage": share, "usual": usual, "without_id": newest.without_id}
    if share < least:
        decisions = counted_of(newest.labelled, newest.decisions, "decision")
        message = f"{decisions} of {newest.day} have a label, {100 * usual:.0f}%"
        why = f"; {newest.without_id:,} were logged without an id to join a label by" if newest.without_id else ""
        return [_finding("labels missing", share < least / 2, f"{message} is usual{why}.", figures)]
    slow = _slower(newest, earlier)
    if slow is None:
        return []
    message = f"Half of the labels of {newest.day} took {newest.lag[1]:.1f} hours or more, {slow:.1f} hours is usual."
    return [_finding("labels late", False, message, figures | {"lag": newest.lag[1], "usual_lag": slow})]


def check_selection(problem: Problem, days: Sequence[Cohort], base_rate: float | None = None) -> list[Finding]:
    """Check whether the labelled share depends on the score.

    The statistic is the labelled share of the third of decisions with the lowest scores minus that of the third with
    the highest. `days`: the window's cohorts with labels. `base_rate`: of the labelled decisions; a finding compares it
    with the base rate reweighted to all decisions."""
    counted = [one for one in days if one.decided and one.labelled]
    if len(counted) < _FEWEST:  # an event such as a storm leaves many decisions without a label for a few days
        return []
    decided = np.array([one.decided for one in counted], dtype=np.float64)
    sums = np.array([one.bins for one in counted], dtype=np.float64)
    finding = selection_finding(problem, decided, sums[..., 0])
    if finding is None or base_rate is None:
        return [finding] if finding else []
    rows, decisions, outcomes = sums[..., 0].sum(axis=0), decided.sum(axis=0), sums[..., 2].sum(axis=0)
    used = rows > 0
    reweighted = float((decisions[used] * outcomes[used] / rows[used]).sum() / decisions[used].sum())
    rates = f"base rate {base_rate:.3f}, and {reweighted:.3f} when reweighted to all decisions"
    changes = {
        "sentence": f"{finding.sentence[:-1]} ({rates}).",
        "figures": finding.figures | {"base_rate": reweighted},
    }
    return [finding.model_copy(update=changes)]


def selection_finding(problem: Problem, decided: Array, labelled: Array) -> Finding | None:
    """Return a finding if the labelled share depends on the score; (days, bins) counts are by rising score."""
    share, error = coverage_difference(decided, labelled)
    if not np.isfinite(share) or abs(share) < max(problem.monitoring.quality.selective, _SURE * error):
        return None
    side = "high" if share > 0 else "low"
    message = f"Decisions with {side} scores get a label less often, by {100 * abs(share):.0f} of 100: the figures "
    message += "describe only the labelled decisions, which are a biased sample."
    return _finding("selective labels", True, message, {"difference": share, "error": error})


def coverage_difference(decided: Array, labelled: Array) -> tuple[float, float]:
    """Return the labelled share of the lowest third of scores minus that of the highest, and its standard error.

    (days, bins): decisions and labels by rising score. The standard error is the one between days or the binomial one
    of the rows, whichever is larger."""
    place = np.cumsum(decided.sum(axis=0)) - decided.sum(axis=0) / 2
    sides = (place <= place[-1] / 3, place >= 2 * place[-1] / 3)
    total, labels = (np.column_stack([part[:, mask].sum(axis=1) for mask in sides]) for part in (decided, labelled))
    if not total.sum(axis=0).all():
        return float("nan"), float("inf")
    shares = labels.sum(axis=0) / total.sum(axis=0)
    binomial = float(np.sqrt((shares * (1 - shares) / total.sum(axis=0)).sum()))
    if len(decided) < 2:
        return float(shares[0] - shares[1]), binomial
    if len(decided) < _FEWEST:
        return float("nan"), float("inf")
    off = ((labels - shares * total) / total.sum(axis=0)) @ np.array([1, -1])
    between = float(np.sqrt((off**2).sum() * len(off) / (len(off) - 1)))
    return float(shares[0] - shares[1]), max(binomial, between)


def _slower(newest: Cohort, earlier: Sequence[Cohort]) -> float | None:
    """Return the usual median lag in hours if the newest cohort's lag is abnormal, else None."""
    lags = [one.lag[1] for one in earlier[-4 * _OWN_DAYS :] if one.lag]
    if not newest.lag or len(lags) < _OWN_DAYS:
        return None
    usual = float(np.median(lags))
    return usual if newest.lag[1] > _SLOWER * max(usual, max(lags) / _SLOWER) else None


def _finding(cause: Cause, page: bool, sentence: str, figures: dict[str, object]) -> Finding:
    return Finding(check="quality", subject="labels", cause=cause, page=page, sentence=sentence, figures=figures)
