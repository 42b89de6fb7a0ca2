"""Open a problem or a feature area and its storage, the first step of every flow."""

from truecourse.problem import Problem
from truecourse.problem.loader import load_problem, load_problem_or_area
from truecourse.problem.namespace import Namespace
from truecourse.storage.format import open_format
from truecourse.storage.object_store import open_store


def open_problem(name: str | None = None) -> Problem:
    """Load a problem. Raises FormatError if its storage was written by a newer Truecourse, and what loading raises."""
    problem = load_problem(name)
    open_format(open_store())
    return problem


def open_problem_or_area(problem: str | None, area: str | None) -> Namespace:
    """Load a problem, or a feature area if one is named, as open_problem() does."""
    namespace = load_problem_or_area(problem, area)
    open_format(open_store())
    return namespace
