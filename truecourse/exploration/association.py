"""Pairwise association of columns: Spearman's rank correlation of two numbers, Cramér's V of two categories (corrected
for bias, Bergsma 2013), and the correlation ratio of ranks by category (corrected as epsilon squared)."""

from collections.abc import Iterator
from itertools import combinations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy.stats import rankdata

from truecourse.arrays import Array
from truecourse.exploration.records import ColumnSummary, Finding, Pair
from truecourse.exploration.source import Column, Source
from truecourse.wording import counted

ROWS = 20_000
MOST_COLUMNS = 40
MOST_CATEGORIES = 100
LEAST_ROWS = 30
_SAME = 0.9999


def associate(source: Source, summaries: list[ColumnSummary]) -> tuple[tuple[str, ...], list[Pair]]:
    """The pairs of up to MOST_COLUMNS columns, strongest first; columns with the strongest relation to the label come
    first. Measured on up to ROWS rows that have both values."""
    step = max(1, len(source.sample) // ROWS)
    usable = [(c, s) for c, s in zip(source.columns, summaries, strict=True) if _is_measured(c, s)]
    ranked = sorted(usable, key=lambda each: -(each[1].relation.value if each[1].relation else 0.0))[:MOST_COLUMNS]
    chosen = [column for column, _ in usable if column in [kept for kept, _ in ranked]]
    values = {column.name: _values(source, column, step) for column in chosen}
    pairs = [
        pair
        for one, other in combinations(chosen, 2)
        if (pair := _pair(one, values[one.name], other, values[other.name])) is not None
    ]
    names = tuple(column.name for column in chosen)
    return names, sorted(pairs, key=lambda pair: -pair.strength)


def _is_measured(column: Column, summary: ColumnSummary) -> bool:
    if summary.distinct < 2 or column.role == "split":
        return False
    return column.form != "category" or summary.distinct <= MOST_CATEGORIES


def _values(source: Source, column: Column, step: int) -> Array:
    """Ranks of numbers and times, codes of categories; NaN where missing."""
    values = source.values(column).take(pa.array(np.arange(0, len(source.sample), step)))
    absent = pc.is_null(values, nan_is_null=True).to_numpy(zero_copy_only=False)
    if column.form == "category":
        found = pc.fill_null(pc.dictionary_encode(values).indices, 0).to_numpy(zero_copy_only=False).astype(float)
    else:
        kind = pa.int64() if column.form == "time" else pa.float64()
        found = pc.fill_null(values.cast(kind, safe=False), 0).to_numpy(zero_copy_only=False).astype(float)
    return np.where(absent, np.nan, found)


def _pair(one: Column, first: Array, other: Column, second: Array) -> Pair | None:
    both = np.isfinite(first) & np.isfinite(second)
    if both.sum() < LEAST_ROWS:
        return None
    first, second = first[both], second[both]
    categorical = (one.form == "category", other.form == "category")
    if all(categorical):
        strength, measure = cramers_v(first.astype(int), second.astype(int)), "Cramér's V"
    elif any(categorical):
        codes, numbers = (first, second) if categorical[0] else (second, first)
        strength, measure = correlation_ratio(codes.astype(int), numbers), "correlation ratio of ranks"
    else:
        strength, measure = abs(rank_correlation(first, second)), "rank correlation"
    return Pair(one=one.name, other=other.name, strength=min(strength, 1.0), measure=measure)


def rank_correlation(one: Array, other: Array) -> float:
    """Spearman's rank correlation; 0 for a constant."""
    first, second = rankdata(one), rankdata(other)
    if first.min() == first.max() or second.min() == second.max():
        return 0.0
    return float(np.corrcoef(first, second)[0, 1])


def cramers_v(one: Array, other: Array) -> float:
    """Cramér's V of two arrays of codes, corrected for bias (Bergsma 2013)."""
    first, second = (np.unique(codes, return_inverse=True)[1] for codes in (one, other))
    rows, columns, n = int(first.max()) + 1, int(second.max()) + 1, len(first)
    if rows < 2 or columns < 2:
        return 0.0
    table = np.bincount(first * columns + second, minlength=rows * columns).reshape(rows, columns)
    expected = table.sum(axis=1, keepdims=True) * table.sum(axis=0, keepdims=True) / n
    phi = float(((table - expected) ** 2 / expected).sum()) / n
    corrected = max(0.0, phi - (rows - 1) * (columns - 1) / (n - 1))
    least = min(rows - (rows - 1) ** 2 / (n - 1), columns - (columns - 1) ** 2 / (n - 1)) - 1
    return float(np.sqrt(corrected / least)) if least > 0 else 0.0


def correlation_ratio(codes: Array, numbers: Array) -> float:
    """The root of epsilon squared: the share of the ranks' variance between categories, corrected for their number."""
    places, values = np.unique(codes, return_inverse=True)[1], rankdata(numbers)
    counts, n = np.bincount(places), len(values)
    total = float(((values - values.mean()) ** 2).sum())
    if len(counts) < 2 or n <= len(counts) or total == 0:
        return 0.0
    within = float(((values - (np.bincount(places, values) / counts)[places]) ** 2).sum())
    return float(np.sqrt(max(0.0, 1 - (within / (n - len(counts))) / (total / (n - 1)))))


def duplicate_columns(source: Source, pairs: list[Pair]) -> Iterator[Finding]:
    """Columns that carry the same values, or each other's order or categories, one to one."""
    inputs = {column.name for column in source.inputs}
    for pair in pairs:
        if pair.strength < _SAME or not {pair.one, pair.other} <= inputs:
            continue
        one, other = source.column(pair.one), source.column(pair.other)
        first, second = source.values(one), source.values(other)
        filled = pc.and_(pc.is_valid(first), pc.is_valid(second))
        first, second = first.filter(filled), second.filter(filled)
        if first.type == second.type and first.equals(second):
            what = f"{pair.one} and {pair.other} have the same value in every row"
        elif pair.measure == "rank correlation":
            what = f"{pair.one} and {pair.other} order the rows alike"
        elif pair.measure == "Cramér's V":
            what = f"{pair.one} and {pair.other} are the same categories in other words"
        else:
            continue
        whole = "" if len(first) == source.rows else f" (of the {counted(len(first), 'row')} with both)"
        yield Finding(topic="duplicate columns", columns=(pair.one, pair.other), sentence=f"{what}{whole}")
