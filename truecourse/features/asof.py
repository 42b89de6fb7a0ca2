"""Point-in-time join: for each decision, the feature values of its key that were known at the decision time.

The semantics are those of Feast's offline stores (feast.infra.offline_stores.ibis.point_in_time_join; the tests compare
every cell): the latest event at or before the decision wins, ties go to the latest `created`. A row older than `ttl`
(inclusive; zero is unlimited) counts as missing, and so do unknown keys, null keys and null times.

asof_join() joins whole frames, AsOfIndex answers many small queries. benchmarks/pipeline/pit_join.py measures the join
beside Feast's stock store, which takes some hundred times the CPU time, and a bare Polars join_asof.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from truecourse.arrays import Array, columns_of
from truecourse.errors import FeatureError

if TYPE_CHECKING:
    import polars as pl

EVENT, CREATED = "event_timestamp", "created_timestamp"
AT = "__at"
"""The column of the decision time in typedtyped_decisions()."""
_EVENT, _CREATED, _KNOWN, _RANK = "__event", "__created", "__known", "__rank"
_NEVER = datetime(1, 1, 1)
NO_TIME = datetime(2200, 1, 1)
"""The decision time for problems without time: later than all feature rows."""
_MISSING: Mapping[str, Any] = {"O": None, "f": np.nan, "M": np.datetime64("NaT", "us")}
"""The missing value by kind of array, as in columns_of()."""


def asof_join(
    spine: "pl.DataFrame",
    features: "pl.DataFrame",
    keys: Mapping[str, str] | Sequence[str],
    *,
    ttl: timedelta = timedelta(0),
    at: str = "decision_time",
    event: str = EVENT,
    created: str | None = CREATED,
    filter_by_created: bool = False,
) -> "pl.DataFrame":
    """Add the feature columns to the spine, in the order of its rows.

    `keys`: key columns, or {column of features: column of spine}. `at`, `event` and `created`: time columns; times
    without zone are UTC. `filter_by_created`: ignore rows created after the decision, and use the newest row that was
    known. Raises FeatureError for missing columns, and for keys or times of the wrong type.
    """
    pairs = dict(keys) if isinstance(keys, Mapping) else {key: key for key in keys}
    right = _features(features, list(pairs), event, created, filter_by_created)
    feature_rows = _split_late_rows(right, list(pairs), filter_by_created)
    left = typed_decisions(spine, right, pairs, at)
    order = None if left[AT].is_sorted() else left[AT].arg_sort()
    joined = _join(left if order is None else left[order], feature_rows, ttl or None)
    if order is not None:
        joined = joined[order.arg_sort()]
    return spine.hstack(joined.get_columns())


@dataclass(frozen=True)
class _FeatureRows:
    """Feature rows. `timely`: known at their event time, sorted by it. `later`: late rows, sorted by the time at which
    they became known."""

    keys: tuple[str, ...]
    names: tuple[str, ...]
    timely: "pl.DataFrame"
    later: "pl.DataFrame"


def _column(frame: "pl.DataFrame", name: str, where: str) -> "pl.Series":
    if name not in frame.columns:
        raise FeatureError(f"no column {name!r}", where=where, hint=f"it has {', '.join(frame.columns)}")
    return frame[name]


def _time(frame: "pl.DataFrame", name: str, where: str, alias: str) -> "pl.Series":
    """A time column as naive UTC microseconds. Feature times are whole microseconds, so flooring decision times is
    exact."""
    import polars as pl

    series = _column(frame, name, where)
    if not isinstance(series.dtype, pl.Datetime):
        raise FeatureError(f"{name} is {series.dtype}, not a timestamp", where=where, hint="cast it to a timestamp")
    if series.dtype.time_zone:
        series = series.dt.convert_time_zone("UTC").dt.replace_time_zone(None)
    return series.cast(pl.Datetime("us")).alias(alias)


def _features(
    features: "pl.DataFrame", keys: list[str], event: str, created: str | None, filter_by_created: bool
) -> "pl.DataFrame":
    """Feature rows that can match, sorted by event, then created. A null `created` excludes a row with
    `filter_by_created`, and counts as oldest without."""
    import polars as pl

    where = "the feature table"
    times = [_time(features, event, where, _EVENT)]
    if created:
        times.append(_time(features, created, where, _CREATED))
    frame = features.drop([event, *([created] if created else [])]).with_columns(times)
    required = [*keys, _EVENT, *([_CREATED] if created and filter_by_created else [])]
    if any(_column(frame, name, where).null_count() for name in required):
        frame = frame.drop_nulls(required)
    if not created:
        frame = frame.with_columns(pl.col(_EVENT).alias(_CREATED))
    elif frame[_CREATED].null_count():
        frame = frame.with_columns(pl.col(_CREATED).fill_null(_NEVER))
    return frame if _is_ordered(frame) else frame.sort(_EVENT, _CREATED, maintain_order=True)


def _is_ordered(frame: "pl.DataFrame") -> bool:
    import polars as pl

    step = pl.col(_EVENT).diff()
    back = (step < timedelta(0)) | ((step == timedelta(0)) & (pl.col(_CREATED).diff() < timedelta(0)))
    return not frame.select(back.any()).item()


def typed_decisions(spine: "pl.DataFrame", right: "pl.DataFrame", pairs: Mapping[str, str], at: str) -> "pl.DataFrame":
    """The decision time (AT), and the keys with the names and types of the feature table `right`.

    `pairs`: {key column of the feature table: column of the spine}. A null time is before all events."""
    import polars as pl

    columns = [_time(spine, at, "the spine", AT).fill_null(_NEVER)]
    for name, source in pairs.items():
        series, kind = _column(spine, source, "the spine"), right[name].dtype
        if series.dtype != kind:
            if kind.is_numeric() != series.dtype.is_numeric() and series.dtype != pl.Null:
                what = f"{source} is {series.dtype}, and {name} in the feature table {kind}"
                raise FeatureError(what, where="the spine", hint="cast both to the type that the problem declares")
            cast = series.cast(kind, strict=False)
            series = cast if not series.dtype.is_float() else cast.set(cast.cast(series.dtype) != series, None)
        columns.append(series.alias(name))
    return pl.DataFrame(columns)


def _split_late_rows(right: "pl.DataFrame", keys: list[str], filter_by_created: bool) -> _FeatureRows:
    import polars as pl

    names = tuple(name for name in right.columns if name not in (*keys, _EVENT, _CREATED))
    late = right.filter(pl.col(_CREATED) > pl.col(_EVENT)) if filter_by_created else right.clear()
    if late.is_empty():
        return _FeatureRows(tuple(keys), names, right, late)
    timely = right.filter(pl.col(_CREATED) <= pl.col(_EVENT))
    return _FeatureRows(tuple(keys), names, timely, _newest_known(late, keys))


def _join(left: "pl.DataFrame", right: _FeatureRows, ttl: timedelta | None) -> "pl.DataFrame":
    """Join the feature columns to `left`, which is sorted by time."""
    import polars as pl

    keys, names = list(right.keys), list(right.names)
    if right.later.is_empty():
        return _latest(left, right.timely.select(*keys, _EVENT, *names), keys, _EVENT, ttl).select(names)
    timely = _latest(left, right.timely, keys, _EVENT, ttl).select(_EVENT, _CREATED, *names)
    later = _latest(left, right.later, keys, _KNOWN, None).select(_EVENT, _CREATED, *names)
    fresh = left[AT] - later[_EVENT] <= ttl if ttl else later[_EVENT].is_not_null()
    newer = (later[_EVENT] > timely[_EVENT]) | (
        (later[_EVENT] == timely[_EVENT]) & (later[_CREATED] > timely[_CREATED])
    )
    wins = (fresh & (timely[_EVENT].is_null() | newer)).fill_null(False)
    return pl.select(pl.when(wins).then(later[name]).otherwise(timely[name]).alias(name) for name in names)


def _newest_known(late: "pl.DataFrame", keys: list[str]) -> "pl.DataFrame":
    """For each time at which a late row became known, the newest row of its key known by then, sorted by that time."""
    import polars as pl

    ranked = late.with_row_index(_RANK).sort(_CREATED, _RANK)
    best = ranked.select(pl.col(_RANK).cum_max().over(keys))[_RANK]
    return late[best].with_columns(ranked[_CREATED].alias(_KNOWN))


def _latest(
    left: "pl.DataFrame", right: "pl.DataFrame", keys: list[str], on: str, ttl: timedelta | None
) -> "pl.DataFrame":
    """The last row of the key at or before the decision. `on` is sorted; of equal times the last row is taken."""
    return left.join_asof(
        right, left_on=AT, right_on=on, by=keys, tolerance=ttl, coalesce=False, check_sortedness=False
    )


@dataclass(frozen=True)
class AsOfIndex:
    """The history of the newest known row of each key: built once, searched by binary search.

    A key's newest known row changes in steps, whenever a newer row becomes known. The last step at or before a decision
    gives the result of asof_join() with `filter_by_created`.

    `codes`: the number of each key. `moments`: times at which a row became known, ascending. `places`: key and time of
    each step as one number, ascending. `rows`: the newest row from each step on. `values`, `event`: by row."""

    codes: Mapping[tuple[Any, ...], int]
    moments: Array
    places: Array
    rows: Array
    event: Array
    values: Mapping[str, Array]

    @classmethod
    def of(cls, features: pa.Table, keys: Sequence[str]) -> "AsOfIndex":
        """Build the index of a feature table's rows. Rows with a null key or time are ignored."""
        for name in (*keys, EVENT, CREATED):
            features = features.filter(pc.is_valid(features[name])) if features[name].null_count else features
        event, created = columns_of(features, [EVENT, CREATED]).values()
        names = [name for name in features.column_names if name not in (*keys, EVENT, CREATED)]
        codes: dict[tuple[Any, ...], int] = {}
        key_values = zip(*(features[name].to_pylist() for name in keys), strict=True)
        code = np.fromiter((codes.setdefault(key, len(codes)) for key in key_values), np.int64, len(features))
        newest = np.lexsort((created, event))
        rank = np.empty(len(features), np.int64)
        rank[newest] = np.arange(len(features))
        known = np.maximum(event, created)
        order = np.lexsort((rank, known, code))
        best = np.maximum.accumulate(code[order] * len(features) + rank[order]) % max(len(features), 1)
        moments = np.unique(known)
        places = code[order] * (len(moments) + 1) + np.searchsorted(moments, known[order]) + 1
        return cls(codes, moments, places, newest[best], event, columns_of(features, names))

    def at(self, keys: Sequence[tuple[Any, ...]], times: Array, ttl: timedelta) -> tuple[dict[str, Array], Array]:
        """Look up n keys at n times (datetime64[us] UTC). Return the values by feature and their event times, NaT if no
        row was known or it is older than `ttl` (inclusive; zero is unlimited)."""
        code = np.array([self.codes.get(key, -1) for key in keys], np.int64)
        first = code * (len(self.moments) + 1)
        wanted = first + np.searchsorted(self.moments, times, side="right")
        step = np.searchsorted(self.places, wanted, side="right") - 1
        known = (code >= 0) & (step >= 0) & ~np.isnat(times)
        known[known] &= self.places[step[known]] > first[known]
        row = self.rows[step[known]]
        if ttl:
            fresh = times[known] - self.event[row] <= np.timedelta64(ttl, "us")
            known[known], row = fresh, row[fresh]
        features = {name: _scatter(known, values, row) for name, values in self.values.items()}
        return features, _scatter(known, self.event, row)


def _scatter(known: Array, values: Array, rows: Array) -> Array:
    scattered = np.full(len(known), _MISSING[values.dtype.kind], dtype=values.dtype)
    scattered[known] = values[rows]
    return scattered
