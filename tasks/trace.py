"""From a model version back to the bytes it was learned from, each link verified again; and the whole way forward."""

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from tasks.snapshot import build_snapshot
from truecourse import lineage, predictionlog, registry, runs
from truecourse.digests import sha256
from truecourse.errors import ModelError, TruecourseError
from truecourse.lineage import Link, link
from truecourse.loading import load_problem, problem_digest
from truecourse.monitoring.moving import problem_of
from truecourse.references import ModelVersion
from truecourse.runs import artifact_key
from truecourse.scoring import scored_by_id
from truecourse.shipping import ship
from truecourse.snapshot import load_frame, load_manifest
from truecourse.tables import Tables
from truecourse.training import library_versions, train, with_parameters


def trace_model(problem: str, number: int) -> dict[str, Any]:
    """{"model": ..., "verified": bool, "links": [{"link", "id", "verified", "detail"}]}, from the version to its
    sources. A broken link does not end the walk as long as the next can be found. Raises ModelError if there is no such
    version."""
    version, tables = registry.version(problem, number), Tables()
    tags = _run_tags(version)
    links = [_version_link(version, tags)]
    links += [_artifact_link(tables, version, name, digest) for name, digest in _digests(tags).items()]
    links += _snapshot_links(problem, tables, version, tags)
    verified = all(item["verified"] for item in links)
    return {"model": version.model_dump(), "verified": verified, "links": links}


def trace_prediction(problem: str, prediction: str) -> dict[str, Any]:
    """{"prediction": its record, "model", "verified", "links"}: the record, then all that trace_model() walks.

    The prediction is looked for in the endpoints' log by its prediction_id, then among batch predictions by the row's
    id. Raises ModelError if it is in neither."""
    tables = Tables()
    record = _recorded(tables, problem, prediction)
    traced = trace_model(problem, record["model_version"])
    same = traced["model"]["model_sha256"] == record["model_sha256"]
    said = f"answered by version {record['model_version']}, SHA-256 {record['model_sha256']}"
    detail = said if same else f"{said}, which is not that version's: {traced['model']['model_sha256']}"
    links = [link("prediction", prediction, same, detail), *traced["links"]]
    return {**traced, "prediction": record, "verified": same and traced["verified"], "links": links}


def _recorded(tables: Tables, problem: str, prediction: str) -> dict[str, Any]:
    found = predictionlog.find(tables, problem, prediction) or scored_by_id(tables, problem, prediction)
    if not found and ship(problem).records:  # an answer of a moment ago
        found = predictionlog.find(tables, problem, prediction)
    if not found:
        cure = "the id is `prediction_id` of an answer, or a scored row's id; `truecourse run ship` brings in the log"
        raise ModelError("no such prediction", where=prediction[:80], cure=cure)
    return found[0]


def _run_tags(version: ModelVersion) -> dict[str, str]:
    return runs.recorded(version.problem, version.run_id).tags


def _digests(tags: Mapping[str, str]) -> dict[str, str]:
    digests: dict[str, str] = json.loads(tags.get("truecourse.artifacts", "{}"))
    return digests


def _version_link(version: ModelVersion, tags: Mapping[str, str]) -> Link:
    """The version, its run and the run's list of files must name the same model."""
    named = {version.model_sha256, tags.get(runs.SHA256), _digests(tags).get("model/model.ubj")}
    detail = f"run {version.run_id}" if len(named) == 1 else "the version and its run name different models"
    return link("version", f"{version.problem} {version.version}", len(named) == 1, detail)


def _artifact_link(tables: Tables, version: ModelVersion, name: str, digest: str) -> Link:
    kind = "model" if name == "model/model.ubj" else "artifact"
    return lineage.verify_object(tables.store, kind, artifact_key(version.run_id, name), digest)


def _snapshot_links(problem: str, tables: Tables, version: ModelVersion, tags: Mapping[str, str]) -> list[Link]:
    snapshot = runs.trained_run(problem, version.run_id).snapshot
    links = [
        lineage.verify_object(tables.store, "snapshot", snapshot.frame_key, snapshot.sha256),
        lineage.verify_object(tables.store, "manifest", snapshot.manifest_key, tags.get("truecourse.manifest", "")),
    ]
    try:
        manifest = load_manifest(tables.store, snapshot)
        recorded = json.loads(runs.artifact(version.run_id, "lineage.json"))
        return (
            links
            + lineage.verify_tables(tables, manifest, recorded)
            + lineage.verify_sources(load_problem(problem), tables, recorded)
        )
    except (TruecourseError, ValueError, KeyError, TypeError) as error:
        # A document that was changed may no longer be read: what lies behind it cannot be vouched for.
        return [*links, link("inputs", snapshot.manifest_key, False, f"cannot be followed further: {error}")]


def reproduce(problem: str, number: int) -> dict[str, Any]:
    """Rebuild the snapshot from the exact table versions it was made from, train again, and compare the bytes.

    {"identical": bool, "recorded_sha256", "rebuilt_sha256", "snapshot": {"identical", "recorded_sha256",
    "rebuilt_sha256"}, "versions": {library: [then, now]}}. Raises ModelError if the problem says something else now.
    """
    version, tables = registry.version(problem, number), Tables()
    run = runs.trained_run(problem, version.run_id)
    manifest = load_manifest(tables.store, run.snapshot)
    spec = problem_of(load_problem(problem), manifest)
    if problem_digest(spec) != _run_tags(version).get("truecourse.problem_digest"):
        cure = "check out the problem's files as they were; model/problem.json of the run says what they said"
        raise ModelError("the problem was changed since", where=f"problem {problem}", cure=cure)
    training = json.loads(runs.artifact(run.run_id, "training.json"))
    rebuilt = build_snapshot(
        spec,
        tables,
        clean=manifest.versions("clean"),
        features=manifest.versions("features"),
        until=_moment(manifest.until),
    )
    trained = train(spec, load_frame(tables.store, rebuilt), with_parameters(spec.model, training["parameters"]))
    digest = sha256(trained.model.ubj())
    return {
        "identical": digest == version.model_sha256 and rebuilt.sha256 == run.snapshot.sha256,
        "recorded_sha256": version.model_sha256,
        "rebuilt_sha256": digest,
        "snapshot": {
            "identical": rebuilt.sha256 == run.snapshot.sha256,
            "recorded_sha256": run.snapshot.sha256,
            "rebuilt_sha256": rebuilt.sha256,
        },
        "versions": {name: [then, library_versions().get(name)] for name, then in training["versions"].items()},
    }


def _moment(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None
