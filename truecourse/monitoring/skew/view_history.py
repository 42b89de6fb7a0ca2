"""Look up a view's values as of past times in its offline history: as known then, and as known now."""

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from truecourse.arrays import Array, columns_of
from truecourse.data.arrow_types import arrow_type
from truecourse.errors import StorageError
from truecourse.features.aggregation_lookup import longest_window
from truecourse.features.aggregation_rows import stored_columns
from truecourse.features.asof import CREATED, EVENT, asof_join
from truecourse.features.definition_digests import feature_table
from truecourse.features.view_sql import key_columns
from truecourse.monitoring.skew.aggregation_history import AggregationHistory
from truecourse.problem import Aggregations, Problem, View
from truecourse.problem.namespace import AnyView
from truecourse.references import TableVersion
from truecourse.storage.delta_tables import Limit, Tables

_AT, _PLACE = "__moment", "__place"
_MATCHED = {EVENT: "__matched_event", CREATED: "__matched_created"}
_COMPARE = {"<=": operator.le, ">=": operator.ge}
_EARLIER = 8
"""How many earlier versions of a static table are searched for a value."""


@dataclass(frozen=True)
class AsOfValues:
    """Values by feature in the form of columns_of(), n each. `event` and `created`: (n,) datetime64[us] UTC, NaT
    without a row within the time to live."""

    values: Mapping[str, Array]
    event: Array
    created: Array

    @property
    def since(self) -> Array:
        """The time from which each value was available."""
        return np.maximum(self.event, self.created)


@dataclass(frozen=True)
class ViewHistory:
    """The relevant rows of a view's feature table, none created after the reference time of the audit."""

    problem: Problem
    tables: Tables
    view: View
    version: TableVersion
    rows: pl.DataFrame

    @property
    def has_late(self) -> bool:
        return not self.rows.filter(pl.col(CREATED) > pl.col(EVENT)).is_empty()

    def as_of(self, keys: pl.DataFrame, moments: Array, *, include_late: bool = False) -> AsOfValues:
        """Look up n keys as of n `moments` (datetime64[us] UTC). `include_late`: include rows recorded later."""
        rows = self.rows.with_columns(pl.col(name).alias(alias) for name, alias in _MATCHED.items())
        spine = keys.with_columns(pl.Series(_AT, moments))
        joined = asof_join(
            spine, rows, keys.columns, ttl=self.view.ttl, at=_AT, filter_by_created=not include_late
        ).to_arrow(compat_level=pl.CompatLevel.oldest())
        return AsOfValues(self._values(joined), *(_times(joined[alias]) for alias in _MATCHED.values()))

    def values_at(self, keys: pl.DataFrame, moments: Array) -> Mapping[str, Array]:
        """The values of as_of(), by feature."""
        return self.as_of(keys, moments).values

    def _values(self, rows: pa.Table) -> dict[str, Array]:
        typed = {name: rows[name].cast(arrow_type(column)) for name, column in self.view.features.items()}
        return columns_of(pa.table(typed), typed)

    def versions_at(self, keys: pl.DataFrame, events: Array) -> tuple[Array, AsOfValues]:
        """Return all rows of n keys at exactly these event times: indices into `keys`, and the values."""
        requested = _with_places(keys).with_columns(pl.Series(EVENT, events).cast(self.rows[EVENT].dtype))
        return self._matched(requested, self.rows, [*keys.columns, EVENT])

    def earlier_at(self, keys: pl.DataFrame) -> tuple[Array, AsOfValues]:
        """Return the values of n keys in earlier versions of a static view's table, the only record of its
        corrections."""
        parts = [self.rows.clear()]
        for number in range(max(0, self.version.version - _EARLIER), self.version.version):
            try:
                table = self.tables.read(TableVersion(name=self.version.name, version=number), self.rows.columns)
            except (StorageError, pa.ArrowInvalid):  # its files were deleted, or it had other columns
                continue
            parts.append(pl.DataFrame(table))
        return self._matched(_with_places(keys), pl.concat(parts), keys.columns)

    def _matched(self, requested: pl.DataFrame, rows: pl.DataFrame, on: list[str]) -> tuple[Array, AsOfValues]:
        joined = requested.join(rows, on=on)
        table = joined.to_arrow(compat_level=pl.CompatLevel.oldest())
        return joined[_PLACE].to_numpy(), AsOfValues(self._values(table), _times(table[EVENT]), _times(table[CREATED]))

    def replaced_at(self, keys: pl.DataFrame, events: Array) -> Array:
        """Return the event time of the first newer row that was recorded in time: (n,) datetime64[us] UTC. NaT where
        there is none, or no event time."""
        timely = self.rows.filter(pl.col(CREATED) <= pl.col(EVENT)).select(*keys.columns, EVENT).sort(EVENT)
        since = pl.Series(_AT, events).cast(self.rows[EVENT].dtype)
        requested = _with_places(keys).with_columns(since).drop_nulls(_AT).sort(_AT)
        newer = requested.join_asof(
            timely,
            left_on=_AT,
            right_on=EVENT,
            by=keys.columns,
            strategy="forward",
            allow_exact_matches=False,
            coalesce=False,
            check_sortedness=False,
        )
        moments = np.full(len(keys), np.datetime64("NaT", "us"), dtype="datetime64[us]")
        moments[newer[_PLACE].to_numpy()] = _times(newer.to_arrow()[EVENT])
        return moments


def _with_places(keys: pl.DataFrame) -> pl.DataFrame:
    return keys.with_columns(pl.Series(_PLACE, range(len(keys)), pl.Int64))


def read_history(
    problem: Problem,
    tables: Tables,
    view: AnyView,
    first: datetime,
    last: datetime,
    at: datetime,
    version: TableVersion | None = None,
) -> ViewHistory | AggregationHistory | None:
    """Read the rows that matter for times from `first` to `last` (naive UTC), as recorded by `at`. None for a view that
    was never computed. `version`: the table version, by default the newest."""
    version = version or tables.version(feature_table(problem, view.name))
    if version is None:
        return None
    limits, columns = _limits(view, first, last, at), [*key_columns(problem, view), EVENT, CREATED]
    if isinstance(view, Aggregations):
        stored = tables.read(version, [*columns, *stored_columns(view)], where=limits)
        return AggregationHistory(view, stored, tables, version, limits)
    rows = tables.read(version, [*columns, *view.features], where=limits)
    return ViewHistory(problem, tables, view, version, pl.DataFrame(rows))


History = ViewHistory | AggregationHistory
HistoryReader = Callable[[Problem, Tables, AnyView, datetime, datetime, datetime], History | None]
"""Reads a view's rows as read_history() does."""


class PreloadedHistories:
    """Reads histories as read_history() does, from rows that are read once for a whole period.

    `versions`: the table versions by view. `first`, `last`: the period (naive UTC). The histories of other times are
    read from the tables."""

    def __init__(self, versions: Mapping[str, TableVersion], first: datetime, last: datetime) -> None:
        self._versions, self._first, self._last = versions, first, last
        self._period: dict[str, History] = {}

    def __call__(
        self, problem: Problem, tables: Tables, view: AnyView, first: datetime, last: datetime, at: datetime
    ) -> History | None:
        version = self._versions[view.name]
        if first < self._first or last > self._last:
            return read_history(problem, tables, view, first, last, at, version)
        if view.name not in self._period:
            read = read_history(problem, tables, view, self._first, self._last, datetime.max, version)
            assert read is not None  # the version is given
            self._period[view.name] = read
        period = self._period[view.name]
        limits = _limits(view, first, last, at)
        if isinstance(period, AggregationHistory):
            return period.limited(limits)
        conditions = (_COMPARE[sign](pl.col(name), moment) for name, sign, moment in limits)
        return replace(period, rows=period.rows.filter(*conditions))


def _limits(view: AnyView, first: datetime, last: datetime, at: datetime) -> list[Limit]:
    """Return the limits of rows that matter for times from `first` to `last`, as recorded by `at` (naive UTC)."""
    limits: list[Limit] = [(EVENT, "<=", last.replace(tzinfo=UTC)), (CREATED, "<=", at.replace(tzinfo=UTC))]
    memory = longest_window(view) if isinstance(view, Aggregations) else view.ttl
    if memory and not view.timeless:
        limits.append((EVENT, ">=", (first - memory).replace(tzinfo=UTC)))
    return limits


def _times(column: Any) -> Array:
    return np.asarray(column.cast(pa.timestamp("us")).to_numpy(), dtype="datetime64[us]")
