"""Run all checks of a problem specification, and collect every fault with its place and hint."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from truecourse.authoring.checks.columns import constraint_faults
from truecourse.authoring.checks.features import entity_faults, feature_faults, view_faults
from truecourse.authoring.checks.label import label_faults
from truecourse.authoring.checks.leaks import leak_faults
from truecourse.authoring.checks.lookahead import lookahead_faults
from truecourse.authoring.checks.names import label_table_known
from truecourse.authoring.checks.queries import query_faults
from truecourse.authoring.checks.request_function import function_faults
from truecourse.authoring.checks.table_checks import table_faults
from truecourse.authoring.checks.training_checks import (
    card_faults,
    decision_faults,
    gate_faults,
    interval_faults,
    model_faults,
    monitoring_faults,
    monotone_faults,
    promotion_faults,
    split_faults,
    weight_faults,
)
from truecourse.errors import AreaError, Fault, ProblemError
from truecourse.problem import FeatureArea, Problem
from truecourse.problem.namespace import AREAS, Namespace


def check_problem(problem: Problem) -> list[Fault]:
    """All faults in the order of the specification; none if it is valid. Reads the SQL files, but no data."""
    return list(dict.fromkeys(_faults(problem)))


def check_area(area: FeatureArea) -> list[Fault]:
    """All faults of a feature area; none if it is valid. Reads the SQL files, but no data."""
    return list(dict.fromkeys(_in_area(area, fault) for fault in _area_faults(area)))


def require_valid(namespace: Namespace) -> None:
    """Raise ProblemError with every fault of a problem or a feature area, if there are any."""
    if isinstance(namespace, FeatureArea):
        faults = check_area(namespace)
    else:
        assert isinstance(namespace, Problem)
        faults = check_problem(namespace)
    if faults:
        kind = AreaError if isinstance(namespace, FeatureArea) else ProblemError
        raise kind(namespace.name, faults)


def _area_faults(area: FeatureArea) -> Iterator[Fault]:
    yield from table_faults(area)
    yield from entity_faults(area, "keys")
    yield from constraint_faults(area.keys, "keys")
    yield from view_faults(area)
    queries = list(query_faults(area))
    yield from queries
    if not _cyclic(area, queries):
        yield from lookahead_faults(area)


def _in_area(area: FeatureArea, fault: Fault) -> Fault:
    """The fault with its place below `feature_views/`."""
    where = fault.where.removeprefix("problem.py ")
    file = where if where != fault.where else ""
    return replace(fault, where=f"{AREAS}/{area.name}/{f'area.py {file}' if file else fault.where}")


def _cyclic(namespace: Namespace, queries: Sequence[Fault]) -> bool:
    """Whether relations have faults, such as cycles: other SQL cannot be resolved then."""
    relations = set(namespace.relations.values())
    return any(fault.where.split(":")[0] in relations for fault in queries)


def _faults(problem: Problem) -> Iterator[Fault]:
    of_areas = [fault for area in problem.areas.values() for fault in check_area(area)]
    if of_areas:
        yield from of_areas
        return
    yield from table_faults(problem)
    yield from label_faults(problem)
    yield from model_faults(problem)
    if not label_table_known(problem):
        return
    yield from feature_faults(problem)
    yield from function_faults(problem)
    yield from split_faults(problem)
    yield from monotone_faults(problem)
    yield from weight_faults(problem)
    yield from decision_faults(problem)
    yield from interval_faults(problem)
    yield from gate_faults(problem)
    yield from promotion_faults(problem)
    yield from monitoring_faults(problem)
    yield from card_faults(problem)
    queries = list(query_faults(problem))
    yield from queries
    if not _cyclic(problem, queries):
        yield from leak_faults(problem)
        yield from lookahead_faults(problem)
