"""A split by time that moves with the moment: a model trained today is judged by the last days, not by those of a date
that was written down a year ago."""

import dataclasses
from datetime import datetime

from truecourse.modeling.snapshot import Manifest
from truecourse.problem import Problem, TimeSplit
from truecourse.references import naive_utc


def problem_at(problem: Problem, at: datetime) -> Problem:
    """The problem with its split moved to the moment `at` (UTC if it has no zone), as `Retraining` says.

    Test rows are the last whole days whose cohorts are closed by then. The same for every moment of a day; a problem
    without a split by time is returned as it is, for its new rows fall on both sides by themselves."""
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
    """The problem with the split by which the manifest's snapshot was taken."""
    return dataclasses.replace(problem, split=manifest.split) if manifest.split else problem
