"""Promotion settings of a problem: gates, approval and canary."""

from dataclasses import KW_ONLY
from datetime import timedelta
from itertools import pairwise
from typing import Annotated

from pydantic import Field, field_validator
from pydantic.dataclasses import dataclass

from truecourse.problem.schema import CONFIG, days

LEAST_ROWS = 30
LEAST_OF_A_CLASS = 5
"""With this many rows, a model trained on noise beats the constant prediction in at most 5 of 100 trials, for any class
shares: see tests/unit/test_noise.py."""


@dataclass(frozen=True, config=CONFIG)
class MetricGate:
    """A metric on the test rows must be within bounds. With fewer than `rows` test rows, the gate cannot be
    evaluated."""

    metric: str
    _: KW_ONLY
    max: float | None = None
    min: float | None = None
    rows: Annotated[int, Field(ge=1)] = LEAST_ROWS


@dataclass(frozen=True, config=CONFIG)
class BeatsBaseline:
    """The loss on the test rows must be below that of the constant prediction, including its confidence interval.

    The gate cannot be evaluated with fewer than `rows` test rows, or with fewer than `of_a_class` rows of either class
    of a binary label, or outside the most frequent class of a multiclass label."""

    _: KW_ONLY
    rows: Annotated[int, Field(ge=2)] = LEAST_ROWS
    of_a_class: Annotated[int, Field(ge=1)] = LEAST_OF_A_CLASS


@dataclass(frozen=True, config=CONFIG)
class NotWorseThanLinear:
    """The loss on the test rows must not be significantly above that of the linear baseline: the lower end of the
    interval of the paired difference must be at most `margin`, a share of the constant prediction's loss.

    rows, of_a_class: as in BeatsBaseline. Without a minimum sample, no model would be significantly worse."""

    _: KW_ONLY
    margin: Annotated[float, Field(ge=0, lt=1)] = 0.01
    rows: Annotated[int, Field(ge=2)] = LEAST_ROWS
    of_a_class: Annotated[int, Field(ge=1)] = LEAST_OF_A_CLASS


@dataclass(frozen=True, config=CONFIG)
class EveryClass:
    """Each class of the label must be in the training rows. If a class is not in the test rows, the gate cannot be
    evaluated. It does not apply to a regression."""


@dataclass(frozen=True, config=CONFIG)
class BeatsChampion:
    """The model must be better than the champion on the same rows of closed cohorts, on which neither was trained. Up
    to three results, from paired differences with 95% intervals over whole days:

    - the loss: the interval lies below `margin`, in units of the loss. At 0 the version must be better; above 0 it must
      not be worse by more than `margin` (non-inferiority, for a cheaper or newer model);
    - the calibration error (for a regression: the size of the bias) is not significantly above the champion's;
    - the loss on every slice of `Monitoring.slices` is not significantly above the champion's.
    """

    _: KW_ONLY
    margin: float = 0.0


@dataclass(frozen=True, config=CONFIG)
class SliceFloor:
    """A metric must be within bounds on every slice of a request field that has at least `rows` test rows."""

    column: str
    metric: str
    _: KW_ONLY
    max: float | None = None
    min: float | None = None
    rows: int = 200


Gate = MetricGate | BeatsBaseline | NotWorseThanLinear | EveryClass | BeatsChampion | SliceFloor
DEFAULT_GATES = (EveryClass(), BeatsBaseline(), NotWorseThanLinear(), BeatsChampion())
"""The gates of a problem that declares none; `truecourse init` writes them."""


@dataclass(frozen=True, config=CONFIG)
class Canary:
    """Canary rollout: a version that passed its gates first answers requests of a share of the entities, and is
    promoted if all steps pass.

    steps: traffic weights, increasing, the last one 1. requests: the challenger's requests per step.
    slower: largest latency, as a multiple of the champion's. errors: largest share of failed requests.
    psi: largest population stability index of its scores against the champion's.
    """

    _: KW_ONLY
    steps: tuple[Annotated[float, Field(gt=0, le=1)], ...] = (0.05, 0.25, 0.5, 1.0)
    requests: Annotated[int, Field(ge=50)] = 500
    slower: Annotated[float, Field(ge=1)] = 1.5
    errors: Annotated[float, Field(gt=0, lt=1)] = 0.001
    psi: Annotated[float, Field(gt=0)] = 0.25

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
    """What follows passed gates. `approval`: a person must approve the promotion in the Prefect UI within `patience`.
    `canary`: a rollout with increasing traffic before the promotion."""

    _: KW_ONLY
    approval: bool = False
    patience: timedelta = days(1)
    canary: Canary | None = None
