"""What a cohort's loss will be, as far as its scores tell before any label is there: an estimate, and named as one."""

from datetime import date, timedelta

import numpy as np

from truecourse.arrays import Array
from truecourse.monitoring.quality.baseline import QualityBaseline
from truecourse.monitoring.quality.cohorts import ScoredRows, bin_index
from truecourse.problem import Problem
from truecourse.problem.definition import midnight
from truecourse.statistics.metrics import losses


def estimate_loss(problem: Problem, yardstick: QualityBaseline, day: date, output: Array) -> float | None:
    """Mean log loss of a day's decisions, if outcomes follow scores as on the yardstick's days that were closed when it
    was over: no label of its own is asked, so that it is the same before they come and after.

    Binary: the expected loss under the probability of each score's bin (histogram binning, Zadrozny & Elkan 2001).
    Multiclass: what the scores themselves expect, and what the yardstick's loss was beyond that. None for a regression,
    whose predictions say nothing of their error."""
    kind, (days, _) = problem.kind, yardstick.reference(problem, day, midnight(day) + timedelta(days=1))
    if kind == "regression" or not len(output) or not days:
        return None
    judged = ScoredRows.of(kind, np.zeros(len(output), dtype=np.int64), output)
    if kind == "multiclass":
        beyond = sum(one.loss - one.expected for one in days) / sum(one.labelled for one in days)
        return float(judged.expected.mean() + beyond)
    sums = np.array([one.bins for one in days]).sum(axis=0)
    chance = ((sums[:, 2] + 0.5) / (sums[:, 0] + 1))[bin_index(yardstick.edges, judged.score)]
    ones, zeros = (losses(kind, np.full(len(output), label), output) for label in (1, 0))
    return float((chance * ones + (1 - chance) * zeros).mean())
