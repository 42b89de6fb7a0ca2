"""Views of clean tables in DuckDB, as a problem's SQL sees them: exact versions, selected rows, declared columns."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta

import duckdb

from truecourse.data.former_columns import altered_columns, former_values, stored_names
from truecourse.data.sql import CURRENT, ROW, Cut, quote, run, statement
from truecourse.problem.namespace import Namespace
from truecourse.problem.schema import AnyColumn, Boolean, Float, Integer, Table, Text, Time
from truecourse.references import TableVersion, Window
from truecourse.storage.delta_tables import Tables


def bind(
    connection: duckdb.DuckDBPyConnection,
    problem: Namespace,
    tables: Tables,
    versions: Mapping[str, TableVersion],
    *,
    rows: str = CURRENT,
    window: Window | None = None,
    cut: Cut | None = None,
    former: Mapping[str, frozenset[str]] | None = None,
) -> None:
    """Create a view of each clean table at `versions`, under its name, and of each of the problem's relations.

    `rows`: the visible row versions (CURRENT, BASE or as_of(t)). `window`: for tables with a `time`, only rows in this
    time range (naive UTC). `cut`: only what can be known at a moment. `former`: columns by table, as in bind_table().
    """
    for table in problem.tables:
        read = None if former is None else former.get(table.name, frozenset())
        bind_table(connection, tables, table, versions[table.name], rows=rows, window=window, cut=cut, former=read)
    for name, file in problem.relations.items():
        run(connection, f"CREATE OR REPLACE TEMP VIEW {quote(name)} AS {statement(problem, file)}", where=file)


def _bind_rows(
    connection: duckdb.DuckDBPyConnection,
    tables: Tables,
    version: TableVersion,
    table: Table,
    former: Collection[str] | None,
) -> None:
    """Create the relation `<table>__rows` of a version's rows, with the columns of another declaration under their
    names. Renamed columns have their values; removed ones are null, and others as stored, unless they are in `former`.

    Raises what stored_names() and former_values() raise."""
    rows, dataset = f"{table.name}__rows", tables.dataset(version)
    altered = altered_columns(tables, version, table, sorted(former)) if former else []
    names = stored_names(tables, version, table.columns, former)
    others = {name: stored for name, stored in names.items() if name != stored and name not in altered}
    if not others and not altered:
        connection.register(rows, dataset)
        return
    connection.register(f"{table.name}__stored", dataset)
    source = f"FROM {quote(f'{table.name}__stored')} AS s"
    values = [f"s.{quote(of)} AS {quote(n)}" if of else f"{_null(table.columns[n])} AS {quote(n)}"
              for n, of in others.items()]  # fmt: skip
    if altered:
        connection.register(f"{table.name}__former", former_values(tables, version, table, altered))
        source += f" JOIN {quote(f'{table.name}__former')} AS f USING ({ROW})"
        values += [f"f.{quote(name)}" for name in altered]
    replaced = [name for name in {*others, *altered} if name in dataset.schema.names]
    kept = f"s.* EXCLUDE ({', '.join(map(quote, sorted(replaced)))})" if replaced else "s.*"
    connection.execute(f"CREATE OR REPLACE TEMP VIEW {quote(rows)} AS SELECT {kept}, {', '.join(values)} {source}")


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
    former: Collection[str] | None = None,
) -> None:
    """Create a view of one clean table, as bind() does. `further`: columns of Truecourse that it has too.

    `former`: the columns that are read. They have the values of the form that `table` declares, even if the stored
    table was edited since; rows that this form cannot read are left out, and other columns may be null. By default,
    columns are as stored. Raises FeatureError if values are unknown, or a column was declared after the version."""
    _bind_rows(connection, tables, version, table, former)
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
