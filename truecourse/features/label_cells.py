"""Outcome columns: the columns from which a row-by-row label is computed, and when each row's became known."""

from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa
from sqlglot import exp
from sqlglot.errors import SqlglotError
from sqlglot.optimizer.scope import Scope, traverse_scope

from truecourse.authoring.checks.column_lineage import Lineage, LineageError
from truecourse.data import sql, table_views
from truecourse.problem import Problem
from truecourse.references import TableVersion
from truecourse.storage.delta_tables import Tables

_CELL = "_tc_cell"


@dataclass(frozen=True)
class OutcomeColumns:
    """`columns` of `table` that determine the label. `known`: (row, known_at in UTC) of every row with a label."""

    table: str
    columns: frozenset[str]
    known: pa.Table


def find_outcome_columns(
    problem: Problem, tables: Tables, versions: Mapping[str, TableVersion]
) -> OutcomeColumns | None:
    """Find the outcome columns by tracing the label's SQL. None if they are uncertain: a label of several rows or
    tables, or a `known_at` that depends on other columns (other SQL may rightly date the outcome earlier)."""
    if problem.spine is None or problem.label.sql is None:
        return None
    try:
        labels = Lineage(problem, problem.label.sql)
        label, known = labels.origin("label"), labels.origin("known_at")
        spine = Lineage(problem, problem.spine)
        decision = spine.origin("decision_time").sources | spine.origin("id").sources
    except LineageError:
        return None
    # Columns that identify or date a decision, and keys, are known from the start and are no outcome.
    known_before = decision | {(table.name.lower(), key.lower()) for table in problem.tables for key in table.key}
    dating, labelling = known.sources - known_before, label.sources - known_before
    outcome = labelling & dating or (labelling if len(labelling) == 1 else frozenset())
    certain = dating and outcome and (dating <= outcome or len(dating) == 1)
    sources = {table for table, _ in outcome | dating}
    if labels.joins_itself or not (label.row_by_row and known.row_by_row) or known.delayed or not certain:
        return None
    table = next((table for table in problem.tables if {table.name.lower()} == sources), None)
    if table is None or table.time is None:
        return None
    query = _with_row_number(labels.query, table.name)
    if query is None:
        return None
    columns = {name.lower(): name for name in table.columns}
    with sql.connect() as connection:
        table_views.bind(connection, problem, tables, versions)
        rows = sql.quote(f"{table.name}__rows")
        connection.execute(
            f"CREATE OR REPLACE TEMP VIEW {sql.quote(table.name)} AS SELECT {_declared(problem, table.name)}, "  # noqa: S608
            f"{sql.ROW} AS {_CELL} FROM {rows}"
        )
        statement = f"SELECT {_CELL}, max(known_at) AS known_at FROM ({query}) WHERE {_CELL} IS NOT NULL GROUP BY ALL"  # noqa: S608
        known_at = sql.fetch(connection, statement, where=problem.label.sql)
    return OutcomeColumns(table.name, frozenset(columns[name] for _, name in outcome | dating), known_at)


def _declared(problem: Problem, table: str) -> str:
    return table_views.select_list(problem.table(table))


def _with_row_number(query: exp.Expression, table: str) -> str | None:
    """Pass the table's row number through the label's query to its result; None if that is not possible."""
    query = query.copy()
    carried: set[int] = set()
    try:
        scopes = traverse_scope(query)
    except SqlglotError:
        return None
    for scope in scopes:  # innermost first
        select = scope.expression
        alias = _carrier(scope, table, carried)
        if alias is None:
            continue
        if not isinstance(select, exp.Select) or select.args.get("group"):
            return None
        select.append("expressions", exp.alias_(exp.column(_CELL, table=alias), _CELL))
        carried.add(id(select))
    return query.sql(dialect="duckdb") if id(query) in carried else None


def _carrier(scope: Scope, table: str, carried: set[int]) -> str | None:
    for alias, source in scope.sources.items():
        if isinstance(source, exp.Table):
            if source.name.lower() == table.lower():
                return str(alias)
        elif id(source.expression) in carried and alias in scope.selected_sources:
            return str(alias)
    return None
