"""Places and reserved names."""

from collections.abc import Iterable, Iterator

from truecourse.errors import Fault
from truecourse.problem import Problem
from truecourse.problem.schema import RESERVED_PREFIX

FRAME_NAMES = frozenset({"id", "decision_time", "label", "known_at", "split"})
"""Columns of the training frame that no request field or feature may be called."""


def is_reserved(name: str) -> bool:
    """Whether a column's name begins with the prefix of our own columns; upper and lower case are the same to SQL."""
    return name.lower().startswith(RESERVED_PREFIX)


def place(*path: str) -> str:
    """An attribute of the PROBLEM: `problem.py views.weather.ttl`."""
    return "problem.py " + ".".join(path)


def repeated(names: Iterable[str], where: str, what: str) -> Iterator[Fault]:
    """A fault for each name that stands twice; DuckDB does not tell upper from lower case, so neither does this."""
    seen: set[str] = set()
    for name in names:
        if name.lower() in seen:
            yield Fault(where, f"two {what} are called {name!r}", "rename one of them")
        seen.add(name.lower())


def label_table_known(problem: Problem) -> bool:
    """Whether the table that a plain problem predicts from can be told: much else cannot be checked without."""
    names = [table.name for table in problem.tables]
    return problem.label.table in names if problem.label.table else bool(names)
