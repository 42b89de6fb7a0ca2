"""Checks of tables: names, keys, times, references and row counts."""

from collections import Counter
from collections.abc import Iterator
from datetime import timedelta

from truecourse.authoring.checks.columns import constraint_faults, edit_faults, same_type
from truecourse.authoring.checks.names import is_reserved, place, repeated
from truecourse.errors import Fault
from truecourse.problem.namespace import Namespace
from truecourse.problem.schema import (
    RESERVED_PREFIX,
    AnyColumn,
    Boolean,
    Float,
    Integer,
    Sql,
    Table,
    Time,
    source_names,
)
from truecourse.wording import nearest


def table_faults(problem: Namespace) -> Iterator[Fault]:
    """Faults of the tables and of the references between them."""
    if not problem.tables:
        yield Fault(place("tables"), "no table is declared", "declare a Table with a source and its columns")
    yield from repeated((table.name for table in problem.tables), place("tables"), "tables")
    for table in problem.tables:
        yield from _table_faults(table)
        for name, column in table.columns.items():
            if column.in_table is not None:
                yield from _reference_faults(problem, table, name, column)
    yield from _cycle_faults(problem)


def _table_faults(table: Table) -> Iterator[Fault]:
    path = ("tables", table.name)
    columns = place(*path, "columns")
    if not table.columns:
        yield Fault(columns, "the table has no columns", "declare those that the problem uses")
    yield from constraint_faults(table.columns, *path, "columns")
    yield from edit_faults(table.columns, *path, "columns")
    yield from repeated(table.columns, columns, "columns")
    for name in table.columns:
        if is_reserved(name):
            what = f"names that begin with {RESERVED_PREFIX} are reserved for Truecourse's own columns"
            yield Fault(place(*path, "columns", name), what, f"give it another name, and source={name!r}")
    named = source_names(table.columns)
    for source, times in Counter(named.values()).items():
        if times > 1:
            both = ", ".join(name for name in named if named[name] == source)
            yield Fault(columns, f"{both} all read the source column {source!r}", "declare it once")
    for name in table.key:
        if name not in table.columns:
            yield Fault(place(*path, "key"), f"no column {name!r}", nearest(name, table.columns))
    yield from repeated(table.key, place(*path, "key"), "key columns")
    if table.combine == "upsert" and not table.key:
        hint = 'name the table\'s key, or write combine="replace" or "append"'
        yield Fault(place(*path, "combine"), "upsert needs a key, but the table has none", hint)
    if table.combine == "append" and table.key:
        hint = 'write combine="upsert", or leave the key out'
        yield Fault(place(*path, "combine"), "append ignores the key, so keys would repeat", hint)
    yield from _deletion_faults(table, path)
    yield from _update_faults(table, path)
    yield from _cursor_faults(table, path)
    yield from _time_faults(table, path)
    least, most = table.rows or (0, None)
    if least < 0 or (most is not None and least > most):
        yield Fault(place(*path, "rows"), f"no count lies between {least} and {most}", "give (least, most)")


def _deletion_faults(table: Table, path: tuple[str, str]) -> Iterator[Fault]:
    if table.deleted is None:
        return
    where, column = place(*path, "deleted"), table.columns.get(table.deleted)
    if column is None:
        yield Fault(where, f"no column {table.deleted!r}", nearest(table.deleted, table.columns))
    elif not isinstance(column, Boolean):
        kind = type(column).__name__
        yield Fault(where, f"{table.deleted} is declared {kind}", f"declare {table.deleted} as Boolean(nulls=True)")
    if not table.key:
        yield Fault(where, "a row deletes the row with its key, but the table has none", "name the table's key")


def _update_faults(table: Table, path: tuple[str, str]) -> Iterator[Fault]:
    if table.updated is None:
        return
    where, column = place(*path, "updated"), table.columns.get(table.updated)
    if column is None:
        yield Fault(where, f"no column {table.updated!r}", nearest(table.updated, table.columns))
    elif not isinstance(column, Time | Integer | Float):
        kind = type(column).__name__
        yield Fault(where, f"{table.updated} is declared {kind}", f"declare {table.updated} as Time() or Integer()")
    if not table.key:
        yield Fault(where, "it orders the rows of a key, but the table has none", "name the table's key")
    if table.deleted is not None:
        what = "a row that deletes another is not stored, so that later arrivals cannot be ordered against it"
        yield Fault(where, what, "leave out updated or deleted")


def _cursor_faults(table: Table, path: tuple[str, str]) -> Iterator[Fault]:
    source = table.source
    if not isinstance(source, Sql):
        return
    if source.cursor is None:
        for name, default in (("look_back", timedelta(0)), ("compare_every", None)):
            if getattr(source, name) != default:
                what = f"{name} has no meaning without a cursor: the whole query is read each time"
                yield Fault(place(*path, "source", name), what, 'name it, for example cursor="updated_at"')
        return
    where = place(*path, "source", "cursor")
    if not table.key:
        what = "rows are read again, and the table has no key by which they would replace the former ones"
        yield Fault(where, what, "name the table's key, or leave the cursor out")
    if source.compare_every is not None and table.combines != "replace":
        what = f'combine="{table.combines}" removes no rows, so that there is nothing to compare'
        yield Fault(place(*path, "source", "compare_every"), what, 'write combine="replace"')
    if source.compare_every is None and table.combine == "replace":
        what = "rows after a cursor replace only rows of their keys, and nothing says when to compare the whole"
        yield Fault(where, what, "add compare_every=days(7), or leave combine out")


def _time_faults(table: Table, path: tuple[str, str]) -> Iterator[Fault]:
    if table.time is None:
        if table.freshness is not None:
            hint = "name the table's time column, or remove freshness"
            yield Fault(place(*path, "freshness"), "the table has no time column to measure freshness by", hint)
        return
    if table.time not in table.columns:
        times = [name for name, column in table.columns.items() if isinstance(column, Time)]
        yield Fault(place(*path, "time"), f"no column {table.time!r}", nearest(table.time, times or table.columns))
    elif not isinstance(table.columns[table.time], Time):
        kind = type(table.columns[table.time]).__name__
        yield Fault(place(*path, "time"), f"{table.time} is declared {kind}", f"declare {table.time} as Time()")


def _reference_faults(problem: Namespace, table: Table, name: str, column: AnyColumn) -> Iterator[Fault]:
    where = place("tables", table.name, "columns", name, "in_table")
    others = {other.name: other for other in problem.tables}
    target = others.get(str(column.in_table))
    if target is None:
        yield Fault(where, f"no table {column.in_table!r}", nearest(str(column.in_table), others))
    elif target.key_column is None:
        hint = f"give {target.name} a key of one column, or remove in_table"
        yield Fault(where, f"table {target.name} has no single-column key to refer to", hint)
    elif target.key_column in target.columns and not same_type(column, target.columns[target.key_column]):
        theirs = type(target.columns[target.key_column]).__name__
        what = f"is {type(column).__name__}, but {target.name}.{target.key_column} is {theirs}"
        yield Fault(where, what, "declare both with one type")


def _cycle_faults(problem: Namespace) -> Iterator[Fault]:
    refers = {
        table.name: {c.in_table for c in table.columns.values() if c.in_table and c.in_table != table.name}
        for table in problem.tables
    }
    while free := [name for name, targets in refers.items() if not targets & refers.keys()]:
        for name in free:
            del refers[name]
    if refers:
        where = place("tables", next(iter(refers)))
        yield Fault(where, f"{', '.join(refers)} form a cycle of in_table references", "remove one reference")
