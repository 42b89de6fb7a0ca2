"""The point-in-time join: for each decision, the feature values of its key that were known at its time.

Semantics are those of Feast's offline stores (feast.infra.offline_stores.ibis.point_in_time_join, which the tests
compare with cell by cell): the latest event at or before the decision wins, ties go to the latest `created`; a row
older than `ttl` (inclusive; zero is unlimited) counts as missing, and so do unknown keys, null keys and null times.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from truecourse.errors import FeatureError

if TYPE_CHECKING:
    import polars as pl

EVENT, CREATED = "event_timestamp", "created_timestamp"
_AT, _EVENT, _CREATED, _KNOWN, _RANK = "__at", "__event", "__created", "__known", "__rank"
_NEVER = datetime(1, 1, 1)
NO_TIME = datetime(2200, 1, 1)
"""The decision time of problems that have none: after all that is known."""


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
    """The spine, row for row and in its order, with the feature columns beside it.

    `keys`: key columns, or {column of features: column of spine}. `at`, `event` and `created` are times; one with no
    zone is UTC. `filter_by_created`: a row created after the decision was not known to it, and the newest row that
    was known takes its place. Raises FeatureError for missing columns, and for keys or times of the wrong type.
    """
    pairs = dict(keys) if isinstance(keys, Mapping) else {key: key for key in keys}
    right = _features(features, list(pairs), event, created, filter_by_created)
    known = _prepared(right, list(pairs), filter_by_created)
    left = _decisions(spine, right, pairs, at)
    order = None if left[_AT].is_sorted() else left[_AT].arg_sort()
    joined = _join(left if order is None else left[order], known, ttl or None)
    if order is not None:
        joined = joined[order.arg_sort()]
    return spine.hstack(joined.get_columns())


@dataclass(frozen=True)
class _Prepared:
    """Feature rows: the `timely`, known from their own time, sorted by it, and the `later`, sorted by the moment from
    which they were known."""

    keys: tuple[str, ...]
    names: tuple[str, ...]
    timely: "pl.DataFrame"
    later: "pl.DataFrame"


def _column(frame: "pl.DataFrame", name: str, where: str) -> "pl.Series":
    if name not in frame.columns:
        raise FeatureError(f"no column {name!r}", where=where, hint=f"it has {', '.join(frame.columns)}")
    return frame[name]


def _time(frame: "pl.DataFrame", name: str, where: str, alias: str) -> "pl.Series":
    """A time column as naive UTC microseconds. Feature times are whole microseconds: flooring a decision's is exact."""
    import polars as pl

    series = _column(frame, name, where)
    if not isinstance(series.dtype, pl.Datetime):
        raise FeatureError(f"{name} is {series.dtype}", where=where, hint="make it a timestamp")
    if series.dtype.time_zone:
        series = series.dt.convert_time_zone("UTC").dt.replace_time_zone(None)
    return series.cast(pl.Datetime("us")).alias(alias)


def _features(
    features: "pl.DataFrame", keys: list[str], event: str, created: str | None, filter_by_created: bool
) -> "pl.DataFrame":
    """Feature rows that can match at all, by event, then created. A null `created` is never known, or the oldest."""
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


def _decisions(spine: "pl.DataFrame", right: "pl.DataFrame", pairs: Mapping[str, str], at: str) -> "pl.DataFrame":
    """Keys, under the feature table's names and types, and the decision time; a null time lies before all events."""
    import polars as pl

    columns = [_time(spine, at, "the spine", _AT).fill_null(_NEVER)]
    for name, source in pairs.items():
        series, kind = _column(spine, source, "the spine"), right[name].dtype
        if series.dtype != kind:
            if kind.is_numeric() != series.dtype.is_numeric() and series.dtype != pl.Null:
                what = f"{source} is {series.dtype}, and {name} in the feature table {kind}"
                raise FeatureError(what, where="the spine", hint="give both the type that the problem declares")
            cast = series.cast(kind, strict=False)
            series = cast if not series.dtype.is_float() else cast.set(cast.cast(series.dtype) != series, None)
        columns.append(series.alias(name))
    return pl.DataFrame(columns)


def _prepared(right: "pl.DataFrame", keys: list[str], filter_by_created: bool) -> _Prepared:
    import polars as pl

    names = tuple(name for name in right.columns if name not in (*keys, _EVENT, _CREATED))
    late = right.filter(pl.col(_CREATED) > pl.col(_EVENT)) if filter_by_created else right.clear()
    if late.is_empty():
        return _Prepared(tuple(keys), names, right, late)
    timely = right.filter(pl.col(_CREATED) <= pl.col(_EVENT))
    return _Prepared(tuple(keys), names, timely, _as_learned(late, keys))


def _join(left: "pl.DataFrame", right: _Prepared, ttl: timedelta | None) -> "pl.DataFrame":
    """Feature columns for `left`, which is sorted by time."""
    import polars as pl

    keys, names = list(right.keys), list(right.names)
    if right.later.is_empty():
        return _latest(left, right.timely.select(*keys, _EVENT, *names), keys, _EVENT, ttl).select(names)
    known = _latest(left, right.timely, keys, _EVENT, ttl).select(_EVENT, _CREATED, *names)
    later = _latest(left, right.later, keys, _KNOWN, None).select(_EVENT, _CREATED, *names)
    fresh = left[_AT] - later[_EVENT] <= ttl if ttl else later[_EVENT].is_not_null()
    newer = (later[_EVENT] > known[_EVENT]) | ((later[_EVENT] == known[_EVENT]) & (later[_CREATED] > known[_CREATED]))
    wins = (fresh & (known[_EVENT].is_null() | newer)).fill_null(False)
    return pl.select(pl.when(wins).then(later[name]).otherwise(known[name]).alias(name) for name in names)


def _as_learned(late: "pl.DataFrame", keys: list[str]) -> "pl.DataFrame":
    """For each moment at which a late row became known, the newest row of its key known by then, sorted by moment."""
    import polars as pl

    ranked = late.with_row_index(_RANK).sort(_CREATED, _RANK)
    best = ranked.select(pl.col(_RANK).cum_max().over(keys))[_RANK]
    return late[best].with_columns(ranked[_CREATED].alias(_KNOWN))


def _latest(
    left: "pl.DataFrame", right: "pl.DataFrame", keys: list[str], on: str, ttl: timedelta | None
) -> "pl.DataFrame":
    """The last row of the key at or before the decision; `on` is sorted, and the last of equal ones is taken."""
    return left.join_asof(
        right, left_on=_AT, right_on=on, by=keys, tolerance=ttl, coalesce=False, check_sortedness=False
    )
