"""Run a problem's SQL in DuckDB over exact versions of the clean tables.

SQL sees each table under its own name, with its declared columns only; every time is a naive TIMESTAMP in UTC.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta

import duckdb
import pyarrow as pa

from truecourse.errors import FeatureError, NotFound
from truecourse.problem.namespace import Namespace
from truecourse.problem.schema import AnyColumn, Boolean, Float, Integer, Table, Text, Time
from truecourse.references import TableVersion, Window
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


@contextmanager
def connect() -> Iterator[duckdb.DuckDBPyConnection]:
    """Open a DuckDB connection in UTC with a memory limit; above it, DuckDB spills to <home>/tmp."""
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


def bind(
    connection: duckdb.DuckDBPyConnection,
    problem: Namespace,
    tables: Tables,
    versions: Mapping[str, TableVersion],
    *,
    rows: str = CURRENT,
    window: Window | None = None,
    cut: Cut | None = None,
) -> None:
    """Create a view of each clean table at `versions`, under its name, and of each of the problem's relations.

    `rows`: the visible row versions (CURRENT, BASE or as_of(t)). `window`: for tables with a `time`, only rows in this
    time range (naive UTC). `cut`: only what can be known at a moment.
    """
    for table in problem.tables:
        bind_table(connection, tables, table, versions[table.name], rows=rows, window=window, cut=cut)
    for name, file in problem.relations.items():
        run(connection, f"CREATE OR REPLACE TEMP VIEW {quote(name)} AS {statement(problem, file)}", where=file)


def _bind_rows(connection: duckdb.DuckDBPyConnection, tables: Tables, version: TableVersion, table: Table) -> None:
    """Create the relation `<table>__rows` of a version's rows, with the columns of an earlier declaration under their
    names: renamed columns have their values, removed ones are null.

    Raises FeatureError for a column that was declared after the version was written."""
    rows, dataset = f"{table.name}__rows", tables.dataset(version)
    others = {name: stored for name, stored in stored_names(tables, version, table.columns).items() if name != stored}
    if not others:
        connection.register(rows, dataset)
        return
    connection.register(f"{table.name}__stored", dataset)
    values = ", ".join(
        f"{quote(stored) if stored else _null(table.columns[name])} AS {quote(name)}" for name, stored in others.items()
    )
    source = quote(f"{table.name}__stored")
    connection.execute(f"CREATE OR REPLACE TEMP VIEW {quote(rows)} AS SELECT *, {values} FROM {source}")  # noqa: S608


def stored_names(tables: Tables, version: TableVersion, names: Iterable[str]) -> dict[str, str]:
    """The name under which a version of a clean table stores each column of an earlier declaration, after edits; empty
    if it was removed. Raises FeatureError for a column that was declared after the version was written."""
    present = tables.dataset(version).schema.names
    found = {name: name for name in names}
    if found.keys() <= set(present):
        return found
    edits = [
        edit for number, commit in tables.commits(version.name) if number <= version.version
        for edit in commit.get("edits", ())
    ]  # fmt: skip
    found = {name: name if name in present else _after_edits(name, edits) for name in found}
    if unknown := [name for name, stored in found.items() if stored not in ("", *present)]:
        hint = "run `truecourse run ingest` and `validate`: the declaration changed since"
        raise FeatureError(f"the stored table has no column {', '.join(unknown)}", where=str(version), hint=hint)
    return found


def _after_edits(name: str, edits: Iterable[Mapping[str, str]]) -> str:
    for edit in edits:
        if edit["kind"] == "renamed" and edit["before"] == name:
            name = edit["column"]
        elif edit["kind"] == "removed" and edit["column"] == name:
            name = ""
    return name


def _null(column: AnyColumn) -> str:
    kinds = {Text: "VARCHAR", Integer: "BIGINT", Float: "DOUBLE", Boolean: "BOOLEAN", Time: "TIMESTAMPTZ"}
    return f"CAST(NULL AS {kinds[type(column)]})"


def bind_table(
    connection: duckdb.DuckDBPyConnection,
    tables: Tables,
    table: Table,
    version: TableVersion,
    *,
    rows: str = CURRENT,
    window: Window | None = None,
    cut: Cut | None = None,
    further: Sequence[str] = (),
) -> None:
    """Create a view of one clean table, as bind() does. `further`: columns of Truecourse that it has too."""
    _bind_rows(connection, tables, version, table)
    conditions = [rows, *_within(table, window), *_known(table, table.known_ahead, cut)]
    source = quote(f"{table.name}__rows")
    if cut is not None and cut.known is not None and cut.table == table.name:
        connection.register("__cells", cut.known)
        later = f"SELECT _tc_cell FROM __cells WHERE known_at > {_literal(cut.moment)}"  # noqa: S608
        source += f" LEFT JOIN ({later}) AS later ON later._tc_cell = {ROW}"
    columns = ", ".join([select_list(table, cut), *further])
    connection.execute(
        f"CREATE OR REPLACE TEMP VIEW {quote(table.name)} AS SELECT {columns} "  # noqa: S608
        f"FROM {source} WHERE {' AND '.join(conditions)}"
    )


def select_list(table: Table, cut: Cut | None = None) -> str:
    """The select list of a table's declared columns."""
    return ", ".join(f"{_value(table, name, column, cut)} AS {quote(name)}" for name, column in table.columns.items())


def _value(table: Table, name: str, column: AnyColumn, cut: Cut | None) -> str:
    value = f"CAST({quote(name)} AS TIMESTAMP)" if isinstance(column, Time) else quote(name)
    known = _known(table, column.known_ahead, cut) if column.known_ahead is not None else []
    if cut is not None and cut.known is not None and cut.table == table.name and name in cut.columns:
        known.append("later._tc_cell IS NULL")
    return f"CASE WHEN {' AND '.join(known)} THEN {value} END" if known else value


def _known(table: Table, ahead: timedelta, cut: Cut | None) -> list[str]:
    """The condition that a value known `ahead` of its row's time is known at the cut."""
    if cut is None or table.time is None:
        return []
    time = quote(table.time)
    return [f"({time} IS NULL OR {time} <= {_literal(cut.moment + ahead)})"]


def _literal(moment: datetime) -> str:
    return f"TIMESTAMPTZ '{moment.isoformat(sep=' ')}+00'"


def _within(table: Table, window: Window | None) -> list[str]:
    if window is None or table.time is None:
        return []
    bounds = (("<=", window.start), (">", window.end))
    return [
        f"TIMESTAMPTZ '{t.isoformat(sep=' ')}+00' {sign} {quote(table.time)}" for sign, t in bounds if t is not None
    ]


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
