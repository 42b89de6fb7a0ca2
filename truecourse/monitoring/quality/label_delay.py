"""Label checks: the share of a closed cohort's decisions with a label, the delay of labels, and selective labelling."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from truecourse.arrays import Array
from truecourse.monitoring.finding_causes import Cause
from truecourse.monitoring.findings import Finding
from truecourse.monitoring.quality.cohorts import Cohort
from truecourse.problem import Problem
from truecourse.statistics.intervals import half_width, student_quantile
from truecourse.wording import counted_of

_OWN_DAYS = 7
_SLOWER = 1.5
_FEWEST = 5
_SURE = 4.0
"""Standard errors; high, because the check runs every day."""
_GROUPS = 10
"""Groups of score bins with a labelled share of their own."""


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


@dataclass(frozen=True)
class Selection:
    """How the labelled share depends on the score: that of the lowest third of scores minus that of the highest.

    `usual`: what the reference's labelled shares give for the same scores; 0 without a reference. `error`: the standard
    error of `share` minus `usual`. `base_rate`: of the labelled decisions, reweighted to the scores of all decisions.
    `compared`: whether there is a reference."""

    share: float
    usual: float
    error: float
    base_rate: float | None = None
    compared: bool = False

    @property
    def excess(self) -> float:
        return self.share - self.usual

    def figures(self) -> dict[str, float | None]:
        return {
            "difference": self.share,
            "usual": self.usual if self.compared else None,
            "error": self.error,
            "base_rate": self.base_rate,
        }


def measure_selection(days: Sequence[Cohort], reference: Sequence[Cohort] = ()) -> Selection | None:
    """Measure how the labelled share depends on the score. `days`: the window's cohorts with labels.

    `reference`: days before the window. A problem may define no label for some decisions, such as cancelled flights,
    and scores predict some of these: selection as in the reference is no change. None with too few days."""
    counted = [one for one in days if one.decided and one.labelled]
    if len(counted) < _FEWEST:  # an event such as a storm leaves many decisions without a label for a few days
        return None
    decided = np.array([one.decided for one in counted], dtype=np.float64)
    sums = np.array([one.bins for one in counted], dtype=np.float64)
    rows, decisions, outcomes = sums[..., 0].sum(axis=0), decided.sum(axis=0), sums[..., 2].sum(axis=0)
    used = rows > 0
    base_rate = float((decisions[used] * outcomes[used] / rows[used]).sum() / decisions[used].sum())
    before = [one for one in reference if one.decided]
    usual = None
    if len(before) >= _FEWEST:
        usual = (
            np.array([one.decided for one in before], dtype=np.float64),
            np.array([one.bins for one in before], dtype=np.float64)[..., 0],
        )
    share, expected, error = coverage_difference(decided, sums[..., 0], usual)
    if not np.isfinite(share):
        return None
    return Selection(share, expected, error, base_rate, usual is not None)


def check_selection(
    problem: Problem, days: Sequence[Cohort], base_rate: float | None = None, reference: Sequence[Cohort] = ()
) -> list[Finding]:
    """Return a finding if the labelled share depends on the score otherwise than in the reference.

    Arguments as for measure_selection(). `base_rate`: of the labelled decisions; the finding compares it with the
    reweighted one."""
    selection = measure_selection(days, reference)
    return [] if selection is None else find_selection(problem, selection, base_rate)


def find_selection(problem: Problem, selection: Selection, base_rate: float | None = None) -> list[Finding]:
    """Return a finding if the selection is stronger than usual, or weaker, significantly and by a practical size."""
    if abs(selection.excess) < max(problem.monitoring.quality.selective, _SURE * selection.error):
        return []
    side = "high" if selection.excess > 0 else "low"
    than = " relative to the baseline" if selection.compared else ""
    message = f"Decisions with {side} scores get a label less often{than}, by {100 * abs(selection.excess):.0f} of 100"
    message += ": the figures describe only the labelled decisions, which are a biased sample"
    if base_rate is not None and selection.base_rate is not None:
        message += f" (base rate {base_rate:.3f}, and {selection.base_rate:.3f} when reweighted to all decisions)"
    return [_finding("selective labels", True, f"{message}.", dict(selection.figures()))]


def coverage_difference(
    decided: Array, labelled: Array, usual: tuple[Array, Array] | None = None
) -> tuple[float, float, float]:
    """Return the labelled share of the lowest third of scores minus that of the highest, the difference that is usual,
    and the standard error of the one minus the other.

    (days, bins): decisions and labels by rising score. `usual`: the same of the reference's days, whose labelled shares
    by score are expected; without it none is usual. The standard error is the one between days or the binomial one of
    the rows, whichever is larger. The one between days allows for the correlation of days, as the reference's days show
    it: a change within the window would look like correlation too."""
    sides = _outer_thirds(decided)
    total, labels = (np.column_stack([part[:, mask].sum(axis=1) for mask in sides]) for part in (decided, labelled))
    if not total.sum(axis=0).all() or 1 < len(decided) < _FEWEST:
        return float("nan"), float("nan"), float("inf")
    shares = labels.sum(axis=0) / total.sum(axis=0)
    binomial = float(np.sqrt((shares * (1 - shares) / total.sum(axis=0)).sum()))
    share = float(shares[0] - shares[1])
    if len(decided) == 1:
        return share, 0.0, binomial
    expected, weights = np.zeros(total.shape), np.zeros(decided.shape[1])
    if usual is not None:
        rates = _labelled_rates(*usual)
        expected = np.column_stack([(decided * rates)[:, mask].sum(axis=1) for mask in sides])
        weights = decided.sum(axis=0) * (sides[0] / total.sum(axis=0)[0] - sides[1] / total.sum(axis=0)[1])
    usual_shares = expected.sum(axis=0) / total.sum(axis=0)
    off = ((labels - expected - (shares - usual_shares) * total) / total.sum(axis=0)) @ np.array([1, -1])
    error = max(binomial, _error_between(off) * (1.0 if usual is None else _inflation(*usual)))
    if usual is not None:
        error = float(np.hypot(error, _rate_error(*usual, weights)))
    return share, float(usual_shares[0] - usual_shares[1]), error


def _outer_thirds(decided: Array) -> tuple[Array, Array]:
    """Return which bins hold the lowest third of the scores, and which the highest; (bins,) each."""
    place = np.cumsum(decided.sum(axis=0)) - decided.sum(axis=0) / 2
    return place <= place[-1] / 3, place >= 2 * place[-1] / 3


def _error_between(off: Array) -> float:
    """The standard error of a sum of days' deviations (n,), for independent days."""
    return float(np.sqrt((off**2).sum() * len(off) / (len(off) - 1)))


def _correlated_error(off: Array) -> float:
    """The standard error of a sum of days' deviations (n,), for days in order of time, which may be correlated."""
    central = 0.68  # the long-run standard deviation, without the far tails of its own uncertainty
    half = half_width(off * len(off), central)
    return half / student_quantile(len(off) - 1, central) if np.isfinite(half) else _error_between(off)


def _inflation(decided: Array, labelled: Array) -> float:
    """Return by what factor the correlation of the days raises the standard error of the difference between the sides,
    at least 1; (days, bins): the reference's decisions and labels."""
    low, high = (side / max(decided[:, side].sum(), 1) for side in _outer_thirds(decided))
    off = (labelled - decided * _labelled_rates(decided, labelled)) @ (low - high)
    independent = _error_between(off)
    return max(_correlated_error(off) / independent, 1.0) if independent > 0 else 1.0


def _groups(bins: int) -> Array:
    """The group of each bin: neighbouring bins share their labelled rate, since few decisions are in a bin."""
    return np.arange(bins) * min(bins, _GROUPS) // bins


def _labelled_rates(decided: Array, labelled: Array) -> Array:
    """Return the labelled share (bins,) of each bin's group; the overall one for a group without decisions."""
    group = _groups(decided.shape[1])
    decisions, labels = (np.bincount(group, side.sum(axis=0)) for side in (decided, labelled))
    overall = labels.sum() / max(decisions.sum(), 1)
    return np.asarray(np.where(decisions > 0, labels / np.maximum(decisions, 1), overall)[group])


def _rate_error(decided: Array, labelled: Array, weights: Array) -> float:
    """Return the standard error of `weights` @ _labelled_rates(): that between correlated days or the binomial one."""
    group = _groups(decided.shape[1])
    rates, decisions = _labelled_rates(decided, labelled), np.bincount(group, decided.sum(axis=0))
    per_decision = np.bincount(group, weights)[group] / np.maximum(decisions, 1)[group]
    between = _correlated_error((labelled - decided * rates) @ per_decision)
    return max(between, float(np.sqrt((decided.sum(axis=0) * per_decision**2 * rates * (1 - rates)).sum())))


def _slower(newest: Cohort, earlier: Sequence[Cohort]) -> float | None:
    """Return the usual median lag in hours if the newest cohort's lag is abnormal, else None."""
    lags = [one.lag[1] for one in earlier[-4 * _OWN_DAYS :] if one.lag]
    if not newest.lag or len(lags) < _OWN_DAYS:
        return None
    usual = float(np.median(lags))
    return usual if newest.lag[1] > _SLOWER * max(usual, max(lags) / _SLOWER) else None


def _finding(cause: Cause, page: bool, sentence: str, figures: dict[str, object]) -> Finding:
    return Finding(check="quality", subject="labels", cause=cause, page=page, sentence=sentence, figures=figures)
