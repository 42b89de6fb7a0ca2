"""Promotion settings of a problem: gates, approval and canary."""

from dataclasses import KW_ONLY
from datetime import timedelta
from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field, field_validator
from pydantic.dataclasses import dataclass

from truecourse.problem.durations import days
from truecourse.problem.schema import CONFIG

LEAST_ROWS = 30
LEAST_OF_A_CLASS = 5
"""With this many rows, a model trained on noise beats the constant prediction in at most 5 of 100 trials, for any class
shares: see tests/unit/test_noise.py."""


@dataclass(frozen=True, config=CONFIG)
class MetricGate:
    """A metric on the test rows must be within bounds. With fewer than `rows` test rows, the gate cannot be
    evaluated."""

    metric: str
    """The metric's name, as in the model report. Example: `metric="auc"`."""
    _: KW_ONLY
    max: float | None = None
    """Largest value that passes. Example: `max=0.6`."""
    min: float | None = None
    """Smallest value that passes. Example: `min=0.7`."""
    rows: Annotated[int, Field(ge=1)] = LEAST_ROWS
    """Fewest test rows with which the gate can be evaluated. Example: `rows=100`."""


@dataclass(frozen=True, config=CONFIG)
class BeatsBaseline:
    """The loss on the test rows must be below that of the constant prediction, including its confidence interval.

    A test set with fewer rows cannot show that a model is better than chance."""

    _: KW_ONLY
    rows: Annotated[int, Field(ge=2)] = LEAST_ROWS
    """Fewest test rows with which the gate can be evaluated. Example: `rows=100`."""
    of_a_class: Annotated[int, Field(ge=1)] = LEAST_OF_A_CLASS
    """Fewest test rows of either class of a binary label, or outside the most frequent class of a multiclass label.
    Example: `of_a_class=20`."""


@dataclass(frozen=True, config=CONFIG)
class NotWorseThanLinear:
    """The loss on the test rows must not be significantly above that of the linear baseline.

    The lower end of the interval of the paired difference is compared with `margin`."""

    _: KW_ONLY
    margin: Annotated[float, Field(ge=0, lt=1)] = 0.01
    """Largest difference that passes, as a share of the constant prediction's loss. Example: `margin=0.02`."""
    rows: Annotated[int, Field(ge=2)] = LEAST_ROWS
    """Fewest test rows with which the gate can be evaluated. Example: `rows=100`."""
    of_a_class: Annotated[int, Field(ge=1)] = LEAST_OF_A_CLASS
    """Fewest test rows of either class of a binary label, or outside the most frequent class of a multiclass label.
    Example: `of_a_class=20`."""


@dataclass(frozen=True, config=CONFIG)
class EveryClass:
    """Each class of the label must be in the training rows. If a class is not in the test rows, the gate cannot be
    evaluated. It does not apply to a regression."""


@dataclass(frozen=True, config=CONFIG)
class BeatsChampion:
    """The model must be better than the champion on the same rows of closed cohorts, on which neither was trained. Up
    to three results, from paired differences with 95% intervals over whole days:

    - the loss, or `metric`: the interval lies below `margin`;
    - the calibration error (for a regression: the size of the bias) is not significantly above the champion's;
    - the loss on every slice of `Monitoring.slices` is not significantly above the champion's.
    """

    _: KW_ONLY
    metric: Literal["loss", "cost"] = "loss"
    """What must be better: the loss, or the cost of the decisions by `Decision(costs=...)`. Example: `metric="cost"`.
    """
    margin: float = 0.0
    """The bound of the metric, in its units. At 0 the version must be better. Above 0 it must not be worse by more than
    this (non-inferiority, for a cheaper or newer model). Example: `margin=0.01`."""


@dataclass(frozen=True, config=CONFIG)
class SliceFloor:
    """A metric must be within bounds on every slice of a request field that has enough test rows."""

    column: str
    """The request field whose values are the slices. Example: `column="depot"`."""
    metric: str
    """The metric's name, as in the model report. Example: `metric="auc"`."""
    _: KW_ONLY
    max: float | None = None
    """Largest value that passes. Example: `max=0.6`."""
    min: float | None = None
    """Smallest value that passes. Example: `min=0.7`."""
    rows: int = 200
    """Fewest test rows of a slice that is evaluated. Example: `rows=1000`."""


Gate = MetricGate | BeatsBaseline | NotWorseThanLinear | EveryClass | BeatsChampion | SliceFloor
DEFAULT_GATES = (EveryClass(), BeatsBaseline(), NotWorseThanLinear(), BeatsChampion())
"""The gates of a problem that declares none; `truecourse init` writes them."""


@dataclass(frozen=True, config=CONFIG)
class Canary:
    """Canary rollout: a version that passed its gates first answers requests of a share of the entities, and is
    promoted if all steps pass."""

    _: KW_ONLY
    steps: tuple[Annotated[float, Field(gt=0, le=1)], ...] = (0.05, 0.25, 0.5, 1.0)
    """Traffic weights, increasing, the last one 1. Example: `steps=(0.1, 1.0)`."""
    requests: Annotated[int, Field(ge=50)] = 500
    """The challenger's requests per step. Example: `requests=2000`."""
    slower: Annotated[float, Field(ge=1)] = 1.5
    """Largest latency, as a multiple of the champion's. Example: `slower=1.2`."""
    errors: Annotated[float, Field(gt=0, lt=1)] = 0.001
    """Largest share of failed requests. Example: `errors=0.01`."""
    psi: Annotated[float, Field(gt=0)] = 0.25
    """Largest population stability index of its scores against the champion's. Example: `psi=0.1`."""

    @field_validator("steps")
    @classmethod
    def _require_increasing(cls, steps: tuple[float, ...]) -> tuple[float, ...]:
        if not steps or steps[-1] != 1 or any(b <= a for a, b in pairwise(steps)):
            raise ValueError("steps must increase, and the last one must be 1.0")
        return steps

    def after(self, share: float) -> float | None:
        """The next step; None after the last."""
        return next((step for step in self.steps if step > share), None)


@dataclass(frozen=True, config=CONFIG)
class Promotion:
    """What follows passed gates."""

    _: KW_ONLY
    approval: bool = False
    """Whether a person must approve the promotion in the Prefect UI. Example: `approval=True`."""
    patience: timedelta = days(1)
    """How long the promotion waits for the approval. Example: `patience=hours(4)`."""
    canary: Canary | None = None
    """A rollout with increasing traffic before the promotion; None promotes at once. Example: `canary=Canary()`."""
