"""Evaluate aggregations for decisions: one sweep over each key's rows and decisions per feature, without a join.

Time is O((rows + decisions) log rows) per feature and memory O(rows + decisions) per column and window.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa

from truecourse.arrays import Array
from truecourse.errors import FeatureError
from truecourse.features.aggregates.online_steps import MICROSECONDS
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

_HALF, _WIDE, _LEAST_EXPONENT = 31, 126, -400
"""Limits of the faster kernels: bits of number and count, for variances and sums; no result is then subnormal."""


@dataclass(frozen=True)
class Result:
    """A feature's n values by key and time, in the types of the source: float64, or int64 (see Column). The value of an
    age is the time of the event."""

    kind: Kind | Literal["age"]
    values: Array
    valid: Array | bool = True
    texts: Array = field(default_factory=lambda: np.empty(0, object))


@dataclass(frozen=True)
class Decisions:
    """n decisions, sorted by key and time: the arguments of the kernels. Times are microseconds.

    `order`: the place of each among the given decisions."""

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
        return cls(np.ascontiguousarray(np.stack(bounds, axis=1)), order, times[order])

    def placed(self, values: Array) -> Array:
        """Values in the order of the given decisions."""
        given = np.empty_like(values)
        given[self.order] = values
        return given


class AggregateIndex:
    """The rows of aggregations, prepared for any number of decisions."""

    def __init__(self, spec: Aggregations, rows: "pa.Table | pl.DataFrame") -> None:
        """`rows`: join keys, event_timestamp, created_timestamp (from when a row was known), _tc_until (when it was
        superseded, or null), _tc_row, and the columns of `spec.inputs`; times without zone are UTC."""
        names = rows.column_names if isinstance(rows, pa.Table) else rows.columns
        own = {EVENT, CREATED, UNTIL, ROW, *spec.inputs}
        self.spec = spec
        self.rows = StoredRows.of(rows, [name for name in names if name not in own])
        self._inputs = {name: spec.input_of(name) for name in spec.features}
        self._swept: dict[str, tuple[Array, ...]] = {}
        self._ranks: dict[str, Array] = {}

    def at(self, keys: Sequence[tuple[object, ...]], times: Array) -> dict[str, Array]:
        """As evaluate(), for keys as tuples in the order of the rows' key columns."""
        codes = np.array([self.rows.code_of.get(key, -1) for key in keys], np.int64)
        return self.values(codes, times, None)

    def values(self, codes: Array, times: Array, features: Iterable[str] | None) -> dict[str, Array]:
        decisions = Decisions.of(codes, times.astype("datetime64[us]").astype(np.int64), self.rows)
        wanted = self.spec.features if features is None else features
        return {
            name: decisions.placed(_as_array(self.result(name, decisions), self.spec.features[name], decisions.times))
            for name in wanted
        }

    def result(self, feature: str, decisions: Decisions) -> Result:
        """The values of one feature. Raises FeatureError for values that cannot be aggregated, and for a sum of
        integers that is out of range."""
        function, column = self.spec.features[feature], self._column(feature)
        if isinstance(function, Count):
            return self._counts(feature, decisions)
        if isinstance(function, Age | First | Last | Min | Max):
            return self._picked(feature, column, decisions)
        assert column is not None
        if isinstance(function, CountDistinct):
            return self._distinct(feature, column, decisions)
        if column.kind in ("text", "time"):
            what = f"{type(function).__name__} of {column.kind}: it needs numbers"
            raise FeatureError(what, where=f"{self.spec.name}.{feature}", hint="CAST the expression to DOUBLE")
        if isinstance(function, StandardDeviation):
            return self._deviations(feature, column, decisions)
        if isinstance(function, Sum) and column.kind != "float":
            return self._whole_sums(feature, column, decisions)
        return self._sums(feature, column, decisions)

    def active(self, feature: str) -> tuple[Array, Array, Array]:
        """The rows that a feature can count, with the times at which they start and end to count."""
        _, _, starts, ends, valid = self._sweep(feature)
        rows = np.flatnonzero(valid & (starts < ends))
        return rows, starts[rows], ends[rows]

    def _column(self, feature: str) -> Column | None:
        name = self._inputs[feature]
        return None if name is None else self.rows.column(name)

    def _sweep(self, feature: str) -> tuple[Array, ...]:
        """What the kernels need of the rows: by_start, by_end, starts, ends, and which rows the feature counts: those
        with a value, or those whose condition is true."""
        if feature not in self._swept:
            function, column = self.spec.features[feature], self._column(feature)
            valid = np.ones(len(self.rows.event), bool) if column is None else column.valid
            if column is not None and isinstance(function, Count | Age):
                valid = valid & (column.values != 0)
            ends, by_end = self.rows.ends(function.window)
            self._swept[feature] = self.rows.by_start, by_end, self.rows.starts, ends, valid
        return self._swept[feature]

    def _run(self, kernel: str, feature: str, decisions: Decisions, out: Array, *more: Any) -> Any:
        """Run a kernel, which writes the result of each decision to `out`."""
        from truecourse.features.aggregates import exact_sums, kernels

        run = getattr(kernels, kernel, None) or getattr(exact_sums, kernel)
        return run(decisions.groups, *self._sweep(feature), decisions.times, out, *more)

    def _counts(self, feature: str, decisions: Decisions) -> Result:
        out = np.zeros(len(decisions.times), np.int64)
        self._run("count_rows", feature, decisions, out)
        return Result("integer", out)

    def _distinct(self, feature: str, column: Column, decisions: Decisions) -> Result:
        out, (codes, kinds) = np.zeros(len(decisions.times), np.int64), column.codes
        self._run("count_distinct", feature, decisions, out, codes, kinds)
        return Result("integer", out)

    def _whole_sums(self, feature: str, column: Column, decisions: Decisions) -> Result:
        out, counts = np.zeros(len(decisions.times), np.int64), np.zeros(len(decisions.times), np.int64)
        if not self._run("sum_integers", feature, decisions, out, counts, column.values):
            hint = "sum CAST(... AS DOUBLE), or declare the column as Float"
            raise FeatureError("a sum is beyond 64 bits", where=f"{self.spec.name}.{feature}", hint=hint)
        return Result("integer", out, counts > 0)

    def _sums(self, feature: str, column: Column, decisions: Decisions) -> Result:
        """Sum, Mean and Share, which is the mean of 0 and 1. A sum beyond the range of doubles is missing."""
        totals, counts = np.zeros(len(decisions.times), np.float64), np.zeros(len(decisions.times), np.int64)
        wide = column.wide
        if wide is not None and wide[3] + self.rows.longest.bit_length() <= _WIDE and wide[2] > _LEAST_EXPONENT:
            self._run("sum_wide", feature, decisions, totals, counts, *wide[:3])
        else:
            odds, shifts, exponent, most, _ = column.exact
            self._run("sum_numbers", feature, decisions, totals, counts, odds, shifts, exponent, most // 32 + 4)
        values = totals if isinstance(self.spec.features[feature], Sum) else totals / np.maximum(counts, 1)
        return Result("float", values, (counts > 0) & np.isfinite(values))

    def _deviations(self, feature: str, column: Column, decisions: Decisions) -> Result:
        out, small = np.full(len(decisions.times), np.nan), column.small
        if small is not None and small[2] + self.rows.longest.bit_length() <= _HALF and small[1] > _LEAST_EXPONENT:
            self._run("small_variances", feature, decisions, out, *small[:2])
        else:
            odds, shifts, exponent, most, _ = column.exact
            limbs = most // 32 + 4, 2 * most // 32 + 6
            self._run("variances", feature, decisions, out, odds, shifts, exponent, *limbs)
        return Result("float", np.sqrt(out), np.isfinite(out))

    def _picked(self, feature: str, column: Column | None, decisions: Decisions) -> Result:
        """Min, Max, First, Last and Age: the row of highest rank."""
        function = self.spec.features[feature]
        if feature not in self._ranks:
            ranks = column.ranks if isinstance(function, Min | Max) and column else np.arange(len(self.rows.event))
            is_lowest = isinstance(function, Min | First) or (isinstance(function, Age) and function.of == "first")
            self._ranks[feature] = ~ranks if is_lowest else ranks
        out = np.full(len(decisions.times), -1, np.int64)
        kernel = "pick_rows_in_order" if self.rows.is_in_order(function.window) else "pick_rows"
        self._run(kernel, feature, decisions, out, self._ranks[feature])
        source = self.rows.event if isinstance(function, Age) or column is None else column.values
        values = source[out] if len(source) else np.zeros(len(out), source.dtype)
        if isinstance(function, Age) or column is None:
            return Result("age", values, out >= 0)
        return Result(column.kind, values, out >= 0, column.texts)


def _as_array(result: Result, function: AnyAggregate, times: Array) -> Array:
    """A feature's values as arrays of columns_of()."""
    if result.kind == "text":
        texts = np.array([*result.texts, None], object)
        return np.asarray(texts[np.where(result.valid, result.values, len(result.texts))])
    if result.kind == "time":
        return np.where(result.valid, result.values.view("datetime64[us]"), np.datetime64("NaT", "us"))
    values = result.values
    if result.kind == "age":
        assert isinstance(function, Age)
        values = (times - values).astype(np.float64) / MICROSECONDS[function.unit]
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
