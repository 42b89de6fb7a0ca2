"""Checks of request fields, entities, views and features: names exist, are unique, and have a valid type."""

from collections import Counter
from collections.abc import Iterator
from datetime import timedelta

from truecourse.authoring.checks.aggregations import declaration_faults
from truecourse.authoring.checks.columns import constraint_faults, feature_type_faults, same_type
from truecourse.authoring.checks.names import FRAME_NAMES, place, repeated
from truecourse.errors import Fault
from truecourse.problem import Aggregations, Problem, Since, Time, View
from truecourse.problem.namespace import Namespace
from truecourse.problem.time_features import TO_DECISION
from truecourse.wording import nearest

VIEW_NAMES = frozenset({"event_timestamp", "created_timestamp"})


def feature_faults(problem: Problem) -> Iterator[Fault]:
    """Faults of the request, entities, views and features. The problem's label table must be known."""
    yield from _request_faults(problem)
    yield from entity_faults(problem, "request")
    yield from view_faults(problem)
    if not problem.has_time:
        yield from _time_faults(problem)
    yield from _shared_key_faults(problem)
    yield from _name_faults(problem)
    yield from _private_faults(problem)
    if not problem.features:
        yield Fault(place("request"), "the model has no inputs", "declare request fields or views")


def _request_faults(problem: Problem) -> Iterator[Fault]:
    yield from constraint_faults(problem.request, "request")
    yield from repeated(problem.request, place("request"), "request fields")
    yield from _time_part_faults(problem)
    for name in problem.request_fields:
        if name in problem.request and problem.request[name].source:
            what = "source names a column of a table's source; a request field has no source"
            yield Fault(place("request", name, "source"), what, "remove it")
        if name.lower() in FRAME_NAMES:
            hint = "rename it, or leave it out of the request"
            yield Fault(place("request", name), f"the training frame has a column {name.lower()} of its own", hint)
    if not problem.has_spine:
        yield from _table_request_faults(problem)


def _time_part_faults(problem: Problem) -> Iterator[Fault]:
    if problem.decision_parts and not problem.has_time:
        what = "decisions of this problem have no time"
        yield Fault(place("decision_parts"), what, "give the label's table a time, or remove decision_parts")
    yield from repeated(problem.decision_parts, place("decision_parts"), "parts")
    times = {name: column for name, column in problem.request_fields.items() if isinstance(column, Time)}
    for name, column in times.items():
        where, parts = place("request", name, "parts"), column.parts or ()
        yield from repeated([part if isinstance(part, str) else part.field for part in parts], where, "parts")
        for part in parts:
            if part == TO_DECISION and not problem.has_time:
                hint = "remove it, or give the label's table a time"
                yield Fault(where, f"{part}, but decisions of this problem have no time", hint)
            elif isinstance(part, Since) and (part.field not in times or part.field == name):
                what = f"Since({part.field!r}) names no other time field of the request"
                yield Fault(where, what, nearest(part.field, [each for each in times if each != name]))


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


def view_place(problem: Namespace, view: str, *path: str) -> str:
    """The place of a view in the problem or, if it is its own, in the area."""
    owner = problem.namespace_of(view)
    if owner.name != problem.name:
        return place("shared_views", owner.name, view, *path)
    return place("views", view, *path)


def view_faults(problem: Namespace) -> Iterator[Fault]:
    """Faults of the declarations of own views."""
    yield from repeated((view.name for view in problem.own_views), place("views"), "views")
    for view in problem.own_views:
        yield from declaration_faults(problem, view) if isinstance(view, Aggregations) else _view_faults(problem, view)


def _time_faults(problem: Problem) -> Iterator[Fault]:
    """Faults of views with times in a problem whose decisions have none."""
    for view in problem.views:
        if isinstance(view, Aggregations):
            hint = "give the label's table a time, or write a view with timeless=True"
            what = "aggregations have times, but the problem's decisions have none"
            yield Fault(view_place(problem, view.name), what, hint)
        elif not view.timeless:
            hint = "give the label's table a time, or declare the view timeless=True"
            yield Fault(
                view_place(problem, view.name), "the view has times, but the problem's decisions have none", hint
            )


def _shared_key_faults(problem: Problem) -> Iterator[Fault]:
    """Faults of the request fields that shared views are looked up by."""
    for owner in problem.view_owners:
        for view in owner.own_views if owner.name != problem.name else ():
            for key in owner.join_keys(view):
                field, declared = problem.request_fields.get(key), owner.request_fields[key]
                where = view_place(problem, view.name)
                if field is None:
                    what = f"{key}, the key of {owner.name}.{view.name}, is not a request field"
                    known = nearest(key, problem.request_fields)
                    yield Fault(where, what, f"add it to the request (feature=False keeps it from the model); {known}")
                elif not same_type(field, declared):
                    what = f"{key} is {type(field).__name__}, but {type(declared).__name__} in area {owner.name}"
                    yield Fault(where, what, "declare it with the area's type")


def entity_faults(problem: Namespace, fields: str) -> Iterator[Fault]:
    """Faults of the entities. `fields`: the attribute that declares their keys."""
    yield from repeated((entity.name for entity in problem.entities), place("entities"), "entities")
    for entity in problem.entities:
        for key in entity.join_keys:
            if key not in problem.request_fields:
                known = nearest(key, problem.request_fields)
                hint, what = f"add it to `keys` with its type; {known}", f"{key} is not one of the area's keys"
                if fields == "request":
                    hint = f"add it to the request (feature=False keeps it from the model); {known}"
                    what = f"{key} is not a request field"
                yield Fault(place("entities", entity.name, "keys"), what, hint)


def _view_faults(problem: Namespace, view: View) -> Iterator[Fault]:
    path = ("views", view.name)
    yield from constraint_faults(view.features, *path, "features")
    yield from feature_type_faults(view.features, *path, "features")
    names = [entity.name for entity in problem.entities]
    if view.entity not in names:
        yield Fault(place(*path, "entity"), f"no entity {view.entity!r}", nearest(view.entity, names))
    if not view.features:
        yield Fault(place(*path, "features"), "the view declares no feature", "declare what its SQL returns")
    yield from _view_time_faults(view, path)


def _view_time_faults(view: View, path: tuple[str, str]) -> Iterator[Fault]:
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


def _name_faults(problem: Problem) -> Iterator[Fault]:
    declared = {place("request", name): name for name in problem.request_fields}
    declared |= {place("request", f.field, "parts", str(f.part)): name for name, f in problem.time_features.items()}
    if problem.request_features is not None:
        path = ("request_features", "features")
        yield from constraint_faults(problem.request_features.features, *path)
        yield from feature_type_faults(problem.request_features.features, *path)
        declared |= {place(*path, name): name for name in problem.request_features.features}
    for view in problem.views:
        declared |= {view_place(problem, view.name, "features", name): name for name in view.features}
    counts = Counter(name.lower() for name in declared.values())
    taken: set[str] = set()
    for where, name in declared.items():
        if counts[name.lower()] > 1 and name.lower() in taken:
            others = [w for w, n in declared.items() if n.lower() == name.lower() and w != where]
            yield Fault(where, f"the name {name!r} is also declared at {', '.join(others)}", "rename one of them")
        taken.add(name.lower())
        if not where.startswith(place("request", "")) and name.lower() in FRAME_NAMES | VIEW_NAMES:
            yield Fault(where, f"{name} is a reserved column name", "give the feature another name")
