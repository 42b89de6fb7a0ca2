"""A leak suspect, its label, and the small statistics by which suspects are found."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from truecourse.problem.definition import Kind

MIN_ROWS = 40
"""Labelled rows needed; with fewer, there are no suspects."""
MAX_ROWS = 20_000
"""Rows of the sample in which suspects are searched."""
MAX_P_VALUE = 1e-6
"""Largest probability that a finding arises by chance."""
NEARLY_PERFECT_R2 = 0.998
"""A column with at least this R² explains the label almost perfectly."""
EXACT_R2 = 0.999999
_FARTHEST = 1e100
"""Numbers beyond ± this count as this: their squares are doubles too."""
Numbers = np.ndarray[Any, np.dtype[np.float64]]
Codes = np.ndarray[Any, np.dtype[np.int64]]
Mask = np.ndarray[Any, np.dtype[np.bool_]]


@dataclass(frozen=True)
class Suspect:
    """`columns` that may leak the label, and `what` was found, with figures.

    `determines`: the columns determine the label exactly."""

    columns: tuple[str, ...]
    what: str
    determines: bool

    def __str__(self) -> str:
        return f"{' and '.join(self.columns)} {self.what}"


@dataclass(frozen=True)
class Label:
    """The label's n values: `codes` for classes, `numbers` for a regression and for two classes.

    `shown` holds the class names, in the order of the codes."""

    name: str
    codes: Codes | None
    numbers: Numbers | None
    shown: tuple[str, ...]

    def __len__(self) -> int:
        values = self.codes if self.codes is not None else self.numbers
        return 0 if values is None else len(values)


def encode_label(name: str, kind: Kind, label: pa.Array) -> Label:
    if kind == "regression":
        numbers = np.asarray(label.cast(pa.float64(), safe=False), dtype=np.float64)
        return Label(name, None, np.clip(numbers, -_FARTHEST, _FARTHEST), ())
    codes, shown = encode(label)
    return Label(name, codes, codes.astype(np.float64) if len(shown) == 2 else None, shown)


def encode(column: pa.Array) -> tuple[Codes, tuple[str, ...]]:
    """Encode values as integer codes, ordered by their texts; null is -1. Also returns the texts."""
    texts = column if pa.types.is_string(column.type) else column.cast(pa.string())
    uniques, codes = np.unique(np.asarray(texts.fill_null("\0"), dtype=str), return_inverse=True)
    if column.null_count:  # NUL sorts before every text
        return codes.astype(np.int64) - 1, tuple(uniques[1:])
    return codes.astype(np.int64), tuple(uniques)


def to_floats(column: pa.Array) -> Numbers | None:
    kind = column.type
    if pa.types.is_boolean(kind):
        column = column.cast(pa.int8())
    elif not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        return None
    numbers = np.asarray(column.cast(pa.float64(), safe=False).fill_null(np.nan), dtype=np.float64)
    return np.clip(numbers, -_FARTHEST, _FARTHEST) if np.isfinite(numbers).any() else None


def area_under_curve(scores: Numbers, truth: Codes) -> float:
    places = rank(scores)
    positive = truth == 1
    count = positive.sum()
    return float((places[positive].sum() - count * (count + 1) / 2) / (count * (len(truth) - count)))


def rank(values: Numbers) -> Numbers:
    """Ranks from 1; ties share their mean rank."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    places: Numbers = (ends - (counts - 1) / 2)[inverse]
    return places


def r_squared(one: Numbers, other: Numbers) -> float:
    """Squared correlation; 0 where one of the two is constant."""
    if not len(one) or one.std() == 0 or other.std() == 0:
        return 0.0
    return float(np.corrcoef(one, other)[0, 1] ** 2)
