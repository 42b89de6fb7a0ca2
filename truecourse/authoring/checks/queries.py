"""Checks of SQL files: DuckDB binds them to empty tables of the declared types, which gives the types they return."""

from collections.abc import Iterator, Mapping
from contextlib import suppress

import duckdb

from truecourse.authoring.checks.aggregations import expression_faults
from truecourse.authoring.checks.names import place
from truecourse.authoring.checks.sql_binding import SQL_TYPES, Binding, BindingError
from truecourse.errors import Fault
from truecourse.problem import Aggregations, Problem, View
from truecourse.problem.namespace import Namespace
from truecourse.problem.schema import AnyColumn, Boolean, Float, Integer, Text, Time
from truecourse.wording import nearest

Types = Mapping[str, str]
_SIGNED = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT")
INTEGERS = frozenset({*_SIGNED, *(f"U{name}" for name in _SIGNED)})
TIMESTAMPS = frozenset({"TIMESTAMP", "TIMESTAMP WITH TIME ZONE", "TIMESTAMP_S", "TIMESTAMP_MS", "TIMESTAMP_NS"})


def query_faults(problem: Namespace) -> Iterator[Fault]:
    """Faults of all SQL files. Reads the files but no data, and writes nothing, not even a temporary file."""
    with duckdb.connect(config={"threads": 1, "temp_directory": ""}) as connection:
        binding = Binding(connection, problem)
        for name, file in problem.relations.items():
            yield from _relation_faults(binding, name, file)
        if isinstance(problem, Problem) and problem.spine is not None:
            yield from _spine_faults(problem, binding)
        for view in problem.own_views:
            if isinstance(view, Aggregations):
                yield from expression_faults(binding, view)
            else:
                yield from _view_faults(problem, binding, view)


def _relation_faults(binding: Binding, name: str, file: str) -> Iterator[Fault]:
    if name in {table.name for table in binding.problem.tables}:
        yield Fault(place("relations", name), "a table has the same name", "give the relation another name")
    try:
        binding.add_relation(name, file)
    except BindingError as error:
        yield from error.faults


def _spine_faults(problem: Problem, binding: Binding) -> Iterator[Fault]:
    assert problem.spine is not None
    spine, labels = {}, {}
    with suppress(BindingError):
        try:
            spine = binding.types(problem.spine)
            wanted = {"id": None, "decision_time": Time(), **problem.request_fields}
            yield from _returned_faults(problem.spine, spine, wanted)
            for name in ("label", "known_at"):
                if name in spine:
                    hint = "select it in the label's SQL only"
                    yield Fault(problem.spine, f"returns {name}, which is not known at decision time: a leak", hint)
        except BindingError as error:
            yield from error.faults
    if problem.label.sql is None:
        return
    try:
        labels = binding.types(problem.label.sql)
        yield from _label_faults(problem, problem.label.sql, labels, spine)
    except BindingError as error:
        yield from error.faults


def _label_faults(problem: Problem, file: str, labels: Types, spine: Types) -> Iterator[Fault]:
    yield from _returned_faults(file, labels, {"id": None, "label": None, "known_at": Time()})
    kind = labels.get("label", '"NULL"')
    if problem.kind == "regression" and not _fits(kind, Float()):
        yield Fault(file, f"label is {kind}, but a regression predicts a number", "CAST it, or change kind")
    if problem.kind != "regression" and not any(_fits(kind, c) for c in (Integer(), Boolean(), Text())):
        hint = "CAST(... AS INTEGER), or change kind"
        yield Fault(file, f"label is {kind}, but classes are integers, booleans or texts", hint)
    if "id" in labels and "id" in spine and _fits(labels["id"], Text()) != _fits(spine["id"], Text()):
        what = f"id is {labels['id']}, but {spine['id']} in {problem.spine}"
        yield Fault(file, what, "CAST one of the two, so that they can be joined")


def _view_faults(problem: Namespace, binding: Binding, view: View) -> Iterator[Fault]:
    try:
        returned = binding.types(view.sql)
    except BindingError as error:
        yield from error.faults
        return
    keys: dict[str, AnyColumn | None] = {}
    for entity in problem.entities:
        if entity.name == view.entity:
            keys = {key: problem.request_fields.get(key) for key in entity.join_keys}
    time: dict[str, AnyColumn | None] = {} if view.timeless else {"event_timestamp": Time()}
    if view.timeless and "event_timestamp" in returned:
        hint = f"remove it from the SELECT, or remove timeless=True from view {view.name}"
        yield Fault(view.sql, f"returns event_timestamp, but view {view.name} is declared timeless", hint)
    wanted = {**keys, **time, **view.features}
    yield from _returned_faults(view.sql, returned, wanted)
    if not keys:
        return
    for name in returned:
        if name not in wanted and name != "event_timestamp":
            hint = f"declare it in features of view {view.name}, or remove it from the SELECT"
            yield Fault(view.sql, f"returns {name!r}, which is not a declared feature", hint)


def _returned_faults(file: str, returned: Types, wanted: Mapping[str, AnyColumn | None]) -> Iterator[Fault]:
    """Faults for columns that the SQL lacks or returns with another type. A wanted None accepts any type."""
    for name, column in wanted.items():
        if name not in returned:
            free = [other for other in returned if other not in wanted]
            hint = f"add it to the SELECT; {nearest(name, free)}" if free else "add it to the SELECT"
            yield Fault(file, f"returns no column {name!r}", hint)
        elif column is not None and not _fits(returned[name], column):
            what = f"{name} is {returned[name]}, but declared {type(column).__name__}"
            yield Fault(file, what, f"CAST({name} AS {SQL_TYPES[type(column)]}), or declare another type")


def _fits(kind: str, column: AnyColumn) -> bool:
    """Whether a DuckDB type can be read as the declared one without loss."""
    whole = kind in INTEGERS or (kind.startswith("DECIMAL") and kind.endswith(",0)"))
    if kind == '"NULL"':
        return True
    if isinstance(column, Text):
        return kind == "VARCHAR" or kind.startswith("ENUM")
    if isinstance(column, Integer):
        return whole
    if isinstance(column, Float):
        return whole or kind in ("DOUBLE", "FLOAT") or kind.startswith("DECIMAL")
    return kind == "BOOLEAN" if isinstance(column, Boolean) else kind in TIMESTAMPS
