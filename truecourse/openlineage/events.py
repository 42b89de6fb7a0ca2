"""Run events of OpenLineage, as JSON documents: https://openlineage.io/docs/spec/object-model.

A facet is a part of an event with a published schema of its own. Facets without values are left out.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from importlib.metadata import version
from typing import Any, Literal

from truecourse.settings import get_settings

Document = dict[str, Any]
EventType = Literal["START", "COMPLETE", "FAIL", "ABORT"]
_SPECIFICATION = "https://openlineage.io/spec"
_EVENT = f"{_SPECIFICATION}/2-0-2/OpenLineage.json#/$defs/RunEvent"
_FACETS = {
    "columnLineage": ("1-2-0", "ColumnLineageDatasetFacet"),
    "dataQualityAssertions": ("1-1-0", "DataQualityAssertionsDatasetFacet"),
    "datasetType": ("1-0-1", "DatasetTypeDatasetFacet"),
    "documentation": ("1-1-0", "DocumentationDatasetFacet"),
    "errorMessage": ("1-0-1", "ErrorMessageRunFacet"),
    "extractionError": ("1-1-2", "ExtractionErrorRunFacet"),
    "inputStatistics": ("1-0-0", "InputStatisticsInputDatasetFacet"),
    "jobDocumentation": ("1-1-0", "DocumentationJobFacet"),
    "jobOwnership": ("1-0-1", "OwnershipJobFacet"),
    "jobType": ("2-0-4", "JobTypeJobFacet"),
    "outputStatistics": ("1-0-2", "OutputStatisticsOutputDatasetFacet"),
    "ownership": ("1-0-1", "OwnershipDatasetFacet"),
    "parent": ("1-2-0", "ParentRunFacet"),
    "processing_engine": ("1-1-1", "ProcessingEngineRunFacet"),
    "schema": ("1-2-0", "SchemaDatasetFacet"),
    "sourceCodeLocation": ("1-1-0", "SourceCodeLocationJobFacet"),
    "sql": ("1-1-0", "SQLJobFacet"),
    "storage": ("1-0-1", "StorageDatasetFacet"),
    "version": ("1-0-1", "DatasetVersionDatasetFacet"),
}
"""By name: the version of the facet's schema, and its type. A job's facets have names of their own here."""


@lru_cache(maxsize=1)
def producer() -> str:
    """The URI of the program that sends the events."""
    return f"urn:truecourse:{version('truecourse')}"


def facets(**contents: Mapping[str, Any] | None) -> Document:
    """Facets by name, without those that are None. `job...`: a facet of jobs, as `jobOwnership` for `ownership`."""
    found = {}
    for name, content in contents.items():
        if content is not None:
            number, kind = _FACETS[name]
            url = f"{_SPECIFICATION}/facets/{number}/{kind}.json#/$defs/{kind}"
            plain = {"jobOwnership": "ownership", "jobDocumentation": "documentation"}.get(name, name)
            found[plain] = {"_producer": producer(), "_schemaURL": url, **_without_none(content)}
    return found


def _without_none(content: Mapping[str, Any]) -> Document:
    return {name: value for name, value in content.items() if value is not None}


def documentation(text: str) -> Document | None:
    return {"description": text, "contentType": "text/plain"} if text else None


def ownership(owner: str) -> Document | None:
    return {"owners": [{"name": owner, "type": "OWNER"}]} if owner else None


@dataclass(frozen=True)
class Job:
    """A job of the settings' namespace, and its facets."""

    name: str
    facets: Document = field(default_factory=dict)

    @property
    def identity(self) -> Document:
        return {"namespace": get_settings().openlineage_namespace, "name": self.name}


@dataclass(frozen=True)
class Run:
    """A run of a job. `id`: a UUID. `parents`: the runs that it is part of, the nearest first."""

    id: str
    job: Job
    parents: tuple["Run", ...] = ()

    @property
    def _parent(self) -> Document | None:
        if not self.parents:
            return None
        parent, root = self.parents[0], self.parents[-1]
        return {**parent._reference, "root": root._reference}

    @property
    def _reference(self) -> Document:
        return {"run": {"runId": self.id}, "job": self.job.identity}

    def event(
        self,
        kind: EventType,
        at: datetime,
        inputs: Iterable[Document] = (),
        outputs: Iterable[Document] = (),
        **contents: Mapping[str, Any] | None,
    ) -> Document:
        """A run event at a time (UTC). `contents`: further facets of the run."""
        engine = {"name": "truecourse", "version": version("truecourse")}
        run_facets = facets(parent=self._parent, processing_engine=engine, **contents)
        return {
            "eventType": kind,
            "eventTime": at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "producer": producer(),
            "schemaURL": _EVENT,
            "run": {"runId": self.id, "facets": run_facets},
            "job": {**self.job.identity, "facets": self.job.facets},
            "inputs": list(inputs),
            "outputs": list(outputs),
        }


def error_message(message: str) -> Document:
    return {"message": message, "programmingLanguage": "python"}
