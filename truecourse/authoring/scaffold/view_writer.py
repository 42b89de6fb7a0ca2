"""Write the proposed features of related tables: aggregations of histories, and SQL views of facts."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cache
from itertools import chain, count
from typing import Any

import duckdb

from truecourse.authoring.checks.features import VIEW_NAMES
from truecourse.authoring.checks.names import FRAME_NAMES
from truecourse.authoring.scaffold.encodings import Encoding
from truecourse.authoring.scaffold.guesses import Guesses, is_identifier_name
from truecourse.authoring.scaffold.relations import Related, Source, Unrelated, entity_name
from truecourse.authoring.scaffold.source_writer import Call
from truecourse.data.sql import quote
from truecourse.problem.durations import days, hours
from truecourse.wording import counted

_FEATURES, _MOST = 24, 3
"""Roughly the largest number of features from numbers, and of columns with categories or conditions, of a history."""
_CALENDAR = re.compile(r"(^|_)(year|quarter|month|week|weekday|day|dow|hour|minute|second|time|date)$")
_FEW = 50
"""Largest number of different texts of which the last is a feature."""


@dataclass(frozen=True)
class ProposedView:
    """A proposed view: its call without features, the features, and the comment above them. `sql`: its file's text."""

    call: str
    name: str
    arguments: dict[str, Any]
    features: dict[str, Call]
    note: str
    sql: str = ""


@dataclass(frozen=True)
class Proposal:
    """A drafted problem: the label's table, the related tables, and the views that they give."""

    name: str
    main: Source
    guesses: Guesses
    related: tuple[Related, ...] = ()
    unrelated: tuple[Unrelated, ...] = ()
    views: tuple[ProposedView, ...] = ()

    @property
    def own_history(self) -> Related | None:
        """The history that the label's table itself holds."""
        return next((each for each in self.related if each.own), None)


@dataclass
class _Names:
    """Names of features; SQL does not distinguish upper and lower case."""

    taken: set[str] = field(default_factory=set)

    def free(self, *proposed: str) -> str:
        """The first of the names that is free, else the last one with a number."""
        numbered = (f"{proposed[-1]}_{i}" for i in count(2))
        name = next(n for n in chain(proposed, numbered) if n.lower() not in self.taken)
        self.taken.add(name.lower())
        return name


def propose_views(guesses: Guesses, related: Sequence[Related]) -> dict[str, ProposedView]:
    """Propose a view of each related table, by its name. Features have other names than all request fields."""
    names = _Names({*FRAME_NAMES, *VIEW_NAMES, *(column.name.lower() for column in guesses.columns)})
    written = ((_facts if each.role == "facts" else _history)(each, each.source.table, names) for each in related)
    return {view.name: view for view in written if view.features}


def propose_entities(related: Sequence[Related]) -> list[Call]:
    """The entities of the related tables, each once."""
    keys = dict.fromkeys(each.key.name for each in related)
    return [Call("Entity", (entity_name(key),), {} if entity_name(key) == key else {"keys": [key]}) for key in keys]


def known_ahead(related: Related) -> Call:
    """How long before its time a row is known: a negative time."""
    return length(-related.delay)


def length(duration: timedelta) -> Call:
    """Write a duration in the largest unit in which it is whole."""
    for name, unit in (("days", days(1)), ("hours", hours(1))):
        if duration % unit == timedelta(0):
            return Call(name, (duration // unit,))
    return Call("seconds", (duration // timedelta(seconds=1),))


def _facts(related: Related, view: str, names: _Names) -> ProposedView:
    found, table = related.guesses, related.source.table
    features, selected = {}, [_quoted(related.key.name)]
    if found.time is not None:
        day = " + INTERVAL 1 DAY" if related.delay else ""
        selected.append(f"{_quoted(found.time.name)}{day} AS event_timestamp")
    for column in found.inputs():
        name = names.free(column.name, f"{table}_{column.name}")
        encoding = found.encodings.get(column.name, Encoding())
        features[name] = Call(str(column.type), (), dict(encoding.keywords))
        selected.append(_quoted(column.name) + (f" AS {_quoted(name)}" if name != column.name else ""))
    arguments: dict[str, Any] = {"sql": f"features/{view}.sql", "entity": related.entity}
    arguments |= {"timeless": True} if found.time is None else {"lookback": length(related.delay)}
    note = "a value is used as the file has it: remove columns that are filled in or changed after a decision"
    return ProposedView("View", view, arguments, features, note, _facts_sql(related, selected))


def _facts_sql(related: Related, selected: list[str]) -> str:
    time = related.guesses.time
    if time is None:
        known = "known at any time"
    else:
        known = f"known from {time.name} on" + (", when its day is over" if related.delay else "")
    lines = [f"-- Facts about each {related.entity}: one row, {known}.", f"SELECT {selected[0]}"]
    for column in selected[1:]:
        fits = len(lines[-1]) + len(column) + 2 <= 118
        lines[-1] += ","
        lines = [*lines[:-1], f"{lines[-1]} {column}"] if fits else [*lines, f"       {column}"]
    return "\n".join([*lines, f"FROM {_quoted(related.source.table)}"]) + "\n"


def _history(related: Related, view: str, names: _Names) -> ProposedView:
    assert related.guesses.time is not None
    columns = _Columns(related)
    features: dict[str, Call] = {}
    for name, call in _aggregates(related, view, columns):
        features[names.free(_slug(name), _slug(f"{view}_{name}"))] = call
    arguments = {"table": related.source.table, "entity": related.entity, "time": related.guesses.time.name}
    return ProposedView("Aggregations", view, arguments, features, _history_note(related, columns))


def _aggregates(related: Related, view: str, columns: "_Columns") -> Iterator[tuple[str, Call]]:
    """Names and calls of a history's aggregates. Measurements at regular times are not counted or summed."""
    lengths = columns.windows
    longest = lengths[-1]
    if not related.regular:
        for window in lengths:
            yield f"{view}_{_suffix(window)}", _over(window, "Count")
    for column in columns.numbers:
        if related.regular:
            yield f"{column.name}_last", Call("Last", (column.name,))
        else:
            for window in lengths:
                yield f"{column.name}_sum_{_suffix(window)}", _over(window, "Sum", column.name)
        for window in lengths:
            yield f"{column.name}_mean_{_suffix(window)}", _over(window, "Mean", column.name)
    for column in columns.conditions:
        yield f"{column.name}_share_{_suffix(longest)}", _over(longest, "Share", column.name)
    for column in columns.categories:
        yield f"{column.name}_distinct_{_suffix(longest)}", _over(longest, "CountDistinct", column.name)
        if column.distinct <= _FEW and column.type == "Text":
            yield f"{column.name}_last", Call("Last", (column.name,))
    shortest = lengths[0] or longest
    yield f"{view}_last_age", Call("Age", (), {"unit": "hours"} if shortest and shortest < days(1) else {})


def _over(window: timedelta | None, function: str, *values: str) -> Call:
    return Call(function, values, {} if window is None else {"window": length(window)})


class _Columns:
    """The columns of a history that are aggregated, by how. `omitted`: those beyond the largest number of features."""

    def __init__(self, related: Related) -> None:
        assert related.windows is not None
        self.windows: tuple[timedelta | None, ...] = related.windows.lengths or (None,)
        found = related.guesses
        doubtful = {name for suspect in found.suspects for name in suspect.columns}
        usable = [c for c in found.features() if c is not related.key and c.name not in doubtful and c.distinct > 1]
        kept = [c for c in usable if c.name not in found.no_feature]
        numbers = [c for c in kept if c.type in ("Integer", "Float") and _is_measure(c.name)]
        conditions = [c for c in kept if c.type == "Boolean"]
        coded = [c for c in usable if c.type == "Text" or (c.type == "Integer" and is_identifier_name(c.name))]
        categories = [c for c in coded if c.distinct <= c.held // 2]
        most = _FEATURES // (len(self.windows) + (1 if related.regular else len(self.windows)))
        self.numbers, self.conditions, self.categories = numbers[:most], conditions[:_MOST], categories[:_MOST]
        self.omitted = [*numbers[most:], *conditions[_MOST:], *categories[_MOST:]]


def _is_measure(name: str) -> bool:
    """Whether a number's name is not that of an identifier, a clock time or a part of a date."""
    return not is_identifier_name(name) and not _CALENDAR.search(name.lower())


def _history_note(related: Related, columns: _Columns) -> str:
    assert related.windows is not None
    lines = [f"guessed: {related.windows.reason}"]
    if columns.omitted:
        shown = ", ".join(column.name for column in columns.omitted)
        lines.append(f"{counted(len(columns.omitted), 'more column')} could be aggregated: {shown}")
    if related.own:
        lines.append("earlier outcomes are not aggregated, since the time when they were known is not")
    lines.append("a value counts from its row's time: remove columns that are filled in later")
    return "; ".join(lines)


def _suffix(window: timedelta | None) -> str:
    if window is None:
        return "ever"
    call = length(window)
    return f"{call.arguments[0]}{call.name[0]}"


def _slug(name: str) -> str:
    """An identifier: `Order Amount_sum_30d` to `order_amount_sum_30d`."""
    plain = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
    plain = plain if plain[:1].isalpha() else f"c_{plain}"
    return plain if len(plain) <= 50 else f"{plain[:30]}_{plain[-19:]}"


def _quoted(name: str) -> str:
    """A name in SQL, quoted only if needed."""
    simple = re.fullmatch(r"[a-z_][a-z0-9_]*", name) and name not in _keywords()
    return name if simple else quote(name)


@cache
def _keywords() -> frozenset[str]:
    with duckdb.connect() as connection:
        query = "SELECT keyword_name FROM duckdb_keywords() WHERE keyword_category <> 'unreserved'"
        return frozenset(name for (name,) in connection.execute(query).fetchall())
