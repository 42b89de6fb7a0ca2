"""Column lineage of SQL: a column that is declared to depend on nothing else does not change when it changes."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import duckdb
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from truecourse.openlineage.query_columns import QueryColumns, Use, expression_columns, file_columns
from truecourse.problem import FeatureArea, Files, Integer, Table

TABLES = {"a": ("k", "x", "y"), "b": ("k", "z")}
RETURNED = ("c0", "c1", "c2")
Rows = dict[str, list[tuple[int | None, ...]]]


def declared(table: str) -> Table:
    return Table(table, source=Files("none.csv"), columns=dict.fromkeys(TABLES[table], Integer()))


def columns_of(folder: Path, query: str, returned: Sequence[str] = RETURNED) -> QueryColumns:
    (folder / "query.sql").write_text(query)
    tables = [declared(name) for name in TABLES]
    area = FeatureArea("examples", tables=tables, keys={}, entities=[], views=[], folder=folder)
    return file_columns(area, "query.sql", returned)


@st.composite
def queries(draw: st.DrawFn, depth: int = 2) -> str:
    """A query that returns c0, c1 and c2 as numbers."""
    kind = draw(st.sampled_from(["plain", "grouped", "windows", "union", "distinct", "exists", "scalar", "newest"]))
    if kind == "union" and depth:
        word = draw(st.sampled_from(["UNION", "UNION ALL", "EXCEPT", "INTERSECT"]))
        return f"({draw(queries(depth - 1))}) {word} ({draw(queries(depth - 1))})"
    source, names = draw(sources(depth))

    def name() -> str:
        return draw(st.sampled_from(names))

    def value() -> str:
        form = draw(st.sampled_from(["{}", "{} + {}", "CASE WHEN {} > 1 THEN {} ELSE {} END", "coalesce({}, {})"]))
        return form.format(*(name() for _ in range(form.count("{}"))))

    where = f"WHERE {value()} > 0" if draw(st.booleans()) else ""
    if kind == "grouped":
        having = f"HAVING max({name()}) > 1" if draw(st.booleans()) else ""
        key = name()
        counted = f"count(*) FILTER (WHERE {name()} = 1)"
        return (
            f"SELECT {key} AS c0, sum({value()}) AS c1, {counted} AS c2 FROM {source} {where} GROUP BY {key} {having}"
        )
    if kind == "windows":
        return (
            f"SELECT {value()} AS c0, sum({name()}) OVER (PARTITION BY {name()} ORDER BY {name()}) AS c1, "
            f"max({name()}) OVER w AS c2 FROM {source} {where} WINDOW w AS (PARTITION BY {name()})"
        )
    third = value()
    if kind == "scalar":
        third = f"(SELECT max(inner_b.z) FROM b AS inner_b WHERE inner_b.k = {name()})"
    if kind == "exists":
        where = f"WHERE EXISTS (SELECT 1 FROM b AS other WHERE other.k = {name()} AND other.z > 1)"
    word = "DISTINCT " if kind == "distinct" else ""
    newest = f"QUALIFY {name()} = max({name()}) OVER (PARTITION BY {name()})" if kind == "newest" else ""
    return f"SELECT {word}{value()} AS c0, {value()} AS c1, {third} AS c2 FROM {source} {where} {newest}"


@st.composite
def sources(draw: st.DrawFn, depth: int) -> tuple[str, list[str]]:
    """A FROM clause, and its qualified columns."""
    parts = [draw(source(depth, f"s{number}")) for number in range(draw(st.integers(1, 2)))]
    names = [name for _, names in parts for name in names]
    if len(parts) == 1:
        return parts[0][0], names
    word = draw(st.sampled_from(["JOIN", "LEFT JOIN"]))
    on = f"{draw(st.sampled_from(parts[0][1]))} = {draw(st.sampled_from(parts[1][1]))}"
    return f"{parts[0][0]} {word} {parts[1][0]} ON {on}", names


@st.composite
def source(draw: st.DrawFn, depth: int, alias: str) -> tuple[str, list[str]]:
    if depth and draw(st.booleans()):
        return f"({draw(queries(depth - 1))}) AS {alias}", [f"{alias}.{name}" for name in RETURNED]
    table = draw(st.sampled_from(sorted(TABLES)))
    return f"{table} AS {alias}", [f"{alias}.{name}" for name in TABLES[table]]


numbers = st.one_of(st.none(), st.integers(0, 3))
rows = st.fixed_dictionaries(
    {name: st.lists(st.tuples(*[numbers] * len(names)), min_size=2, max_size=6) for name, names in TABLES.items()}
)


@pytest.fixture(scope="module")
def connection() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect(config={"threads": 1}) as opened:
        yield opened


def run(connection: duckdb.DuckDBPyConnection, query: str, data: Rows) -> dict[str, Counter[Any]]:
    """The values of each returned column, in no order."""
    for table, names in TABLES.items():
        values = ", ".join(f"({', '.join('NULL' if one is None else str(one) for one in row)})" for row in data[table])
        columns = ", ".join(f"CAST({name} AS INTEGER) AS {name}" for name in names)
        connection.execute(
            f"CREATE OR REPLACE TEMP VIEW {table} AS SELECT {columns} FROM (VALUES {values}) AS v({', '.join(names)})"
        )
    found = connection.execute(query)
    returned = [column[0] for column in found.description]
    fetched = found.fetchall()
    return {name: Counter(row[place] for row in fetched) for place, name in enumerate(returned)}


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(query=queries(), data=rows, change=st.data())
def test_only_declared_columns_change(
    query: str, data: Rows, change: st.DataObject, tmp_path: Path, connection: duckdb.DuckDBPyConnection
) -> None:
    found = columns_of(tmp_path, query)
    assert found.exact, query
    before = run(connection, query, data)
    for table, names in TABLES.items():
        for place, column in enumerate(names):
            new = change.draw(st.lists(numbers, min_size=len(data[table]), max_size=len(data[table])))
            changed = [(*row[:place], value, *row[place + 1 :]) for row, value in zip(data[table], new, strict=True)]
            after = run(connection, query, data | {table: changed})
            used = {name for name in RETURNED if is_used(found.of(name) | found.rows, table, column)}
            assert {name for name in RETURNED if before[name] != after[name]} <= used, (table, column, query)


def is_used(uses: frozenset[Use], table: str, column: str) -> bool:
    return any((use.table, use.column) == (table, column) for use in uses)


@pytest.mark.parametrize(
    ("query", "fields", "rows"),
    [
        ("SELECT k AS c FROM a", "k DIRECT IDENTITY", ""),
        ("SELECT x + 1 AS c FROM a WHERE k > 1", "x DIRECT TRANSFORMATION", "k INDIRECT FILTER"),
        ("SELECT sum(x) AS c FROM a GROUP BY k", "x DIRECT AGGREGATION", "k INDIRECT GROUP_BY"),
        ("SELECT CASE WHEN y > 1 THEN x END AS c FROM a", "x DIRECT TRANSFORMATION, y INDIRECT CONDITIONAL", ""),
        ("SELECT max(x) OVER w AS c FROM a WINDOW w AS (ORDER BY k)", "k INDIRECT WINDOW, x DIRECT AGGREGATION", ""),
        ("SELECT x AS c FROM a JOIN b ON a.k = b.k", "x DIRECT IDENTITY", "k INDIRECT JOIN, k INDIRECT JOIN"),
        ("SELECT x AS c FROM a ORDER BY y LIMIT 1", "x DIRECT IDENTITY", "y INDIRECT SORT"),
        ("WITH n AS (SELECT *, x AS own FROM a) SELECT own AS c FROM n", "x DIRECT IDENTITY", ""),
    ],
)  # fmt: skip
def test_how_a_column_is_used(tmp_path: Path, query: str, fields: str, rows: str) -> None:
    found = columns_of(tmp_path, query, ["c"])
    assert described(found.of("c")) == fields
    assert described(found.rows) == rows
    assert found.exact


def described(uses: frozenset[Use]) -> str:
    return ", ".join(sorted(f"{use.column} {use.kind} {use.subtype}" for use in uses))


def test_of_sql_that_is_not_resolved_every_column_counts(tmp_path: Path) -> None:
    found = columns_of(tmp_path, "SELECT unnest([x, y]) AS c0, 1 AS c1, 2 AS c2 FROM a")
    assert not found.exact
    assert {use.column for use in found.of("c1")} == {"x", "y"}


def test_an_expression_uses_the_columns_that_it_names() -> None:
    table = declared("a")
    assert described(expression_columns(table, "x * (y + 1)")) == "x DIRECT TRANSFORMATION, y DIRECT TRANSFORMATION"
    assert described(expression_columns(table, "k")) == "k DIRECT IDENTITY"
    assert {use.column for use in expression_columns(table, "not sql at (")} == {"k", "x", "y"}
