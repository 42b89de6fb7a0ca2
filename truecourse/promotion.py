"""What a version must show before it comes into office, as a problem declares it."""

from dataclasses import KW_ONLY
from datetime import timedelta
from itertools import pairwise
from typing import Annotated

from pydantic import Field, field_validator
from pydantic.dataclasses import dataclass

from truecourse.schema import CONFIG, days


@dataclass(frozen=True, config=CONFIG)
class MetricGate:
    """A metric on the test rows must be within bounds."""

    metric: str
    _: KW_ONLY
    max: float | None = None
    min: float | None = None


@dataclass(frozen=True, config=CONFIG)
class BeatsBaseline:
    """The loss on the test rows must be below that of the constant prediction, and the whole interval with it."""


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


Gate = MetricGate | BeatsBaseline | BeatsChampion | SliceFloor


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
