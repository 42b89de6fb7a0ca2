"""Trace a model version or a prediction back to its source data, and verify each link."""

import json
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from truecourse.errors import IntegrityError, ModelError, StorageError, TruecourseError
from truecourse.lineage import feature_origins, mlflow_links, prediction_links, version_links
from truecourse.lineage.version_links import MODEL, artifacts_of
from truecourse.modeling.snapshot import load_manifest
from truecourse.references import ModelVersion
from truecourse.registry import lineage_record, runs
from truecourse.registry import versions as registry
from truecourse.serving import prediction_log
from truecourse.serving.batch_scoring import find_scored_rows, predictions_table
from truecourse.serving.log_shipping import damaged_segments, ship
from truecourse.storage import file_digests
from truecourse.storage.delta_tables import Tables
from truecourse.storage.lineage_links import Link, combined_state, unknown_link, verify_object


def trace_model(problem: str, number: int) -> dict[str, Any]:
    """Verify the lineage of a version, from the version to its sources.

    Returns {"model": ..., "state": "verified", "changed", "redacted" or "unknown", "verified": bool, "links":
    [truecourse.storage.lineage_links.Link]}. A broken link does not end the trace if the next one can be found. Raises
    ModelError if there is no such version."""
    version, tables = registry.version(problem, number), Tables()
    links = version_links.run_links(tables.store, version)
    tags = _run_tags(version)
    links += [_artifact_link(tables, version, name, digest) for name, digest in artifacts_of(tags).items()]
    links += version_links.gate_links(tables.store, version)
    links += version_links.package_links(tables.store, version)
    links.append(version_links.alias_link(problem))
    links += version_links.deployment_links(tables.store, version)
    links += mlflow_links.mirror_links(tables.store, version)
    links += _snapshot_links(problem, tables, version, tags)
    state = combined_state(links)
    return {"model": version.model_dump(), "state": state, "verified": state == "verified", "links": links}


def _run_tags(version: ModelVersion) -> dict[str, str]:
    try:
        return runs.load_record(version.problem, version.run_id).tags
    except (TruecourseError, ValueError):  # the link of the run reports it
        return {}


def _artifact_link(tables: Tables, version: ModelVersion, name: str, digest: str) -> Link:
    kind = "model" if name == MODEL else "artifact"
    return verify_object(tables.store, kind, runs.artifact_key(version.run_id, name), digest)


def _snapshot_links(problem: str, tables: Tables, version: ModelVersion, tags: Mapping[str, str]) -> list[Link]:
    try:
        snapshot = runs.trained_run(problem, version.run_id).snapshot
    except (TruecourseError, ValueError) as error:
        return [unknown_link("snapshot", version.run_id, f"its run's record cannot be read: {error}")]
    links = [
        verify_object(tables.store, "snapshot", snapshot.frame_key, snapshot.sha256),
        verify_object(tables.store, "manifest", snapshot.manifest_key, tags.get("truecourse.manifest", "")),
    ]
    try:
        manifest = load_manifest(tables.store, snapshot)
        recorded = json.loads(runs.artifact(version.run_id, "lineage.json"))
        links += lineage_record.verify_tables(tables, manifest, recorded)
        links += lineage_record.verify_validation(tables, recorded)
        return links + lineage_record.verify_sources(problem, tables, recorded)
    except (TruecourseError, ValueError, KeyError, TypeError) as error:
        # A changed document may be unreadable; the links behind it are unknown then.
        return [*links, unknown_link("inputs", snapshot.manifest_key, f"the next links cannot be read: {error}")]


def trace_prediction(problem: str, prediction: str) -> dict[str, Any]:
    """Verify and recompute a prediction, then trace its model.

    Returns {"prediction": its record, "model", "state", "verified", "links", "features", "origins"}, with the links of
    trace_model(), and the source rows of each feature (truecourse.lineage.feature_origins). The prediction is looked up
    in the endpoints' log by its prediction_id, then among batch predictions by the row's id. Raises ModelError if it is
    in neither."""
    tables = Tables()
    record = _find_record(tables, problem, prediction)
    version = registry.version(problem, record["model_version"])
    links = prediction_links.prediction_links(tables, record, version)
    traced = trace_model(problem, version.version)
    links += traced["links"]
    state = combined_state(links)
    about = {"prediction": record, "state": state, "verified": state == "verified", "links": links}
    return {**traced, **about, **feature_origins.prediction_origins(tables, record, version)}


def _find_record(tables: Tables, problem: str, prediction: str) -> dict[str, Any]:
    """Find a prediction's record. Raises IntegrityError if a file that may contain it was changed and is unreadable."""
    try:
        records = prediction_log.find_records(tables, problem, prediction)
        records = records or find_scored_rows(tables, problem, prediction)
        if not records and ship(problem).records:  # a very recent prediction
            records = prediction_log.find_records(tables, problem, prediction)
    except (StorageError, ValueError, pa.ArrowException) as error:
        names = (prediction_log.log_table(problem), predictions_table(problem))
        broken = [link for name in names for link in file_digests.find_changed(tables.store, name)]
        if not broken:
            raise
        what = f"the prediction cannot be read: a file of its table was changed, {broken[0]['detail']}"
        raise IntegrityError(what, where=broken[0]["id"], hint="restore it from a backup") from error
    if records:
        return records[0]
    hint = "give the `prediction_id` of a response, or a scored row's id; `truecourse run ship` ships the log"
    if damaged := damaged_segments(problem):
        hint = f"it may be in a log segment that was damaged before it was shipped: {damaged[0]}"
    raise ModelError("no such prediction", where=prediction[:80], hint=hint)
