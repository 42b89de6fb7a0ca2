"""Compute the feature table of Aggregations: one row per version of a source row, with the times it is known from and
until. Decisions are evaluated from these rows (truecourse/features/aggregates).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import timedelta

import duckdb

from truecourse.data import sql, table_views
from truecourse.errors import FeatureError
from truecourse.features.affected_spans import TimeRange
from truecourse.features.aggregates.stored_rows import UNTIL
from truecourse.features.asof import CREATED, EVENT
from truecourse.features.columns_read import view_columns_read
from truecourse.features.view_sql import duckdb_type, fits_type, key_columns
from truecourse.features.view_versions import HISTORY, within
from truecourse.problem import Aggregations, View
from truecourse.problem.aggregations import Input
from truecourse.problem.namespace import AREAS, AnyView, FeatureArea, Namespace
from truecourse.problem.schema import Table
from truecourse.references import TableVersion
from truecourse.storage.delta_tables import Tables


def place(view: Aggregations) -> str:
    """Where a fault of Aggregations is, for messages."""
    return f"problem.py views.{view.name}"


def source_of(view: AnyView, problem: Namespace) -> str:
    """Where a view of a problem is defined: its SQL file, or the place of its declaration."""
    owner = problem.namespace_of(view.name)
    if not isinstance(owner, FeatureArea):
        return place(view) if isinstance(view, Aggregations) else view.sql
    file = view.sql if isinstance(view, View) else f"area.py views.{view.name}"
    return f"{AREAS}/{owner.name}/{file}"


def stored_columns(view: Aggregations) -> list[str]:
    """The columns of the feature table beside keys, event_timestamp and created_timestamp."""
    return [UNTIL, sql.ROW, *view.inputs]


def bind_source(
    connection: duckdb.DuckDBPyConnection,
    problem: Namespace,
    tables: Tables,
    view: Aggregations,
    versions: Mapping[str, TableVersion],
    rows: str = "true",
    cut: sql.Cut | None = None,
) -> None:
    """Create a view of the aggregated table under its name, with all row versions that `rows` selects."""
    table = problem.table(view.table)
    system = [sql.ROW, sql.RECORDED, sql.SUPERSEDED]
    read = view_columns_read(problem, view)[table.name]
    table_views.bind_table(
        connection, tables, table, versions[table.name], rows=rows, cut=cut, further=system, former=read
    )


def rows_query(connection: duckdb.DuckDBPyConnection, problem: Namespace, view: Aggregations) -> str:
    """SQL of the row versions that can count, with keys, times, row number and inputs. The source must be bound.

    Raises FeatureError for an expression that does not bind or returns another type than declared."""
    table, keys = problem.table(view.table), key_columns(problem, view)
    condition = " AND ".join([f"{sql.quote(name)} IS NOT NULL" for name in (*keys, view.time)])
    condition += f" AND ({view.where}\n)" if view.where else ""
    selected = f"(SELECT * FROM {sql.quote(table.name)} WHERE {condition})"  # noqa: S608
    _check_types(connection, view, table, selected)
    types = view.input_columns(table.columns)
    event = f"CAST({sql.quote(view.time)} AS TIMESTAMPTZ)"
    columns = [f"CAST({sql.quote(n)} AS {duckdb_type(c)}) AS {sql.quote(n)}" for n, c in keys.items()]
    columns += [f"{event} AS {EVENT}", f"{_known_from(table, event)} AS {CREATED}"]
    columns += [f"{sql.SUPERSEDED} AS {UNTIL}", sql.ROW]
    columns += [
        f"CAST({_sql_of(each, table)} AS {duckdb_type(types[name])}) AS {name}" for name, each in view.inputs.items()
    ]
    return (
        f"SELECT * FROM (SELECT {', '.join(columns)} FROM {selected}) "  # noqa: S608
        f"WHERE {UNTIL} IS NULL OR {UNTIL} > {CREATED}"
    )


def value_sql(value: str, table: Table) -> str:
    """The SQL of a value: a column's name is quoted, because it may be a keyword; an expression is unchanged."""
    return sql.quote(value) if value in table.columns else value


def _sql_of(each: Input, table: Table) -> str:
    return replace(each, expression=each.expression and value_sql(each.expression, table)).sql


def _known_from(table: Table, event: str) -> str:
    """SQL of the time from which a row version is known: not before its event, not before the table's time less
    `known_ahead`, and not before it was recorded, if that was later."""
    times = [event, sql.RECORDED]
    if table.time is not None:
        ahead = table.known_ahead // timedelta(microseconds=1)
        times.append(f"CAST({sql.quote(table.time)} AS TIMESTAMPTZ) - to_microseconds({ahead})")
    return f"greatest({', '.join(times)})"


def _check_types(connection: duckdb.DuckDBPyConnection, view: Aggregations, table: Table, selected: str) -> None:
    if not view.inputs:
        return
    expressions = ", ".join(f"{_sql_of(each, table)} AS {name}" for name, each in view.inputs.items())
    described = sql.run(connection, f"DESCRIBE SELECT {expressions} FROM {selected}", place(view)).fetchall()  # noqa: S608
    returned = {row[0]: row[1] for row in described}
    for name, each in view.inputs.items():
        column = each.type(table.columns)
        if column is not None and not fits_type(column, returned[name]):
            what = f"{each.expression or each.where} is {returned[name]}, and should be {duckdb_type(column)}"
            hint = "CAST it in the expression, or declare its type with `column`"
            raise FeatureError(what, where=place(view), hint=hint)


@dataclass(frozen=True)
class AggregationRows:
    """Builds the rows of Aggregations from exact table versions, in the temporary table HISTORY."""

    connection: duckdb.DuckDBPyConnection
    problem: Namespace
    tables: Tables
    view: Aggregations
    versions: Mapping[str, TableVersion]

    @property
    def keys(self) -> list[str]:
        return [sql.quote(key) for key in self.problem.join_keys(self.view)]

    @property
    def columns(self) -> list[str]:
        return stored_columns(self.view)

    @property
    def order(self) -> list[str]:
        return [EVENT, CREATED, *self.keys, sql.ROW]

    def build(self, ranges: list[TimeRange]) -> None:
        """Build the rows of these ranges of event time. Raises FeatureError with the place of the declaration."""
        bind_source(self.connection, self.problem, self.tables, self.view, self.versions)
        query = rows_query(self.connection, self.problem, self.view)
        selected = f"SELECT * FROM ({query}) WHERE {within(ranges)}"  # noqa: S608
        sql.run(self.connection, f"CREATE OR REPLACE TEMP TABLE {HISTORY} AS {selected}", where=place(self.view))
