"""Candidate keys, and rows that occur more than once."""

from collections.abc import Iterator
from itertools import combinations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from truecourse.arrays import Array
from truecourse.exploration.records import ColumnSummary, Duplicates, Finding, Key
from truecourse.exploration.source import Column, Source
from truecourse.wording import counted_of

_MOST_PAIRS = 5
_MOST_COLUMNS = 30
"""Columns with the most values, whose pairs are tried."""
_NEARLY = 0.9
"""The estimated share of distinct values from which on a column is counted exactly."""


def find_keys(source: Source, summaries: list[ColumnSummary]) -> list[Key]:
    """Single columns whose values identify every row; without one, pairs of columns. All rows are counted."""
    candidates = [
        column
        for column, summary in zip(source.columns, summaries, strict=True)
        if not summary.missing + summary.unreadable and column.type != "Boolean" and _may_identify(summary, column)
    ]
    stated = [source.column(name) for name in source.roles.keys]
    found = [Key(columns=(column.name,)) for column in candidates if is_unique(source, (column,))]
    if len(stated) > 1:
        names = tuple(column.name for column in stated)
        if is_unique(source, stated):
            found.insert(0, Key(columns=names, reason="as stated"))
    return found or list(_pairs(source, summaries))


def _may_identify(summary: ColumnSummary, column: Column) -> bool:
    """Whole numbers, texts and times; measurements that happen to differ are no key."""
    return column.type != "Float" and summary.distinct >= _NEARLY * summary.rows and summary.rows > 1


def is_unique(source: Source, columns: "list[Column] | tuple[Column, ...]") -> bool:
    """Whether no two rows have the same values in these columns: first in the sample, then in all rows."""
    if has_repeats(_row_codes([source.values(column) for column in columns])):
        return False
    if source.whole:
        return True
    names = ", ".join(column.sql for column in columns)
    row = f"({names})" if len(columns) > 1 else names
    return bool(source.fetch(f"SELECT count(DISTINCT {row}) = count(*) FROM data")[0][0])  # noqa: S608


def has_repeats(codes: Array) -> bool:
    return len(np.unique(codes)) < len(codes)


def _row_codes(columns: list[pa.Array]) -> Array:
    """One number for each row, equal for rows with equal values."""
    combined = np.zeros(len(columns[0]), np.int64)
    for column in columns:
        codes = pc.fill_null(pc.dictionary_encode(column).indices, -1).to_numpy(zero_copy_only=False).astype(np.int64)
        combined = np.unique(combined * (codes.max() + 2) + codes + 1, return_inverse=True)[1]
    return combined


def _pairs(source: Source, summaries: list[ColumnSummary]) -> Iterator[Key]:
    usable = [
        (column, summary)
        for column, summary in zip(source.columns, summaries, strict=True)
        if not summary.missing + summary.unreadable and column.type not in ("Float", "Boolean") and summary.distinct > 1
    ]
    usable = sorted(usable, key=lambda each: -each[1].distinct)[:_MOST_COLUMNS]
    ranked = sorted(combinations(usable, 2), key=lambda pair: pair[0][1].distinct * pair[1][1].distinct)
    tried = found = 0
    for (one, first), (other, second) in ranked:
        if first.distinct * second.distinct < source.rows:
            continue
        if not is_unique(source, (one, other)):
            tried += 1
            if tried >= 200:
                return
            continue
        yield Key(columns=(one.name, other.name))
        found += 1
        if found == _MOST_PAIRS:
            return


def count_duplicates(source: Source, keys: list[Key]) -> tuple[Duplicates, list[Column]]:
    """Count the rows that equal an earlier one in all columns but keys of one column; returns these columns too."""
    identifying = {key.columns[0] for key in keys if len(key.columns) == 1}
    compared = [column for column in source.columns if column.name not in identifying and column.role != "split"]
    if not compared:
        return Duplicates(rows=0, without=tuple(sorted(identifying))), []
    names = ", ".join(column.sql for column in compared)
    rows = source.fetch(f"SELECT count(*) - count(DISTINCT hash({names})) FROM data")[0][0]  # noqa: S608
    return Duplicates(rows=rows, without=tuple(sorted(identifying))), compared


def duplicate_findings(source: Source, duplicates: Duplicates) -> Iterator[Finding]:
    if duplicates.rows:
        other = f" but {', '.join(duplicates.without)}" if duplicates.without else ""
        what = f"{counted_of(duplicates.rows, source.rows, 'row')} are equal to an earlier row in every column{other}"
        yield Finding(topic="duplicate rows", columns=(), sentence=what)
