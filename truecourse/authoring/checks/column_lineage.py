"""Column lineage of SQL files (sqlglot.lineage): the source columns of a result column, through all relations."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError
from sqlglot.lineage import Node, lineage
from sqlglot.optimizer.qualify import qualify
from sqlglot.optimizer.scope import Scope, build_scope

from truecourse.data.sql import statement
from truecourse.problem.namespace import Namespace

Sources = frozenset[tuple[str, str]]
"""(table, column), both in lower case."""


@dataclass(frozen=True)
class Origin:
    """The origin of one returned column."""

    sources: Sources
    row_by_row: bool
    """True if the expression has no window or aggregate, so that the value depends on its row alone."""
    delayed: bool
    """True if the expression adds a fixed interval."""


class LineageError(Exception):
    """sqlglot cannot parse or resolve this SQL (it supports less than DuckDB), or the file does not exist."""


@contextmanager
def _wrap_sqlglot_errors() -> Iterator[None]:
    try:
        yield
    except (SqlglotError, ValueError, KeyError, OSError, RecursionError) as error:
        raise LineageError(str(error)) from error


class Lineage:
    """Column lineage of one SQL file, with its relations inlined and its columns resolved."""

    def __init__(self, problem: Namespace, file: str) -> None:
        """Parse and resolve the file. Raises LineageError."""
        self._schema = {table.name: dict.fromkeys(table.columns, "VARCHAR") for table in problem.tables}
        with _wrap_sqlglot_errors():
            relations = {name: _parsed(problem, path) for name, path in problem.relations.items()}
            expanded = exp.expand(_parsed(problem, file), relations, dialect="duckdb")
            tables = [t.name.lower() for t in expanded.find_all(exp.Table) if t.name.lower() in self._schema]
            self.joins_itself = len(set(tables)) < len(tables)
            self.query = qualify(expanded, dialect="duckdb", schema=self._schema, validate_qualify_columns=False)
            self._scope: Scope | None = build_scope(self.query)

    def origin(self, column: str) -> Origin:
        """The origin of one returned column. Raises LineageError."""
        with _wrap_sqlglot_errors():
            root = lineage(column.lower(), self.query, schema=self._schema, dialect="duckdb", scope=self._scope)
        nodes = list(root.walk())
        return Origin(
            sources=frozenset(self._leaves(nodes)),
            row_by_row=not any(node.expression.find(exp.Window, exp.AggFunc) for node in nodes),
            delayed=any(_adds_interval(node.expression) for node in nodes),
        )

    def _leaves(self, nodes: list[Node]) -> Iterator[tuple[str, str]]:
        for node in nodes:
            if not node.downstream and isinstance(node.source, exp.Table) and node.source.name.lower() in self._schema:
                yield node.source.name.lower(), node.name.partition(".")[2].strip('"').lower()


def _parsed(problem: Namespace, file: str) -> exp.Expression:
    return sqlglot.parse_one(statement(problem, file), dialect="duckdb")


def _adds_interval(expression: exp.Expression) -> bool:
    return any(
        isinstance(span.parent, exp.Add) and isinstance(span.this, exp.Literal)
        for span in expression.find_all(exp.Interval)
    )
