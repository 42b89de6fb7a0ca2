"""Verification of MLflow's copy of a version: parameters, metrics, tags and the run's files."""

import json
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from truecourse.errors import NotFound, TruecourseError
from truecourse.references import ModelVersion
from truecourse.registry import mlflow_mirror, mlflow_runs, runs
from truecourse.registry import versions as registry
from truecourse.settings import get_settings
from truecourse.storage.lineage_links import Link, link, unknown_link
from truecourse.storage.object_store import ObjectStore
from truecourse.wording import counted

_WRITE = "run `truecourse mirror write`"


@dataclass(frozen=True)
class Shown:
    """What MLflow shows for a run and its version. `metrics`: values and steps by name, in order of time.
    `version_tags`: None if MLflow has no such version."""

    run_id: str
    parameters: Mapping[str, str]
    metrics: Mapping[str, list[tuple[float, int]]]
    tags: Mapping[str, str]
    version_tags: Mapping[str, str] | None


def mirror_links(store: ObjectStore, version: ModelVersion) -> Iterator[Link]:
    """Compare MLflow's copy with our records. Missing or unreadable parts are unknown, different ones are changed."""
    kind, name = "MLflow version", f"{version.problem} {version.version}"
    if mlflow_runs.is_new():
        yield unknown_link("MLflow run", version.run_id, f"MLflow's database does not exist; {_WRITE}")
        return
    try:
        shown = _shown(version)
        wanted = mlflow_mirror.expected_tags(version, registry.tags(version))
    except TruecourseError as error:
        yield unknown_link("MLflow run", version.run_id, error.what)
        return
    if shown is None:
        yield unknown_link("MLflow run", version.run_id, f"MLflow shows no such run; {_WRITE}")
        return
    yield _comparison_link("MLflow run", version.run_id, [*_run_differences(shown, version)])
    yield _copies(store, shown.run_id, version)
    if shown.version_tags is None:
        yield unknown_link(kind, name, f"MLflow shows no such version; {_WRITE}")
    else:
        yield _comparison_link(kind, name, _unequal("tag", wanted, shown.version_tags))


def _shown(version: ModelVersion) -> Shown | None:
    """Read what MLflow shows for a version; None if it has no such run. Raises MirrorError if it cannot be read."""
    uri = get_settings().mlflow_tracking_uri
    if uri.startswith("sqlite:///"):
        try:
            with closing(sqlite3.connect(f"file:{uri.removeprefix('sqlite:///')}?mode=ro", uri=True)) as database:
                if (found := _read_database(database, version)) is not None:
                    return found
        except sqlite3.Error:  # damaged, or of another version of MLflow: its client reports the error
            pass
    return _read_client(version)


def _read_database(database: sqlite3.Connection, version: ModelVersion) -> Shown | None:
    """Read the database without importing MLflow, which takes longer than the rest of a trace.

    None if MLflow has the version under another number or run than ours."""

    def pairs(query: str, *values: object) -> dict[str, str]:
        return dict(database.execute(query, values).fetchall())

    run, problem, number = version.run_id, version.problem, version.version
    if not database.execute("SELECT 1 FROM runs WHERE run_uuid = ?", [run]).fetchall():
        return None
    tags = pairs("SELECT key, value FROM model_version_tags WHERE name = ? AND version = ?", problem, number)
    if tags.get(mlflow_mirror.VERSION) != str(number):
        return None
    metrics: dict[str, list[tuple[float, int]]] = {}
    query = "SELECT key, value, step FROM metrics WHERE run_uuid = ? ORDER BY timestamp, step"
    for name, value, step in database.execute(query, [run]):
        metrics.setdefault(name, []).append((value, step))
    return Shown(
        run_id=run,
        parameters=pairs("SELECT key, value FROM params WHERE run_uuid = ?", run),
        metrics=metrics,
        tags=pairs("SELECT key, value FROM tags WHERE run_uuid = ?", run),
        version_tags=tags,
    )


def _read_client(version: ModelVersion) -> Shown | None:
    client = mlflow_runs.connect_mlflow()
    run, shown = mlflow_mirror.mlflow_run(client, version.run_id), mlflow_mirror.find_entry(client, version)
    if run is None:
        return None
    metrics = {}
    for name in run.data.metrics:
        found = client.get_metric_history(run.info.run_id, name)
        metrics[name] = [(one.value, one.step) for one in sorted(found, key=lambda one: (one.timestamp, one.step))]
    tags = shown.tags if shown is not None else None
    return Shown(run.info.run_id, run.data.params, metrics, run.data.tags, tags)


def _comparison_link(kind: str, id: str, different: list[str]) -> Link:
    more = f" and {len(different) - 3} more" if len(different) > 3 else ""
    return link(kind, id, not different, "; ".join(different[:3]) + more if different else "equal to our records")


def _unequal(what: str, wanted: Mapping[str, Any], shown: Mapping[str, Any]) -> list[str]:
    return [
        f"{what} {name} is {shown.get(name)!r:.60}, recorded {value!r:.60}"
        for name, value in wanted.items()
        if shown.get(name) != value
    ]


def _run_differences(shown: Shown, version: ModelVersion) -> Iterator[str]:
    try:
        account: dict[str, Any] = json.loads(runs.artifact(version.run_id, "training.json"))
        entry = runs.load_record(version.problem, version.run_id)
        trained = mlflow_runs.training_metrics(account)
        parameters = mlflow_runs.logged_parameters(account)
    except (TruecourseError, ValueError, KeyError, TypeError) as error:  # its own link reports the error
        yield f"cannot be compared: {error}"
        return
    yield from _unequal("parameter", parameters, shown.parameters)
    yield from _unequal("tag", entry.tags, shown.tags)
    curves: dict[str, set[tuple[float, int]]] = {}
    for name, value, step in trained:
        curves.setdefault(name, set()).add((value, step))
    yield from _unequal("metric", curves, {name: set(values) for name, values in shown.metrics.items()})
    try:
        report = json.loads(runs.artifact(version.run_id, "report.json"))
        newest = {name: values[-1][0] for name, values in shown.metrics.items()}
        yield from _unequal("metric", mlflow_runs.evaluation_metrics(report), newest)
    except NotFound:  # it was never evaluated
        return
    except (ValueError, KeyError, TypeError) as error:
        yield f"metrics of the evaluation cannot be compared: {error}"


def _copies(store: ObjectStore, place: str, version: ModelVersion) -> Link:
    """Compare MLflow's copies of a run's files with the originals."""
    kind, prefix = "MLflow artifacts", runs.artifact_key(version.run_id, "")
    ours = {key.removeprefix(prefix): key for key in store.list(prefix)}
    copies = {name: mlflow_runs.run_artifact_key(place, name) for name in ours}
    there = set(store.list(mlflow_runs.run_artifact_key(place, "")))
    if missing := [name for name, key in copies.items() if key not in there]:
        return unknown_link(kind, place, f"{counted(len(missing), 'copy')} missing: {missing[0]}; {_WRITE}")
    for name, key in copies.items():
        if store.digest(key) != store.digest(ours[name]):
            return link(kind, place, False, f"{name} differs from the run's file")
    return link(kind, place, True, f"{counted(len(copies), 'copy')} compared with the run's files")
