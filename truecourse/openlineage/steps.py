"""The steps of a flow run that wrote data, each with the datasets that it read and wrote.

A step is found by what is stored: the commits of tables that name the flow run, and the records of training runs and
versions. So a run that wrote nothing new has no steps, and a run that failed has those that it completed.
"""

import glob
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from truecourse.data.deliveries import Delivery
from truecourse.data.validation_report import ValidationResult, page_key, read_result, standing_refusals
from truecourse.features.definition_digests import feature_table
from truecourse.modeling.snapshot import load_manifest
from truecourse.openlineage import datasets
from truecourse.openlineage.column_lineage import (
    ColumnLineage,
    clean_lineage,
    model_lineage,
    prediction_lineage,
    raw_lineage,
    snapshot_lineage,
    version_lineage,
    view_lineage,
)
from truecourse.openlineage.events import Document, documentation, facets, ownership
from truecourse.openlineage.places import Place, file, stored
from truecourse.problem import Aggregations, Problem, View
from truecourse.problem.loader import load_problem_or_area
from truecourse.problem.namespace import AnyView, Namespace
from truecourse.problem.schema import Table
from truecourse.references import ModelVersion, TableVersion, TrainedRun
from truecourse.registry import runs
from truecourse.registry import versions as registry
from truecourse.registry.trained_problem import trained_problem
from truecourse.serving.batch_scoring import predictions_table
from truecourse.storage.delta_tables import Tables, clean_table, quarantine_table, raw_table
from truecourse.wording import counted

Commit = dict[str, Any]


@dataclass(frozen=True)
class FlowRun:
    """A run of a flow. `started`: UTC. `result`: what it returned, if it ended in this process."""

    id: str
    flow: str
    parameters: Mapping[str, Any]
    started: datetime
    result: Any = None

    def load_namespace(self) -> Namespace:
        """The problem or area of the run."""
        return load_problem_or_area(self.parameters.get("problem"), self.parameters.get("area"))


@dataclass(frozen=True)
class Step:
    """A part of a flow run. `owner`: the problem or area of what it wrote. `failure`: why it wrote nothing.

    `task`: the last part of its job's name, as `materialize.spend`. `inexact`: SQL files whose columns could not be
    resolved."""

    owner: Namespace
    task: str
    ended: datetime
    inputs: list[Document]
    outputs: list[Document]
    facets: Document = field(default_factory=dict)
    failure: str = ""
    inexact: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The name of its job: `orders.materialize.spend`."""
        return f"{self.owner.name}.{self.task}"


@dataclass(frozen=True)
class Written:
    """The commits of a run to one table. `before`: the version that the run found."""

    version: TableVersion
    before: TableVersion | None
    ended: datetime
    commits: list[Commit]

    @property
    def inputs(self) -> list[TableVersion]:
        """The table versions that the last commit read."""
        return [TableVersion.model_validate(one) for one in self.commits[-1].get("inputs", ())]


def steps_of(run: FlowRun) -> Iterator[Step]:
    """The steps of a run, in the order in which they ended."""
    find = _STEPS.get(run.flow)
    if find is not None:
        yield from sorted(find(run, Tables()), key=lambda step: step.ended)


def _written(tables: Tables, name: str, run: FlowRun) -> Written | None:
    """What a run committed to a table; None if nothing."""
    if tables.version(name) is None:
        return None
    count, recent = 4, tables.recent(name, 4)
    while len(recent) == count and recent[0][1] >= run.started:
        count *= 8
        recent = tables.recent(name, count)
    own = [(number, at, commit) for number, at, commit in recent if commit.get("run") == run.id]
    if not own:
        return None
    first, last = own[0][0], own[-1]
    before = TableVersion(name=name, version=first - 1) if first else None
    return Written(TableVersion(name=name, version=last[0]), before, last[1], [commit for _, _, commit in own])


def _output(tables: Tables, written: Written, lineage: ColumnLineage, table: Table) -> Document:
    return datasets.table_output(
        tables, written.version, written.before, lineage, table.columns, description=table.description
    )


def _ingested(run: FlowRun, tables: Tables) -> Iterator[Step]:
    for owner in run.load_namespace().namespaces:
        for table in owner.tables:
            written = _written(tables, raw_table(owner.name, table.name), run)
            if written is not None:
                listed = (
                    one for commit in written.commits if not commit.get("rewritten") for one in commit["deliveries"]
                )
                read = [Delivery.model_validate(one) for one in listed]
                yield Step(
                    owner,
                    f"ingest.{table.name}",
                    written.ended,
                    datasets.source_inputs(owner, table, read) if read else [],
                    [_output(tables, written, raw_lineage(owner, table), table)],
                )


def _validated(run: FlowRun, tables: Tables) -> Iterator[Step]:
    for owner in run.load_namespace().namespaces:
        for table in owner.tables:
            step = _validated_table(run, tables, owner, table)
            if step is not None:
                yield step


def _validated_table(run: FlowRun, tables: Tables, owner: Namespace, table: Table) -> Step | None:
    names = (clean_table(owner.name, table.name), quarantine_table(owner.name, table.name))
    written = [found for name in names if (found := _written(tables, name, run)) is not None]
    refused = [
        one for one in standing_refusals(tables, owner.name, table.name) if one.validated_at >= run.started
    ] if tables.exists(raw_table(owner.name, table.name)) else []  # fmt: skip
    if not written and not refused:
        return None
    results = [*_accepted(tables, owner, table, written), *refused]
    lineage = clean_lineage(owner, table)
    read = [*(version for one in written for version in one.inputs), *(one.raw for one in refused)]
    return Step(
        owner,
        f"validate.{table.name}",
        written[0].ended if written else max(one.validated_at for one in refused),
        [datasets.table_input(raw, datasets.assertions(results)) for raw in read[:1]],
        [_output(tables, one, lineage, table) for one in written],
        failure="" if written else f"{counted(len(refused), 'delivery')} refused, see {page_key(owner.name)}",
    )


def _accepted(tables: Tables, owner: Namespace, table: Table, written: list[Written]) -> Iterator[ValidationResult]:
    """The results of the deliveries that the commits list."""
    for commit in (commit for one in written for commit in one.commits):
        for entry in commit.get("deliveries", ()):
            result = read_result(tables.store, owner.name, table.name, entry["number"])
            if result is not None:
                yield result


def _materialized(run: FlowRun, tables: Tables) -> Iterator[Step]:
    namespace = run.load_namespace()
    for view in namespace.views:
        written = _written(tables, feature_table(namespace, view.name), run)
        if written is not None:
            lineage = view_lineage(namespace, view)
            columns = namespace.view_columns(view)
            texts = {"description": view.description, "owner": namespace.owner_of(view)}
            yield Step(
                namespace.namespace_of(view.name),
                f"materialize.{view.name}",
                written.ended,
                [datasets.table_input(one) for one in written.inputs],
                [datasets.table_output(tables, written.version, written.before, lineage, columns, **texts)],
                _view_facets(namespace, view),
                inexact=lineage.inexact,
            )


def _view_facets(namespace: Namespace, view: AnyView) -> Document:
    owner = namespace.namespace_of(view.name)
    query = {"query": owner.text(view.sql), "dialect": "duckdb"} if isinstance(view, View) else None
    text = view.description or (f"aggregations of {view.table}" if isinstance(view, Aggregations) else "")
    return facets(sql=query, jobDocumentation=documentation(text), jobOwnership=ownership(namespace.owner_of(view)))


def _trained(run: FlowRun, tables: Tables) -> Iterator[Step]:
    trained = run.result
    if not isinstance(trained, TrainedRun):
        return
    record = runs.load_record(trained.problem, trained.run_id)
    if record.at < run.started:  # an earlier run trained it
        return
    manifest, problem = load_manifest(tables.store, trained.snapshot), run.load_namespace()
    assert isinstance(problem, Problem)
    lineage = snapshot_lineage(problem)
    size = sum(one.bytes for one in tables.store.objects(trained.snapshot.frame_key))
    yield Step(
        problem,
        "train.snapshot",
        record.at,
        [datasets.table_input(one.table) for one in manifest.inputs],
        [datasets.snapshot_output(trained.snapshot, manifest.columns, size, lineage)],
        inexact=lineage.inexact,
    )
    yield Step(
        problem,
        "train.model",
        record.at,
        [datasets.snapshot_input(trained.snapshot)],
        [datasets.run_dataset(problem.name, trained.run_id, model_lineage(problem))],
    )


def _registered(run: FlowRun, tables: Tables) -> Iterator[Step]:
    version = run.result
    if not isinstance(version, ModelVersion):
        return
    entry = registry.ledger(version.problem).entry(version.version)
    problem = run.load_namespace()
    if entry is None or entry.at < run.started or not isinstance(problem, Problem):
        return
    yield Step(
        problem,
        "register.model",
        entry.at,
        [datasets.run_dataset(problem.name, version.run_id)],
        [datasets.model_dataset(version, version_lineage(problem))],
    )


def _scored(run: FlowRun, tables: Tables) -> Iterator[Step]:
    problem = run.load_namespace()
    assert isinstance(problem, Problem)
    written = _written(tables, predictions_table(problem.name), run)
    if written is None:
        return
    last = written.commits[-1]
    version = ModelVersion.model_validate(last["model"])
    source = run.parameters.get("source")
    place = _scored_file(str(source)) if source else None
    with trained_problem(problem, version) as trained:
        names = tables.dataset(written.version).schema.names
        lineage = prediction_lineage(trained, names, place)
        columns = {**trained.request_fields, **trained.features}
        output = datasets.table_output(tables, written.version, written.before, lineage, columns)
    read = [datasets.table_input(TableVersion.model_validate(one)) for one in last["tables"]]
    files = [] if place is None else [datasets.file_input(place)]
    yield Step(
        problem,
        "score.decisions" if place is None else "score.file",
        written.ended,
        [datasets.model_dataset(version), *files, *read],
        [output],
        inexact=lineage.inexact,
    )


def _scored_file(source: str) -> Place:
    """The place of a scored source: a path or glob of files, or a key or glob of object storage."""
    return file(source) if glob.glob(source) else stored(source)  # noqa: PTH207 - the pattern may be absolute


_STEPS: dict[str, Callable[[FlowRun, Tables], Iterator[Step]]] = {
    "ingest": _ingested,
    "validate": _validated,
    "materialize": _materialized,
    "train": _trained,
    "register": _registered,
    "score": _scored,
}
