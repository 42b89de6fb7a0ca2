"""The split of the rows, the kind of model and its parameters."""

from collections.abc import Mapping
from dataclasses import KW_ONLY, field
from typing import Annotated, Literal, TypeAlias

from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass

from truecourse.problem.schema import CONFIG, Day, Many


@dataclass(frozen=True, config=CONFIG)
class TimeSplit:
    """Split by decision time, at UTC midnights: train_from <= train < train_until <= validate < validate_until <= test
    < test_until."""

    _: KW_ONLY
    train_until: Day
    """The first day after the training rows. Example: `train_until="2024-02-10"`."""
    validate_until: Day
    """The first day after the validation rows, and the first of the test rows. Example: `validate_until="2024-02-20"`.
    """
    test_until: Day | None = None
    """The first day after the test rows; None for no end. Example: `test_until="2024-03-01"`."""
    train_from: Day | None = None
    """The first day of the training rows; None for no start. Example: `train_from="2023-01-01"`."""


@dataclass(frozen=True, config=CONFIG)
class RandomSplit:
    """Split by a hash of the row's id and the seed.

    Classes with fewer than a thousand rows are stratified (for a regression: quantiles of the label). Rows of larger
    classes never change sides; a few rows of a small class may, as it grows. See truecourse/modeling/splitting.py."""

    _: KW_ONLY
    validate: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Share of all rows in the validation set. Example: `validate=0.1`."""
    test: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Share of all rows in the test set. Example: `test=0.25`."""
    seed: int = 0
    """Another seed gives another split. Example: `seed=7`."""


@dataclass(frozen=True, config=CONFIG)
class Range:
    """A search range, inclusive; integers if both ends are integers."""

    low: int | float
    """The smallest value. Example: `low=0.02`."""
    high: int | float
    """The largest value. Example: `high=0.2`."""
    _: KW_ONLY
    log: bool = False
    """Whether values are drawn evenly on a logarithmic scale. Example: `log=True`."""


@dataclass(frozen=True, config=CONFIG)
class Choice:
    """A search over listed values."""

    values: Many[int | float | str]
    """The values to choose from. Example: `values=[2, 3, 4]`."""


@dataclass(frozen=True, config=CONFIG)
class XGBoost:
    """Parameters of XGBoost's `hist` boosting, under XGBoost's names, and the search space of `tune`."""

    _: KW_ONLY
    rounds: Annotated[int, Field(ge=1)] = 1000
    """Largest number of boosting rounds, that is of trees per output. Example: `rounds=600`."""
    early_stopping_rounds: Annotated[int, Field(ge=1)] = 50
    """Stop after this many rounds without a lower validation loss. Example: `early_stopping_rounds=30`."""
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 0.1
    """The factor by which each tree's step is reduced. Example: `learning_rate=0.05`."""
    max_depth: Annotated[int, Field(ge=0)] = 6
    """Largest depth of a tree; 0 for no limit. Example: `max_depth=4`."""
    min_child_weight: float = 1.0
    """Smallest sum of second derivatives of the loss in a leaf. Example: `min_child_weight=50.0`."""
    subsample: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of the rows that each tree is fitted to. Example: `subsample=0.8`."""
    colsample_bytree: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of the features that each tree may use. Example: `colsample_bytree=0.4`."""
    reg_lambda: float = 1.0
    """L2 penalty on leaf values. Example: `reg_lambda=10.0`."""
    reg_alpha: float = 0.0
    """L1 penalty on leaf values. Example: `reg_alpha=0.5`."""
    gamma: float = 0.0
    """Least reduction of the loss by which a leaf is split. Example: `gamma=1.0`."""
    max_bin: Annotated[int, Field(ge=2)] = 256
    """Largest number of histogram bins per feature. Example: `max_bin=128`."""
    max_cat_to_onehot: int = 4
    """With fewer categories than this, a split sends one category to its own side. Example: `max_cat_to_onehot=8`."""
    max_cat_threshold: int = 64
    """Largest number of categories that a split may send to one side. Example: `max_cat_threshold=16`."""
    seed: int = 0
    """The seed of the row and feature samples. Example: `seed=7`."""
    refit: bool = True
    """Train again on training and validation rows together after the number of rounds is chosen. Example:
    `refit=False`."""
    folds: Annotated[int, Field(ge=0, le=20)] = 0
    """Number of folds to choose the number of rounds by cross-validation over training and validation rows, for small
    data. 0: use the validation rows only. Not with a TimeSplit, whose rounds are chosen on later rows. Example:
    `folds=5`."""
    linear: bool | None = None
    """Fit a linear model first, and trees to its residuals (docs/explanation/training.md). None: decide by the rows on
    which rounds are chosen. The linear part is constant outside the range that it was fitted to. Example:
    `linear=True`."""
    monotone_constraints: Mapping[str, Literal["increasing", "decreasing"]] | None = None
    """Numbers whose growth may only raise, or only lower, the prediction (for two classes, of the last one), all else
    equal. The model is then trees alone. Example: `monotone_constraints={"distance": "increasing"}`."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where trees are boosted: `cuda` needs an NVIDIA GPU, and fails where XGBoost sees none. The bytes of a model may
    depend on the device. Predictions and linear models are computed on the processor. Example: `device="cuda"`."""
    search: Mapping[str, Range | Choice] = field(default_factory=dict)
    """The search space of `truecourse tune`, by parameter. Example: `search={"max_depth": Choice([2, 3, 4])}`."""
    trials: Annotated[int, Field(ge=1)] = 20
    """Number of parameter sets that `tune` tries. Example: `trials=50`."""

    @model_validator(mode="after")
    def _require_trees(self) -> "XGBoost":
        if self.linear and self.monotone_constraints:
            raise ValueError("monotone_constraints apply to trees: leave out linear=True")
        return self


Penalty = Annotated[float, Field(gt=0, allow_inf_nan=False)]


@dataclass(frozen=True, config=CONFIG)
class Linear:
    """A linear model: ridge regression for numbers, logistic regression for classes, both with an L2 penalty.

    It suits small data, and explanations that follow straight lines. Numbers are standardised, so one penalty fits all.
    """

    _: KW_ONLY
    penalties: Annotated[Many[Penalty], Field(min_length=1)] = (0.01, 0.1, 1.0, 10.0, 100.0, 1000.0)
    """Penalties to choose from, on the sum of squared slopes beside the loss summed over rows: `alpha` of ridge
    regression, `1 / C` of logistic regression. Chosen is the one with the least validation loss. Example:
    `penalties=[1.0, 10.0]`."""
    refit: bool = True
    """Train again on training and validation rows together after the penalty is chosen. Example: `refit=False`."""
    folds: Annotated[int, Field(ge=0, le=20)] = 0
    """Number of folds to choose the penalty by cross-validation over training and validation rows, for small data. 0:
    use the validation rows only. Not with a TimeSplit, whose penalty is chosen on later rows. Example: `folds=5`."""


AnyModel: TypeAlias = XGBoost | Linear
