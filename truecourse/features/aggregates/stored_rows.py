"""The stored rows of aggregations as arrays, sorted by key, event time, time from which they were known, and row."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from truecourse.arrays import Array
from truecourse.errors import FeatureError
from truecourse.features.asof import CREATED, EVENT

if TYPE_CHECKING:
    import polars as pl

UNTIL, ROW = "_tc_until", "_tc_row"
NEVER = 1 << 62
"""The time (microseconds) at which a row ends that always counts."""
_LONGEST = 1 << 61
_SMALL, _WIDE = 62, 126
Kind = Literal["float", "integer", "boolean", "text", "time"]


@dataclass(frozen=True)
class Column:
    """One column of the rows. Missing values are 0 in `values`, and not `valid`.

    `values`: float64, or int64: integers, booleans, microseconds, or places in `texts`, which are sorted."""

    kind: Kind
    values: Array
    valid: Array
    texts: Array = field(default_factory=lambda: np.empty(0, object))

    @cached_property
    def ranks(self) -> Array:
        """int64 numbers in the order of the values."""
        if self.kind != "float":
            return self.values
        bits = self.values.view(np.int64)
        return np.asarray(bits ^ ((bits >> 63) & np.int64((1 << 63) - 1)))

    @cached_property
    def codes(self) -> tuple[Array, int]:
        """A number for each distinct value, and how many there are."""
        if self.kind in ("text", "boolean"):
            return self.values, max(len(self.texts), 2)
        encoded = pc.dictionary_encode(pa.array(self.values))
        return encoded.indices.to_numpy().astype(np.int64), len(encoded.dictionary)

    @cached_property
    def exact(self) -> tuple[Array, Array, int, int, int]:
        """The values as odd * 2**(shift + exponent): odd integers, shifts, the exponent, the largest shift, and the
        number of bits of the largest odd * 2**shift."""
        from truecourse.features.aggregates.number_parts import split_floats, split_integers

        odds, shifts = np.empty(len(self.values), np.int64), np.empty(len(self.values), np.int64)
        split = split_floats if self.kind == "float" else split_integers
        return odds, shifts, *split(self.values, self.valid, odds, shifts)

    @cached_property
    def small(self) -> tuple[Array, int, int] | None:
        """The values as int64 * 2**exponent, the exponent, and the number of bits; None if they need more than 62."""
        odds, shifts, exponent, _, widest = self.exact
        return (odds << shifts, exponent, widest) if widest <= _SMALL else None

    @cached_property
    def wide(self) -> tuple[Array, Array, int, int] | None:
        """The values as (high * 2**64 + low) * 2**exponent: int64, uint64, the exponent, and the number of bits; None
        if they need more than 126."""
        from truecourse.features.aggregates.number_parts import widen

        odds, shifts, exponent, _, widest = self.exact
        if widest > _WIDE:
            return None
        high, low = np.empty(len(odds), np.int64), np.empty(len(odds), np.uint64)
        widen(odds, shifts, high, low)
        return high, low, exponent, widest


@dataclass(frozen=True)
class StoredRows:
    """The rows of aggregations, sorted by key.

    `keys`: distinct keys, in the order of their codes. `first`: the first row of each code, then the number of rows.
    `codes`, `event`, `until`: by row; times are microseconds. `order`: the places of the rows in `table`."""

    keys: "pl.DataFrame"
    first: Array
    codes: Array
    event: Array
    starts: Array
    until: Array
    order: Array
    table: pa.Table
    _columns: dict[str, Column] = field(default_factory=dict)
    _ends: dict[timedelta | None, tuple[Array, Array]] = field(default_factory=dict)

    @classmethod
    def of(cls, rows: "pa.Table | pl.DataFrame", keys: Sequence[str]) -> "StoredRows":
        """Sort the rows. Rows with a null key or without event time are ignored."""
        import polars as pl

        from truecourse.features.aggregates.kernels import is_sorted

        table = rows if isinstance(rows, pa.Table) else rows.to_arrow()
        for name in (*keys, EVENT):
            table = table.filter(pc.is_valid(table[name])) if table[name].null_count else table
        event, known, until = _times(table[EVENT]), _times(table[CREATED]), _times(table[UNTIL], NEVER)
        number = _integers(table[ROW])
        frame: Any = pl.from_arrow(table.select(list(keys)))
        if not is_sorted(event, known, number):
            order = np.lexsort((number, known, event))
            frame, event, known, until = frame[order], event[order], known[order], until[order]
        else:
            order = np.arange(len(event))
        frame = frame.with_row_index("__place")
        groups = frame.group_by(list(keys), maintain_order=True).agg("__place")
        places = groups["__place"].explode(empty_as_null=False).to_numpy().astype(np.int64)
        lengths = groups["__place"].list.len().to_numpy().astype(np.int64)
        first = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
        codes = np.repeat(np.arange(len(lengths)), lengths)
        starts = np.maximum(event, known)[places]
        return cls(groups.select(keys), first, codes, event[places], starts, until[places], order[places], table)

    @cached_property
    def longest(self) -> int:
        """The largest number of rows of a key."""
        return int(np.diff(self.first).max(initial=0))

    @cached_property
    def _in_place(self) -> Array:
        return np.arange(len(self.codes))

    @cached_property
    def by_start(self) -> Array:
        """The rows by key and by the time from which they count."""
        return self._sorted(self.starts)

    def is_in_order(self, window: timedelta | None) -> bool:
        """Whether no row leaves the window before one that starts earlier."""
        return self.ends(window)[1] is self.by_start

    def ends(self, window: timedelta | None) -> tuple[Array, Array]:
        """The times at which the rows leave a window or are superseded, and the rows by key and this time."""
        if window not in self._ends:
            length = NEVER if window is None else min(window // timedelta(microseconds=1), _LONGEST)
            ends = self.until if window is None else np.minimum(self.until, self.event + length)
            by_end = self._sorted(ends)
            self._ends[window] = ends, (self.by_start if np.array_equal(by_end, self.by_start) else by_end)
        return self._ends[window]

    def _sorted(self, times: Array) -> Array:
        from truecourse.features.aggregates.kernels import is_ordered, stable_order

        if is_ordered(self.codes, times):
            return self._in_place
        order: Array = stable_order(self.codes, np.argsort(times, kind="stable"), len(self.first) - 1)[0]
        return order

    def column(self, name: str) -> Column:
        """One column of the rows. Raises FeatureError for a type that cannot be aggregated."""
        if name not in self._columns:
            self._columns[name] = _column(self.table[name], self.order, name)
        return self._columns[name]

    @cached_property
    def code_of(self) -> Mapping[tuple[Any, ...], int]:
        """The code of each key, by its values."""
        return {key: code for code, key in enumerate(self.keys.iter_rows())}

    def codes_of(self, keys: "pa.Table | pl.DataFrame") -> Array:
        """The codes of n keys, which are columns of the names of the rows' keys; -1 for unknown and null keys."""
        import polars as pl

        frame: Any = pl.from_arrow(keys) if isinstance(keys, pa.Table) else keys
        names = self.keys.columns
        cast = [frame[name].cast(self.keys[name].dtype, strict=False) for name in names]
        codes = self.keys.with_row_index("__code")
        found = pl.DataFrame(cast).join(codes, on=names, how="left", maintain_order="left")["__code"]
        return found.cast(pl.Int64).fill_null(-1).to_numpy()


def _times(column: pa.ChunkedArray, missing: int = -NEVER) -> Array:
    """Times as int64 microseconds."""
    return _integers(
        pc.fill_null(column.cast(pa.timestamp("us", tz=getattr(column.type, "tz", None))).cast(pa.int64()), missing)
    )


def _integers(column: pa.ChunkedArray) -> Array:
    return np.asarray(column.cast(pa.int64()).to_numpy(), dtype=np.int64)


def _column(column: pa.ChunkedArray, order: Array, name: str) -> Column:
    kind = column.type
    if pa.types.is_dictionary(kind):
        return _column(column.cast(kind.value_type), order, name)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return _text(column, order)
    if pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        values = np.asarray(pc.fill_null(column.cast(pa.float64()), np.nan).to_numpy(), np.float64)[order]
        valid = np.isfinite(values)
        return Column("float", np.where(valid, values, 0.0) + 0.0, valid)  # -0.0 + 0.0 is 0.0
    for test, result in ((pa.types.is_boolean, "boolean"), (pa.types.is_integer, "integer"), (_is_time, "time")):
        if test(kind):
            valid = np.asarray(column.is_valid().to_numpy(), bool)[order]
            number = column.cast(pa.int8()) if result == "boolean" else column
            values = _times(number, 0) if result == "time" else _integers(pc.fill_null(number, 0))
            return Column(result, values[order], valid)  # type: ignore[arg-type]
    hint = "CAST it to BIGINT, DOUBLE, VARCHAR, BOOLEAN or TIMESTAMP"
    raise FeatureError(f"{name} is {kind}, which cannot be aggregated", where="the stored rows", hint=hint)


def _is_time(kind: pa.DataType) -> bool:
    return bool(pa.types.is_timestamp(kind) or pa.types.is_date(kind))


def _text(column: pa.ChunkedArray, order: Array) -> Column:
    encoded = pc.dictionary_encode(column.cast(pa.large_string()).combine_chunks())
    texts = np.array(encoded.dictionary.to_pylist(), object)
    ascending = np.argsort(texts) if len(texts) else np.empty(0, np.int64)
    places = np.empty(len(texts) + 1, np.int64)
    places[ascending], places[-1] = np.arange(len(texts)), 0
    codes = pc.fill_null(encoded.indices, len(texts)).to_numpy().astype(np.int64)[order]
    return Column("text", places[codes], codes < len(texts), texts[ascending])
