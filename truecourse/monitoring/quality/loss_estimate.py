"""Estimate a cohort's mean loss from its scores, before any label is known."""

from datetime import date, timedelta

import numpy as np

from truecourse.arrays import Array
from truecourse.monitoring.quality.baseline import QualityBaseline
from truecourse.monitoring.quality.cohorts import ScoredRows, bin_index
from truecourse.problem import Problem
from truecourse.problem.definition import midnight
from truecourse.statistics.metrics import losses


def estimate_loss(problem: Problem, baseline: QualityBaseline, day: date, output: Array) -> float | None:
    """Estimate the mean log loss of a day's decisions, assuming that outcomes follow scores as in the baseline.

    Only baseline days that were closed at the end of the day are used, and no label of the day itself, so the estimate
    is the same before and after its labels are known.

    Binary: the expected loss under the outcome rate of each score's bin (histogram binning, Zadrozny & Elkan 2001).
    Multiclass: the loss that the scores expect, plus the baseline's loss in excess of that expectation. None for a
    regression, whose predictions carry no estimate of their error."""
    kind, (days, _) = problem.kind, baseline.reference(problem, day, midnight(day) + timedelta(days=1))
    if kind == "regression" or not len(output) or not days:
        return None
    scored = ScoredRows.of(kind, np.zeros(len(output), dtype=np.int64), output)
    if kind == "multiclass":
        beyond = sum(one.loss - one.expected for one in days) / sum(one.labelled for one in days)
        return float(scored.expected.mean() + beyond)
    sums = np.array([one.bins for one in days]).sum(axis=0)
    chance = ((sums[:, 2] + 0.5) / (sums[:, 0] + 1))[bin_index(baseline.edges, scored.score)]
    ones, zeros = (losses(kind, np.full(len(output), label), output) for label in (1, 0))
    return float((chance * ones + (1 - chance) * zeros).mean())
