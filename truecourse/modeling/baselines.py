"""Baselines fitted to the training rows: the constant prediction, and a linear model on the same features."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from truecourse.arrays import Array
from truecourse.modeling.encoding import Vocabulary
from truecourse.problem.definition import Kind

_RARE = 20
"""Categories with fewer rows share one column."""
_ITERATIONS = 100
MOST_ROWS = 1 << 19
"""Rows that a linear model is fitted to at most; prepared for it, a row of the flights takes about 2 kB of memory."""
BATCH_ROWS = 1 << 17
"""Rows that are prepared and predicted at once."""
_UNTRAINED_SCORE = -12.0
"""The score of a class without training rows: exp(-12) is six in a million."""


def predict_constant(
    kind: Kind, vocabulary: Vocabulary, labels: Array, rows: int, weights: Array | None = None
) -> Array:
    """Predict the mean of the labels, or the frequencies of their classes, for every row: (rows,) or (rows, k)."""
    if kind == "multiclass":
        codes = labels.astype(np.int64)
        shares = np.bincount(codes, weights=weights, minlength=len(vocabulary.classes))
        return np.tile(shares / shares.sum(), (rows, 1))
    mean = labels.mean(dtype=np.float64) if weights is None else np.average(labels.astype(np.float64), weights=weights)
    return np.full(rows, mean)


def predict_linear(
    kind: Kind, vocabulary: Vocabulary, matrix: Array, labels: Array, rows: Array, weights: Array | None = None
) -> Array:
    """Fit the linear baseline to `matrix` and `labels`, and predict `rows`."""
    return predict(kind, vocabulary, fit_linear(kind, vocabulary, matrix, labels, weights=weights), rows)


def fit_linear(
    kind: Kind,
    vocabulary: Vocabulary,
    matrix: Array,
    labels: Array,
    penalty: float = 1.0,
    weights: Array | None = None,
) -> Any:
    """Fit ridge regression (alpha=penalty) or logistic regression (L2, C=1/penalty) to `matrix` (n, d) and n labels.

    Returns a scikit-learn pipeline. Classification needs rows of two classes or more. Numbers are imputed with the
    median, flagged where missing, and standardised. Categories are one-hot encoded, rare ones in one column. It runs on
    one thread, so that the result does not depend on the number of threads. Of more rows than MOST_ROWS, a random
    sample is fitted, which is the same for the same number of rows.
    """
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits

    if len(matrix) > MOST_ROWS:
        chosen = np.sort(np.random.default_rng(0).choice(len(matrix), MOST_ROWS, replace=False))
        penalty *= MOST_ROWS / len(matrix)
        matrix, labels = matrix[chosen], labels[chosen]
        weights = None if weights is None else weights[chosen]
    pipeline = _pipeline(kind, vocabulary, penalty)
    with _ignore_empty_columns(), threadpool_limits(1, "blas"):
        warnings.simplefilter("ignore", ConvergenceWarning)  # a baseline need not converge to the last digit
        last = {} if weights is None else {f"{pipeline.steps[-1][0]}__sample_weight": weights.astype(np.float64)}
        pipeline.fit(matrix, labels if kind == "regression" else labels.astype(np.int64), **last)
    return pipeline


def predict(kind: Kind, vocabulary: Vocabulary, fitted: Any, rows: Array) -> Array:
    """Predict `rows` with a fitted scikit-learn model, in the form of Model.predict().

    Returns values (n,), P(last class) (n,), or P(class) (n, k); 0 for a class without training rows."""
    if len(rows) > BATCH_ROWS:
        parts = [rows[start : start + BATCH_ROWS] for start in range(0, len(rows), BATCH_ROWS)]
        return np.concatenate([predict(kind, vocabulary, fitted, part) for part in parts])
    with _ignore_empty_columns():
        if kind == "regression":
            return np.asarray(fitted.predict(rows))
        trained = np.asarray(fitted.predict_proba(rows))
    if kind == "binary":
        return np.asarray(trained[:, 1])
    probabilities = np.zeros((len(rows), len(vocabulary.classes)))
    probabilities[:, fitted.classes_] = trained
    return probabilities


def compute_scores(kind: Kind, vocabulary: Vocabulary, fitted: Any, rows: Array) -> Array:
    """Compute the raw scores of fit_linear() for `rows`: values, log-odds, or one score per class.

    Returns (n, 1) or (n, k) float64. A class without training rows gets a very low score."""
    with _ignore_empty_columns():
        trained = np.asarray(fitted.predict(rows) if kind == "regression" else fitted.decision_function(rows))
    if kind != "multiclass":
        return trained[:, None]
    if len(fitted.classes_) == 2:  # one column, of the second class
        trained = np.column_stack([-trained / 2, trained / 2])
    raw = np.full((len(rows), len(vocabulary.classes)), _UNTRAINED_SCORE)
    raw[:, fitted.classes_] = trained
    return raw


@contextmanager
def _ignore_empty_columns() -> Iterator[None]:
    """Suppress the imputer's warning that it drops a column without any value."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Skipping features without any observed values")
        yield


def _pipeline(kind: Kind, vocabulary: Vocabulary, penalty: float) -> Any:
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    kinds = [column.kind for column in vocabulary.matrix_columns]
    categories = [place for place, name in enumerate(kinds) if name == "category"]
    numbers = [place for place, name in enumerate(kinds) if name != "category"]
    encoder = OneHotEncoder(handle_unknown="infrequent_if_exist", min_frequency=_RARE, dtype=np.float32)
    scaler = make_pipeline(SimpleImputer(strategy="median", add_indicator=True), StandardScaler())
    prepared = ColumnTransformer([("numbers", scaler, numbers), ("categories", encoder, categories)])
    if kind == "regression":
        return make_pipeline(prepared, Ridge(alpha=penalty))
    return make_pipeline(prepared, LogisticRegression(C=1 / penalty, max_iter=_ITERATIONS, tol=1e-3))
