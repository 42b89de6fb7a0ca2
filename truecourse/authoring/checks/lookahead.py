"""Look-ahead that the SQL shows by itself: clock functions, chance, windows that follow, joins to later rows.

Only certain cases are faults; what SQL alone does not tell, `train` proves (truecourse/features/lookahead_proof.py).
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

from truecourse.authoring.checks.sql_binding import SQL_TYPES
from truecourse.data.sql import statement
from truecourse.errors import Fault
from truecourse.problem import Problem

_CLOCKS: tuple[type[exp.Expression], ...] = (
    exp.CurrentDate, exp.CurrentDatetime, exp.CurrentTime, exp.CurrentTimestamp, exp.Localtime, exp.Localtimestamp,
)  # fmt: skip
_CLOCK_NAMES = {"now", "today", "get_current_timestamp", "get_current_time", "transaction_timestamp",
                "current_localtime", "current_localtimestamp"}  # fmt: skip
_CHANCES: tuple[type[exp.Expression], ...] = (exp.Rand, exp.Randn, exp.Uuid, exp.TableSample)
_CHANCE_NAMES = {"uuidv4", "uuidv7", "nextval", "setseed", "gen_random_uuid"}
_UNKNOWN = (exp.DataType.Type.UNKNOWN, exp.DataType.Type.NULL)


def lookahead_faults(problem: Problem) -> Iterator[Fault]:
    """Needs a problem whose SQL files bind."""
    files = [problem.spine, problem.label.sql, *problem.relations.values(), *(view.sql for view in problem.views)]
    for file in dict.fromkeys(name for name in files if name):
        yield from _function_faults(problem, file)
    timed = {table.name.lower() for table in problem.tables if table.time is not None}
    queries = [(view.sql, "event_timestamp") for view in problem.views if not view.timeless]
    if problem.spine is not None:
        queries.append((problem.spine, "decision_time"))
    for file, moment in queries:
        query = _resolved(problem, file)
        if query is None:
            continue
        reader = _Query(query, file, moment, timed)
        yield from reader.window_faults()
        yield from reader.aggregate_faults()
        yield from reader.join_faults()


def _function_faults(problem: Problem, file: str) -> Iterator[Fault]:
    parsed = _parsed(problem, file)
    for node in parsed.walk() if parsed is not None else ():
        name = node.name.lower() if isinstance(node, exp.Anonymous) else ""
        if isinstance(node, _CLOCKS) or name in _CLOCK_NAMES or (name == "age" and len(node.expressions) == 1):
            what = f"{node.sql(dialect='duckdb')} reads the computer's clock: the value is another one tomorrow"
            yield Fault(_place(node, file), what, "take the moment from the data: event_timestamp or decision_time")
        elif isinstance(node, _CHANCES) or name in _CHANCE_NAMES:
            what = f"{node.sql(dialect='duckdb').strip()} gives another value each time it is run"
            yield Fault(_place(node, file), what, "take what the rows hold, as a hash of their key")


def _parsed(problem: Problem, file: str) -> exp.Expression | None:
    """None where sqlglot cannot parse it. Every node knows its file."""
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


def _resolved(problem: Problem, file: str) -> exp.Expression | None:
    """The file with relations inlined, columns resolved and typed, and what nobody selects left out."""
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
        return None  # DuckDB knows more than sqlglot does: the proof has to tell


def _place(node: exp.Expression, file: str) -> str:
    """The first line that is known of a node, of what it is made of, or of what it stands in."""
    around: exp.Expression | None = node
    while around is not None:
        for part in around.walk():
            if "file" in part.meta:
                return f"{part.meta['file']}:{part.meta['line']}"
        around = around.parent
    return file


@dataclass(frozen=True)
class _Query:
    """One resolved query that returns rows dated by the column `moment`."""

    query: exp.Expression
    file: str
    moment: str
    timed: set[str]

    def window_faults(self) -> Iterator[Fault]:
        for window in self.query.find_all(exp.Window):
            select = window.find_ancestor(exp.Select)
            if select is None or not self._reads_time(select):
                continue
            parts = _Window.of(window, select)
            if any(_is_time(key) is not False for key in parts.keys):
                continue  # rows of one moment, or it cannot be told
            said = parts.looks_ahead()
            if said is not None:
                shown = " ".join(window.sql(dialect="duckdb", comments=False).replace('"', "").split())
                yield Fault(_place(window, self.file), f"{shown}: {said[0]}", said[1])

    def aggregate_faults(self) -> Iterator[Fault]:
        """Aggregates of a whole table, whatever the time, beside rows that have one."""
        for scope in traverse_scope(self.query):
            select = scope.expression
            if select is self.query or not isinstance(select, exp.Select) or not self._reads_time(select):
                continue
            bound = [select.args.get(part) for part in ("where", "having", "qualify", "joins", "limit")]
            bound += list(select.find_all(exp.Filter, exp.Join))
            limited = any(_mentions_time(part) for part in _flat(bound))
            if select.args.get("group") or scope.external_columns or limited or not _aggregates(select):
                continue
            what = f"{_short(select)} is taken over all rows, later ones too"
            yield Fault(_place(select, self.file), what, f"bind it in time: WHERE a time is not after {self.moment}")

    def join_faults(self) -> Iterator[Fault]:
        """Conditions by which the rows joined to a moment come after it."""
        select = self.query
        column = next((p.unalias() for p in select.selects if p.alias_or_name.lower() == self.moment), None)
        if not isinstance(select, exp.Select) or not isinstance(column, exp.Column):
            return
        where = [select.args["where"].this] if select.args.get("where") else []
        joined = [join.args["on"] for join in select.args.get("joins") or () if join.args.get("on")]
        conditions = [one for whole in (*joined, *where) for one in whole.flatten() if isinstance(whole, exp.And)] + [
            whole for whole in (*joined, *where) if not isinstance(whole, exp.And)
        ]
        pairs = [pair for one in conditions for pair in _later(one, column)]
        equal = {other.sql() for other, strict in pairs if strict is None}
        for other, strict in pairs:
            if strict or (strict is False and other.sql() not in equal):
                what = f"joins rows whose {other.name} is later than {self.moment}"
                yield Fault(_place(other, self.file), what, "join what came before: turn the inequality round")

    def _reads_time(self, select: exp.Expression) -> bool:
        names = {table.name.lower() for table in select.find_all(exp.Table)}
        tables = {table.name.lower() for table in self.query.find_all(exp.Table)}
        common = {cte.alias.lower() for cte in self.query.find_all(exp.CTE)}
        return bool((tables if names & common else names) & self.timed)


@dataclass(frozen=True)
class _Window:
    """A window with its named part filled in. `descending`: the newest first; None where its order is not of time."""

    function: exp.Expression
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
        return cls(function, keys, order is not None, descending, frame)

    def looks_ahead(self) -> tuple[str, str] | None:
        """What is wrong with it, and the hint."""
        if not self.ordered and not isinstance(self.function, exp.RowNumber):
            return (
                "a window without ORDER BY takes every row of its partition, later ones too",
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
                if (later)
                else None
            )
        if self.frame is None:
            return None
        sides = {str(self.frame.args.get(side)).upper() for side in ("start_side", "end_side")}
        wrong = "PRECEDING" if self.descending else "FOLLOWING"
        if wrong in sides:
            return "its frame holds rows that come later", "end the frame at CURRENT ROW, in the order of time"
        return None


def _is_time(expression: exp.Expression) -> bool | None:
    """None if its type is not known."""
    kind = expression.type
    if kind is None or kind.this in _UNKNOWN:
        return None
    return kind.this in exp.DataType.TEMPORAL_TYPES


def _mentions_time(expression: exp.Expression) -> bool:
    return any(_is_time(column) is not False for column in expression.find_all(exp.Column))


def _aggregates(select: exp.Select) -> bool:
    """Whether it makes one row of all."""
    found = (node for item in select.selects for node in item.find_all(exp.AggFunc))
    return any(node.find_ancestor(exp.Window) is None and node.find_ancestor(exp.Select) is select for node in found)


def _flat(parts: Iterable[object]) -> Iterator[exp.Expression]:
    for part in parts:
        yield from part if isinstance(part, list) else [part] if isinstance(part, exp.Expression) else []


def _short(select: exp.Select) -> str:
    return ", ".join(item.unalias().sql(dialect="duckdb", comments=False).replace('"', "") for item in select.selects)


def _later(condition: exp.Expression, moment: exp.Column) -> Iterator[tuple[exp.Column, bool | None]]:
    """Columns of other tables that a condition puts after the moment: strictly, or from it on (False); None for one
    that it puts at the moment at the latest."""
    if isinstance(condition, exp.Between):
        yield from _later(exp.GTE(this=condition.this, expression=condition.args["low"]), moment)
        yield from _later(exp.LTE(this=condition.this, expression=condition.args["high"]), moment)
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
