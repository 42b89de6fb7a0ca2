"""The columns that each column of a dataset depends on: from the sources over views and snapshots to predictions."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from truecourse.data.expectations import compile_expectations
from truecourse.features.aggregates.stored_rows import UNTIL
from truecourse.features.asof import CREATED, EVENT
from truecourse.features.definition_digests import feature_table
from truecourse.openlineage import places
from truecourse.openlineage.places import Place
from truecourse.openlineage.query_columns import (
    AGGREGATED,
    NOTHING,
    TRANSFORMED,
    Use,
    Uses,
    expression_columns,
    file_columns,
    indirect,
    used_by,
)
from truecourse.problem import Age, Aggregations, Problem, TimeSplit, View
from truecourse.problem.namespace import AnyView, Namespace
from truecourse.problem.schema import Table
from truecourse.serving import batch_scoring
from truecourse.storage.delta_tables import clean_table, raw_table

PREDICTION = "prediction"


@dataclass(frozen=True)
class ColumnLineage:
    """What a dataset's columns depend on. A use's `table` is a key of `places`; names with a colon are of no table.

    `fields`: by column. `rows`: what decides which rows there are. `inexact`: SQL files that could not be resolved, so
    that every column they read counts."""

    places: Mapping[str, Place]
    fields: Mapping[str, Uses] = field(default_factory=dict)
    rows: Uses = NOTHING
    inexact: tuple[str, ...] = ()

    def facet(self, columns: Collection[str]) -> dict[str, Any] | None:
        """The content of the facet, of the dataset's `columns`."""
        known = {name: uses for name, uses in self.fields.items() if uses and name in columns}
        if not known and not self.rows:
            return None
        fields = {name: {"inputFields": self._inputs(uses)} for name, uses in known.items()}
        return {"fields": fields, "dataset": self._inputs(self.rows)}

    def _inputs(self, uses: Uses) -> list[dict[str, Any]]:
        kinds: dict[tuple[Place, str], list[dict[str, Any]]] = {}
        for use in sorted(uses, key=lambda use: (use.table, use.column, use.kind, use.subtype)):
            transformation = {"type": use.kind, "subtype": use.subtype}
            kinds.setdefault((self.places[use.table], use.column), []).append(transformation)
        return [
            {"namespace": place.namespace, "name": place.name, "field": column, "transformations": transformations}
            for (place, column), transformations in kinds.items()
        ]


def raw_lineage(namespace: Namespace, table: Table) -> ColumnLineage:
    """Of a raw table: the columns of its source. None of a query over several tables."""
    found = places.sources(namespace, table)
    if len(found) != 1:
        return ColumnLineage({})
    fields = {
        name: frozenset({Use(":source", column.source or name, "DIRECT", "TRANSFORMATION")})
        for name, column in table.columns.items()
    }
    return ColumnLineage({":source": found[0]}, fields)


def clean_lineage(namespace: Namespace, table: Table) -> ColumnLineage:
    """Of a clean or quarantine table: the columns of the raw table. Rules and the key decide which rows are valid."""
    by_table = {":raw": places.stored(raw_table(namespace.name, table.name))}
    ruling = {rule.column for rule in compile_expectations(table) if rule.column and rule.quarantines}
    rows = used_by((Use(":raw", name) for name in ruling), indirect("FILTER"))
    deciding = [*table.key, *([table.time] if table.time else []), *([table.deleted] if table.deleted else [])]
    rows |= used_by((Use(":raw", name) for name in deciding), indirect("GROUP_BY"))
    for column in table.columns.values():
        if column.in_table:
            by_table[column.in_table] = places.stored(clean_table(namespace.name, column.in_table))
            key = namespace.table(column.in_table).key_column
            rows |= used_by([Use(column.in_table, key)] if key else [], indirect("FILTER"))
    return ColumnLineage(by_table, {name: frozenset({Use(":raw", name)}) for name in table.columns}, rows)


def _clean_places(namespace: Namespace) -> dict[str, Place]:
    return {table.name: places.stored(clean_table(namespace.name, table.name)) for table in namespace.tables}


def view_lineage(problem: Namespace, view: AnyView) -> ColumnLineage:
    """Of a feature table: the columns of the clean tables."""
    owner = problem.namespace_of(view.name)
    keys = owner.join_keys(view)
    if isinstance(view, Aggregations):
        return _aggregations_lineage(owner, view, keys)
    returned = [*keys, *view.features, *([] if view.timeless else [EVENT])]
    found = file_columns(owner, view.sql, returned)
    fields = {name: found.of(name) for name in returned}
    known = used_by((use for key in keys for use in fields[key]), indirect("FILTER"))  # rows without a key are left out
    inexact = () if found.exact else (view.sql,)
    return ColumnLineage(_clean_places(owner), fields, found.rows | known, inexact)


def _aggregations_lineage(owner: Namespace, view: Aggregations, keys: Iterable[str]) -> ColumnLineage:
    table = owner.table(view.table)
    fields = {key: frozenset({Use(table.name, key)}) for key in keys} | {EVENT: frozenset({Use(table.name, view.time)})}
    known = {view.time, table.time or view.time}
    fields[CREATED] = frozenset(Use(table.name, name, "DIRECT", "TRANSFORMATION") for name in known)
    for name, each in view.inputs.items():
        value = expression_columns(table, each.expression) if each.expression else NOTHING
        where = expression_columns(table, each.where) if each.where else NOTHING
        role = indirect("CONDITIONAL") if each.expression else TRANSFORMED
        fields[name] = value | used_by(where, role)
    filters = expression_columns(table, view.where) if view.where else NOTHING
    filters |= fields[EVENT].union(*(fields[key] for key in keys))
    return ColumnLineage(_clean_places(owner), fields, used_by(filters, indirect("FILTER")))


@dataclass(frozen=True)
class Decisions:
    """Where the columns of decisions come from. `request`: of each request field, and of the decision time."""

    places: dict[str, Place]
    request: dict[str, Uses]
    label: dict[str, Uses]
    rows: Uses
    inexact: tuple[str, ...]


def _decisions(problem: Problem) -> Decisions:
    by_table = _clean_places(problem)
    if not problem.has_spine:
        table = problem.label_table
        request = {name: frozenset({Use(table.name, name)}) for name in problem.request_fields}
        request["id"] = frozenset(Use(table.name, name, "DIRECT", "TRANSFORMATION") for name in table.key)
        if table.time:
            request["decision_time"] = frozenset({Use(table.name, table.time)})
        label = {"label": frozenset({Use(table.name, problem.label.column)})} if problem.label.column else {}
        return Decisions(by_table, request, label, NOTHING, ())
    names = ["id", "decision_time", *problem.request_fields]
    spine = file_columns(problem, str(problem.spine), names)
    request, rows = {name: spine.of(name) for name in names}, spine.rows
    inexact = () if spine.exact else (str(problem.spine),)
    if problem.label.sql is None:
        return Decisions(by_table, request, {}, rows, inexact)
    found = file_columns(problem, problem.label.sql, ["id", "label", "known_at"])
    matched = used_by(found.of("id") | request["id"], indirect("JOIN")) | found.rows
    label = {name: found.of(name) | matched for name in ("label", "known_at")}
    return Decisions(by_table, request, label, rows, inexact if found.exact else (*inexact, problem.label.sql))


def decision_lineage(problem: Problem, decisions: Decisions | None = None) -> ColumnLineage:
    """Of decisions with their features: the columns of clean tables and feature tables."""
    known = decisions or _decisions(problem)
    fields, by_table = dict(known.request), dict(known.places)
    computed = problem.computed_features
    if computed is not None:
        inputs = frozenset[Use]().union(*(known.request.get(name, NOTHING) for name in computed.inputs))
        fields |= dict.fromkeys(computed.features, used_by(inputs, TRANSFORMED))
    for view in problem.views:
        name = feature_table(problem, view.name)
        by_table[name] = places.stored(name)
        asked = [*problem.join_keys(view), "decision_time"]
        matched = frozenset[Use]().union(*(known.request.get(key, NOTHING) for key in asked))
        matched |= frozenset(Use(name, column) for column in _looked_up(problem, view))
        for feature in view.features:
            fields[feature] = _feature(view, feature, name) | used_by(matched, indirect("JOIN"))
    return ColumnLineage(by_table, fields, known.rows, known.inexact)


def _looked_up(problem: Problem, view: AnyView) -> list[str]:
    """The columns of a feature table by which a decision finds its rows."""
    times = [EVENT, CREATED, UNTIL] if isinstance(view, Aggregations) else [EVENT, CREATED]
    return [*problem.join_keys(view), *times]


def _feature(view: AnyView, feature: str, table: str) -> Uses:
    if isinstance(view, View):
        return frozenset({Use(table, feature)})
    column = view.input_of(feature)
    used = frozenset() if column is None else used_by([Use(table, column)], AGGREGATED)
    timed = used_by([Use(table, EVENT)], AGGREGATED if isinstance(view.features[feature], Age) else indirect("FILTER"))
    return used | timed


def snapshot_lineage(problem: Problem) -> ColumnLineage:
    """Of a training frame: decisions with features, label and split. Decisions without label are left out."""
    known = _decisions(problem)
    found = decision_lineage(problem, known)
    by = "decision_time" if isinstance(problem.split, TimeSplit) else "id"
    split = used_by(known.request.get(by, NOTHING), TRANSFORMED)
    labels = frozenset[Use]().union(*known.label.values(), split)
    rows = found.rows | used_by(labels, indirect("FILTER"))
    return ColumnLineage(found.places, {**found.fields, **known.label, "split": split}, rows, found.inexact)


def model_lineage(problem: Problem) -> ColumnLineage:
    """Of a model: all features and the label of the training frame."""
    learned = (Use(":snapshot", name) for name in (*problem.features, "label"))
    rows = used_by([Use(":snapshot", "split")], indirect("FILTER"))
    uses = {PREDICTION: used_by(learned, TRANSFORMED)}
    return ColumnLineage({":snapshot": places.snapshots(problem.name)}, uses, rows)


def version_lineage(problem: Problem) -> ColumnLineage:
    """Of a registered version: its training run."""
    place = places.models(problem.name, places.RUNS)
    return ColumnLineage({":run": place}, {PREDICTION: frozenset({Use(":run", PREDICTION)})})


def prediction_lineage(problem: Problem, columns: Iterable[str], file: Place | None) -> ColumnLineage:
    """Of batch predictions: decisions with features, and the model. `columns`: of the predictions table. `file`: the
    source of scored rows; None for decisions of the tables."""
    known = _decisions(problem)
    if file is not None:
        names = [*problem.request_fields, "decision_time"]
        request = {name: frozenset({Use(":file", name, "DIRECT", "TRANSFORMATION")}) for name in names}
        known = Decisions({**known.places, ":file": file}, request, {}, NOTHING, ())
    found = decision_lineage(problem, known)
    model = frozenset({Use(":model", PREDICTION, "DIRECT", "TRANSFORMATION")})
    direct = (use for name in problem.features for use in found.fields.get(name, NOTHING))
    output = used_by(direct, TRANSFORMED) | model
    outputs = [name for name in columns if name.startswith((batch_scoring.SCORE, batch_scoring.PREDICTION))]
    outputs.append(batch_scoring.CONTRIBUTIONS)
    by_table = {**found.places, ":model": places.models(problem.name, places.VERSIONS)}
    return ColumnLineage(by_table, {**dict.fromkeys(outputs, output), **found.fields}, found.rows, found.inexact)
