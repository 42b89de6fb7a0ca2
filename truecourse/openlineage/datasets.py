"""Datasets of events: tables, sources, snapshots and models, with their versions, columns and statistics."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from truecourse.data.deliveries import Delivery
from truecourse.data.validation_report import ValidationResult
from truecourse.hashing import sha256
from truecourse.openlineage import places
from truecourse.openlineage.column_lineage import PREDICTION, ColumnLineage
from truecourse.openlineage.events import Document, documentation, facets, ownership
from truecourse.openlineage.places import Place
from truecourse.problem.namespace import Namespace
from truecourse.problem.schema import AnyColumn, Table
from truecourse.references import ModelVersion, Snapshot, TableVersion
from truecourse.storage.delta_tables import Tables
from truecourse.wording import counted_of

_SEVERITIES = {"critical": "error", "warning": "warn", "info": "info"}
_DELTA = {"storageLayer": "delta", "fileFormat": "parquet"}
_TABLE = {"datasetType": "TABLE"}
_MODEL = {"datasetType": "MODEL"}


def _document(place: Place, dataset_facets: Document, **more: Document) -> Document:
    identity = {"namespace": place.namespace, "name": place.name}
    return {**identity, "facets": dataset_facets, **{name: one for name, one in more.items() if one}}


def _version(text: object) -> dict[str, str]:
    return {"datasetVersion": str(text)}


def _schema(schema: pa.Schema, declared: Mapping[str, AnyColumn]) -> dict[str, Any]:
    """The content of the facet of columns. Descriptions are those of the declaration."""
    fields = []
    for number, column in enumerate(schema, start=1):
        description = declared[column.name].description if column.name in declared else ""
        described = {"description": description} if description else {}
        fields.append({"name": column.name, "type": str(column.type), "ordinal_position": number, **described})
    return {"fields": fields}


def table_input(version: TableVersion, assertions: Document | None = None) -> Document:
    """A version of a table that a step reads. `assertions`: as of assertions()."""
    found = facets(version=_version(version.version), datasetType=_TABLE, storage=_DELTA)
    return _document(places.stored(version.name), found, inputFacets=facets(dataQualityAssertions=assertions))


def table_output(
    tables: Tables,
    version: TableVersion,
    before: TableVersion | None,
    lineage: ColumnLineage,
    declared: Mapping[str, AnyColumn],
    description: str = "",
    owner: str = "",
) -> Document:
    """A version of a table that a step wrote. `before`: the version that it found. `declared`: columns by name."""
    schema = tables.dataset(version).schema
    files, rows, size = tables.added(before, version)
    found = facets(
        version=_version(version.version),
        datasetType=_TABLE,
        storage=_DELTA,
        schema=_schema(schema, declared),
        columnLineage=lineage.facet(schema.names),
        documentation=documentation(description),
        ownership=ownership(owner),
    )
    written = facets(outputStatistics={"rowCount": rows, "size": size, "fileCount": files})
    return _document(places.stored(version.name), found, outputFacets=written)


def source_inputs(namespace: Namespace, table: Table, deliveries: Sequence[Delivery]) -> list[Document]:
    """The sources of a table. `deliveries`: what was read from them; its version is the digest of their bytes."""
    digests = [one.sha256 for one in deliveries]
    version = digests[0] if len(digests) == 1 else sha256("".join(digests).encode())
    fields = [{"name": column.source or name} for name, column in table.columns.items()]
    read = {
        "rowCount": sum(one.rows for one in deliveries),
        "size": sum(one.bytes for one in deliveries),
        "fileCount": len(deliveries),
    }
    found = places.sources(namespace, table)
    alone = len(found) == 1  # of several tables of a query it is not known which has which column
    known = facets(version=_version(version), schema={"fields": fields} if alone else None)
    return [_document(place, known, inputFacets=facets(inputStatistics=read) if alone else {}) for place in found]


def assertions(results: Iterable[ValidationResult]) -> Document | None:
    """The outcome of each rule over the validated deliveries, without values of rows; None if there is none."""
    counts: dict[tuple[str, str, str, str], list[int]] = {}
    for outcome in (outcome for result in results for outcome in result.outcomes):
        key = (outcome.column, outcome.name, outcome.rule, outcome.severity)
        counted = counts.setdefault(key, [0, 0])
        counted[0] += outcome.checked
        counted[1] += outcome.failed
    if not counts:
        return None
    return {
        "assertions": [
            {
                "assertion": name,
                "success": failed == 0,
                **({"column": column} if column else {}),
                "severity": _SEVERITIES[severity],
                "expected": rule,
                "actual": f"{counted_of(failed, checked, 'row')} failed",
            }
            for (column, name, rule, severity), (checked, failed) in counts.items()
        ]
    }


def snapshot_input(snapshot: Snapshot) -> Document:
    return _document(places.snapshots(snapshot.problem), facets(version=_version(snapshot.sha256), datasetType=_TABLE))


def snapshot_output(snapshot: Snapshot, columns: Mapping[str, str], size: int, lineage: ColumnLineage) -> Document:
    """A training frame. `columns`: their types by name. `size`: in bytes."""
    found = facets(
        version=_version(snapshot.sha256),
        datasetType=_TABLE,
        storage={"storageLayer": "object store", "fileFormat": "parquet"},
        schema={"fields": [{"name": name, "type": kind} for name, kind in columns.items()]},
        columnLineage=lineage.facet([*columns]),
    )
    written = facets(outputStatistics={"rowCount": snapshot.rows, "size": size, "fileCount": 1})
    return _document(places.snapshots(snapshot.problem), found, outputFacets=written)


def run_dataset(problem: str, run_id: str, lineage: ColumnLineage | None = None) -> Document:
    """The model of a training run; with `lineage` as an output."""
    return _model(places.models(problem, places.RUNS), run_id, lineage)


def model_dataset(version: ModelVersion, lineage: ColumnLineage | None = None) -> Document:
    """A registered version; with `lineage` as an output."""
    return _model(places.models(version.problem, places.VERSIONS), version.version, lineage)


def _model(place: Place, version: object, lineage: ColumnLineage | None) -> Document:
    known = facets(
        version=_version(version),
        datasetType=_MODEL,
        schema=None if lineage is None else {"fields": [{"name": PREDICTION}]},
        columnLineage=None if lineage is None else lineage.facet([PREDICTION]),
    )
    return _document(place, known)


def file_input(place: Place) -> Document:
    """A file whose rows are scored."""
    return _document(place, facets(datasetType={"datasetType": "FILE"}))
