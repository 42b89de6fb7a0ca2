"""What people declare about a model: the parts of its card that no computation can find."""

from dataclasses import KW_ONLY
from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from truecourse.problem.schema import CONFIG, Many


@dataclass(frozen=True, config=CONFIG)
class Card:
    """Declared parts of the model card (Mitchell et al. 2019, "Model cards for model reporting").

    An edit changes no model. It is shown with the next evaluation, or by `truecourse card --rebuild`."""

    _: KW_ONLY
    use: str = ""
    """What the predictions are for, and for whom. Example: `use="Depots call customers whose order will be late."`."""
    not_for: Many[str] = ()
    """Uses that are not intended. Example: `not_for=["pay or rating of couriers"]`."""
    limits: Many[str] = ()
    """Known limits of the data and the model. Example: `limits=["no orders from abroad"]`."""
    groups: Many[str] = ()
    """Request fields or features whose values are compared for fairness: rates, calibration and equal-opportunity gaps.
    Example: `groups=["age_group"]`."""
    examples: Annotated[int, Field(ge=0, le=10)] = 3
    """Number of test rows to show that the model predicts well, and of those that it predicts worst; 0 shows none.
    Values of private columns and of counted texts are hidden. Example: `examples=0`."""
    seeds: Annotated[int, Field(ge=0, le=20)] = 0
    """Number of trainings with other seeds and other samples of the rows, to see how much the model depends on them; 0
    for none, since each takes as long as a training. Example: `seeds=5`."""
    seed_rows: Annotated[int, Field(ge=100)] = 20_000
    """Largest number of rows of each of these trainings. Example: `seed_rows=5000`."""
    seed_seconds: Annotated[float, Field(gt=0)] = 60.0
    """No further training starts after this many seconds. Example: `seed_seconds=20.0`."""
