"""Encoding of columns as a model's float32 matrix, the same for training, batch scoring and single requests.

Categories become integer codes of a vocabulary learned from training rows only. Missing numbers, and missing or unknown
categories, become NaN.
"""

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Literal, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict

from truecourse.arrays import Array, Values
from truecourse.errors import ModelError
from truecourse.problem import Problem
from truecourse.problem.schema import Boolean, Integer, Text

LARGEST = np.finfo(np.float32).max
_MOST = float(LARGEST)
FEW = 128
"""Rows up to which few calls over all columns are faster than one call per column."""
FeatureKind = Literal["category", "integer", "float", "boolean"]
XGBOOST_TYPES: Mapping[FeatureKind, str] = {"category": "c", "integer": "int", "float": "q", "boolean": "i"}


class Vocabulary(BaseModel):
    """The model's inputs in order, their kinds, the categories of each categorical one, and the label's classes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kinds: dict[str, FeatureKind]
    categories: dict[str, tuple[str, ...]]
    classes: tuple[str, ...] = ()

    @classmethod
    def learn(cls, problem: Problem, frame: pa.Table) -> Self:
        """Learn categories and classes from a frame's training rows. The inputs are the features that the frame has.

        Raises ModelError for labels that do not fit the kind of problem."""
        rows = frame.filter(pc.equal(frame["split"], "train"))
        kinds: dict[str, FeatureKind] = {
            name: "category" if isinstance(c, Text) else "boolean" if isinstance(c, Boolean) else
            "integer" if isinstance(c, Integer) else "float"
            for name, c in problem.features.items() if name in frame.column_names
        }  # fmt: skip
        categories = {name: _distinct(rows[name]) for name, kind in kinds.items() if kind == "category"}
        if problem.kind == "regression":
            return cls(kinds=kinds, categories=categories)
        classes = problem.label.classes or _distinct(rows["label"])
        _check_classes(problem, classes, _distinct(frame["label"]))
        return cls(kinds=kinds, categories=categories, classes=classes)

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        return cls.model_validate_json(data)

    def to_json(self) -> bytes:
        return json.dumps(self.model_dump(mode="json"), indent=1, ensure_ascii=False).encode()

    @cached_property
    def features(self) -> tuple[str, ...]:
        return tuple(self.kinds)

    @property
    def booster_names(self) -> list[str]:
        """The features' names for XGBoost, which refuses [, ] and <: these are percent-encoded."""
        return [re.sub(r"[%<\[\]]", lambda c: f"%{ord(c[0]):02X}", name) for name in self.kinds]

    @property
    def feature_types(self) -> list[str]:
        return [XGBOOST_TYPES[kind] for kind in self.kinds.values()]

    @cached_property
    def _codes(self) -> list[dict[str, int] | None]:
        """The codes of every feature's categories; None for a number."""
        known = {name: {value: code for code, value in enumerate(values)} for name, values in self.categories.items()}
        return [known[name] if kind == "category" else None for name, kind in self.kinds.items()]

    def encode(self, columns: Mapping[str, Values]) -> Array:
        """Encode columns as a (n, d) float32 matrix, C-contiguous, in the model's column order.

        `columns`: n values for each feature. Raises ModelError if a feature is absent.
        """
        try:
            given = list(map(columns.__getitem__, self.features))
        except KeyError:
            absent = [name for name in self.kinds if name not in columns]
            raise ModelError(f"missing features: {', '.join(absent)}") from None
        parts, rows = zip(given, self._codes, strict=True), len(given[0]) if given else 0
        if rows == 1:  # a NumPy call takes as long for one row as for a hundred
            row = [
                (math.nan if values[0] is None else values[0]) if codes is None else codes.get(values[0], math.nan)
                for values, codes in parts
            ]
            if max(0.0, *map(abs, row)) <= _MOST:  # max() skips NaN
                return np.array([row], dtype=np.float32)
            return finite(np.array([row], dtype=np.float64)).astype(np.float32)
        if 0 < rows <= FEW:  # a NumPy call per column would take longer
            numbers = [values if codes is None else _encode_categories(values, codes) for values, codes in parts]
            return np.ascontiguousarray(finite(np.array(numbers, dtype=np.float64)).T, dtype=np.float32)
        matrix = np.empty((rows, len(given)), dtype=np.float32)
        with np.errstate(over="ignore"):
            for position, (values, codes) in enumerate(parts):
                column = values if codes is None else _encode_categories(values, codes)
                matrix[:, position] = column if isinstance(column, np.ndarray) else np.array(column, dtype=np.float64)
        return finite(matrix)

    def labels(self, frame: pa.Table) -> Array:
        """Return the labels as float32: class codes, or a regression's values; NaN where a row has no label.

        Raises ModelError for a label outside the classes."""
        if not self.classes:
            return np.asarray(frame["label"].cast(pa.float64()).to_numpy(), dtype=np.float32)
        text = label_text(frame["label"])
        codes = pc.index_in(text, pa.array(self.classes, pa.string()))
        unknown = pc.unique(text.filter(pc.and_(pc.is_null(codes), pc.is_valid(text)))).to_pylist()
        if unknown:
            raise ModelError(f"unknown labels: {', '.join(unknown[:5])}", hint="declare Label(classes=...)")
        return np.asarray(codes.cast(pa.float32()).to_numpy(), dtype=np.float32)


def _encode_categories(values: Values, codes: Mapping[str, int]) -> Values:
    if len(values) <= FEW:
        return [codes.get(value, math.nan) for value in values]
    encoded = pc.index_in(pa.array(values, pa.string()), pa.array(list(codes), pa.string()))
    return np.asarray(encoded.cast(pa.float32()).to_numpy(zero_copy_only=False), dtype=np.float32)


def finite(values: Array) -> Array:
    """Replace infinities, which XGBoost refuses, by the largest float32, in place; a tree treats both alike.

    NaN stays."""
    np.minimum(values, LARGEST, out=values)
    return np.maximum(values, -LARGEST, out=values)


def json_number(number: float) -> float | None:
    """Convert a float to a JSON number: None for NaN (a missing number), the largest float32 for infinity."""
    if math.isfinite(number):
        return number
    return None if math.isnan(number) else math.copysign(float(LARGEST), number)


def label_text(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Convert labels to text; 1.0, 1 and true all become "1"."""
    if pa.types.is_boolean(values.type):
        values = values.cast(pa.int64())
    if pa.types.is_floating(values.type) and pc.all(pc.equal(pc.floor(values), values)).as_py() is not False:
        values = values.cast(pa.int64())
    return values.cast(pa.string())


def _distinct(values: pa.ChunkedArray) -> tuple[str, ...]:
    distinct = [value for value in pc.unique(label_text(values)).to_pylist() if value is not None]
    if not pa.types.is_string(values.type):
        return tuple(sorted(distinct, key=float))
    return tuple(sorted(distinct))


def _check_classes(problem: Problem, classes: Sequence[str], present: Iterable[str]) -> None:
    where = f"problem {problem.name}: label"
    if problem.kind == "binary" and len(classes) != 2:
        found = f"{len(classes)}: {', '.join(classes[:6])}"
        raise ModelError(f"a binary label needs two classes, found {found}", where=where)
    if len(classes) < 2:
        raise ModelError("the training rows have only one class", where=where, hint="widen the training split")
    unknown = sorted(set(present) - set(classes))
    if unknown:
        hint = "declare Label(classes=...), or widen the training split"
        raise ModelError(f"classes without training rows: {', '.join(unknown[:5])}", where=where, hint=hint)
