"""What a version must show before it comes into office, as a problem declares it."""

from dataclasses import KW_ONLY
from datetime import timedelta
from itertools import pairwise
from typing import Annotated

from pydantic import Field, field_validator
from pydantic.dataclasses import dataclass

from truecourse.problem.schema import CONFIG, days

LEAST_ROWS = 30
LEAST_OF_A_CLASS = 5
"""Of so few rows a model of pure noise passes for better than the constant in at most 5 of 100 tries, whatever the
shares of the classes: see tests/unit/test_noise.py."""


@dataclass(frozen=True, config=CONFIG)
class MetricGate:
    """A metric on the test rows must be within bounds. With fewer than `rows` of them, nothing can be judged."""

    metric: str
    _: KW_ONLY
    max: float | None = None
    min: float | None = None
    rows: Annotated[int, Field(ge=1)] = LEAST_ROWS


@dataclass(frozen=True, config=CONFIG)
class BeatsBaseline:
    """The loss on the test rows must be below that of the constant prediction, and the whole interval with it.

    rows: with fewer test rows, nothing can be judged. of_a_class: nor with fewer rows of either class of a binary
    label, or outside the commonest class of a multiclass one."""

    _: KW_ONLY
    rows: Annotated[int, Field(ge=2)] = LEAST_ROWS
    of_a_class: Annotated[int, Field(ge=1)] = LEAST_OF_A_CLASS


@dataclass(frozen=True, config=CONFIG)
class NotWorseThanLinear:
    """The loss on the test rows must not be significantly above that of the linear baseline: of the interval of the
    paired difference, the lower end must lie at or below `margin`, a share of the constant prediction's loss.

    rows, of_a_class: as of BeatsBaseline. Without a least sample, no model would ever be significantly worse."""

    _: KW_ONLY
    margin: Annotated[float, Field(ge=0, lt=1)] = 0.01
    rows: Annotated[int, Field(ge=2)] = LEAST_ROWS
    of_a_class: Annotated[int, Field(ge=1)] = LEAST_OF_A_CLASS


@dataclass(frozen=True, config=CONFIG)
class EveryClass:
    """Each class of the label must be among the rows that the model was fitted to; where one is not among the test
    rows, nobody can tell how good the model is at it. Nothing is asked of a regression."""


@dataclass(frozen=True, config=CONFIG)
class BeatsChampion:
    """Better than the champion on the same rows, of closed cohorts, that neither trained on. It gives up to three
    verdicts, on paired differences with 95% intervals from whole days:

    - the loss: the whole interval lies below `margin`, in units of the loss. At 0 the version must be better; above 0
      it must only not be worse by more than that (non-inferiority: for a cheaper model, say, or a fresher one);
    - the calibration error (for a regression: the size of the bias) is not significantly above the champion's;
    - the loss on every slice of `Monitoring.slices` is not significantly above the champion's.
    """

    _: KW_ONLY
    margin: float = 0.0


@dataclass(frozen=True, config=CONFIG)
class SliceFloor:
    """On every slice of a request field with at least `rows` test rows, the metric keeps its bounds."""

    column: str
    metric: str
    _: KW_ONLY
    max: float | None = None
    min: float | None = None
    rows: int = 200


Gate = MetricGate | BeatsBaseline | NotWorseThanLinear | EveryClass | BeatsChampion | SliceFloor
DEFAULT_GATES = (EveryClass(), BeatsBaseline(), NotWorseThanLinear(), BeatsChampion())
"""Asked where a problem names no gates, and written by `truecourse init`."""


@dataclass(frozen=True, config=CONFIG)
class Canary:
    """A version past its gates answers a share of the entities first, and comes into office when all went well.

    steps: the shares, widening, the last one 1. requests: so many of the challenger's make a step.
    slower: so many times the champion's time is allowed. errors: the share of requests on which it may fail.
    psi: the population stability index of its scores against the champion's that is allowed.
    """

    _: KW_ONLY
    steps: tuple[Annotated[float, Field(gt=0, le=1)], ...] = (0.05, 0.25, 0.5, 1.0)
    requests: Annotated[int, Field(ge=50)] = 500
    slower: Annotated[float, Field(ge=1)] = 1.5
    errors: Annotated[float, Field(gt=0, lt=1)] = 0.001
    psi: Annotated[float, Field(gt=0)] = 0.25

    @field_validator("steps")
    @classmethod
    def _widen(cls, steps: tuple[float, ...]) -> tuple[float, ...]:
        if not steps or steps[-1] != 1 or any(b <= a for a, b in pairwise(steps)):
            raise ValueError("each step is wider than the one before, and the last one is 1.0")
        return steps

    def after(self, share: float) -> float | None:
        """The next step; None after the last."""
        return next((step for step in self.steps if step > share), None)


@dataclass(frozen=True, config=CONFIG)
class Promotion:
    """What comes after open gates. `approval`: a person has to say yes, in the Prefect UI, within `patience`.
    `canary`: how a version is tried on a share of the traffic before it is champion."""

    _: KW_ONLY
    approval: bool = False
    patience: timedelta = days(1)
    canary: Canary | None = None
