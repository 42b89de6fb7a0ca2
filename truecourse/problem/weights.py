"""How much each row counts while a model is fitted."""

from collections.abc import Mapping
from dataclasses import KW_ONLY
from typing import Annotated, Literal

from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass

from truecourse.problem.schema import CONFIG

Weight = Annotated[float, Field(gt=0, allow_inf_nan=False)]


@dataclass(frozen=True, config=CONFIG)
class Weights:
    """Weights of rows in fitting: of the model, its baselines, and the loss that rounds or a penalty are chosen by.

    Metrics and gates count every row once. With both fields, a row's weight is the product."""

    _: KW_ONLY
    classes: Mapping[str, Weight] | Literal["balanced"] | None = None
    """The weight of the rows of a class, 1 where none is given; `"balanced"` gives each class the same total. Example:
    `classes={"churned": 5.0}`."""
    column: str | None = None
    """A request field or feature, a number above 0 in every row: the row's weight. A column with `feature=False` is no
    input of the model. Example: `column="amount"`."""

    @model_validator(mode="after")
    def _require_one(self) -> "Weights":
        if self.classes is None and self.column is None:
            raise ValueError("set classes or column")
        return self
