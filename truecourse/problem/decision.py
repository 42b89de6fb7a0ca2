"""How a classifier's scores become decisions, and the intervals of a regression's predictions."""

from collections.abc import Mapping
from dataclasses import KW_ONLY
from typing import Annotated, Literal

from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass

from truecourse.problem.schema import CONFIG

Share = Annotated[float, Field(gt=0, lt=1)]
Target = Literal["costs", "capacity", "precision", "recall"]
TARGETS: tuple[Target, ...] = ("costs", "capacity", "precision", "recall")
"""The fields of Decision, of which a problem sets one."""


@dataclass(frozen=True, config=CONFIG)
class Decision:
    """What the predicted class is chosen for: one of `costs`, `capacity`, `precision` and `recall`.

    The threshold is chosen on the validation rows, and stored with the model. For several classes only `costs`."""

    _: KW_ONLY
    costs: Mapping[str, Mapping[str, float]] | None = None
    """The cost of each decision, by actual class and then by predicted class; 0 where none is given, negative for a
    gain. Example: `costs={"churned": {"kept": 500.0}, "kept": {"churned": 20.0}}`."""
    capacity: Share | None = None
    """Largest share of the rows that may be predicted positive. Example: `capacity=0.05`."""
    precision: Share | None = None
    """Least share of the positive predictions that is right. Example: `precision=0.9`."""
    recall: Share | None = None
    """Least share of the positive rows that is predicted positive. Example: `recall=0.8`."""

    @model_validator(mode="after")
    def _require_one(self) -> "Decision":
        if sum(getattr(self, name) is not None for name in TARGETS) != 1:
            raise ValueError(f"set exactly one of {', '.join(TARGETS)}")
        return self

    @property
    def target(self) -> Target:
        """The name of the field that is set."""
        return next(name for name in TARGETS if getattr(self, name) is not None)


@dataclass(frozen=True, config=CONFIG)
class Interval:
    """Prediction intervals of a regression: each prediction has a `lower` and an `upper` bound.

    They are chosen on the validation rows (conformal prediction), and stored with the model."""

    _: KW_ONLY
    coverage: Share = 0.9
    """Share of the values that lie within their bounds; half of the others lie below. Example: `coverage=0.8`."""
