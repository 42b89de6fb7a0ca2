"""Guess how times, and texts of many values, are given to the model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow.compute as pc

from truecourse.arrays import Array
from truecourse.authoring.scaffold.profile import ColumnProfile, FileProfile
from truecourse.authoring.scaffold.source_writer import Call
from truecourse.problem.schema import Text
from truecourse.wording import counted

_POOLED = 20
"""Fewest rows of a category of its own, where categories are many."""
_REPEATED = 5
"""Mean rows of a text from which on texts are categories, however many they are."""
_WIDTHS = ((1000, 16), (5000, 32), (float("inf"), 64))
"""Columns of n-grams for tables with fewer rows than this."""
_LATER = 0.05
"""Share of rows with a time after the decision from which on the time counts as filled in later."""
_DAY = np.timedelta64(1, "D")


@dataclass(frozen=True)
class Encoding:
    """Arguments of a column's declaration, and what they mean in words."""

    keywords: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""


def is_many(column: ColumnProfile) -> bool:
    """Whether a text has too many values for a category each."""
    return isinstance(column.declared, Text) and column.distinct > max(20, min(1000, column.held // 4))


def has_words(column: ColumnProfile, file: FileProfile) -> bool:
    """Whether at least half of the texts have several words."""
    texts = file.sample[column.name].drop_null()
    return bool(len(texts)) and float(pc.mean(pc.match_substring(texts, " ")).as_py() or 0) >= 0.5


def text_encoding(column: ColumnProfile, file: FileProfile) -> Encoding:
    """How a text of many values is encoded: frequent categories, its words, or its characters."""
    if column.held >= _REPEATED * column.distinct:
        note = f"values in fewer than {_POOLED} training rows, and new ones, are one category"
        return Encoding({"min_count": _POOLED}, note)
    width = next(width for rows, width in _WIDTHS if column.held < rows)
    hashed = f"hashed to {counted(width, 'column')}"
    if has_words(column, file):
        return Encoding({"ngrams": Call("Ngrams", (), {"width": width})}, f"the model is given word counts, {hashed}")
    note = f"the model is given counts of up to 3 characters in a row, {hashed}"
    return Encoding({"ngrams": Call("Ngrams", (), {"width": width, "of": "characters", "longest": 3})}, note)


def later_than_decision(column: ColumnProfile, decided: ColumnProfile | None, file: FileProfile) -> str:
    """Why a time was probably filled in after the decision; empty if it was not."""
    if decided is None:
        return ""
    times, decisions = _times(column, file), _times(decided, file)
    known = ~(np.isnat(times) | np.isnat(decisions))
    share = float((times[known] > decisions[known]).mean()) if known.any() else 0.0
    what = f"it is after {decided.name} in {share:.0%} of the rows: filled in later, unless it is a plan"
    return what if share > _LATER else ""


def time_encoding(
    column: ColumnProfile, earlier: Sequence[ColumnProfile], decided: ColumnProfile | None, file: FileProfile
) -> Encoding:
    """The parts of a time that vary. `earlier`: other times that are inputs; `decided`: the time of the decisions."""
    times = _times(column, file)
    times = times[~np.isnat(times)]
    parts: list[Any] = ["days_to_decision"] if decided is not None else []
    if not len(times):
        return Encoding({"parts": parts}, "")
    days = times.astype("datetime64[D]")
    if decided is None and times.min().astype("datetime64[Y]") != times.max().astype("datetime64[Y]"):
        parts.append("year")
    parts += ["month"] if (days.max() - days.min()) / _DAY >= 90 else []
    parts += ["day_of_week"] if len(np.unique(days)) >= 14 else []
    parts += ["hour"] if (times != days).any() else []
    parts += [Call("Since", (other.name,)) for other in earlier[:1]]
    shown = [f"days since {part.arguments[0]}" if isinstance(part, Call) else part.replace("_", " ") for part in parts]
    return Encoding({"parts": parts}, f"the model is given {', '.join(shown) or 'nothing of it'}")


def _times(column: ColumnProfile, file: FileProfile) -> Array:
    values = file.sample[column.name]
    return np.asarray(values.cast("timestamp[us]").to_numpy(zero_copy_only=False), dtype="datetime64[us]")
