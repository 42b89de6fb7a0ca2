"""The columns of a problem's tables that a SQL file reads: changes of other columns do not affect its result."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from truecourse.data.sql import quote, statement
from truecourse.features.view_sql import files_read, tables_read
from truecourse.problem import Aggregations
from truecourse.problem.namespace import AnyView, Namespace
from truecourse.problem.schema import AnyColumn, Table


@dataclass(frozen=True)
class _Names:
    """The names in a statement, in lower case. `selected`: the relations from which it selects all columns, by `*`."""

    used: frozenset[str]
    selected: frozenset[str]


def columns_read(problem: Namespace, file: str) -> dict[str, frozenset[str]]:
    """The declared columns of each table that a SQL file may read, directly or through relations.

    A column counts as read if its name is anywhere in the statements, if a table is read by `*`, or if that is not
    certain. The table's time is always read."""
    found = [_names(statement(problem, name)) for name in files_read(problem, file)]
    tables = [table for table in problem.tables if table.name in tables_read(problem, file)]
    return {table.name: _read_of(table, found) for table in tables}


def view_columns_read(problem: Namespace, view: AnyView) -> dict[str, frozenset[str]]:
    """The declared columns of each table that a view or aggregations read: those of its SQL, or of its expressions."""
    if not isinstance(view, Aggregations):
        return columns_read(problem, view.sql)
    table = problem.table(view.table)
    names = [*problem.join_keys(view), view.time]
    texts = [view.where, *(text for each in view.inputs.values() for text in (each.expression, each.where))]
    expressions = [f"({quote(text) if text in table.columns else text}\n)" for text in texts if text]
    values = ", ".join([*map(quote, names), *expressions])
    return {table.name: _read_of(table, [_names(f"SELECT {values} FROM {quote(table.name)}")])}  # noqa: S608


def parsing_of(table: Table, columns: frozenset[str]) -> list[Any]:
    """What the values of some columns depend on, besides the rows: their declarations, and how sources are read."""
    read = [[name, *parsing_of_column(name, column)] for name, column in table.columns.items() if name in columns]
    formats = [repr(getattr(table.source, name, None)) for name in ("csv", "format")]
    return [read, formats, list(table.key), table.time, table.combines]


def parsing_of_column(name: str, column: AnyColumn) -> list[Any]:
    """The parts of a column's declaration on which its values depend."""
    parts = [getattr(column, part, None) for part in ("format", "symbol")]
    return [column.source or name, type(column).__name__, *parts]


def _read_of(table: Table, found: list[_Names | None]) -> frozenset[str]:
    if any(names is None or table.name.lower() in names.selected for names in found):
        return frozenset(table.columns)
    used = frozenset[str]().union(*(names.used for names in found if names is not None))
    return frozenset(name for name in table.columns if name.lower() in used or name == table.time)


@lru_cache(maxsize=256)
def _names(text: str) -> _Names | None:
    """The names in a statement; None if it may read columns without naming them."""
    import sqlglot
    from sqlglot import errors, exp

    try:
        parsed = sqlglot.parse_one(text, dialect="duckdb")
    except errors.SqlglotError:
        return None
    if not isinstance(parsed, exp.Query) or "#" in text or parsed.find(exp.Pivot, exp.Columns):
        return None
    if any(join.args.get("method") == "NATURAL" for join in parsed.find_all(exp.Join)):
        return None
    if any(alias.columns for alias in parsed.find_all(exp.TableAlias)):
        return None  # columns by position
    sources = {name.lower() for table in parsed.find_all(exp.Table) for name in (table.name, table.alias_or_name)}
    if any(column.name.lower() in sources and not column.table for column in parsed.find_all(exp.Column)):
        return None  # a whole row as one value
    selected = set[str]()
    for star in parsed.find_all(exp.Star):
        names = _starred(star, exp)
        if names is None:
            return None
        selected |= names
    used = frozenset(name.name.lower() for name in parsed.find_all(exp.Identifier))
    return _Names(used, frozenset(selected))


def _starred(star: Any, exp: Any) -> set[str] | None:
    """The relations whose columns a `*` takes; None if unknown."""
    item = star.parent if isinstance(star.parent, exp.Column) else star
    of = item.table.lower() if isinstance(item, exp.Column) else ""
    if isinstance(item.parent, exp.Count):
        return set()
    if not isinstance(item.parent, exp.Select):
        return None
    sources = [source for source in _sources(item.parent) if isinstance(source, exp.Table)]
    return {source.name.lower() for source in sources if of in ("", source.alias_or_name.lower())}


def _sources(select: Any) -> Iterator[Any]:
    """The relations in the FROM clause of a SELECT."""
    for part in (select.args.get("from") or select.args.get("from_"), *select.args.get("joins", ())):
        if part is not None:
            yield part.this
