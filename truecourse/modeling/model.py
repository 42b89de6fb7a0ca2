"""A trained model: an XGBoost booster, the vocabulary that feeds it, and what its numbers mean."""

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Self

import numpy as np

from truecourse.arrays import Array
from truecourse.errors import ModelError
from truecourse.modeling.compiled_forest import Forest, compile_forest
from truecourse.modeling.encoding import Vocabulary
from truecourse.modeling.xgboost_native import NativeBooster
from truecourse.problem.definition import Kind
from truecourse.settings import get_settings

if TYPE_CHECKING:
    import xgboost


@dataclass(frozen=True)
class Model:
    """Matrices are (n, d) float32 as Vocabulary.encode() makes them."""

    booster: "xgboost.Booster"
    vocabulary: Vocabulary
    kind: Kind
    forest: Forest | None = field(default=None, repr=False, compare=False)

    @classmethod
    def load(cls, ubj: bytes, vocabulary: Vocabulary, kind: Kind, threads: int | None = None) -> Self:
        """From UBJSON. Raises ModelError for bytes that are no model, or another vocabulary's model."""
        import xgboost

        try:
            booster = xgboost.Booster({"nthread": threads or get_settings().threads}, model_file=bytearray(ubj))
        except xgboost.core.XGBoostError as error:
            raise ModelError(f"the bytes are no XGBoost model: {str(error).splitlines()[0]}") from None
        if (booster.feature_names or []) != vocabulary.booster_names:
            raise ModelError("the model's inputs are not those of its vocabulary", hint="package the model again")
        return cls(booster, vocabulary, kind)

    def compiled(self) -> Self:
        """One that predicts by compiled code where it can: the same answers, for one row in a ninth of the time."""
        return replace(self, forest=compile_forest(self.booster))

    def ubj(self) -> bytes:
        """The model's UBJSON: equal bytes for equal models."""
        return bytes(self.booster.save_raw("ubj"))

    @cached_property
    def trees(self) -> int:
        """How many are walked for a row: one a boosting round, or one a round and class."""
        return int(self.booster.num_boosted_rounds()) * (
            len(self.vocabulary.classes) if self.kind == "multiclass" else 1
        )

    def predict(self, matrix: Array) -> Array:
        """float32: probabilities of the last class (n,) for binary, of every class (n, k) for multiclass, values (n,)
        for regression."""
        return (self.forest or self._direct).predict(matrix)

    def margin(self, matrix: Array) -> Array:
        """float32, before the link: log-odds (n,), class scores (n, k), or values (n,)."""
        return (self.forest or self._direct).predict(matrix, margin=True)

    @cached_property
    def _direct(self) -> NativeBooster:
        return NativeBooster(self.booster)

    def contributions(self, matrix: Array) -> Array:
        """Exact SHAP values (TreeSHAP, Lundberg et al. 2020) of the margin: (n, d + 1), or (n, k, d + 1) for
        multiclass. The last column is the base value; a row's sum is its margin."""
        matrix = np.ascontiguousarray(matrix, dtype=np.float32)
        if self.forest is None or self.forest.attributions is None:
            return self._direct.contributions(matrix)
        found = self.forest.attributions(matrix)
        return found if self.kind == "multiclass" else found[:, 0]
