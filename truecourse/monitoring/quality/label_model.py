"""The label model: predicts a label from the row's features and from the hours until the label was known.

It distinguishes a new labelling rule from a real change. An event such as a storm changes both the labels and how long
they take; a new rule for what counts as positive changes the labels alone. Labels that the label model no longer
predicts follow another rule. Labels that it predicts and the champion does not are a change of the source data.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from truecourse.arrays import Array
from truecourse.modeling.encoding import Vocabulary
from truecourse.monitoring.predictions.labels import label_delay_hours
from truecourse.problem.definition import Kind
from truecourse.statistics.metrics import bounded

ROWS = 20_000
_ROUNDS = 60
_SEED = 0
_MAX_PROBABILITY = 0.9
"""Predicted probabilities are cut here: otherwise one row that the label model gets wrong would outweigh all others."""


@dataclass(frozen=True)
class LabelResiduals:
    """How n labels differ from the label model's predictions.

    `distance`: (n,) how far each label lies from its prediction, minus the distance that is expected. The mean is 0
    for labels that follow the predicted probabilities; if a share of the labels is flipped, in either direction, it
    rises by about that share. For a regression it is the absolute difference.
    `difference`: (n,) label minus prediction; 0 for several classes.

    `flips`: (n, k, 2) by class, for a rule that changes a share of the class's labels into others: the score statistic
    (Rao 1948) of that share at 0, whose mean is 0 or less while no label is flipped, and the increase of its mean when
    all are (the information). The ratio of the sums estimates the share. It rests mostly on rows that the label model
    is sure of. For a regression (k = 2): how far labels lie above and below the prediction, and 1."""

    distance: Array
    difference: Array
    flips: Array

    def sums(self, rows: Array) -> dict[str, Any]:
        """Sum the residuals of the selected rows into the fields of a Cohort."""
        turned = tuple((float(score), float(weight)) for score, weight in self.flips[rows].sum(axis=0))
        both = [getattr(self, name)[rows] for name in ("distance", "difference")]
        powers = {"label_residuals": 1, "label_residual_squares": 2}
        sums = {name: tuple(float((side**power).sum()) for side in both) for name, power in powers.items()}
        return sums | {"turned": turned}


@dataclass(frozen=True)
class LabelModel:
    """An XGBoost model of the label, from the champion's inputs and the hours until the label was known."""

    ubj: bytes
    vocabulary: Vocabulary

    @classmethod
    def fit(cls, kind: Kind, vocabulary: Vocabulary, matrix: Array, rows: pa.Table, labels: Array) -> "LabelModel":
        """Fit the model to at most ROWS of the rows, in one thread: the same rows give the same bytes."""
        import xgboost

        spread = evenly_spaced(len(labels))
        untrained = cls(b"", vocabulary)
        settings: dict[str, Any] = {
            "objective": _OBJECTIVES[kind],
            "max_depth": 5, "eta": 0.3, "max_bin": 64, "min_child_weight": 5, "nthread": 1, "seed": _SEED,
        }  # fmt: skip
        if kind == "multiclass":
            settings["num_class"] = len(vocabulary.classes)
        data = untrained._data(matrix[spread], rows.take(pa.array(spread)), labels[spread])
        booster = xgboost.train(settings, data, _ROUNDS)
        return cls(bytes(booster.save_raw("ubj")), vocabulary)

    def _data(self, matrix: Array, rows: pa.Table, labels: Array | None = None) -> "object":
        import xgboost

        hours = np.asarray(label_delay_hours(rows).to_numpy(), dtype=np.float32)
        types = [*self.vocabulary.feature_types, "q"]
        both = np.column_stack([matrix, hours])
        return xgboost.DMatrix(both, labels, feature_types=types, enable_categorical=True, nthread=1)

    def residuals(self, kind: Kind, matrix: Array, rows: pa.Table, labels: Array) -> LabelResiduals:
        import xgboost

        booster = xgboost.Booster({"nthread": 1}, model_file=bytearray(self.ubj))
        predicted = booster.predict(self._data(matrix, rows)).astype(np.float64)
        return label_residuals(kind, predicted, labels)


def evenly_spaced(rows: int) -> Array:
    """The positions of at most ROWS of these rows, evenly spaced."""
    return np.unique(np.linspace(0, rows - 1, min(rows, ROWS)).astype(np.int64))


_OBJECTIVES = {"binary": "binary:logistic", "multiclass": "multi:softprob", "regression": "reg:squarederror"}


def label_residuals(kind: Kind, predicted: Array, labels: Array) -> LabelResiduals:
    """Compare n labels with the label model's predictions. `predicted`: (n,), or (n, classes) for several classes."""
    if kind == "regression":
        difference = bounded(labels) - bounded(predicted)
        one = np.ones(len(predicted))
        flips = np.stack([np.column_stack([difference, one]), np.column_stack([-difference, one])], axis=1)
        return LabelResiduals(np.abs(difference), difference, flips)
    shares = np.column_stack([1 - predicted, predicted]) if kind == "binary" else predicted
    is_label = labels.astype(np.int64)[:, None] == np.arange(shares.shape[1])
    difference = labels - predicted if kind == "binary" else np.zeros(len(labels))
    capped = np.minimum(shares, _MAX_PROBABILITY)
    odds = capped / (1 - capped)
    flips = np.stack([np.where(is_label, -1.0, odds), shares * (1 + odds)], axis=-1)
    return LabelResiduals((shares**2).sum(axis=1) - shares[is_label], difference, flips)
