"""Outcome cells: the columns that a row-by-row label is made of, and the moment each row's became known."""

from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa
from sqlglot import exp
from sqlglot.errors import SqlglotError
from sqlglot.optimizer.scope import Scope, traverse_scope

from truecourse.authoring.checks.column_lineage import Lineage, LineageError
from truecourse.data import sql
from truecourse.problem import Problem
from truecourse.references import TableVersion
from truecourse.storage.tables import Tables

_CELL = "_tc_cell"


@dataclass(frozen=True)
class OutcomeColumns:
    """`columns` of `table` that tell the label; `known`: (row, known_at) of every row that has one, UTC."""

    table: str
    columns: frozenset[str]
    known: pa.Table


def find_outcome_columns(
    problem: Problem, tables: Tables, versions: Mapping[str, TableVersion]
) -> OutcomeColumns | None:
    """None where it cannot be told for certain: a label of several rows or tables, or a `known_at` that is not made of
    the outcome alone (it may be later than the moment other SQL honestly dates the outcome by)."""
    if problem.spine is None or problem.label.sql is None:
        return None
    try:
        labels = Lineage(problem, problem.label.sql)
        label, known = labels.origin("label"), labels.origin("known_at")
        spine = Lineage(problem, problem.spine)
        decision = spine.origin("decision_time").sources | spine.origin("id").sources
    except LineageError:
        return None
    # What names a decision, dates it or keys its row is there from the start, and no outcome.
    known_before = decision | {(table.name.lower(), key.lower()) for table in problem.tables for key in table.key}
    later, told = known.sources - known_before, label.sources - known_before
    outcome = told & later or (told if len(told) == 1 else frozenset())
    certain = later and outcome and (later <= outcome or len(later) == 1)
    found = {table for table, _ in outcome | later}
    if labels.joins_itself or not (label.row_by_row and known.row_by_row) or known.delayed or not certain:
        return None
    table = next((table for table in problem.tables if {table.name.lower()} == found), None)
    if table is None or table.time is None:
        return None
    query = _tagged(labels.query, table.name)
    if query is None:
        return None
    columns = {name.lower(): name for name in table.columns}
    with sql.connect() as connection:
        sql.bind(connection, problem, tables, versions)
        rows = sql.quote(f"{table.name}__rows")
        connection.execute(
            f"CREATE OR REPLACE TEMP VIEW {sql.quote(table.name)} AS SELECT {_declared(problem, table.name)}, "  # noqa: S608
            f"{sql.ROW} AS {_CELL} FROM {rows}"
        )
        statement = f"SELECT {_CELL}, max(known_at) AS known_at FROM ({query}) WHERE {_CELL} IS NOT NULL GROUP BY ALL"  # noqa: S608
        told_at = sql.fetch(connection, statement, where=problem.label.sql)
    return OutcomeColumns(table.name, frozenset(columns[name] for _, name in outcome | later), told_at)


def _declared(problem: Problem, table: str) -> str:
    return sql.select_list(problem.table(table))


def _tagged(query: exp.Expression, table: str) -> str | None:
    """The label's query with the number of the table's row handed through from the one place where it is read."""
    query = query.copy()
    carried: set[int] = set()
    try:
        scopes = traverse_scope(query)
    except SqlglotError:
        return None
    for scope in scopes:  # the innermost first
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
