"""Places, reserved names, and the nearest of the names that exist."""

from collections.abc import Iterable, Iterator
from difflib import get_close_matches

from truecourse.errors import Fault
from truecourse.problem import Problem

FRAME_NAMES = frozenset({"id", "decision_time", "label", "known_at", "split"})
"""Columns of the training frame that no request field or feature may be called."""
RESERVED_PREFIX = "_tc_"
"""Columns that Truecourse itself adds to stored tables begin with it; upper and lower case are the same to SQL."""


def is_reserved(name: str) -> bool:
    """Whether a column's name begins with the prefix of our own columns."""
    return name.lower().startswith(RESERVED_PREFIX)


def place(*path: str) -> str:
    """An attribute of the PROBLEM: `problem.py views.weather.ttl`."""
    return "problem.py " + ".".join(path)


def nearest(name: str, names: Iterable[str]) -> str:
    """A cure for a name that does not exist."""
    known = [str(n) for n in names]
    if not known:
        return "there is none to name"
    close = get_close_matches(name, known, n=3, cutoff=0.6) or [n for n in known if n.lower() == name.lower()]
    if close:
        return f"did you mean {' or '.join(close)}?"
    shown = ", ".join(known[:12])
    return f"there are {shown}" + (f" and {len(known) - 12} more" if len(known) > 12 else "")


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
