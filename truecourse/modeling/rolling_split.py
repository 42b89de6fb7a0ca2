"""A time split relative to a reference time: a model trained today is evaluated on the most recent closed days, not on
fixed dates in the past."""

import dataclasses
from datetime import datetime

from truecourse.modeling.snapshot import Manifest
from truecourse.problem import Problem, TimeSplit
from truecourse.references import naive_utc


def problem_at(problem: Problem, at: datetime) -> Problem:
    """Return the problem with its time split shifted to `at` (UTC if naive), by the periods of `Retraining`.

    Test rows are the last whole days whose cohorts are closed at `at`. All times of one day give the same split. A
    problem with a random split is returned unchanged: its new rows fall into all parts."""
    if not isinstance(problem.split, TimeSplit):
        return problem
    moment, policy = naive_utc(at), problem.monitoring.retraining
    assert moment is not None
    test_until = (moment - problem.label.closes_after).date()
    validate_until = test_until - policy.test
    train_until = validate_until - policy.validate
    split = TimeSplit(
        train_from=train_until - policy.history if policy.history else None,
        train_until=train_until,
        validate_until=validate_until,
        test_until=test_until,
    )
    return dataclasses.replace(problem, split=split)


def problem_of(problem: Problem, manifest: Manifest) -> Problem:
    """Return the problem with the split that the manifest's snapshot was built with."""
    return dataclasses.replace(problem, split=manifest.split) if manifest.split else problem
