"""Places of faults in problem.py, and reserved names."""

from collections.abc import Iterable, Iterator

from truecourse.errors import Fault
from truecourse.problem import Problem
from truecourse.problem.schema import RESERVED_PREFIX

FRAME_NAMES = frozenset({"id", "decision_time", "label", "known_at", "split"})
"""Columns of the training frame; no request field or feature may have these names."""


def is_reserved(name: str) -> bool:
    """Whether a column's name begins with the prefix of Truecourse's own columns, in upper or lower case."""
    return name.lower().startswith(RESERVED_PREFIX)


def place(*path: str) -> str:
    """The place of an attribute of PROBLEM: `problem.py views.weather.ttl`."""
    return "problem.py " + ".".join(path)


def repeated(names: Iterable[str], where: str, what: str) -> Iterator[Fault]:
    """A fault for each repeated name. Like DuckDB, it ignores case."""
    seen: set[str] = set()
    for name in names:
        if name.lower() in seen:
            yield Fault(where, f"two {what} are called {name!r}", "rename one of them")
        seen.add(name.lower())


def label_table_known(problem: Problem) -> bool:
    """Whether the label's table is known. Many other checks depend on it."""
    names = [table.name for table in problem.tables]
    return problem.label.table in names if problem.label.table else bool(names)
