"""Weights of rows in fitting, from the problem's declaration."""

from collections.abc import Mapping
from typing import Literal

import numpy as np
import pyarrow as pa

from truecourse.arrays import Array, columns_of
from truecourse.errors import ModelError
from truecourse.modeling.encoding import Vocabulary
from truecourse.problem import Problem
from truecourse.wording import counted


def weighting_columns(problem: Problem, frame: pa.Table) -> list[str]:
    """Return the frame's columns that row_weights() reads, and the split."""
    own = [] if problem.weights is None or problem.weights.column is None else [problem.weights.column]
    return [name for name in dict.fromkeys(["label", "split", *own]) if name in frame.column_names]


def row_weights(problem: Problem, vocabulary: Vocabulary, frame: pa.Table) -> Array | None:
    """Compute the weight of each of n rows in fitting, (n,) float32 with mean 1; None where none are declared.

    Balanced classes are weighted as in scikit-learn: rows / (classes * rows of the class). With mean 1, penalties and
    `min_child_weight` keep their meaning. Raises ModelError for an unknown class, an absent column, and a weight that
    is missing or not above 0."""
    declared = problem.weights
    if declared is None or not len(frame):
        return None
    weights = np.ones(len(frame)) if declared.column is None else _of_column(frame, declared.column)
    if declared.classes is not None:
        weights = weights * _of_classes(declared.classes, vocabulary, vocabulary.labels(frame))
    return np.asarray(weights / weights.mean(), dtype=np.float32)


def _of_column(frame: pa.Table, name: str) -> Array:
    where = f'Weights(column="{name}")'
    if name not in frame.column_names:
        raise ModelError("the rows have no such column", where=where, hint="name a request field or a feature")
    weights = np.asarray(columns_of(frame, [name])[name], dtype=np.float64)
    bad = int((~(np.isfinite(weights) & (weights > 0))).sum())
    if bad:
        hint = "let the column have a number above 0 in every row, or leave those rows out"
        raise ModelError(f"{counted(bad, 'row')} of {len(weights):,} without a weight above 0", where=where, hint=hint)
    return weights


def _of_classes(classes: Mapping[str, float] | Literal["balanced"], vocabulary: Vocabulary, labels: Array) -> Array:
    where, names = "Weights(classes=...)", vocabulary.classes
    if not names:
        hint = "leave out classes, or name a column of weights"
        raise ModelError("a regression has no classes to weight", where=where, hint=hint)
    codes = labels.astype(np.int64)
    if not isinstance(classes, Mapping):
        rows = np.bincount(codes, minlength=len(names))
        return np.asarray(len(codes) / ((rows > 0).sum() * np.maximum(rows, 1)))[codes]
    if unknown := sorted(set(classes) - set(names)):
        raise ModelError(f"unknown class {', '.join(unknown)}", where=where, hint=f"the classes are {', '.join(names)}")
    return np.array([classes.get(name, 1.0) for name in names])[codes]


def describe_weights(problem: Problem) -> str:
    """Describe the declared weights; empty without."""
    declared = problem.weights
    if declared is None:
        return ""
    parts = [] if declared.column is None else [f"by {declared.column}"]
    if isinstance(declared.classes, Mapping):
        parts.append("by class (" + ", ".join(f"{name} {value:g}" for name, value in declared.classes.items()) + ")")
    elif declared.classes is not None:
        parts.append("so that classes are balanced")
    return f"fitted to rows weighted {' and '.join(parts)}; metrics count each row once"
