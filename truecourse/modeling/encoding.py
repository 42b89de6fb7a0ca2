"""Encoding of columns as a model's float32 matrix, the same for training, batch scoring and single requests.

Categories become integer codes of a vocabulary learned from training rows only. Missing numbers, and missing or unknown
categories, become NaN.
"""

import dataclasses
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, Literal, Self

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
Codes = tuple[Mapping[str | None, float], float]
"""The code of each category, and that of others."""
XGBOOST_TYPES: Mapping[FeatureKind, str] = {"category": "c", "integer": "int", "float": "q", "boolean": "i"}


class NgramColumns(BaseModel):
    """How a text is counted in columns: truecourse.problem.Ngrams."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    width: int
    of: Literal["words", "characters"]
    shortest: int
    longest: int

    def count(self, texts: Iterable[Any]) -> Array:
        """Count the n-grams of n texts: (n, width) float32; a missing text is a row of NaN."""
        known = list(texts)
        counts: Array = _hashing(self).transform(["" if text is None else text for text in known]).toarray()
        counts[[text is None for text in known]] = np.nan
        return counts


@lru_cache(maxsize=256)
def _hashing(columns: NgramColumns) -> Any:
    """The vectorizer, which keeps no state: it can be shared by threads."""
    from sklearn.feature_extraction.text import HashingVectorizer

    return HashingVectorizer(
        analyzer="word" if columns.of == "words" else "char_wb",
        ngram_range=(columns.shortest, columns.longest),
        n_features=columns.width,
        norm=None,
        alternate_sign=False,
        dtype=np.float32,
    )


@dataclass(frozen=True)
class MatrixColumn:
    """A column of a model's matrix. `feature`: its position among the features. `codes`: the number of codes of a
    category; None for a number."""

    name: str
    feature: int
    kind: FeatureKind
    codes: int | None = None


class Vocabulary(BaseModel):
    """The model's inputs in order, their kinds, the categories of each categorical one, and the label's classes.

    `pooled`: the features whose rare and new categories are one more category, the last code. `ngrams`: the texts that
    are counted in columns; they have no categories."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kinds: dict[str, FeatureKind]
    categories: dict[str, tuple[str, ...]]
    classes: tuple[str, ...] = ()
    pooled: tuple[str, ...] = ()
    ngrams: dict[str, NgramColumns] = {}

    @classmethod
    def learn(cls, problem: Problem, frame: pa.Table) -> Self:
        """Learn categories and classes from a frame's training rows. The inputs are the features that the frame has.

        Raises ModelError for labels that do not fit the kind of problem."""
        kinds: dict[str, FeatureKind] = {
            name: "category" if isinstance(c, Text) else "boolean" if isinstance(c, Boolean) else
            "integer" if isinstance(c, Integer) else "float"
            for name, c in problem.features.items() if name in frame.column_names
        }  # fmt: skip
        texts = {name: c for name, c in problem.features.items() if isinstance(c, Text) and name in kinds}
        rows = frame.select([*texts, "label"]).filter(pc.equal(frame["split"], "train"))
        ngrams = {
            name: NgramColumns(**dataclasses.asdict(column.ngrams))
            for name, column in texts.items()
            if column.ngrams is not None
        }
        categories = {
            name: _distinct(rows[name], column.min_count) for name, column in texts.items() if name not in ngrams
        }
        pooled = tuple(name for name in categories if texts[name].min_count > 1)
        if problem.kind == "regression":
            return cls(kinds=kinds, categories=categories, pooled=pooled, ngrams=ngrams)
        classes = problem.label.classes or _distinct(rows["label"])
        _check_classes(problem, classes, _distinct(frame["label"]))
        return cls(kinds=kinds, categories=categories, classes=classes, pooled=pooled, ngrams=ngrams)

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        return cls.model_validate_json(data)

    def to_json(self) -> bytes:
        later = {name for name in ("pooled", "ngrams") if not getattr(self, name)}  # unknown to earlier releases
        return json.dumps(self.model_dump(mode="json", exclude=later), indent=1, ensure_ascii=False).encode()

    @cached_property
    def features(self) -> tuple[str, ...]:
        return tuple(self.kinds)

    @cached_property
    def matrix_columns(self) -> tuple[MatrixColumn, ...]:
        """The columns of the matrix: one for a feature, or those of its n-grams."""
        columns = []
        for place, (name, kind) in enumerate(self.kinds.items()):
            if name in self.ngrams:
                width = self.ngrams[name].width
                columns += [MatrixColumn(f"{name}: {number}", place, "float") for number in range(width)]
            else:
                known = self.categories.get(name)
                codes = None if known is None else len(known) + (name in self.pooled)
                columns.append(MatrixColumn(name, place, kind, codes))
        return tuple(columns)

    @property
    def booster_names(self) -> list[str]:
        """The matrix's columns for XGBoost, which refuses [, ] and <: these are percent-encoded."""
        return [re.sub(r"[%<\[\]]", lambda c: f"%{ord(c[0]):02X}", column.name) for column in self.matrix_columns]

    @property
    def feature_types(self) -> list[str]:
        return [XGBOOST_TYPES[column.kind] for column in self.matrix_columns]

    @cached_property
    def first_columns(self) -> Array | None:
        """The first column of each feature (d,); None where each feature has one column."""
        if not self.ngrams:
            return None
        return np.unique([column.feature for column in self.matrix_columns], return_index=True)[1]

    @cached_property
    def _codes(self) -> list[tuple[dict[str | None, float], float] | None]:
        """The codes of every feature's categories, and the code of others; None for a number."""
        return [self._codes_of(name) if name in self.categories else None for name in self.kinds]

    def _codes_of(self, name: str) -> tuple[dict[str | None, float], float]:
        known: dict[str | None, float] = {value: code for code, value in enumerate(self.categories[name])}
        return (known | {None: math.nan}, len(known)) if name in self.pooled else (known, math.nan)

    def encode(self, columns: Mapping[str, Values]) -> Array:
        """Encode columns as a (n, d) float32 matrix, C-contiguous, in the model's column order.

        `columns`: n values for each feature. Raises ModelError if a feature is absent.
        """
        try:
            given = list(map(columns.__getitem__, self.features))
        except KeyError:
            absent = [name for name in self.kinds if name not in columns]
            raise ModelError(f"missing features: {', '.join(absent)}") from None
        if self.ngrams:
            return self._encode_expanded(given)
        return _encode_columns(given, self._codes)

    def _encode_expanded(self, given: Sequence[Values]) -> Array:
        """Encode features some of which have several columns."""
        single = [place for place, name in enumerate(self.features) if name not in self.ngrams]
        narrow = _encode_columns([given[i] for i in single], [self._codes[i] for i in single])
        parts: dict[int, Array] = {place: narrow[:, [number]] for number, place in enumerate(single)}
        for place, name in enumerate(self.features):
            if name in self.ngrams:
                parts[place] = self.ngrams[name].count(given[place])
        return np.ascontiguousarray(np.hstack([parts[place] for place in range(len(given))]), dtype=np.float32)

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


def _encode_columns(given: Sequence[Values], codes_of: Sequence[Codes | None]) -> Array:
    """Encode columns of n values, one for a feature: (n, d) float32."""
    parts, rows = zip(given, codes_of, strict=True), len(given[0]) if given else 0
    if rows == 1:  # a NumPy call takes as long for one row as for a hundred
        row = [
            (math.nan if values[0] is None else values[0]) if codes is None else codes[0].get(values[0], codes[1])
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


def _encode_categories(values: Values, codes: Codes) -> Values:
    known, other = codes
    if len(values) <= FEW:
        return [known.get(value, other) for value in values]
    texts = pa.array(values, pa.string())
    encoded = pc.index_in(texts, pa.array([name for name in known if name is not None], pa.string()))
    found = np.array(encoded.cast(pa.float32()).to_numpy(zero_copy_only=False), dtype=np.float32)
    if other == other:
        found[np.isnan(found) & texts.is_valid().to_numpy(zero_copy_only=False)] = other
    return found


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


def _distinct(values: pa.ChunkedArray, min_count: int = 1) -> tuple[str, ...]:
    """The different values that at least `min_count` rows have, in order."""
    counts = pc.value_counts(label_text(values)).to_pylist()
    distinct = [one["values"] for one in counts if one["values"] is not None and one["counts"] >= min_count]
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
