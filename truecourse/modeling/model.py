"""A trained model: an XGBoost booster, the vocabulary that encodes its inputs, and the kind of problem."""

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Self

import numpy as np

from truecourse.arrays import Array
from truecourse.errors import ModelError
from truecourse.modeling.compiled_forest import Forest, compile_forest
from truecourse.modeling.decisions import DecisionRule
from truecourse.modeling.encoding import Vocabulary
from truecourse.modeling.intervals import IntervalRule
from truecourse.modeling.xgboost_native import Booster, open_booster
from truecourse.problem.definition import Kind
from truecourse.settings import get_settings

if TYPE_CHECKING:
    import xgboost


@dataclass(frozen=True)
class Model:
    """A trained model. Matrices are (n, d) float32, as Vocabulary.encode() returns them.

    `decision`: how outputs become classes; None for the likeliest class. `interval`: the bounds of a regression's
    predictions; None for none."""

    booster: "xgboost.Booster"
    vocabulary: Vocabulary
    kind: Kind
    forest: Forest | None = field(default=None, repr=False, compare=False)
    decision: DecisionRule | None = None
    interval: IntervalRule | None = None

    @classmethod
    def load(cls, ubj: bytes, vocabulary: Vocabulary, kind: Kind, threads: int | None = None) -> Self:
        """Load a model from UBJSON. Raises ModelError for invalid bytes, or for another vocabulary's model."""
        import xgboost

        try:
            booster = xgboost.Booster({"nthread": threads or get_settings().threads}, model_file=bytearray(ubj))
        except xgboost.core.XGBoostError as error:
            raise ModelError(f"not an XGBoost model: {str(error).splitlines()[0]}") from None
        if (booster.feature_names or []) != vocabulary.booster_names:
            raise ModelError("the model's inputs differ from its vocabulary", hint="package the model again")
        return cls(booster, vocabulary, kind)

    def compiled(self) -> Self:
        """Return the model with compiled trees where possible: equal predictions, one row in a ninth of the time."""
        return replace(self, forest=compile_forest(self.booster))

    def ubj(self) -> bytes:
        """Serialize the model as UBJSON; equal models give equal bytes."""
        return bytes(self.booster.save_raw("ubj"))

    @cached_property
    def trees(self) -> int:
        """The number of trees: one per boosting round, for multiclass one per round and class."""
        return int(self.booster.num_boosted_rounds()) * (
            len(self.vocabulary.classes) if self.kind == "multiclass" else 1
        )

    def predict(self, matrix: Array) -> Array:
        """Predict float32: probabilities of the last class (n,) for binary, of every class (n, k) for multiclass,
        values (n,) for regression."""
        return (self.forest or self._direct).predict(matrix)

    def margin(self, matrix: Array) -> Array:
        """Predict float32 before the link function: log-odds (n,), class scores (n, k), or values (n,)."""
        return (self.forest or self._direct).predict(matrix, margin=True)

    @cached_property
    def _direct(self) -> Booster:
        return open_booster(self.booster)

    def contributions(self, matrix: Array) -> Array:
        """Compute exact SHAP values (TreeSHAP, Lundberg et al. 2020) of the margin: (n, d + 1), or (n, k, d + 1) for
        multiclass, d features. The last column is the base value; a row sums to its margin. The value of a feature with
        several columns is the sum of theirs."""
        matrix = np.ascontiguousarray(matrix, dtype=np.float32)
        if self.forest is None or self.forest.attributions is None:
            values = self._direct.contributions(matrix)
        else:
            values = self.forest.attributions(matrix)
            values = values if self.kind == "multiclass" else values[:, 0]
        first = self.vocabulary.first_columns
        if first is None:
            return values
        return np.concatenate([np.add.reduceat(values[..., :-1], first, axis=-1), values[..., -1:]], axis=-1)
