"""What a model must be better than: the constant, and a linear model on the same features, fitted to the same rows."""

import warnings
from typing import Any

import numpy as np

from truecourse.encoding import Array, Vocabulary
from truecourse.problem import Kind

_RARE = 20
_ITERATIONS = 100


def constant(kind: Kind, vocabulary: Vocabulary, labels: Array, rows: int) -> Array:
    """The mean of the fitted labels, or the shares of their classes, for every row: (rows,) or (rows, k)."""
    if kind == "multiclass":
        shares = np.bincount(labels.astype(np.int64), minlength=len(vocabulary.classes)) / len(labels)
        return np.tile(shares, (rows, 1))
    return np.full(rows, labels.mean(dtype=np.float64))


def linear(kind: Kind, vocabulary: Vocabulary, matrix: Array, labels: Array, rows: Array) -> Array:
    """Logistic regression (L2, C=1), or ridge regression: fitted to `matrix` and `labels`, its predictions for `rows`.

    Numbers: median for missing, a flag that they were, standardised. Categories: one column each, rare ones together.
    """
    from sklearn.exceptions import ConvergenceWarning

    pipeline = _pipeline(kind, vocabulary)
    with warnings.catch_warnings():
        # A column that is missing throughout tells nothing and is dropped; a last digit of the loss is not needed.
        warnings.filterwarnings("ignore", message="Skipping features without any observed values")
        warnings.simplefilter("ignore", ConvergenceWarning)
        pipeline.fit(matrix, labels if kind == "regression" else labels.astype(np.int64))
        if kind == "regression":
            return np.asarray(pipeline.predict(rows))
        found = np.asarray(pipeline.predict_proba(rows))
    if kind == "binary":
        return np.asarray(found[:, 1])
    probabilities = np.zeros((len(rows), len(vocabulary.classes)))
    probabilities[:, pipeline.classes_] = found  # a class with no fitted row keeps probability 0
    return probabilities


def _pipeline(kind: Kind, vocabulary: Vocabulary) -> Any:
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    kinds = list(vocabulary.kinds.values())
    categories = [place for place, name in enumerate(kinds) if name == "category"]
    numbers = [place for place, name in enumerate(kinds) if name != "category"]
    encoder = OneHotEncoder(handle_unknown="infrequent_if_exist", min_frequency=_RARE, dtype=np.float32)
    scaler = make_pipeline(SimpleImputer(strategy="median", add_indicator=True), StandardScaler())
    prepared = ColumnTransformer([("numbers", scaler, numbers), ("categories", encoder, categories)])
    model = Ridge() if kind == "regression" else LogisticRegression(max_iter=_ITERATIONS, tol=1e-3)
    return make_pipeline(prepared, model)
