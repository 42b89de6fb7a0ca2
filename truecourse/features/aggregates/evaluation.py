"""Evaluate aggregations for decisions: one sweep over each key's rows and decisions per feature, without a join.

Time is O((rows + decisions) log rows) per feature and memory O(rows + decisions) per column and window.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import pyarrow as pa

from truecourse.arrays import Array
from truecourse.errors import FeatureError
from truecourse.features.aggregates.stored_rows import ROW, UNTIL, Column, Kind, StoredRows
from truecourse.features.asof import CREATED, EVENT
from truecourse.problem.aggregations import (
    Age,
    Aggregations,
    AnyAggregate,
    Count,
    CountDistinct,
    First,
    Last,
    Max,
    Min,
    StandardDeviation,
    Sum,
)

if TYPE_CHECKING:
    import polars as pl

MICROSECONDS = {"seconds": 1_000_000, "minutes": 60_000_000, "hours": 3_600_000_000, "days": 86_400_000_000}
_HALF, _WIDE, _LEAST_EXPONENT = 31, 126, -400
"""Limits of the faster kernels: bits of number and count, for variances and sums; no result is then subnormal."""


@dataclass(frozen=True)
class Result:
    """A feature's n values in the types of the source: float64, or int64 (see Column). `age`: times of events."""

    kind: Kind | Literal["age"]
    values: Array
    valid: Array
    texts: Array


@dataclass(frozen=True)
class Decisions:
    """n decisions, grouped by key: the arguments of the kernels. Times are microseconds."""

    groups: Array
    order: Array
    times: Array

    @classmethod
    def of(cls, codes: Array, times: Array, rows: StoredRows) -> "Decisions":
        """`codes`: n codes of keys, -1 for unknown ones, which have no rows."""
        from truecourse.features.aggregates.kernels import stable_order

        count = len(rows.first) - 1
        is_ascending = bool((times[1:] >= times[:-1]).all())
        order = np.arange(len(times)) if is_ascending else np.argsort(times, kind="stable")
        order, first = stable_order(np.where(codes < 0, count, codes), order, count + 1)
        wanted = np.flatnonzero(np.diff(first[:-1]))
        bounds = (rows.first[wanted], rows.first[wanted + 1], first[wanted], first[wanted + 1])
        return cls(np.ascontiguousarray(np.stack(bounds, axis=1)), order, times)


class AggregateIndex:
    """The rows of aggregations, prepared for any number of decisions."""

    def __init__(self, spec: Aggregations, rows: "pa.Table | pl.DataFrame") -> None:
        """`rows`: join keys, event_timestamp, created_timestamp (from when a row was known), _tc_until (when it was
        superseded, or null), _tc_row, and the columns of `spec.inputs`; times without zone are UTC."""
        names = rows.column_names if isinstance(rows, pa.Table) else rows.columns
        own = {EVENT, CREATED, UNTIL, ROW, *spec.inputs}
        self.spec = spec
        self.rows = StoredRows.of(rows, [name for name in names if name not in own])

    def at(self, keys: Sequence[tuple[object, ...]], times: Array) -> dict[str, Array]:
        """As evaluate(), for keys as tuples in the order of the rows' key columns."""
        codes = np.array([self.rows.code_of.get(key, -1) for key in keys], np.int64)
        return self.values(codes, times, None)

    def values(self, codes: Array, times: Array, features: Iterable[str] | None) -> dict[str, Array]:
        decisions = Decisions.of(codes, times.astype("datetime64[us]").astype(np.int64), self.rows)
        wanted = self.spec.features if features is None else features
        return {name: _as_array(self.result(name, decisions), self.spec.features[name], decisions) for name in wanted}

    def result(self, feature: str, decisions: Decisions) -> Result:
        """The values of one feature. Raises FeatureError if a sum of integers is out of range."""
        function = self.spec.features[feature]
        name = self.spec.input_of(feature)
        column = None if name is None else self.rows.column(name)
        if isinstance(function, Count):
            return self._counts(function, column, decisions)
        if isinstance(function, CountDistinct):
            assert column is not None
            return self._distinct(function, column, decisions)
        if isinstance(function, Age | First | Last | Min | Max):
            return self._picked(function, column, decisions)
        assert column is not None
        if column.kind in ("text", "time"):
            what = f"{type(function).__name__} of {column.kind}: it needs numbers"
            raise FeatureError(what, where=f"{self.spec.name}.{feature}", hint="CAST the expression to DOUBLE")
        if isinstance(function, StandardDeviation):
            return self._deviations(function, column, decisions)
        return self._sums(feature, function, column, decisions)

    def active(self, feature: str) -> tuple[Array, Array, Array]:
        """The rows that a feature can count, with the times at which they start and end to count."""
        function, name = self.spec.features[feature], self.spec.input_of(feature)
        ends, _ = self.rows.ends(function.window)
        rows = np.flatnonzero(
            _valid(function, None if name is None else self.rows.column(name), self.rows) & (self.rows.starts < ends)
        )
        return rows, self.rows.starts[rows], ends[rows]

    def _arguments(
        self, function: AnyAggregate, column: Column | None, decisions: Decisions, out: Array
    ) -> tuple[Array, ...]:
        ends, by_end = self.rows.ends(function.window)
        valid = _valid(function, column, self.rows)
        swept = (self.rows.by_start, by_end, self.rows.starts, ends, valid)
        return (decisions.groups, *swept, decisions.order, decisions.times, out)

    def _counts(self, function: AnyAggregate, column: Column | None, decisions: Decisions) -> Result:
        from truecourse.features.aggregates.kernels import count_rows

        out = np.zeros(len(decisions.times), np.int64)
        count_rows(*self._arguments(function, column, decisions, out))
        return _result("integer", out)

    def _distinct(self, function: AnyAggregate, column: Column, decisions: Decisions) -> Result:
        from truecourse.features.aggregates.kernels import count_distinct

        out, (codes, kinds) = np.zeros(len(decisions.times), np.int64), column.codes
        count_distinct(*self._arguments(function, column, decisions, out), codes, kinds)
        return _result("integer", out)

    def _sums(self, feature: str, function: AnyAggregate, column: Column, decisions: Decisions) -> Result:
        """Sum, Mean and Share, which is the mean of 0 and 1."""
        from truecourse.features.aggregates.kernels import sum_integers

        counts = np.zeros(len(decisions.times), np.int64)
        if isinstance(function, Sum) and column.kind != "float":
            out = np.zeros(len(counts), np.int64)
            if not sum_integers(*self._arguments(function, column, decisions, out), counts, column.values):
                hint = "sum CAST(... AS DOUBLE), or declare the column as Float"
                raise FeatureError("a sum is beyond 64 bits", where=f"{self.spec.name}.{feature}", hint=hint)
            return _result("integer", out, counts > 0)
        totals = self._totals(function, column, decisions, counts)
        values = totals if isinstance(function, Sum) else totals / np.maximum(counts, 1)
        return _result("float", values, (counts > 0) & np.isfinite(values))

    def _totals(self, function: AnyAggregate, column: Column, decisions: Decisions, counts: Array) -> Array:
        """Sums, each rounded once, infinite beyond the range of doubles. `counts` is filled with the counts."""
        from truecourse.features.aggregates.kernels import sum_numbers, sum_wide

        totals = np.zeros(len(counts), np.float64)
        arguments = self._arguments(function, column, decisions, totals)
        bits = self.rows.longest.bit_length()
        if column.wide is not None and column.wide[3] + bits <= _WIDE and column.wide[2] > _LEAST_EXPONENT:
            sum_wide(*arguments, counts, *column.wide[:3])
            return totals
        odds, shifts, exponent, most, _ = column.exact
        sum_numbers(*arguments, counts, odds, shifts, exponent, most // 32 + 4)
        return totals

    def _deviations(self, function: AnyAggregate, column: Column, decisions: Decisions) -> Result:
        from truecourse.features.aggregates.kernels import small_variances, variances

        out = np.full(len(decisions.times), np.nan)
        arguments = self._arguments(function, column, decisions, out)
        bits = self.rows.longest.bit_length()
        if column.small is not None and bits + column.small[2] <= _HALF and column.small[1] > _LEAST_EXPONENT:
            values, exponent, _ = column.small
            small_variances(*arguments, values, exponent)
        else:
            odds, shifts, exponent, most, _ = column.exact
            variances(*arguments, odds, shifts, exponent, most // 32 + 4, 2 * most // 32 + 6)
        return _result("float", np.sqrt(out), np.isfinite(out))

    def _picked(self, function: AnyAggregate, column: Column | None, decisions: Decisions) -> Result:
        from truecourse.features.aggregates.kernels import pick_rows, pick_rows_in_order

        is_age = isinstance(function, Age)
        ranks = column.ranks if isinstance(function, Min | Max) and column else np.arange(len(self.rows.event))
        is_lowest = isinstance(function, Min | First) or (isinstance(function, Age) and function.of == "first")
        out = np.full(len(decisions.times), -1, np.int64)
        arguments = self._arguments(function, column, decisions, out)
        pick = pick_rows_in_order if self.rows.is_in_order(function.window) else pick_rows
        pick(*arguments, ~ranks if is_lowest else ranks)
        valid = out >= 0
        source = self.rows.event if is_age or column is None else column.values
        values = source[out] if len(source) else np.zeros(len(out), source.dtype)
        if is_age or column is None:
            return _result("age", values, valid)
        return _result(column.kind, values, valid, column.texts)


def _result(
    kind: Kind | Literal["age"], values: Array, valid: Array | None = None, texts: Array | None = None
) -> Result:
    return Result(
        kind,
        values,
        np.ones(len(values), bool) if valid is None else valid,
        np.empty(0, object) if texts is None else texts,
    )


def _valid(function: AnyAggregate, column: Column | None, rows: StoredRows) -> Array:
    """Which rows a function counts: those with a value, or those whose condition is true."""
    if column is None:
        return np.ones(len(rows.event), bool)
    return column.valid & (column.values != 0) if isinstance(function, Count | Age) else column.valid


def _as_array(result: Result, function: AnyAggregate, decisions: Decisions) -> Array:
    """A feature's values as arrays of columns_of()."""
    if result.kind == "text":
        texts = np.append(result.texts, None)
        return np.asarray(texts[np.where(result.valid, result.values, len(result.texts))])
    if result.kind == "time":
        return np.where(result.valid, result.values.view("datetime64[us]"), np.datetime64("NaT", "us"))
    values = result.values
    if result.kind == "age":
        assert isinstance(function, Age)
        values = (decisions.times - values).astype(np.float64) / MICROSECONDS[function.unit]
    return np.where(result.valid, values.astype(np.float64), np.nan)


def evaluate(
    spec: Aggregations,
    rows: "pa.Table | pl.DataFrame",
    keys: "pa.Table | pl.DataFrame",
    times: Array,
    features: Iterable[str] | None = None,
) -> dict[str, Array]:
    """The features of n decisions, as arrays of truecourse.arrays.columns_of().

    `rows`: see AggregateIndex. `keys`: the n decisions' keys, in columns of the names of the rows' keys; null and
    unknown keys have no rows. `times`: datetime64, n. Raises FeatureError for values that cannot be aggregated."""
    index = AggregateIndex(spec, rows)
    return index.values(index.rows.codes_of(keys), times, features)
