"""Check a view's SQL against its declaration: the tables that it reads, and the columns that it returns."""

from functools import lru_cache

import duckdb

from truecourse.data import sql
from truecourse.errors import FeatureError
from truecourse.features.asof import EVENT
from truecourse.problem import Aggregations, View
from truecourse.problem.namespace import AnyView, Namespace
from truecourse.problem.schema import AnyColumn, Boolean, Float, Integer, Text

_INTEGERS = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT")
_TIMES = ("TIMESTAMP", "DATE")
_NUMBERS = (*_INTEGERS, "FLOAT", "DOUBLE", "DECIMAL")


def used_tables(problem: Namespace, view: AnyView) -> frozenset[str]:
    """The problem's tables that a view reads."""
    if isinstance(view, Aggregations):
        return frozenset({view.table})
    return tables_read(problem, view.sql)


def tables_read(problem: Namespace, file: str) -> frozenset[str]:
    """The problem's tables that a SQL file reads, directly or through relations; all if it cannot be parsed."""
    return _trace_reads(problem, file)[1]


def files_read(problem: Namespace, file: str) -> list[str]:
    """A SQL file and the files of the relations that it reads, directly or not; all if it cannot be parsed."""
    return _trace_reads(problem, file)[0]


def _trace_reads(problem: Namespace, file: str) -> tuple[list[str], frozenset[str]]:
    """The files and the tables that a SQL file reads."""
    tables = {table.name.lower(): table.name for table in problem.tables}
    relations = {name.lower(): file for name, file in problem.relations.items()}
    seen: set[str] = set()
    files, read = [file], list[str]()
    while files:
        read.append(files.pop())
        names = _selected_from(sql.statement(problem, read[-1]))
        if names is None:
            return [file, *(f for f in relations.values() if f != file)], frozenset(tables.values())
        files += [relations[name] for name in sorted(names - seen) if name in relations]
        seen |= names
    return read, frozenset(tables[name] for name in seen if name in tables)


@lru_cache(maxsize=256)  # parsing can take longer than the query
def _selected_from(statement: str) -> frozenset[str] | None:
    """The names that a statement selects from, in lower case; None if it cannot be parsed."""
    import sqlglot
    from sqlglot import errors, exp

    try:
        parsed = sqlglot.parse_one(statement, dialect="duckdb")
    except errors.SqlglotError:
        return None
    return frozenset(table.name.lower() for table in parsed.find_all(exp.Table))


def key_columns(problem: Namespace, view: AnyView) -> dict[str, AnyColumn]:
    """The declared columns of a view's keys."""
    keys = problem.join_keys(view)
    absent = [key for key in keys if key not in problem.request_fields]
    if absent:
        what = f"keys of the entity {view.entity} are not request fields: {', '.join(absent)}"
        raise FeatureError(what, where=f"problem {problem.name}", hint="declare them in `request`")
    return {key: problem.request_fields[key] for key in keys}


def checked_query(connection: duckdb.DuckDBPyConnection, problem: Namespace, view: View) -> str:
    """SQL of a view's keys, event_timestamp and features with their declared types. Rows with a null key are excluded,
    because no decision can look them up. Raises FeatureError for missing or undeclared columns and for wrong types."""
    body = sql.statement(problem, view.sql)
    returned = {row[0]: row[1] for row in sql.run(connection, f"DESCRIBE {body}", view.sql).fetchall()}
    keys = key_columns(problem, view)
    wanted = {**keys, **view.features}
    times = [] if view.timeless else [EVENT]
    _check_names(view, returned, [*wanted, *times])
    for name, column in wanted.items():
        _check_type(view, name, column, returned[name])
    if not view.timeless and not returned[EVENT].startswith(_TIMES):
        raise FeatureError(f"{EVENT} is {returned[EVENT]}", where=view.sql, hint="return a TIMESTAMP in UTC")
    columns = [f"CAST({sql.quote(n)} AS {duckdb_type(c)}) AS {sql.quote(n)}" for n, c in wanted.items()]
    moment = f"CAST({EVENT} AS TIMESTAMPTZ)" if times else "TIMESTAMPTZ '1970-01-01 00:00:00+00'"
    known = " AND ".join(f"{sql.quote(key)} IS NOT NULL" for key in keys)
    return f"SELECT {', '.join(columns)}, {moment} AS {EVENT} FROM ({body}\n) WHERE {known}"  # noqa: S608


def duckdb_type(column: AnyColumn) -> str:
    for kind, name in ((Text, "VARCHAR"), (Integer, "BIGINT"), (Float, "DOUBLE"), (Boolean, "BOOLEAN")):
        if isinstance(column, kind):
            return name
    return "TIMESTAMPTZ"


def _check_names(view: View, returned: dict[str, str], wanted: list[str]) -> None:
    absent = [name for name in wanted if name not in returned]
    extra = [name for name in returned if name not in wanted]
    if absent:
        hint = f"add it to the SELECT, which returns {', '.join(returned)}"
        raise FeatureError(f"returns no column {', '.join(absent)}", where=view.sql, hint=hint)
    if extra:
        hint = f"declare it in the features of view {view.name}, or remove it from the SELECT"
        raise FeatureError(f"returns undeclared columns: {', '.join(extra)}", where=view.sql, hint=hint)


def fits_type(column: AnyColumn, returned: str) -> bool:
    """Whether a DuckDB type can be cast to that of a declared column."""
    fits = {
        "VARCHAR": ("VARCHAR", "ENUM"), "BIGINT": _INTEGERS, "DOUBLE": _NUMBERS, "BOOLEAN": ("BOOLEAN",),
        "TIMESTAMPTZ": _TIMES,
    }[duckdb_type(column)]  # fmt: skip
    return returned.startswith(fits) or returned in ('"NULL"', "NULL")


def _check_type(view: View, name: str, column: AnyColumn, returned: str) -> None:
    if not fits_type(column, returned):
        declared = type(column).__name__
        hint = f"CAST it to {duckdb_type(column)}, or correct the declaration of view {view.name}"
        raise FeatureError(f"{name} is declared {declared}, and the SQL returns {returned}", where=view.sql, hint=hint)
