"""Run all checks of a problem specification, and collect every fault with its place and hint."""

from collections.abc import Iterator

from truecourse.authoring.checks.features import feature_faults
from truecourse.authoring.checks.label import label_faults
from truecourse.authoring.checks.leaks import leak_faults
from truecourse.authoring.checks.lookahead import lookahead_faults
from truecourse.authoring.checks.names import label_table_known
from truecourse.authoring.checks.queries import query_faults
from truecourse.authoring.checks.request_function import function_faults
from truecourse.authoring.checks.table_checks import table_faults
from truecourse.authoring.checks.training_checks import (
    gate_faults,
    model_faults,
    monitoring_faults,
    promotion_faults,
    split_faults,
)
from truecourse.errors import Fault, ProblemError
from truecourse.problem import Problem


def check_problem(problem: Problem) -> list[Fault]:
    """All faults in the order of the specification; none if it is valid. Reads the SQL files, but no data."""
    return list(dict.fromkeys(_faults(problem)))


def require_valid(problem: Problem) -> None:
    """Raise ProblemError with every fault, if there are any."""
    faults = check_problem(problem)
    if faults:
        raise ProblemError(problem.name, faults)


def _faults(problem: Problem) -> Iterator[Fault]:
    yield from table_faults(problem)
    yield from label_faults(problem)
    yield from model_faults(problem)
    if not label_table_known(problem):
        return
    yield from feature_faults(problem)
    yield from function_faults(problem)
    yield from split_faults(problem)
    yield from gate_faults(problem)
    yield from promotion_faults(problem)
    yield from monitoring_faults(problem)
    queries = list(query_faults(problem))
    yield from queries
    relations = set(problem.relations.values())
    if not any(fault.where.split(":")[0] in relations for fault in queries):  # cyclic relations cannot be resolved
        yield from leak_faults(problem)
        yield from lookahead_faults(problem)
