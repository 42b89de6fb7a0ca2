"""What is known of a row once its label is there: how its features and the time that the label took foretell it.

A surprise (a storm) changes how long labels take, as it changes the labels; a new rule for what counts as positive
changes the labels alone. So a label that no longer follows from both was made by another rule, while one that follows
from them, and not from the features alone, is the world's doing.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from truecourse.encoding import Array, Vocabulary
from truecourse.monitoring.labels import late_by
from truecourse.problem import Kind

ROWS = 20_000
_ROUNDS = 60
_SEED = 0


@dataclass(frozen=True)
class Hindsight:
    """An XGBoost model of the label on the champion's inputs and the hours that the label took."""

    ubj: bytes
    vocabulary: Vocabulary

    @classmethod
    def fit(cls, kind: Kind, vocabulary: Vocabulary, matrix: Array, rows: pa.Table, labels: Array) -> "Hindsight":
        """On at most ROWS of the rows, one thread: the same bytes for the same rows."""
        import xgboost

        spread = np.unique(np.linspace(0, len(labels) - 1, min(len(labels), ROWS)).astype(np.int64))
        made = cls(b"", vocabulary)
        settings = {
            "objective": "binary:logistic" if kind == "binary" else "reg:squarederror",
            "max_depth": 5, "eta": 0.3, "max_bin": 64, "min_child_weight": 5, "nthread": 1, "seed": _SEED,
        }  # fmt: skip
        data = made._data(matrix[spread], rows.take(pa.array(spread)), labels[spread])
        booster = xgboost.train(settings, data, _ROUNDS)
        return cls(bytes(booster.save_raw("ubj")), vocabulary)

    def _data(self, matrix: Array, rows: pa.Table, labels: Array | None = None) -> "object":
        import xgboost

        hours = np.asarray(late_by(rows).to_numpy(), dtype=np.float32)
        types = [*self.vocabulary.feature_types, "q"]
        both = np.column_stack([matrix, hours])
        return xgboost.DMatrix(both, labels, feature_types=types, enable_categorical=True, nthread=1)

    def contradicted(self, kind: Kind, matrix: Array, rows: pa.Table, labels: Array) -> tuple[Array, Array]:
        """(n,) how far each label is from what hindsight says, beyond what hindsight expects, and with its sign.

        Of labels that follow a probability q, the first has a mean of 0: E|y - q| = 2 q (1 - q). The labels of a share
        of rows turned around move it by about that share, whichever way. Of a regression it is the plain distance."""
        import xgboost

        booster = xgboost.Booster({"nthread": 1}, model_file=bytearray(self.ubj))
        said = booster.predict(self._data(matrix, rows)).astype(np.float64)
        off = labels - said
        return np.abs(off) - (2 * said * (1 - said) if kind == "binary" else 0), off
