"""Build all versions of a view's rows over time ranges, in DuckDB, which spills to disk."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import duckdb

from truecourse.data import sql, table_views
from truecourse.errors import FeatureError
from truecourse.features.affected_spans import ALWAYS, TimeRange, intersect_ranges, merge_ranges, ranges_around
from truecourse.features.asof import CREATED, EVENT
from truecourse.features.columns_read import view_columns_read
from truecourse.features.view_sql import checked_query
from truecourse.problem import View
from truecourse.problem.namespace import AnyView, Namespace
from truecourse.problem.schema import Table
from truecourse.references import TableVersion, Window
from truecourse.storage.delta_tables import Tables
from truecourse.wording import counted

HISTORY, _FRESH, _NEWEST = "__history", "__fresh", "__newest"
_MICROSECOND = timedelta(microseconds=1)


def memory(view: AnyView) -> timedelta:
    """How much older a row may be to replace one that disappeared. Older values would not be used."""
    return view.ttl or view.lookback or timedelta(0)


def reach(view: AnyView) -> tuple[timedelta, timedelta]:
    """How long before and after its time a source row can affect feature rows. `lookback` must be declared."""
    assert view.lookback is not None
    return view.lookback, view.lookback + memory(view)


@dataclass(frozen=True)
class History:
    """Builds a view's row versions from exact table versions, in the temporary table HISTORY."""

    connection: duckdb.DuckDBPyConnection
    problem: Namespace
    tables: Tables
    view: View
    versions: Mapping[str, TableVersion]
    used: frozenset[str]

    @property
    def keys(self) -> list[str]:
        return [sql.quote(key) for key in self.problem.join_keys(self.view)]

    @property
    def columns(self) -> list[str]:
        return [sql.quote(name) for name in self.view.features]

    @property
    def order(self) -> list[str]:
        return [EVENT, CREATED, *self.keys]

    def build(self, ranges: list[TimeRange]) -> None:
        """Build the rows of these ranges. Raises FeatureError with the SQL file."""
        self._evaluate(HISTORY, sql.CURRENT if self.view.timeless else sql.BASE, ranges)
        if not self.view.timeless:
            for epoch, touched in self._epochs(ranges):
                self._apply(epoch, touched)

    def _evaluate(self, target: str, rows: str, ranges: list[TimeRange]) -> None:
        """Compute the view's rows of these ranges from the row versions `rows` into a temporary table, and check
        them."""
        for number, time_range in enumerate(ranges):
            table_views.bind(
                self.connection,
                self.problem,
                self.tables,
                self.versions,
                rows=rows,
                window=self._sources_of(time_range),
                former=view_columns_read(self.problem, self.view),
            )
            query = checked_query(self.connection, self.problem, self.view)
            limited = f"SELECT *, {EVENT} AS {CREATED} FROM ({query}) WHERE {within([time_range], missing=True)}"  # noqa: S608
            verb = f"INSERT INTO {target}" if number else f"CREATE OR REPLACE TEMP TABLE {target} AS"
            sql.run(self.connection, f"{verb} {limited}", where=self.view.sql)
        self._check(target)

    def _sources_of(self, time_range: TimeRange) -> Window | None:
        if time_range == ALWAYS or self.view.lookback is None:
            return None
        start, end = time_range.widen(self.view.lookback, self.view.lookback + _MICROSECOND).moments()
        return Window(start=start, end=end)

    def _check(self, target: str) -> None:
        ((missing,),) = self._all(f"SELECT count(*) FROM {target} WHERE {EVENT} IS NULL")  # noqa: S608
        if missing:
            hint = "event_timestamp is the time at which a row became known: exclude rows without it"
            raise FeatureError(f"{counted(missing, 'row')} without {EVENT}", where=self.view.sql, hint=hint)
        identity = ", ".join([*self.keys, EVENT])
        repeated = self._all(
            f"SELECT {identity}, count(*) FROM {target} GROUP BY {identity} HAVING count(*) > 1 LIMIT 1"  # noqa: S608
        )
        if repeated:
            *values, count = repeated[0]
            names = [*self.problem.join_keys(self.view), EVENT]
            row = ", ".join(f"{name}={value}" for name, value in zip(names, values, strict=True))
            hint = "return one row for each key and event_timestamp: GROUP BY them"
            raise FeatureError(f"{counted(count, 'row')} for {row}", where=self.view.sql, hint=hint)

    def _epochs(self, ranges: list[TimeRange]) -> list[tuple[datetime, list[TimeRange]]]:
        """Times (naive UTC) at which late rows and corrections became known, and the ranges they affect."""
        touched: dict[datetime, list[TimeRange]] = {}
        for table in self.problem.tables:
            if table.name not in self.used or table.time is None:
                continue
            for epoch, times in self._changes(table):
                unbounded = self.view.lookback is None
                touched.setdefault(epoch, []).extend([ALWAYS] if unbounded else ranges_around(times, *reach(self.view)))
        affected = ((epoch, intersect_ranges(ranges, merge_ranges(touched[epoch]))) for epoch in sorted(touched))
        return [(epoch, both) for epoch, both in affected if both]

    def _changes(self, table: Table) -> list[tuple[datetime, Any]]:
        time, rows = sql.quote(str(table.time)), sql.quote(f"{table.name}__rows")
        changes = sql.run(
            self.connection,
            f"SELECT CAST(epoch AS TIMESTAMP) AS epoch, CAST({time} AS TIMESTAMP) AS time FROM ("  # noqa: S608
            f"SELECT unnest([_tc_recorded_at, _tc_superseded_at]) AS epoch, {time} FROM {rows} "
            "WHERE _tc_recorded_at IS NOT NULL OR _tc_superseded_at IS NOT NULL) "
            "WHERE epoch > TIMESTAMPTZ '1970-01-01 00:00:00+00' GROUP BY ALL ORDER BY ALL",
            where=table.name,
        ).df()
        return [(epoch.to_pydatetime(), group["time"].to_numpy()) for epoch, group in changes.groupby("epoch")]

    def _apply(self, epoch: datetime, touched: list[TimeRange]) -> None:
        """Apply the changes known at `epoch`: first versions of later rows, new versions of earlier rows."""
        earlier = merge_ranges(time_range.widen(memory(self.view), timedelta(0)) for time_range in touched)
        self._evaluate(_FRESH, sql.as_of(epoch), earlier)
        moment, here = f"TIMESTAMPTZ '{epoch.isoformat(sep=' ')}+00'", within(touched)
        names = ", ".join([*self.keys, EVENT, *self.columns])
        self._do(f"DELETE FROM {HISTORY} WHERE {EVENT} >= {moment} AND {here}")  # noqa: S608
        self._do(
            f"INSERT INTO {HISTORY} ({names}, {CREATED}) SELECT {names}, {EVENT} FROM {_FRESH} "  # noqa: S608
            f"WHERE {EVENT} >= {moment} AND {here}"
        )
        self._do(
            f"CREATE OR REPLACE TEMP TABLE {_NEWEST} AS SELECT * FROM {HISTORY} "  # noqa: S608
            f"WHERE {EVENT} < {moment} AND {here} "
            f"QUALIFY row_number() OVER (PARTITION BY {', '.join([*self.keys, EVENT])} ORDER BY {CREATED} DESC) = 1"
        )
        same = " AND ".join(f"w.{name} IS NOT DISTINCT FROM n.{name}" for name in self.columns)
        self._do(
            f"INSERT INTO {HISTORY} ({names}, {CREATED}) SELECT w.*, {moment} "  # noqa: S608
            f"FROM ({self._kept(names, moment, here)} UNION ALL {self._vanished()}) AS w "
            f"LEFT JOIN {_NEWEST} AS n USING ({', '.join([*self.keys, EVENT])}) WHERE n.{EVENT} IS NULL OR NOT ({same})"
        )

    def _kept(self, names: str, moment: str, here: str) -> str:
        return f"SELECT {names} FROM {_FRESH} WHERE {EVENT} < {moment} AND {here}"  # noqa: S608

    def _vanished(self) -> str:
        """SQL of rows that disappeared, each with the values of the previous row, if that is recent enough."""
        on = " AND ".join(f"gone.{key} = f.{key}" for key in self.keys)
        kept = timedelta.max if not memory(self.view) else memory(self.view)
        recent = "true" if kept == timedelta.max else f"f.{EVENT} >= gone.{EVENT} - {_interval(kept)}"
        values = ", ".join(f"CASE WHEN {recent} THEN f.{name} END AS {name}" for name in self.columns)
        return (
            f"SELECT {', '.join(f'gone.{key}' for key in self.keys)}, gone.{EVENT}, {values} FROM ("  # noqa: S608
            f"SELECT * FROM {_NEWEST} ANTI JOIN {_FRESH} USING ({', '.join([*self.keys, EVENT])})) AS gone "
            f"ASOF LEFT JOIN {_FRESH} AS f ON {on} AND gone.{EVENT} > f.{EVENT}"
        )

    def _do(self, statement: str) -> None:
        sql.run(self.connection, statement, where=self.view.sql)

    def _all(self, query: str) -> list[tuple[Any, ...]]:
        # fetchall: an open result would block the connection.
        rows: list[tuple[Any, ...]] = sql.run(self.connection, query, where=self.view.sql).fetchall()
        return rows


def within(ranges: list[TimeRange], missing: bool = False) -> str:
    """The condition that event_timestamp is in one of the ranges. `missing`: or null."""
    if ALWAYS in ranges:
        return "true"
    conditions = [
        f"{EVENT} BETWEEN TIMESTAMPTZ '{a.isoformat(sep=' ')}+00' AND TIMESTAMPTZ '{b.isoformat(sep=' ')}+00'"
        for a, b in (time_range.moments() for time_range in ranges)
    ]
    return f"({' OR '.join([*conditions, *([f'{EVENT} IS NULL'] if missing else [])])})"


def _interval(duration: timedelta) -> str:
    return f"to_microseconds({duration // _MICROSECOND})"
