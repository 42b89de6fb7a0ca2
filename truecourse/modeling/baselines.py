"""What a model must be better than: the constant, and a linear model on the same features, fitted to the same rows."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from truecourse.arrays import Array
from truecourse.modeling.encoding import Vocabulary
from truecourse.problem.definition import Kind

_RARE = 20
_ITERATIONS = 100
_ABSENT = -12.0
"""The score of a class without a fitted row: e to the power of it is six in a million."""


def predict_constant(kind: Kind, vocabulary: Vocabulary, labels: Array, rows: int) -> Array:
    """The mean of the fitted labels, or the shares of their classes, for every row: (rows,) or (rows, k)."""
    if kind == "multiclass":
        shares = np.bincount(labels.astype(np.int64), minlength=len(vocabulary.classes)) / len(labels)
        return np.tile(shares, (rows, 1))
    return np.full(rows, labels.mean(dtype=np.float64))


def predict_linear(kind: Kind, vocabulary: Vocabulary, matrix: Array, labels: Array, rows: Array) -> Array:
    """The predictions for `rows` of fit_linear() on `matrix` and `labels`."""
    return predict(kind, vocabulary, fit_linear(kind, vocabulary, matrix, labels), rows)


def fit_linear(kind: Kind, vocabulary: Vocabulary, matrix: Array, labels: Array) -> Any:
    """Logistic regression (L2, C=1), or ridge regression, fitted to `matrix` (n, d) and n labels, as scikit-learn's
    pipeline. A classification needs rows of two classes or more.

    Numbers: median for missing, a flag that they were, standardised. Categories: one column each, rare ones together.
    On one thread: how many there are must not move the last digits of the sums.
    """
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits

    pipeline = _pipeline(kind, vocabulary)
    with _without_void_columns(), threadpool_limits(1, "blas"):
        warnings.simplefilter("ignore", ConvergenceWarning)  # a last digit of the loss is not needed
        pipeline.fit(matrix, labels if kind == "regression" else labels.astype(np.int64))
    return pipeline


def predict(kind: Kind, vocabulary: Vocabulary, fitted: Any, rows: Array) -> Array:
    """Predictions for `rows` of a fitted scikit-learn model, in the form of Model.predict(): values (n,), P(last
    class) (n,), or P(class) (n, k), 0 for a class with no fitted row."""
    with _without_void_columns():
        if kind == "regression":
            return np.asarray(fitted.predict(rows))
        found = np.asarray(fitted.predict_proba(rows))
    if kind == "binary":
        return np.asarray(found[:, 1])
    probabilities = np.zeros((len(rows), len(vocabulary.classes)))
    probabilities[:, fitted.classes_] = found
    return probabilities


def compute_scores(kind: Kind, vocabulary: Vocabulary, fitted: Any, rows: Array) -> Array:
    """(n, 1) or (n, k) float64 raw scores for `rows` of fit_linear(): values, log-odds, or a score a class; for a class
    with no fitted row as low as befits one that is not there."""
    with _without_void_columns():
        found = np.asarray(fitted.predict(rows) if kind == "regression" else fitted.decision_function(rows))
    if kind != "multiclass":
        return found[:, None]
    if len(fitted.classes_) == 2:  # one column, of the second class
        found = np.column_stack([-found / 2, found / 2])
    raw = np.full((len(rows), len(vocabulary.classes)), _ABSENT)
    raw[:, fitted.classes_] = found
    return raw


@contextmanager
def _without_void_columns() -> Iterator[None]:
    """A column that is missing throughout tells nothing and is dropped."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Skipping features without any observed values")
        yield


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
