"""Parsing of faults to plant in a replay, as `unit:weather.temp:f_to_c@2013-06-10`.

A fault `KIND:TARGET[:HOW]@FIRST[..LAST]` changes the source data from the UTC day FIRST, until LAST inclusive if given.
docs/explanation/replay.md describes the kinds.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Literal

from truecourse.data.sql import labelled_tables
from truecourse.errors import Fault, ReplayError
from truecourse.monitoring.drift.unit_changes import FORMS, parse_change
from truecourse.problem import Problem
from truecourse.problem.definition import midnight
from truecourse.problem.schema import AnyColumn, Float, Integer, Table, Text

Kind = Literal["unit", "dead", "category", "label", "skew"]
KINDS: tuple[Kind, ...] = ("unit", "dead", "category", "label", "skew")
FORM = "KIND:TARGET[:HOW]@FIRST[..LAST], as unit:weather.temp:f_to_c@2024-06-10"
_TEXT = re.compile(r"(?P<kind>[a-z]+)(?::(?P<rest>.*))?@(?P<first>[^@.]+)(?:\.\.(?P<last>[^@.]+))?")


@dataclass(frozen=True)
class PlantedFault:
    """A planted fault. `table`, `column`: its target, empty if the kind has none; for a skew, `column` is the feature.
    The table of an area is named as `area.table`. Active for `start` <= t < `end`, UTC; None: it has no end."""

    kind: Kind
    table: str
    column: str
    how: str
    start: datetime
    end: datetime | None
    text: str

    def active(self, at: datetime) -> bool:
        return self.start <= at and (self.end is None or at < self.end)

    @property
    def swapped(self) -> tuple[str, str]:
        """For a category: the replaced value and the new one."""
        old, _, new = self.how.partition(">")
        return old, new


def parse_faults(problem: Problem, texts: list[str], first: date, last: date) -> tuple[PlantedFault, ...]:
    """Parse faults; returns them ordered by start. Raises ReplayError that lists every invalid text with a hint."""
    faults: list[Fault] = []
    found: list[PlantedFault] = []
    for text in texts:
        try:
            found.append(_parse(problem, text, first, last))
        except _Invalid as error:
            faults.append(Fault(f"--inject {text}", error.what, error.hint))
    if faults:
        raise ReplayError(problem.name, faults)
    return tuple(sorted(found, key=lambda fault: (fault.start, fault.text)))


class _Invalid(Exception):
    def __init__(self, what: str, hint: str) -> None:
        self.what, self.hint = what, hint
        super().__init__(what)


def _parse(problem: Problem, text: str, first: date, last: date) -> PlantedFault:
    match = _TEXT.fullmatch(text.strip())
    if match is None:
        raise _Invalid("is not a fault", f"write {FORM}")
    kind = next((kind for kind in KINDS if kind == match["kind"]), None)
    if kind is None:
        raise _Invalid(f"unknown kind {match['kind']!r}", f"one of {', '.join(KINDS)}")
    start, end = _days(match["first"], match["last"], first, last)
    table, column, how = _target(problem, kind, match["rest"] or "")
    return PlantedFault(kind, table, column, how, start, end, text.strip())


def _days(start: str, end: str | None, first: date, last: date) -> tuple[datetime, datetime | None]:
    begins, ends = _day(start), None if end is None else _day(end)
    if not first <= begins <= last:
        raise _Invalid(f"{begins} is not in the replay", f"a day from {first} to {last}")
    if ends is not None and ends < begins:
        raise _Invalid("it ends before it starts", "write the first day, then the last: 2024-06-10..2024-06-20")
    until = None if ends is None else (midnight(ends) + timedelta(days=1)).replace(tzinfo=UTC)
    return midnight(begins).replace(tzinfo=UTC), until


def _day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise _Invalid(f"{text!r} is not a date", "write it as 2024-06-10") from None


def _target(problem: Problem, kind: Kind, rest: str) -> tuple[str, str, str]:
    """Parse and check the target; returns (table, column or feature, how)."""
    if kind == "label":
        return "", "", _rule(problem, rest)
    target, _, how = rest.partition(":")
    if kind == "skew":
        return "", *_skew(problem, target, how)
    known = {name: table for name, (_, table) in labelled_tables(problem).items()}
    table, _, column = (target, "", "") if target in known else target.rpartition(".")
    _require_timed(known, table or column)
    if kind == "dead":
        if column or how:
            raise _Invalid("a dead feed has only a table as its target", f"write dead:{table}@FIRST")
        return table, "", ""
    declared = known[table].columns
    _require_one_of(column, list(declared), f"{table} has no column")
    check = _unit if kind == "unit" else _category
    return table, column, check(target, declared[column], how)


def _require_one_of(name: str, known: list[str], what: str) -> None:
    if name not in known:
        raise _Invalid(f"{what} {name!r}", f"one of {', '.join(known)}")


def _require_timed(known: Mapping[str, Table], name: str) -> None:
    timed = [one for one, table in known.items() if table.time]
    _require_one_of(name, list(known), "there is no table")
    if name not in timed:
        raise _Invalid(f"{name} has no time: it is delivered once, before the replay", f"one of {', '.join(timed)}")


def _unit(target: str, column: AnyColumn, how: str) -> str:
    if not isinstance(column, Integer | Float):
        raise _Invalid(f"{target} is not a number", "name a column declared Integer or Float")
    return _changed(how)


def _changed(how: str) -> str:
    if parse_change(how) is None:
        raise _Invalid(f"{how!r} is not a change of a number", f"one of {FORMS}")
    return how


def _category(target: str, column: AnyColumn, how: str) -> str:
    old, _, new = how.partition(">")
    if not isinstance(column, Text) or not old or not new or old == new:
        raise _Invalid(f"{how!r} swaps no values of {target}", "name a column declared Text, and OLD>NEW")
    return how


def _rule(problem: Problem, how: str) -> str:
    if problem.label.sql is None:
        raise _Invalid("the label is a column", "plant `unit` or `category` in that column instead")
    if problem.kind == "regression":
        if not re.fullmatch(r"[+-]\d+(\.\d+)?", how):
            raise _Invalid(f"{how!r} is not a rule", "write label:+NUMBER@FIRST")
    elif how != "flip" and not re.fullmatch(r"0?\.\d+|1(\.0+)?", how):
        raise _Invalid(f"{how!r} is not a rule", "write label:flip@FIRST, or a share: label:0.3@FIRST")
    return how


def _skew(problem: Problem, feature: str, how: str) -> tuple[str, str]:
    _require_one_of(feature, list(problem.features), "there is no feature")
    if how == "missing":
        return feature, how
    if not isinstance(problem.features[feature], Integer | Float):
        raise _Invalid(f"{feature} is not a number", "write skew:FEATURE:missing@FIRST")
    return feature, _changed(how)
