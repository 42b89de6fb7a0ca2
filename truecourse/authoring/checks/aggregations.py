"""Checks of aggregations: their table, keys, times and expressions."""

from collections.abc import Iterator
from dataclasses import dataclass

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError

from truecourse.authoring.checks.columns import feature_type_faults, same_type
from truecourse.authoring.checks.names import place
from truecourse.authoring.checks.sql_binding import Binding, BindingError
from truecourse.errors import Fault
from truecourse.features.aggregation_rows import value_sql
from truecourse.features.view_sql import duckdb_type, fits_type
from truecourse.problem import Aggregations, Float, Table, Text, Time
from truecourse.problem.namespace import Namespace
from truecourse.problem.schema import AnyColumn, Boolean
from truecourse.wording import nearest


def declaration_faults(problem: Namespace, view: Aggregations) -> Iterator[Fault]:
    """Faults of the table, the keys, the time and the feature types of aggregations."""
    path = ("views", view.name)
    tables = {table.name: table for table in problem.tables}
    if not view.features:
        yield Fault(place(*path, "features"), "no feature is declared", 'declare one, such as {"orders": Count()}')
    if view.entity not in [entity.name for entity in problem.entities]:
        names = [entity.name for entity in problem.entities]
        yield Fault(place(*path, "entity"), f"no entity {view.entity!r}", nearest(view.entity, names))
    if view.table not in tables:
        yield Fault(place(*path, "table"), f"no table {view.table!r}", nearest(view.table, tables))
        return
    yield from _table_faults(problem, view, tables[view.table])
    yield from feature_type_faults(problem.view_columns(view), *path, "features")


def _table_faults(problem: Namespace, view: Aggregations, table: Table) -> Iterator[Fault]:
    path, names = ("views", view.name), list(table.columns)
    for entity in problem.entities:
        for key in entity.join_keys if entity.name == view.entity else ():
            field = problem.request_fields.get(key)
            if key not in table.columns:
                what = f"table {table.name} has no column {key}, the key of entity {entity.name}"
                yield Fault(place(*path, "entity"), what, nearest(key, names))
            elif field is not None and not same_type(field, table.columns[key]):
                what = f"{key} is {type(field).__name__}, but {type(table.columns[key]).__name__} in table {table.name}"
                yield Fault(place(*path, "entity"), what, "declare both with one type")
    if view.time not in table.columns:
        yield Fault(place(*path, "time"), f"table {table.name} has no column {view.time!r}", nearest(view.time, names))
    elif not isinstance(table.columns[view.time], Time):
        what = f"{view.time} is {type(table.columns[view.time]).__name__}, and should be Time"
        yield Fault(place(*path, "time"), what, "name the column with the time of the event")
    if table.time is None:
        what = f"table {table.name} has no time, so that corrections would count before they were known"
        yield Fault(place(*path, "table"), what, f'declare Table("{table.name}", time="{view.time}")')
    for name in view.untyped(table.columns):
        where, what = place(*path, "features", name), "the type of an expression is not known"
        yield Fault(where, what, "declare it: column=Float()")


@dataclass(frozen=True)
class Expression:
    """One expression of aggregations: its place in the problem, its SQL, and the type that it needs, if any."""

    where: str
    sql: str
    column: AnyColumn | None


def expressions(problem: Namespace, view: Aggregations) -> Iterator[Expression]:
    """All expressions of aggregations; none if their table is not declared."""
    if view.table not in [table.name for table in problem.tables]:
        return
    table = next(table for table in problem.tables if table.name == view.table)
    if view.where is not None:
        yield Expression(place("views", view.name, "where"), view.where, Boolean())
    for name, function in view.features.items():
        path = ("views", view.name, "features", name)
        if function.where is not None:
            yield Expression(place(*path, "where"), function.where, Boolean())
        value, stored = getattr(function, "value", None), view.input_of(name)
        if value is not None and stored is not None:
            each = view.inputs[stored]
            column = each.type(table.columns)
            if each.numeric and isinstance(column, Text | Time):
                column = Float()
            yield Expression(place(*path), value_sql(value, table), column)


def expression_faults(binding: Binding, view: Aggregations) -> Iterator[Fault]:
    """Faults of expressions that do not bind, have another type, or read other rows."""
    for one in expressions(binding.problem, view):
        try:
            returned = binding.expression_type(one.where, view.table, one.sql)
        except BindingError as error:
            yield from error.faults
            continue
        if one.column is not None and not fits_type(one.column, returned):
            wanted = duckdb_type(one.column)
            hint = "write a condition" if wanted == "BOOLEAN" else f"CAST(... AS {wanted}), or declare column=..."
            yield Fault(one.where, f"{one.sql} is {returned}, and should be {wanted}", hint)
        parsed = parse_expression(one.sql)
        if parsed is not None and (parsed.find(exp.Window) or len(list(parsed.find_all(exp.Select))) > 1):
            hint = "write a view in SQL for values that depend on other rows"
            yield Fault(one.where, f"{one.sql} reads other rows than its own", hint)


def parse_expression(expression: str) -> exp.Expression | None:
    """A SELECT of the expression; None if sqlglot cannot parse it."""
    try:
        return sqlglot.parse_one(f"SELECT {expression}", dialect="duckdb")
    except (SqlglotError, RecursionError):
        return None
