"""The columns that each column of a query depends on, and how, in the terms of OpenLineage's column lineage.

Direct: the value is taken or computed from the column. Indirect: the column decides which value or which row is
returned. `DIRECT` has the subtypes IDENTITY, TRANSFORMATION and AGGREGATION; `INDIRECT` has CONDITIONAL, WINDOW, JOIN,
FILTER, GROUP_BY and SORT.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError
from sqlglot.optimizer.qualify import qualify
from sqlglot.optimizer.scope import Scope, build_scope

from truecourse.authoring.checks.column_lineage import Lineage, LineageError
from truecourse.data.sql import quote
from truecourse.features.columns_read import columns_read
from truecourse.problem.namespace import Namespace
from truecourse.problem.schema import Table

Kind = Literal["DIRECT", "INDIRECT"]
_CLAUSES = {
    "where": "FILTER", "having": "FILTER", "qualify": "FILTER", "group": "GROUP_BY", "order": "SORT", "limit": "FILTER",
    "offset": "FILTER",
}  # fmt: skip
_UNRESOLVED = (exp.Unnest, exp.Explode, exp.Lateral, exp.Pivot, exp.Values, exp.TableFromRows, exp.Columns)
_CONDITIONS = ((exp.If, "this"), (exp.Case, "this"), (exp.Filter, "expression"))
_SIDES = "set_operation_scopes" if hasattr(Scope(exp.Select()), "set_operation_scopes") else "union_scopes"
"""The attribute of the scopes of a set operation's sides, whose name sqlglot has changed."""
_STRENGTH = ("IDENTITY", "TRANSFORMATION", "AGGREGATION")


@dataclass(frozen=True)
class Use:
    """A column that another one depends on."""

    table: str
    column: str
    kind: Kind = "DIRECT"
    subtype: str = "IDENTITY"

    def by(self, outer: "Use") -> "Use":
        """This use, of a column that is itself used like `outer`."""
        if outer.kind == "INDIRECT":
            return replace(self, kind="INDIRECT", subtype=outer.subtype)
        if self.kind == "INDIRECT":
            return self
        return replace(self, subtype=max(self.subtype, outer.subtype, key=_STRENGTH.index))


Uses = frozenset[Use]
NOTHING: Uses = frozenset()
IDENTITY, TRANSFORMED, AGGREGATED = (Use("", "", "DIRECT", subtype) for subtype in _STRENGTH)


def indirect(subtype: str) -> Use:
    """A use of no column, for Use.by(): an indirect one."""
    return Use("", "", "INDIRECT", subtype)


def used_by(uses: Iterable[Use], outer: Use) -> Uses:
    return frozenset(use.by(outer) for use in uses)


@dataclass(frozen=True)
class QueryColumns:
    """What a query's result depends on. `fields`: by returned column. `rows`: what decides which rows there are.

    `exact`: whether the SQL was resolved. If not, every column may depend on every column that the SQL reads."""

    fields: Mapping[str, Uses]
    rows: Uses = NOTHING
    exact: bool = True

    def of(self, name: str) -> Uses:
        """The uses of a returned column; case does not matter."""
        return self.fields.get(name.lower(), NOTHING)


def file_columns(namespace: Namespace, file: str, returned: Iterable[str]) -> QueryColumns:
    """The dependencies of a SQL file's `returned` columns on the tables' columns.

    Of SQL that sqlglot cannot resolve, each returned column depends on all columns that the file reads."""
    names = _declared_names(namespace.tables)
    try:
        found = _resolve(Lineage(namespace, file).query, names)
        if not {name.lower() for name in returned} <= found.fields.keys():
            raise LineageError("the SQL returns other columns")
    except (LineageError, SqlglotError, ValueError, KeyError, OSError, RecursionError):
        read = columns_read(namespace, file)
        every = frozenset(Use(table, column, "DIRECT", "TRANSFORMATION") for table in read for column in read[table])
        rows = used_by(every, indirect("FILTER"))
        return QueryColumns({name.lower(): every for name in returned}, rows, exact=False)
    return found


def expression_columns(table: Table, expression: str) -> Uses:
    """The dependencies of one SQL expression on a table's columns. A column's name alone is that column."""
    if expression in table.columns:
        return frozenset({Use(table.name, expression)})
    try:
        parsed = sqlglot.parse_one(f"SELECT ({expression}\n) AS value FROM {quote(table.name)}", dialect="duckdb")  # noqa: S608
        schema = {table.name: dict.fromkeys(table.columns, "VARCHAR")}
        query = qualify(parsed, dialect="duckdb", schema=schema, validate_qualify_columns=False)
        return _resolve(query, _declared_names([table])).of("value")
    except (LineageError, SqlglotError, ValueError, KeyError, RecursionError):
        return frozenset(Use(table.name, name, "DIRECT", "TRANSFORMATION") for name in table.columns)


def _declared_names(tables: Iterable[Table]) -> dict[str, tuple[str, dict[str, str]]]:
    """By table in lower case: its declared name, and the declared names of its columns by their lower case."""
    return {table.name.lower(): (table.name, {name.lower(): name for name in table.columns}) for table in tables}


def _resolve(query: exp.Expression, names: Mapping[str, tuple[str, dict[str, str]]]) -> QueryColumns:
    scope = build_scope(query)
    if scope is None or query.find(*_UNRESOLVED):
        raise LineageError("this SQL is not resolved to columns")
    return _Resolver(names).result(scope)


@dataclass
class _Resolver:
    """Resolves the columns of scopes to those of the declared tables. `names`: as of _declared_names()."""

    names: Mapping[str, tuple[str, dict[str, str]]]
    known: dict[int, QueryColumns] = field(default_factory=dict)

    def result(self, scope: Scope) -> QueryColumns:
        if id(scope) not in self.known:
            sides = getattr(scope, _SIDES)
            self.known[id(scope)] = self._set_operation(scope, *sides) if sides else self._select(scope)
        return self.known[id(scope)]

    def _set_operation(self, scope: Scope, *sides: Scope) -> QueryColumns:
        left, right = map(self.result, sides)
        if len(left.fields) != len(right.fields):
            raise LineageError("the sides of a set operation have other columns")
        pairs = zip(left.fields, left.fields.values(), right.fields.values(), strict=True)
        fields = {name: a | b for name, a, b in pairs}
        rows = left.rows | right.rows
        if scope.expression.args.get("distinct") or not isinstance(scope.expression, exp.Union):
            rows |= used_by(frozenset[Use]().union(*fields.values()), indirect("GROUP_BY"))
        return QueryColumns(fields, rows | self._clauses(scope, fields))

    def _select(self, scope: Scope) -> QueryColumns:
        select = scope.expression
        if not isinstance(select, exp.Select):
            raise LineageError(f"{type(select).__name__} is not resolved to columns")
        fields: dict[str, Uses] = {}
        for projection in select.selects:
            if isinstance(projection, exp.Star) or not projection.alias_or_name:
                raise LineageError("a column without a name")
            fields[projection.alias_or_name.lower()] = self._uses(scope, projection, fields)
        rows = frozenset[Use]().union(
            *(self.result(source).rows for _, source in scope.selected_sources.values() if isinstance(source, Scope))
        )
        for join in select.args.get("joins") or ():
            if join.args.get("using"):
                raise LineageError("USING is not resolved")
            for part in ("on", "match_condition"):
                if join.args.get(part):
                    rows |= used_by(self._uses(scope, join.args[part], fields), indirect("JOIN"))
        return QueryColumns(fields, rows | self._clauses(scope, fields))

    def _clauses(self, scope: Scope, fields: Mapping[str, Uses]) -> Uses:
        """What the clauses after the select list depend on."""
        rows, select = NOTHING, scope.expression
        for name, subtype in _CLAUSES.items():
            clause = select.args.get(name)
            if clause is None or (name == "order" and not select.args.get("limit")):  # alone it changes no values
                continue
            if clause.args.get("all") or clause.find(exp.Star):  # GROUP BY ALL, ORDER BY ALL
                rows |= used_by(frozenset[Use]().union(*fields.values()), indirect(subtype))
            rows |= used_by(self._uses(scope, clause, fields), indirect(subtype))
        if select.args.get("distinct") and isinstance(select, exp.Select):
            rows |= used_by(frozenset[Use]().union(*fields.values()), indirect("GROUP_BY"))
            rows |= used_by(self._uses(scope, select.args["distinct"], fields), indirect("SORT"))
        return rows

    def _uses(self, scope: Scope, expression: exp.Expression, fields: Mapping[str, Uses]) -> Uses:
        """What an expression depends on. `fields`: the select list so far, to which a name may refer."""
        found = NOTHING
        for node in _own_nodes(expression):
            if isinstance(node, exp.Column):
                found |= used_by(self._column(scope, node, fields), _role(node, expression))
            elif isinstance(node, exp.Query):
                found |= used_by(self._subquery(scope, node), _role(node, expression))
            elif isinstance(node, exp.Window) and node.args.get("alias"):
                found |= used_by(self._named_windows(scope, fields), indirect("WINDOW"))
        return found

    def _named_windows(self, scope: Scope, fields: Mapping[str, Uses]) -> Uses:
        """What the WINDOW clause depends on."""
        windows = scope.expression.args.get("windows") or ()
        columns = (column for window in windows for column in window.find_all(exp.Column))
        return frozenset[Use]().union(*(self._column(scope, column, fields) for column in columns))

    def _subquery(self, scope: Scope, query: exp.Expression) -> Uses:
        inner = next((one for one in scope.subquery_scopes if one.expression is query.unnest()), None)
        if inner is None:
            raise LineageError("a subquery is not resolved")
        result = self.result(inner)
        values = used_by(frozenset[Use]().union(*result.fields.values()), TRANSFORMED)
        return values | used_by(result.rows, indirect("FILTER"))

    def _column(self, scope: Scope, column: exp.Column, fields: Mapping[str, Uses]) -> Uses:
        name, level = column.name.lower(), scope
        if not column.table:
            if name in fields:
                return fields[name]
            raise LineageError(f"the column {name} is not resolved")
        while column.table not in level.sources:
            if level.parent is None:
                raise LineageError(f"the relation {column.table} is not resolved")
            level = level.parent
        source: Any = level.sources[column.table]
        if isinstance(source, Scope):
            result = self.result(source)
            if name not in result.fields:
                raise LineageError(f"the column {name} is not resolved")
            return result.fields[name]
        table = self.names.get(source.name.lower())
        if table is None or name not in table[1]:
            raise LineageError(f"the column {column.table}.{name} is not declared")
        return frozenset({Use(table[0], table[1][name])})


def _own_nodes(expression: exp.Expression) -> Iterator[exp.Expression]:
    """The nodes of an expression, without those inside of its subqueries."""
    yield from expression.walk(prune=lambda node: isinstance(node, exp.Query))


def _role(node: exp.Expression, top: exp.Expression) -> Use:
    """How a column or subquery inside of an expression takes part in its value."""
    role, child = IDENTITY, node
    while child is not top:
        parent = child.parent
        assert parent is not None
        if any(isinstance(parent, kind) and parent.args.get(part) is child for kind, part in _CONDITIONS):
            return indirect("CONDITIONAL")
        if isinstance(parent, exp.Window) and parent.this is not child:
            return indirect("WINDOW")
        if isinstance(parent, exp.AggFunc):
            role = AGGREGATED
        elif not isinstance(parent, exp.Alias | exp.Paren) and role is IDENTITY:
            role = TRANSFORMED
        child = parent
    if isinstance(top, exp.AggFunc) and child is not node:
        return AGGREGATED
    return role
