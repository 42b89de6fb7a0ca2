"""What is known of a row once its label is there: how its features and the time that the label took foretell it.

A surprise (a storm) changes how long labels take, as it changes the labels; a new rule for what counts as positive
changes the labels alone. So a label that no longer follows from both was made by another rule, while one that follows
from them, and not from the features alone, is the world's doing.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from truecourse.arrays import Array
from truecourse.modeling.encoding import Vocabulary
from truecourse.monitoring.predictions.labels import label_delay_hours
from truecourse.problem.definition import Kind

ROWS = 20_000
_ROUNDS = 60
_SEED = 0
_SUREST = 0.9
"""No row is held to be surer: one that hindsight is wrong about would outweigh all others."""


@dataclass(frozen=True)
class LabelResiduals:
    """What hindsight says against n labels.

    `off`: (n,) how far each lies from what is foretold, beyond what is expected: of labels that follow probabilities it
    has a mean of 0, and the labels of a share of rows turned around move it by about that share, whichever way. Of a
    regression it is the plain distance. `sign`: (n,) the label minus what is foretold; 0 of a multiclass.

    `turned`: (n, k, 2) by class, of a rule that turns a share of its labels into others: the score (of Rao's test) of
    that share at 0, whose mean is 0 or less while nothing is turned, and how much more it is when all are. The ratio of
    the sums estimates the share; it rests on rows that hindsight is sure of, which say most. Of a regression: how far
    labels lie above and below what is foretold, and 1."""

    off: Array
    sign: Array
    turned: Array

    def summed(self, rows: Array) -> dict[str, Any]:
        """Of some rows, as a cohort keeps it."""
        turned = tuple((float(score), float(weight)) for score, weight in self.turned[rows].sum(axis=0))
        both = [getattr(self, name)[rows] for name in ("off", "sign")]
        powers = {"hindsight": 1, "hindsight_squares": 2}
        sums = {name: tuple(float((side**power).sum()) for side in both) for name, power in powers.items()}
        return sums | {"turned": turned}


@dataclass(frozen=True)
class LabelModel:
    """An XGBoost model of the label on the champion's inputs and the hours that the label took."""

    ubj: bytes
    vocabulary: Vocabulary

    @classmethod
    def fit(cls, kind: Kind, vocabulary: Vocabulary, matrix: Array, rows: pa.Table, labels: Array) -> "LabelModel":
        """On at most ROWS of the rows, one thread: the same bytes for the same rows."""
        import xgboost

        spread = np.unique(np.linspace(0, len(labels) - 1, min(len(labels), ROWS)).astype(np.int64))
        made = cls(b"", vocabulary)
        settings: dict[str, Any] = {
            "objective": _OBJECTIVES[kind],
            "max_depth": 5, "eta": 0.3, "max_bin": 64, "min_child_weight": 5, "nthread": 1, "seed": _SEED,
        }  # fmt: skip
        if kind == "multiclass":
            settings["num_class"] = len(vocabulary.classes)
        data = made._data(matrix[spread], rows.take(pa.array(spread)), labels[spread])
        booster = xgboost.train(settings, data, _ROUNDS)
        return cls(bytes(booster.save_raw("ubj")), vocabulary)

    def _data(self, matrix: Array, rows: pa.Table, labels: Array | None = None) -> "object":
        import xgboost

        hours = np.asarray(label_delay_hours(rows).to_numpy(), dtype=np.float32)
        types = [*self.vocabulary.feature_types, "q"]
        both = np.column_stack([matrix, hours])
        return xgboost.DMatrix(both, labels, feature_types=types, enable_categorical=True, nthread=1)

    def contradicted(self, kind: Kind, matrix: Array, rows: pa.Table, labels: Array) -> LabelResiduals:
        import xgboost

        booster = xgboost.Booster({"nthread": 1}, model_file=bytearray(self.ubj))
        said = booster.predict(self._data(matrix, rows)).astype(np.float64)
        return label_residuals(kind, said, labels)


_OBJECTIVES = {"binary": "binary:logistic", "multiclass": "multi:softprob", "regression": "reg:squarederror"}


def label_residuals(kind: Kind, said: Array, labels: Array) -> LabelResiduals:
    """`said`: what hindsight foretells of n labels, in the form of a model's output."""
    if kind == "regression":
        sign = labels - said
        one = np.ones(len(said))
        turned = np.stack([np.column_stack([sign, one]), np.column_stack([-sign, one])], axis=1)
        return LabelResiduals(np.abs(sign), sign, turned)
    shares = np.column_stack([1 - said, said]) if kind == "binary" else said
    there = labels.astype(np.int64)[:, None] == np.arange(shares.shape[1])
    sign = labels - said if kind == "binary" else np.zeros(len(labels))
    sure = np.minimum(shares, _SUREST)
    odds = sure / (1 - sure)
    turned = np.stack([np.where(there, -1.0, odds), shares * (1 + odds)], axis=-1)
    return LabelResiduals((shares**2).sum(axis=1) - shares[there], sign, turned)
