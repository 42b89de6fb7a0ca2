"""Running a problem's SQL: DuckDB over exact versions of the clean tables.

Authors see each table under its own name, with its declared columns only; every time is a naive TIMESTAMP in UTC.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime

import duckdb
import pyarrow as pa

from truecourse.errors import FeatureError, NotFound
from truecourse.problem import Problem
from truecourse.references import TableVersion, Window
from truecourse.schema import Table, Time
from truecourse.settings import get_settings
from truecourse.tables import Tables, clean_table

ROW, RECORDED, SUPERSEDED = "_tc_row", "_tc_recorded_at", "_tc_superseded_at"
CURRENT = f"{SUPERSEDED} IS NULL"
BASE = f"{RECORDED} IS NULL AND ({SUPERSEDED} IS NULL OR {SUPERSEDED} > TIMESTAMPTZ '1970-01-01 00:00:00+00')"
"""Row versions known from their own time: no late row, no correction."""


def as_of(recorded: datetime) -> str:
    """Row versions that were known at `recorded` (naive UTC)."""
    moment = f"TIMESTAMPTZ '{recorded.isoformat(sep=' ')}+00'"
    return f"({RECORDED} IS NULL OR {RECORDED} <= {moment}) AND ({SUPERSEDED} IS NULL OR {SUPERSEDED} > {moment})"


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def row_id(table: Table) -> str:
    """The SQL of a row's id: the key's value; of several key columns, their values with | between them, and \\ before
    each | and \\ of a value, so that no two keys have one id. A table without key has the row's number."""
    texts = [f"CAST({quoted(name)} AS VARCHAR)" for name in table.key]
    if len(texts) > 1:
        texts = [rf"replace(replace({text}, '\', '\\'), '|', '\|')" for text in texts]
    return " || '|' || ".join(texts) or "CAST(_tc_row AS VARCHAR)"


@contextmanager
def connect() -> Iterator[duckdb.DuckDBPyConnection]:
    """A DuckDB connection in UTC, bounded in memory; beyond the bound it spills to <home>/tmp."""
    settings = get_settings()
    settings.temporary.mkdir(parents=True, exist_ok=True)
    connection = duckdb.connect(
        config={
            "threads": settings.threads,
            "memory_limit": settings.memory_limit,
            "temp_directory": str(settings.temporary),
            "preserve_insertion_order": False,
        }
    )
    try:
        connection.execute("SET TimeZone = 'UTC'")
        yield connection
    finally:
        connection.close()


def clean_versions(problem: Problem, tables: Tables) -> dict[str, TableVersion]:
    """The newest version of every clean table. Raises NotFound for a table that was never validated."""
    versions: dict[str, TableVersion] = {}
    for table in problem.tables:
        version = tables.version(clean_table(problem.name, table.name))
        if version is None:
            cure = f"truecourse run ingest --problem {problem.name}, then validate"
            raise NotFound("the table has no clean version", where=f"{problem.name}.{table.name}", cure=cure)
        versions[table.name] = version
    return versions


def bind(
    connection: duckdb.DuckDBPyConnection,
    problem: Problem,
    tables: Tables,
    versions: Mapping[str, TableVersion],
    *,
    rows: str = CURRENT,
    window: Window | None = None,
) -> None:
    """Put every clean table, at `versions`, under its name, then the problem's relations.

    `rows`: which row versions are seen (CURRENT, BASE or as_of(t)). `window`: only rows whose `time` lies in it,
    for tables that have one (naive UTC).
    """
    for table in problem.tables:
        connection.register(f"{table.name}__rows", tables.dataset(versions[table.name]))
        conditions = [rows, *_within(table, window)]
        connection.execute(
            f"CREATE OR REPLACE TEMP VIEW {quoted(table.name)} AS SELECT {_select(table)} "  # noqa: S608
            f"FROM {quoted(table.name + '__rows')} WHERE {' AND '.join(conditions)}"
        )
    for name, file in problem.relations.items():
        run(connection, f"CREATE OR REPLACE TEMP VIEW {quoted(name)} AS {statement(problem, file)}", where=file)


def _select(table: Table) -> str:
    return ", ".join(
        f"CAST({quoted(name)} AS TIMESTAMP) AS {quoted(name)}" if isinstance(column, Time) else quoted(name)
        for name, column in table.columns.items()
    )


def _within(table: Table, window: Window | None) -> list[str]:
    if window is None or table.time is None:
        return []
    bounds = (("<=", window.start), (">", window.end))
    return [
        f"TIMESTAMPTZ '{t.isoformat(sep=' ')}+00' {sign} {quoted(table.time)}" for sign, t in bounds if t is not None
    ]


def statement(problem: Problem, file: str) -> str:
    """A SQL file's one statement, with no trailing semicolon."""
    return problem.text(file).strip().rstrip(";")


def run(connection: duckdb.DuckDBPyConnection, sql: str, where: str) -> duckdb.DuckDBPyConnection:
    """Run SQL of a problem. Raises FeatureError that names its file."""
    with _told(where):
        return connection.execute(sql)


@contextmanager
def _told(where: str) -> Iterator[None]:
    try:
        yield
    except duckdb.Error as error:
        raise FeatureError(str(error), where=where, cure="run `truecourse check`, and correct the SQL") from error


def fetch(connection: duckdb.DuckDBPyConnection, sql: str, where: str) -> pa.Table:
    """The rows of a query, its naive times marked as UTC microseconds."""
    with _told(where):
        result = connection.sql(sql).to_arrow_table()
    fields = [
        pa.field(f.name, pa.timestamp("us", tz="UTC")) if pa.types.is_timestamp(f.type) else _plain(f)
        for f in result.schema
    ]
    return result.cast(pa.schema(fields))


def _plain(field: pa.Field) -> pa.Field:
    """Types that every reader knows: 64-bit numbers and strings."""
    kind = field.type
    if pa.types.is_integer(kind):
        return pa.field(field.name, pa.int64())
    if pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return pa.field(field.name, pa.float64())
    if pa.types.is_large_string(kind) or pa.types.is_string(kind):
        return pa.field(field.name, pa.string())
    return field
