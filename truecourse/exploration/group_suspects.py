"""Leak suspects that hold the label of other rows: figures of a group over all rows, and the label of the next row."""

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from truecourse.arrays import Array
from truecourse.authoring.leakage.suspects import MAX_ROWS, MIN_ROWS
from truecourse.exploration.columns import FARTHEST, literal
from truecourse.exploration.records import ColumnSummary
from truecourse.exploration.source import Column, Source
from truecourse.html import share

_EQUAL = 0.98
"""The share of rows in which a column must equal a figure."""
_PARTITIONS = 5
"""Columns by which rows are grouped to find the next one."""
_OTHERS = {"largest": "max", "smallest": "min", "median": "median"}
_CLASSES = 10
"""Classes of which group figures are computed."""
Found = Iterator[tuple[tuple[str, ...], str]]


def group_figures(source: Source, summaries: Sequence[ColumnSummary]) -> Found:
    """Numbers that are a figure of the label, or the number of rows, of a group over all rows."""
    label = source.roles.label
    if not label or source.roles.kind is None:
        return
    groups = [
        column
        for column, summary in zip(source.columns, summaries, strict=True)
        if column.type in ("Integer", "Text")
        and column.name not in (label, source.roles.split)
        and 3 <= summary.distinct <= summary.rows / 3
    ]
    rows = pa.array(np.arange(0, len(source.sample), max(1, len(source.sample) // MAX_ROWS)))
    codes = {group.name: _codes(source.values(group).take(rows)) for group in groups}
    figures = _figures(source)
    for column in source.inputs:
        if column.form != "number" or not figures:
            continue
        numbers = pc.fill_null(source.values(column).take(rows).cast(pa.float64(), safe=False), np.nan)
        values = np.clip(numbers.to_numpy(zero_copy_only=False), -FARTHEST, FARTHEST)
        for group in groups:
            if group is column or not _may_be_figure(values, codes[group.name]):
                continue
            if figure := _equal_figure(source, column, group, figures):
                what = f"{column.name} is {figure} with its {group.name}, over all rows"
                yield (column.name,), f"{what}: it holds labels of other rows, later ones included"
                break


def _codes(values: pa.Array) -> Array:
    """Codes of values; -1 if missing."""
    return np.asarray(pc.fill_null(pc.dictionary_encode(values).indices, -1).to_numpy(zero_copy_only=False))


def _may_be_figure(values: Array, codes: Array) -> bool:
    """Whether the numbers depend on the group, but for the row's own part in it: at most a few values in each group."""
    valid = np.isfinite(values) & (codes >= 0)
    values, codes = np.round(values[valid], 9), codes[valid]
    if len(values) < MIN_ROWS or np.ptp(values) == 0:
        return False
    order = np.lexsort((values, codes))
    other_group = np.diff(codes[order]) != 0
    pairs = int((other_group | (np.diff(values[order]) != 0)).sum()) + 1
    return bool(pairs <= 2.5 * (other_group.sum() + 1) and len(np.unique(values)) >= 3)


def _figures(source: Source) -> dict[str, str]:
    """SQL of each figure of a window g, by what it is."""
    found = {"the number of rows": "count(*) OVER g"} if source.roles.time else {}
    for (mean, total), target in _numeric_labels(source).items():
        others = f"(sum({target}) OVER g - {target}) / nullif(count({target}) OVER g - 1, 0)"
        found |= {f"{mean} the rows": f"avg({target}) OVER g", f"{mean} the other rows": others}
        found[f"{total} the rows"] = f"sum({target}) OVER g"
    if source.roles.kind == "regression":
        target = source.column(source.roles.label).sql
        found |= {f"the {name} label of the rows": f"{function}({target}) OVER g" for name, function in _OTHERS.items()}
    return found


def _numeric_labels(source: Source) -> dict[tuple[str, str], str]:
    """SQL of the label as a number, or of each class as 0 and 1, by what its mean and its sum are."""
    column, kind = source.column(source.roles.label), source.roles.kind
    if column.form == "number" and kind != "multiclass":
        return {("the mean label of", "the sum of the labels of"): column.sql}
    query = f"SELECT {column.sql} FROM data WHERE {column.sql} IS NOT NULL GROUP BY 1 ORDER BY count(*) DESC, 1"  # noqa: S608
    classes = [value for (value,) in source.fetch(f"{query} LIMIT {_CLASSES}")]
    return {
        (f"the share of {value} in", f"the number of {value} in"): f"({column.sql} = {literal(value)})::INTEGER"
        for value in classes
    }


def _equal_figure(source: Source, column: Column, group: Column, figures: dict[str, str]) -> str:
    """What the column equals in nearly all rows; empty for nothing."""
    inner = ", ".join(f"{figure} AS f{i}" for i, figure in enumerate(figures.values()))
    equal = ", ".join(f"avg((abs(value - f{i}) <= 1e-6 * (1 + abs(value)))::INTEGER)" for i in range(len(figures)))
    rows = f"SELECT {column.sql} AS value, {inner} FROM data WINDOW g AS (PARTITION BY {group.sql})"  # noqa: S608
    shares = source.fetch(f"SELECT {equal} FROM ({rows})")[0]  # noqa: S608
    return next((name for name, found in zip(figures, shares, strict=True) if found and found >= _EQUAL), "")


def shifted_labels(source: Source, summaries: Sequence[ColumnSummary]) -> Found:
    """Columns with the label of the next row by time, in all rows or of one group."""
    label, time = source.roles.label, source.roles.time
    if not label or not time:
        return
    target = source.column(label)
    distinct = {summary.name: summary.distinct for summary in summaries}
    groups = [c.sql for c in source.columns if c.form != "time" and 1 < distinct[c.name] <= source.rows / 3]
    partitions = ["", *(f"PARTITION BY {name} " for name in groups[:_PARTITIONS])]
    for column in source.inputs:
        if column.type != target.type or not 0.9 * distinct[label] <= distinct[column.name] <= distinct[label] + 1:
            continue
        for partition in partitions:
            ahead, behind, same = _agreement(source, column, target, f"({partition}ORDER BY {source.column(time).sql})")
            if ahead >= _EQUAL and behind < _EQUAL and same < 0.95:
                what = f"{column.name} is the {label} of the next row by {time} in {share(ahead)} of the rows"
                yield (column.name,), f"{what}: it is known only after the decision"
                break


def _agreement(source: Source, column: Column, target: Column, window: str) -> tuple[float, float, float]:
    """The shares of rows in which the column equals the label of the row after, and of the row before it, and in which
    the label equals that of the row after."""
    ahead, behind = f"lead({target.sql}) OVER {window}", f"lag({target.sql}) OVER {window}"
    rows = f"SELECT {column.sql} AS value, {target.sql} AS own, {ahead} AS ahead, {behind} AS behind FROM data"  # noqa: S608
    shares = ", ".join(f"coalesce(avg(({a} = {b})::INTEGER), 0)" for a, b in (
        ("value", "ahead"), ("value", "behind"), ("own", "ahead"),
    ))  # fmt: skip
    found = source.fetch(f"SELECT {shares} FROM ({rows})")[0]  # noqa: S608
    return float(found[0]), float(found[1]), float(found[2])
