"""Checks of request fields, entities, views and features: names exist, are unique, and have a valid type."""

from collections import Counter
from collections.abc import Iterator
from datetime import timedelta

from truecourse.authoring.checks.aggregations import declaration_faults
from truecourse.authoring.checks.columns import constraint_faults, feature_type_faults, same_type
from truecourse.authoring.checks.names import FRAME_NAMES, place, repeated
from truecourse.errors import Fault
from truecourse.problem import Aggregations, Problem, View
from truecourse.wording import nearest

VIEW_NAMES = frozenset({"event_timestamp", "created_timestamp"})


def feature_faults(problem: Problem) -> Iterator[Fault]:
    """Faults of the request, entities, views and features. The problem's label table must be known."""
    yield from _request_faults(problem)
    yield from _entity_faults(problem)
    yield from repeated((view.name for view in problem.views), place("views"), "views")
    for view in problem.views:
        yield from declaration_faults(problem, view) if isinstance(view, Aggregations) else _view_faults(problem, view)
    yield from _name_faults(problem)
    yield from _private_faults(problem)
    if not problem.features:
        yield Fault(place("request"), "the model has no inputs", "declare request fields or views")


def _request_faults(problem: Problem) -> Iterator[Fault]:
    yield from constraint_faults(problem.request, "request")
    yield from repeated(problem.request, place("request"), "request fields")
    for name in problem.request_fields:
        if name in problem.request and problem.request[name].source:
            what = "source names a column of a table's source; a request field has no source"
            yield Fault(place("request", name, "source"), what, "remove it")
        if name.lower() in FRAME_NAMES:
            hint = "rename it, or leave it out of the request"
            yield Fault(place("request", name), f"the training frame has a column {name.lower()} of its own", hint)
    if not problem.has_spine:
        yield from _table_request_faults(problem)


def _table_request_faults(problem: Problem) -> Iterator[Fault]:
    table = problem.label_table
    for name, column in problem.request.items():
        where = place("request", name)
        if name == problem.label.column:
            yield Fault(where, "the label is a request field: a leak", "remove it from the request")
        elif name not in table.columns:
            yield Fault(where, f"table {table.name} has no such column", nearest(name, table.columns))
        elif not same_type(column, table.columns[name]):
            what = f"is {type(column).__name__}, but {type(table.columns[name]).__name__} in table {table.name}"
            yield Fault(where, what, "declare both with one type")


def _private_faults(problem: Problem) -> Iterator[Fault]:
    """Faults for logged fields that are private in their table only.

    The prediction log stores request fields and features, so the mark is needed there too."""
    logged = problem.request_fields | problem.features
    for table in problem.tables:
        for name, column in table.columns.items():
            if column.private and name in logged and not logged[name].private:
                where = place("request" if name in problem.request_fields else "features", name)
                hint = f'add private="{column.private}" here too: the prediction log stores this field'
                yield Fault(where, f"is private in table {table.name}, but not here", hint)


def _entity_faults(problem: Problem) -> Iterator[Fault]:
    yield from repeated((entity.name for entity in problem.entities), place("entities"), "entities")
    for entity in problem.entities:
        for key in entity.join_keys:
            if key not in problem.request_fields:
                hint = f"add it to the request (feature=False keeps it from the model); {_nearest_field(key, problem)}"
                yield Fault(place("entities", entity.name, "keys"), f"{key} is not a request field", hint)


def _nearest_field(name: str, problem: Problem) -> str:
    return nearest(name, problem.request_fields)


def _view_faults(problem: Problem, view: View) -> Iterator[Fault]:
    path = ("views", view.name)
    yield from constraint_faults(view.features, *path, "features")
    yield from feature_type_faults(view.features, *path, "features")
    names = [entity.name for entity in problem.entities]
    if view.entity not in names:
        yield Fault(place(*path, "entity"), f"no entity {view.entity!r}", nearest(view.entity, names))
    if not view.features:
        yield Fault(place(*path, "features"), "the view declares no feature", "declare what its SQL returns")
    yield from _view_time_faults(problem, view, path)


def _view_time_faults(problem: Problem, view: View, path: tuple[str, str]) -> Iterator[Fault]:
    if view.timeless:
        for name in ("ttl", "lookback"):
            if getattr(view, name):
                hint = f"remove {name}, or return event_timestamp and remove timeless=True"
                yield Fault(place(*path, name), f"{name} has no meaning on a view without time", hint)
        return
    for name in ("ttl", "lookback"):
        span = getattr(view, name)
        if span is not None and span < timedelta(0):
            yield Fault(place(*path, name), f"{span} is negative", "give a positive span of time")
    if not problem.has_time:
        hint = "give the label's table a time, or declare the view timeless=True"
        yield Fault(place(*path), "the view has times, but the problem's decisions have none", hint)


def _name_faults(problem: Problem) -> Iterator[Fault]:
    declared = {place("request", name): name for name in problem.request_fields}
    if problem.request_features is not None:
        path = ("request_features", "features")
        yield from constraint_faults(problem.request_features.features, *path)
        yield from feature_type_faults(problem.request_features.features, *path)
        declared |= {place(*path, name): name for name in problem.request_features.features}
    for view in problem.views:
        declared |= {place("views", view.name, "features", name): name for name in view.features}
    counts = Counter(name.lower() for name in declared.values())
    taken: set[str] = set()
    for where, name in declared.items():
        if counts[name.lower()] > 1 and name.lower() in taken:
            others = [w for w, n in declared.items() if n.lower() == name.lower() and w != where]
            yield Fault(where, f"the name {name!r} is also declared at {', '.join(others)}", "rename one of them")
        taken.add(name.lower())
        if not where.startswith(place("request", "")) and name.lower() in FRAME_NAMES | VIEW_NAMES:
            yield Fault(where, f"{name} is a reserved column name", "give the feature another name")
