"""The features and the label of a problem as they are declared, by group: request, request features, views, label."""

import inspect
from collections.abc import Collection, Iterator
from dataclasses import replace
from datetime import timedelta

from truecourse.authoring.checks.column_lineage import Lineage, LineageError
from truecourse.catalogue.records import Feature, Group, Kind
from truecourse.features.aggregation_rows import source_of
from truecourse.features.columns_read import view_columns_read
from truecourse.problem import Aggregations, Boolean, Float, Integer, Problem, Text, View
from truecourse.problem.aggregations import Age, AnyAggregate
from truecourse.problem.definition import REQUEST, REQUEST_FEATURES
from truecourse.problem.namespace import AnyView, FeatureArea, Namespace
from truecourse.problem.schema import AnyColumn, shown_unit
from truecourse.serving.privacy import private_names

LABEL = "label"
"""The name of the label's group, and of the label in it."""
_TYPES = ((Text, "text"), (Integer, "integer"), (Float, "float"), (Boolean, "boolean"))


def declared_groups(problem: Problem) -> list[Group]:
    """All groups of a problem that have features, in the order of the model's columns, and the label."""
    groups = [
        _request(problem),
        *_time_features(problem),
        *_request_features(problem),
        *(_view(problem.namespace_of(view.name), view) for view in problem.views),
    ]
    private = private_names(problem)
    return [*(_marked(group, private) for group in groups if group.features), _label(problem)]


def _marked(group: Group, private: Collection[str]) -> Group:
    """The group with its private features marked, also those that are computed from a private field."""
    features = tuple(one.model_copy(update={"private": one.name in private}) for one in group.features)
    return group.model_copy(update={"features": features})


def _feature(name: str, column: AnyColumn, origins: tuple[str, ...] | None) -> Feature:
    return Feature(
        name=name,
        type=next((text for kind, text in _TYPES if isinstance(column, kind)), "time"),
        unit=shown_unit(column),
        description=column.description,
        origins=origins,
    )


def _request(problem: Problem) -> Group:
    fields = {name: column for name, column in problem.request_fields.items() if name in problem.features}
    origins = None if problem.spine is None else _Origins(problem, problem.spine)
    table = problem.label_table
    return Group(
        name=REQUEST,
        kind="request field",
        description="Fields that a caller sends.",
        owner=problem.owner,
        tables=() if problem.spine else (table.name,),
        file=problem.spine or "",
        code=problem.text(problem.spine) if problem.spine else "",
        features=tuple(
            _feature(name, column, origins.of(name) if origins else (f"{table.name}.{name}",))
            for name, column in fields.items()
        ),
    )


def _time_features(problem: Problem) -> Iterator[Group]:
    if problem.time_features:
        yield Group(
            name="time parts",
            kind="request feature",
            description="Parts of times of the request and of the decision time, in UTC.",
            owner=problem.owner,
            features=tuple(_feature(name, f.column, f.inputs) for name, f in problem.time_features.items()),
        )


def _request_features(problem: Problem) -> Iterator[Group]:
    declared = problem.request_features
    if declared is None:
        return
    yield Group(
        name=REQUEST_FEATURES,
        kind="request feature",
        description=declared.description or "Computed from the request alone.",
        owner=problem.owner_of(declared),
        tags=tuple(declared.tags),
        file=f"{declared.function.__name__}()",
        code=inspect.getsource(declared.function),
        features=tuple(_feature(name, column, tuple(declared.inputs)) for name, column in declared.features.items()),
    )


def _view(problem: Namespace, view: AnyView) -> Group:
    kind: Kind = "aggregation" if isinstance(view, Aggregations) else "view feature"
    columns = problem.view_columns(view)
    if isinstance(view, View):
        origins = _Origins(problem, view.sql)
        features = tuple(_feature(name, column, origins.of(name)) for name, column in columns.items())
    else:
        features = tuple(
            _aggregate(problem, view, name, function, columns[name]) for name, function in view.features.items()
        )
    return Group(
        name=view.name,
        kind=kind,
        area=problem.name if isinstance(problem, FeatureArea) else "",
        description=view.description,
        owner=problem.owner_of(view),
        tags=tuple(view.tags),
        entity=view.entity,
        keys=problem.join_keys(view),
        ttl=None if view.timeless or isinstance(view, Aggregations) else view.ttl.total_seconds(),
        timeless=view.timeless,
        tables=tuple(sorted(view_columns_read(problem, view))),
        file=source_of(view, problem) if isinstance(view, View) else "",
        code=problem.text(view.sql) if isinstance(view, View) else "",
        features=features,
    )


def _aggregate(problem: Namespace, view: Aggregations, name: str, function: AnyAggregate, column: AnyColumn) -> Feature:
    """A feature of aggregations, with what its function declares."""
    conditions = [text for text in (view.where, function.where) if text]
    read = view_columns_read(problem, replace(view, features={name: function}))[view.table]
    others = {view.time, *problem.join_keys(view)}
    return _feature(name, column, tuple(f"{view.table}.{each}" for each in sorted(read - others))).model_copy(
        update={
            "function": type(function).__name__ + (f" of the {function.of} event" if isinstance(function, Age) else ""),
            "value": getattr(function, "value", ""),
            "where": " AND ".join(f"({text})" for text in conditions) if conditions[1:] else "".join(conditions),
            "window": _seconds(function.window),
        }
    )


def _seconds(duration: timedelta | None) -> float | None:
    return None if duration is None else duration.total_seconds()


def _label(problem: Problem) -> Group:
    """The label as a feature of its own group: its cells become known after the decision."""
    label, table = problem.label, problem.label_table
    kinds = {"binary": "class of two", "multiclass": "class", "regression": "number"}
    origins = _Origins(problem, label.sql).of("label") if label.sql else (f"{table.name}.{label.column}",)
    column = None if label.sql else table.columns.get(label.column or "")
    return Group(
        name=LABEL,
        kind="label",
        description="What is predicted; known after the decision.",
        owner=problem.owner,
        tables=tuple(sorted({origin.partition(".")[0] for origin in origins or ()})),
        file=label.sql or "",
        code=problem.text(label.sql) if label.sql else "",
        features=(
            Feature(
                name=LABEL,
                type=kinds[problem.kind],
                unit=problem.label_unit,
                description=label.description or (column.description if column else ""),
                private=column is not None and column.private is not None,
                origins=origins,
            ),
        ),
    )


class _Origins:
    """The columns of tables that the columns of a SQL file are computed from."""

    def __init__(self, problem: Namespace, file: str) -> None:
        try:
            self._lineage: Lineage | None = Lineage(problem, file)
        except LineageError:
            self._lineage = None

    def of(self, column: str) -> tuple[str, ...] | None:
        """`table.column` of each, sorted; None if the SQL cannot be traced."""
        try:
            sources = self._lineage.origin(column).sources if self._lineage else None
        except LineageError:
            return None
        return None if sources is None else tuple(sorted(f"{table}.{name}" for table, name in sources))
