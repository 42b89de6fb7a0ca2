"""Look-ahead that the SQL alone proves: clock and random functions, FOLLOWING windows, joins to later rows.

Only certain cases are faults. `train` proves the rest on the data (truecourse/features/lookahead_proof.py).
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError
from sqlglot.optimizer.annotate_types import annotate_types
from sqlglot.optimizer.pushdown_projections import pushdown_projections
from sqlglot.optimizer.qualify import qualify
from sqlglot.optimizer.scope import traverse_scope

from truecourse.authoring.checks.aggregations import expressions, parse_expression
from truecourse.authoring.checks.sql_binding import SQL_TYPES
from truecourse.data.sql import statement
from truecourse.errors import Fault
from truecourse.problem import Aggregations, Problem, View
from truecourse.problem.namespace import Namespace

_CLOCKS: tuple[type[exp.Expression], ...] = (
    exp.CurrentDate, exp.CurrentDatetime, exp.CurrentTime, exp.CurrentTimestamp, exp.Localtime, exp.Localtimestamp,
)  # fmt: skip
_CLOCK_NAMES = {"now", "today", "get_current_timestamp", "get_current_time", "transaction_timestamp",
                "current_localtime", "current_localtimestamp"}  # fmt: skip
_RANDOM: tuple[type[exp.Expression], ...] = (exp.Rand, exp.Randn, exp.Uuid, exp.TableSample)
_RANDOM_NAMES = {"uuidv4", "uuidv7", "nextval", "setseed", "gen_random_uuid"}
_UNKNOWN = (exp.DataType.Type.UNKNOWN, exp.DataType.Type.NULL)


def lookahead_faults(problem: Namespace) -> Iterator[Fault]:
    """Look-ahead faults of all SQL files. The files must bind."""
    for file in problem.sql_files:
        parsed = _parsed(problem, file)
        for node, what, hint in _unrepeatable(parsed) if parsed is not None else ():
            yield Fault(_place(node, file), what, hint)
    for view in problem.own_views:
        for one in expressions(problem, view) if isinstance(view, Aggregations) else ():
            query = parse_expression(one.sql)
            for _, what, hint in _unrepeatable(query) if query is not None else ():
                yield Fault(one.where, what, hint)
    timed = {table.name.lower() for table in problem.tables if table.time is not None}
    queries = [(v.sql, "event_timestamp") for v in problem.own_views if isinstance(v, View) and not v.timeless]
    if isinstance(problem, Problem) and problem.spine is not None:
        queries.append((problem.spine, "decision_time"))
    for file, moment in queries:
        query = _resolved(problem, file)
        if query is None:
            continue
        reader = _Query(query, file, moment, timed)
        yield from reader.window_faults()
        yield from reader.aggregate_faults()
        yield from reader.join_faults()


def _unrepeatable(parsed: exp.Expression) -> Iterator[tuple[exp.Expression, str, str]]:
    """Functions whose value changes from run to run, with what is wrong and a hint."""
    for node in parsed.walk():
        name = node.name.lower() if isinstance(node, exp.Anonymous) else ""
        if isinstance(node, _CLOCKS) or name in _CLOCK_NAMES or (name == "age" and len(node.expressions) == 1):
            what = f"{node.sql(dialect='duckdb')} reads the system clock: its value changes from run to run"
            yield node, what, "take the time from the data: event_timestamp or decision_time"
        elif isinstance(node, _RANDOM) or name in _RANDOM_NAMES:
            what = f"{node.sql(dialect='duckdb').strip()} returns another value on each run"
            yield node, what, "compute it from the rows, such as a hash of their key"


def _parsed(problem: Namespace, file: str) -> exp.Expression | None:
    """The parsed file, each node annotated with its file and line; None where sqlglot cannot parse it."""
    try:
        parsed = sqlglot.parse_one(statement(problem, file), dialect="duckdb")
    except (SqlglotError, OSError, UnicodeDecodeError, RecursionError):
        return None
    text = problem.text(file)
    before = text[: len(text) - len(text.lstrip())].count("\n")
    for node in parsed.walk():
        if "line" in node.meta:
            node.meta.update(file=file, line=node.meta["line"] + before)
    return parsed


def _resolved(problem: Namespace, file: str) -> exp.Expression | None:
    """The parsed file with relations inlined, columns resolved and typed, and unused columns removed."""
    schema = {
        table.name: {name: SQL_TYPES[type(column)] for name, column in table.columns.items()}
        for table in problem.tables
    }
    parsed = _parsed(problem, file)
    relations = {name: _parsed(problem, path) for name, path in problem.relations.items()}
    if parsed is None or None in relations.values():
        return None
    try:
        expanded = exp.expand(parsed, relations, dialect="duckdb")  # type: ignore[arg-type]
        query = qualify(expanded, dialect="duckdb", schema=schema, validate_qualify_columns=False)
        return annotate_types(pushdown_projections(query), schema=schema, dialect="duckdb")
    except (SqlglotError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None  # DuckDB supports more SQL than sqlglot; the look-ahead proof of `train` covers the rest


def _place(node: exp.Expression, file: str) -> str:
    """The first known line of a node, of its children, or of its nearest parent that has one."""
    around: exp.Expression | None = node
    while around is not None:
        for part in around.walk():
            if "file" in part.meta:
                return f"{part.meta['file']}:{part.meta['line']}"
        around = around.parent
    return file


@dataclass(frozen=True)
class _Query:
    """One resolved query whose rows are timestamped by the column `moment`."""

    query: exp.Expression
    file: str
    moment: str
    timed: set[str]

    def window_faults(self) -> Iterator[Fault]:
        """Faults for windows that include later rows: one for each window, however many functions use a named one."""
        found: dict[int, Fault] = {}
        for window in self.query.find_all(exp.Window):
            select = window.find_ancestor(exp.Select)
            if window.arg_key == "windows" or select is None or not self._reads_time(select):
                continue  # the definition of a named window counts where it is used
            parts = _Window.of(window, select)
            if any(_is_time(key) is not False for key in parts.keys):
                continue  # partitioned by a time, or by a column of unknown type
            problem = parts.looks_ahead()
            if problem is not None:
                faulty, shown = parts.shown(window)
                fault = Fault(_place(faulty, self.file), f"{shown}: {problem[0]}", problem[1])
                found.setdefault(id(faulty), fault)
        yield from found.values()

    def aggregate_faults(self) -> Iterator[Fault]:
        """Faults for aggregates over a whole timed table without a bound in time."""
        for scope in traverse_scope(self.query):
            select = scope.expression
            if select is self.query or not isinstance(select, exp.Select) or not self._reads_time(select):
                continue
            bound = [select.args.get(part) for part in ("where", "having", "qualify", "joins", "limit")]
            bound += list(select.find_all(exp.Filter, exp.Join))
            limited = any(_mentions_time(part) for part in _flatten(bound))
            if select.args.get("group") or scope.external_columns or limited or not _aggregates(select):
                continue
            what = f"{_select_list(select)} aggregates all rows, including later ones"
            yield Fault(_place(select, self.file), what, f"limit the rows: WHERE their time is not after {self.moment}")

    def join_faults(self) -> Iterator[Fault]:
        """Faults for join conditions that select rows after `moment`."""
        select = self.query
        column = next((p.unalias() for p in select.selects if p.alias_or_name.lower() == self.moment), None)
        if not isinstance(select, exp.Select) or not isinstance(column, exp.Column):
            return
        where = [select.args["where"].this] if select.args.get("where") else []
        joined = [join.args["on"] for join in select.args.get("joins") or () if join.args.get("on")]
        clauses = [*joined, *where]
        conditions = [part for clause in clauses for part in clause.flatten() if isinstance(clause, exp.And)]
        conditions += [clause for clause in clauses if not isinstance(clause, exp.And)]
        pairs = [pair for one in conditions for pair in _later_columns(one, column)]
        equal = {other.sql() for other, strict in pairs if strict is None}
        for other, strict in pairs:
            if strict or (strict is False and other.sql() not in equal):
                what = f"joins rows whose {other.name} is later than {self.moment}"
                yield Fault(_place(other, self.file), what, "join earlier rows: reverse the inequality")

    def _reads_time(self, select: exp.Expression) -> bool:
        names = {table.name.lower() for table in select.find_all(exp.Table)}
        tables = {table.name.lower() for table in self.query.find_all(exp.Table)}
        common = {cte.alias.lower() for cte in self.query.find_all(exp.CTE)}
        return bool((tables if names & common else names) & self.timed)


@dataclass(frozen=True)
class _Window:
    """A window with its named window resolved (`definition`: None without one). `descending`: newest first; None if it
    is not ordered by time."""

    function: exp.Expression
    definition: exp.Expression | None
    keys: list[exp.Expression]
    ordered: bool
    descending: bool | None
    frame: exp.Expression | None

    @classmethod
    def of(cls, window: exp.Window, select: exp.Select) -> "_Window":
        named = {one.name.lower(): one for one in select.args.get("windows") or ()}
        base = named.get((window.alias or "").lower())
        sides = [one for one in (window, base) if one is not None]
        keys = [key for one in sides for key in one.args.get("partition_by") or ()]
        order = next((one.args["order"] for one in sides if one.args.get("order")), None)
        frame = next((one.args["spec"] for one in sides if one.args.get("spec")), None)
        function = window.this
        while isinstance(function, exp.Filter | exp.IgnoreNulls | exp.RespectNulls):
            function = function.this
        first = order.expressions[0] if order is not None else None
        is_time = first is not None and _is_time(first.this) is not False
        descending = bool(first.args.get("desc")) if first is not None and is_time else None
        return cls(function, base, keys, order is not None, descending, frame)

    def shown(self, window: exp.Window) -> tuple[exp.Expression, str]:
        """What to name in a fault, and its text: the definition of a named window, unless it depends on the use."""
        of_use = isinstance(self.function, exp.Lead | exp.Lag) or any(
            window.args.get(part) for part in ("partition_by", "order", "spec")
        )
        if self.definition is None or of_use:
            return window, _text(window)
        return self.definition, "WINDOW " + _text(self.definition).replace(" OVER (", " AS (", 1)

    def looks_ahead(self) -> tuple[str, str] | None:
        """The problem and its hint; None if the window does not look ahead."""
        if not self.ordered and not isinstance(self.function, exp.RowNumber):
            return (
                "a window without ORDER BY includes every row of its partition, later ones too",
                "add ORDER BY the row's time, so that it ends at CURRENT ROW",
            )
        if isinstance(self.function, exp.Lead | exp.Lag):
            back = isinstance(self.function, exp.Lag)
            offset = self.function.args.get("offset")
            if isinstance(offset, exp.Neg):
                back = not back
            later = self.descending if back else self.descending is not True
            return (
                ("it takes the value of a later row", "take that of an earlier row: lag(... ORDER BY time)")
                if later
                else None
            )
        if self.frame is None:
            return None
        sides = {str(self.frame.args.get(side)).upper() for side in ("start_side", "end_side")}
        wrong = "PRECEDING" if self.descending else "FOLLOWING"
        if wrong in sides:
            return "its frame includes later rows", "end the frame at CURRENT ROW, ordered by time"
        return None


def _text(expression: exp.Expression) -> str:
    return " ".join(expression.sql(dialect="duckdb", comments=False).replace('"', "").split())


def _is_time(expression: exp.Expression) -> bool | None:
    """Whether the expression is of a time type; None if its type is unknown."""
    kind = expression.type
    if kind is None or kind.this in _UNKNOWN:
        return None
    return kind.this in exp.DataType.TEMPORAL_TYPES


def _mentions_time(expression: exp.Expression) -> bool:
    return any(_is_time(column) is not False for column in expression.find_all(exp.Column))


def _aggregates(select: exp.Select) -> bool:
    """Whether the SELECT aggregates its rows outside of windows."""
    found = (node for item in select.selects for node in item.find_all(exp.AggFunc))
    return any(node.find_ancestor(exp.Window) is None and node.find_ancestor(exp.Select) is select for node in found)


def _flatten(parts: Iterable[object]) -> Iterator[exp.Expression]:
    for part in parts:
        yield from part if isinstance(part, list) else [part] if isinstance(part, exp.Expression) else []


def _select_list(select: exp.Select) -> str:
    return ", ".join(item.unalias().sql(dialect="duckdb", comments=False).replace('"', "") for item in select.selects)


def _later_columns(condition: exp.Expression, moment: exp.Column) -> Iterator[tuple[exp.Column, bool | None]]:
    """Columns of other tables that a condition compares with the moment.

    Each comes with True if it must be later, False if later or equal, None if earlier or equal."""
    if isinstance(condition, exp.Between):
        yield from _later_columns(exp.GTE(this=condition.this, expression=condition.args["low"]), moment)
        yield from _later_columns(exp.LTE(this=condition.this, expression=condition.args["high"]), moment)
        return
    if not isinstance(condition, exp.GT | exp.GTE | exp.LT | exp.LTE):
        return
    for one, other, after in (
        (condition.left, condition.right, isinstance(condition, exp.GT | exp.GTE)),
        (condition.right, condition.left, isinstance(condition, exp.LT | exp.LTE)),
    ):
        ahead = isinstance(other, exp.Add) and isinstance(other.right, exp.Interval)
        base = other.left if isinstance(other, exp.Add) and ahead else other
        if not isinstance(one, exp.Column) or base != moment or one.table == moment.table:
            continue
        if after:
            yield one, ahead or isinstance(condition, exp.GT | exp.LT)
        elif not ahead:
            yield one, None
