"""Run a problem's SQL in DuckDB over exact versions of the clean tables.

SQL sees each table under its own name, with its declared columns only; every time is a naive TIMESTAMP in UTC.
"""

from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime

import duckdb
import pyarrow as pa

from truecourse.errors import FeatureError, NotFound
from truecourse.problem.namespace import Namespace
from truecourse.problem.schema import Table
from truecourse.references import TableVersion
from truecourse.settings import get_settings
from truecourse.storage.delta_tables import Tables, clean_table

ROW, RECORDED, SUPERSEDED = "_tc_row", "_tc_recorded_at", "_tc_superseded_at"
CURRENT = f"{SUPERSEDED} IS NULL"
BASE = f"{RECORDED} IS NULL AND ({SUPERSEDED} IS NULL OR {SUPERSEDED} > TIMESTAMPTZ '1970-01-01 00:00:00+00')"
"""Row versions that were known at their own time: no late rows and no corrections."""


@dataclass(frozen=True)
class Cut:
    """Restricts the tables to what can be known at `moment` (naive UTC), by `time` and `known_ahead`.

    In `table`, the `columns` of a row are null until the row's outcome is known. `known`: that time (known_at, UTC) by
    row number (_tc_cell). Other values that cannot be known are null too."""

    moment: datetime
    table: str = ""
    columns: frozenset[str] = frozenset()
    known: pa.Table | None = None


def as_of(recorded: datetime) -> str:
    """The condition for row versions that were known at `recorded` (naive UTC)."""
    moment = f"TIMESTAMPTZ '{recorded.isoformat(sep=' ')}+00'"
    return f"({RECORDED} IS NULL OR {RECORDED} <= {moment}) AND ({SUPERSEDED} IS NULL OR {SUPERSEDED} > {moment})"


def quote(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def row_id(table: Table) -> str:
    """SQL of a row's id: the key's value, or the values of several key columns joined by |. | and \\ in a value are
    escaped by \\, so that ids are unique. Without key, the row's number."""
    texts = [f"CAST({quote(name)} AS VARCHAR)" for name in table.key]
    if len(texts) > 1:
        texts = [rf"replace(replace({text}, '\', '\\'), '|', '\|')" for text in texts]
    return " || '|' || ".join(texts) or "CAST(_tc_row AS VARCHAR)"


_DATABASE: ContextVar[duckdb.DuckDBPyConnection | None] = ContextVar("_DATABASE", default=None)


def _start() -> duckdb.DuckDBPyConnection:
    settings = get_settings()
    settings.temporary.mkdir(parents=True, exist_ok=True)
    return duckdb.connect(
        config={
            "threads": settings.threads,
            "memory_limit": settings.memory_limit,
            "temp_directory": str(settings.temporary),
            "preserve_insertion_order": False,
        }
    )


@contextmanager
def one_database() -> Iterator[None]:
    """Let connect() use one database within the block, in this thread: starting one takes 20 ms of CPU time."""
    with closing(_start()) as database:
        token = _DATABASE.set(database)
        try:
            yield
        finally:
            _DATABASE.reset(token)


@contextmanager
def connect(database: duckdb.DuckDBPyConnection | None = None) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open a DuckDB connection in UTC with a memory limit; above it, DuckDB spills to <home>/tmp. It draws no progress
    bar: DuckDB would print one on stdout, among the answers of commands, for each query of more than two seconds.

    database: an open connection whose database this one shares, by default that of one_database(). Relations are each
    connection's own."""
    database = database or _DATABASE.get()
    connection = _start() if database is None else database.cursor()
    try:
        connection.execute("SET TimeZone = 'UTC'; SET enable_progress_bar = false")
        yield connection
    finally:
        connection.close()


def clean_versions(problem: Namespace, tables: Tables) -> dict[str, TableVersion]:
    """The newest version of every clean table; tables of areas as `area.table`. Raises NotFound if a table was never
    validated."""
    versions: dict[str, TableVersion] = {}
    for namespace in problem.namespaces:
        for table in namespace.tables:
            version = tables.version(clean_table(namespace.name, table.name))
            if version is None:
                hint = f"truecourse run ingest --problem {problem.name}, then validate"
                raise NotFound("the table has no clean version", where=f"{namespace.name}.{table.name}", hint=hint)
            versions[table_label(problem, namespace, table)] = version
    return versions


def versions_for(problem: Namespace, view: str, versions: Mapping[str, TableVersion]) -> dict[str, TableVersion]:
    """The versions of the tables of the namespace that a view belongs to, by their own names. `versions`: as
    clean_versions() returns them."""
    owner = problem.namespace_of(view)
    return {table.name: versions[table_label(problem, owner, table)] for table in owner.tables}


def labelled_tables(problem: Namespace) -> dict[str, tuple[Namespace, Table]]:
    """All tables of a problem and of the areas that it uses, each with its namespace, by table_label()."""
    return {
        table_label(problem, owner, table): (owner, table) for owner in problem.namespaces for table in owner.tables
    }


def table_label(problem: Namespace, owner: Namespace, table: Table) -> str:
    """A table's name in a problem; that of an area's table is `area.table`."""
    return table.name if owner.name == problem.name else f"{owner.name}.{table.name}"


def statement(problem: Namespace, file: str) -> str:
    """The statement of a SQL file, without trailing semicolon."""
    return problem.text(file).strip().rstrip(";")


def run(connection: duckdb.DuckDBPyConnection, sql: str, where: str) -> duckdb.DuckDBPyConnection:
    """Run a problem's SQL. Raises FeatureError with `where`, its file."""
    with _errors(where):
        return connection.execute(sql)


@contextmanager
def _errors(where: str) -> Iterator[None]:
    try:
        yield
    except duckdb.Error as error:
        raise FeatureError(str(error), where=where, hint="run `truecourse check`, and correct the SQL") from error


def fetch(connection: duckdb.DuckDBPyConnection, sql: str, where: str) -> pa.Table:
    """Fetch the rows of a query. Naive times become UTC microseconds."""
    with _errors(where):
        result = connection.sql(sql).to_arrow_table()
    fields = [
        pa.field(f.name, pa.timestamp("us", tz="UTC")) if pa.types.is_timestamp(f.type) else _plain(f)
        for f in result.schema
    ]
    return result.cast(pa.schema(fields))


def _plain(field: pa.Field) -> pa.Field:
    """Widen a field's type to a common one: 64-bit numbers and strings."""
    kind = field.type
    if pa.types.is_integer(kind):
        return pa.field(field.name, pa.int64())
    if pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return pa.field(field.name, pa.float64())
    if pa.types.is_large_string(kind) or pa.types.is_string(kind):
        return pa.field(field.name, pa.string())
    return field
