"""What the offline history of a view says of keys at moments: what was known then, and what is known now."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from truecourse.arrays import Array, columns_of
from truecourse.data.arrow_types import arrow_type
from truecourse.errors import StorageError
from truecourse.features.asof import CREATED, EVENT, asof_join
from truecourse.features.definitions import feature_table
from truecourse.features.view_sql import key_columns
from truecourse.problem import Problem, View
from truecourse.references import TableVersion
from truecourse.storage.tables import Limit, Tables

_AT, _PLACE = "__moment", "__place"
_TOLD = {EVENT: "__told_event", CREATED: "__told_created"}
_EARLIER = 8
"""Earlier versions of a table without time that are looked through for a value."""


@dataclass(frozen=True)
class AsOfValues:
    """Values by feature as columns_of() gives them, n each; `event` and `created`: (n,) datetime64[us] UTC, NaT where
    there is no row, or none that is fresh."""

    values: Mapping[str, Array]
    event: Array
    created: Array

    @property
    def since(self) -> Array:
        """The moment from which each value could be used."""
        return np.maximum(self.event, self.created)


@dataclass(frozen=True)
class ViewHistory:
    """The rows of a view's feature table that can matter, none of them created after the audit's moment."""

    problem: Problem
    tables: Tables
    view: View
    version: TableVersion
    rows: pl.DataFrame

    @property
    def has_late(self) -> bool:
        return not self.rows.filter(pl.col(CREATED) > pl.col(EVENT)).is_empty()

    def as_of(self, keys: pl.DataFrame, moments: Array, *, include_late: bool = False) -> AsOfValues:
        """What was known of n keys at n moments (datetime64[us] UTC). `include_late`: with what was recorded later."""
        rows = self.rows.with_columns(pl.col(name).alias(alias) for name, alias in _TOLD.items())
        spine = keys.with_columns(pl.Series(_AT, moments))
        found = asof_join(
            spine, rows, keys.columns, ttl=self.view.ttl, at=_AT, filter_by_created=not include_late
        ).to_arrow(compat_level=pl.CompatLevel.oldest())
        return AsOfValues(self._values(found), *(_times(found[alias]) for alias in _TOLD.values()))

    def _values(self, found: pa.Table) -> dict[str, Array]:
        typed = {name: found[name].cast(arrow_type(column)) for name, column in self.view.features.items()}
        return columns_of(pa.table(typed), typed)

    def versions_at(self, keys: pl.DataFrame, events: Array) -> tuple[Array, AsOfValues]:
        """All that the history says of n keys at exactly these event times: places in `keys`, and what is there."""
        asked = _placed(keys).with_columns(pl.Series(EVENT, events).cast(self.rows[EVENT].dtype))
        return self._matched(asked, self.rows, [*keys.columns, EVENT])

    def earlier_at(self, keys: pl.DataFrame) -> tuple[Array, AsOfValues]:
        """What earlier versions of a timeless view's table said of n keys: its corrections leave no other trace."""
        parts = [self.rows.clear()]
        for number in range(max(0, self.version.version - _EARLIER), self.version.version):
            try:
                table = self.tables.read(TableVersion(name=self.version.name, version=number), self.rows.columns)
            except (StorageError, pa.ArrowInvalid):  # its files are gone, or it had other columns
                continue
            parts.append(pl.DataFrame(table))
        return self._matched(_placed(keys), pl.concat(parts), keys.columns)

    def _matched(self, asked: pl.DataFrame, rows: pl.DataFrame, on: list[str]) -> tuple[Array, AsOfValues]:
        joined = asked.join(rows, on=on)
        found = joined.to_arrow(compat_level=pl.CompatLevel.oldest())
        return joined[_PLACE].to_numpy(), AsOfValues(self._values(found), _times(found[EVENT]), _times(found[CREATED]))

    def replaced_at(self, keys: pl.DataFrame, events: Array) -> Array:
        """When the first newer value than those of n event times came in time: (n,) datetime64[us] UTC, NaT for none,
        or for no event time."""
        timely = self.rows.filter(pl.col(CREATED) <= pl.col(EVENT)).select(*keys.columns, EVENT).sort(EVENT)
        since = pl.Series(_AT, events).cast(self.rows[EVENT].dtype)
        asked = _placed(keys).with_columns(since).drop_nulls(_AT).sort(_AT)
        newer = asked.join_asof(
            timely,
            left_on=_AT,
            right_on=EVENT,
            by=keys.columns,
            strategy="forward",
            allow_exact_matches=False,
            coalesce=False,
            check_sortedness=False,
        )
        moments = np.full(len(keys), np.datetime64("NaT"), dtype="datetime64[us]")
        moments[newer[_PLACE].to_numpy()] = _times(newer.to_arrow()[EVENT])
        return moments


def _placed(keys: pl.DataFrame) -> pl.DataFrame:
    return keys.with_columns(pl.Series(_PLACE, range(len(keys)), pl.Int64))


def read_history(
    problem: Problem,
    tables: Tables,
    view: View,
    first: datetime,
    last: datetime,
    at: datetime,
    version: TableVersion | None = None,
) -> ViewHistory | None:
    """Rows for moments from `first` to `last` (naive UTC), as they were recorded by `at`; None for a view that was
    never computed. `version`: of its table, the newest unless given."""
    version = version or tables.version(feature_table(problem, view.name))
    if version is None:
        return None
    limits: list[Limit] = [(EVENT, "<=", last.replace(tzinfo=UTC)), (CREATED, "<=", at.replace(tzinfo=UTC))]
    if view.ttl and not view.timeless:
        limits.append((EVENT, ">=", (first - view.ttl).replace(tzinfo=UTC)))
    columns = [*key_columns(problem, view), EVENT, CREATED, *view.features]
    return ViewHistory(problem, tables, view, version, pl.DataFrame(tables.read(version, columns, where=limits)))


def _times(column: Any) -> Array:
    return np.asarray(column.cast(pa.timestamp("us")).to_numpy(), dtype="datetime64[us]")
