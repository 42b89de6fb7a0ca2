"""Leak suspects that times show: what is known only after the decision, and identifiers that encode its time."""

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from truecourse.arrays import Array
from truecourse.authoring.leakage.suspects import MIN_ROWS
from truecourse.authoring.scaffold.guesses import is_identifier_name
from truecourse.exploration.association import rank_correlation
from truecourse.exploration.records import ColumnSummary
from truecourse.exploration.source import Column, Source
from truecourse.html import share

_UNITS = {"seconds": 10**6, "minutes": 60 * 10**6, "hours": 3600 * 10**6, "days": 86_400 * 10**6}
"""Microseconds of a unit of time."""
_ALIKE = 0.999
"""Rank correlation of an identifier with the time of the decision from which on it encodes that time."""
Found = Iterator[tuple[tuple[str, ...], str]]


def later_times(source: Source, summaries: Sequence[ColumnSummary]) -> Found:
    """Times after the decision."""
    decided = _decided(source)
    for column in _other_times(source):
        moments = _microseconds(source, column)
        both = np.isfinite(moments) & np.isfinite(decided)
        if both.sum() >= MIN_ROWS and (after := float((moments > decided)[both].mean())) >= 0.5:
            what = f"{column.name} is later than {source.roles.time} in {share(after)} of the rows that have it"
            yield (column.name,), f"{what}: it is known only after the decision"


def durations(source: Source, summaries: Sequence[ColumnSummary]) -> Found:
    """Numbers that are the time from the decision to a later time."""
    decided = _decided(source)
    lengths = {column.name: _microseconds(source, column) - decided for column in _other_times(source)}
    for column in source.inputs:
        if column.form != "number" or not lengths:
            continue
        numbers = _floats(source.values(column))
        for name, length in lengths.items():
            both = np.isfinite(length) & np.isfinite(numbers)
            if both.sum() < MIN_ROWS or np.median(length[both]) <= 0 or len(np.unique(numbers[both])) < 10:
                continue
            if unit := _unit(numbers[both], length[both]):
                what = f"{column.name} is the time from {source.roles.time} to {name} in {unit}"
                yield (column.name,), f"{what}: it is known only after the decision"
                break


def _unit(numbers: Array, length: Array) -> str:
    """The unit in which numbers are lengths of time, rounded or not; empty if they are not."""
    for unit, size in _UNITS.items():
        if np.mean(np.abs(numbers - length / size) <= 1.0) >= 0.95 and np.std(length) > 2 * size:
            return unit
    return ""


def time_codes(source: Source, summaries: Sequence[ColumnSummary]) -> Found:
    """Identifiers whose order is that of the time of the decision."""
    if not source.roles.time:
        return
    decided = _decided(source)
    held = np.isfinite(decided)
    for column, summary in zip(source.columns, summaries, strict=True):
        is_identifier = summary.distinct >= 0.95 * summary.rows and not summary.missing
        if column.type not in ("Integer", "Text") or not is_identifier or column.name == source.roles.label:
            continue
        values = source.values(column)
        if column.type == "Integer":
            numbers = _floats(values)
            if not is_identifier_name(column.name) and not _is_numbering(numbers):
                continue
        else:
            texts = np.asarray(pc.fill_null(values, ""), dtype=str)
            numbers = np.unique(texts, return_inverse=True)[1].astype(float)
        if held.sum() >= MIN_ROWS and abs(found := rank_correlation(numbers[held], decided[held])) >= _ALIKE:
            what = f"{column.name} identifies rows and encodes {source.roles.time}"
            yield (column.name,), f"{what}: both order the rows alike (rank correlation {found:.4f})"


def _is_numbering(numbers: Array) -> bool:
    """Whether sorted numbers mostly follow each other at the same distance, as the numbers of rows do."""
    steps = np.diff(np.sort(numbers))
    return bool(len(steps) and np.unique(steps, return_counts=True)[1].max() >= 0.5 * len(steps))


def late_values(source: Source, summaries: Sequence[ColumnSummary]) -> Found:
    """Columns that are nearly always filled, but hardly in the newest rows."""
    decided = _decided(source)
    order = np.argsort(decided, kind="stable")[: int(np.isfinite(decided).sum())]
    if len(order) < 200:
        return
    shares = {summary.name: summary.missing_share for summary in summaries}
    for column in source.inputs:
        if not 0.001 <= shares[column.name] <= 0.3:
            continue
        absent = pc.is_null(source.values(column), nan_is_null=True).to_numpy(zero_copy_only=False)[order]
        older = float(absent[: len(order) // 2].mean())
        newest = float(absent[-max(20, len(order) // 100) :].mean())
        if newest >= 0.9 and older <= 0.1:
            what = f"{column.name} is missing in {share(newest)} of the newest rows and in {share(older)} of older ones"
            yield (column.name,), f"{what}: it seems to be filled in after the decision"


def _other_times(source: Source) -> list[Column]:
    time = source.roles.time
    return [column for column in source.inputs if column.form == "time" and column.name != time] if time else []


def _decided(source: Source) -> Array:
    """Microseconds since 1970 of the decision in the sample; NaN if unknown."""
    if not source.roles.time:
        return np.full(len(source.sample), np.nan)
    return _microseconds(source, source.column(source.roles.time))


def _microseconds(source: Source, column: Column) -> Array:
    return _floats(source.values(column).cast(pa.int64()))


def _floats(values: pa.Array) -> Array:
    numbers = pc.fill_null(values.cast(pa.float64(), safe=False), np.nan)
    return np.asarray(numbers.to_numpy(zero_copy_only=False))
