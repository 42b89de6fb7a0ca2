"""Removal of model versions, training runs and MLflow's runs that nothing needs."""

import logging
from collections.abc import Iterator, Sequence
from functools import partial

from truecourse.deployment.bento import load_package, package_key
from truecourse.errors import MirrorError
from truecourse.evaluation.experiment_pages import page_file
from truecourse.references import ModelVersion
from truecourse.registry import aliases, mlflow_mirror, mlflow_runs, runs
from truecourse.registry import versions as registry
from truecourse.registry.runs import RunRecord
from truecourse.retention.inventory import version_id
from truecourse.retention.kept_versions import alias_reasons
from truecourse.retention.marking import Item
from truecourse.retention.removal import Context, Removal, in_days
from truecourse.storage.object_store import ObjectStore

log = logging.getLogger("truecourse.retention")
MODELS = ("version", "run")


def is_mlflow_writable(problem: str) -> bool:
    """Whether MLflow can be updated; without it no model is removed, so that its registry names no removed version."""
    try:
        if not mlflow_runs.is_new():
            mlflow_runs.connect_mlflow().get_experiment_by_name(problem)
    except MirrorError as error:
        log.warning("no models deleted, since MLflow cannot be updated: %s", error)
        return False
    return True


def removed_models(context: Context, unneeded: Sequence[Item], records: Sequence[RunRecord]) -> Iterator[Removal]:
    """The removal of unneeded versions and runs; versions first, since they refer to runs."""
    gone = {item.id: item for item in unneeded if item.kind in MODELS}
    entries = registry.ledger(context.problem).entries()
    versions = [one.of(context.problem) for one in entries if version_id(context.problem, one.number) in gone]
    loose = [one for one in records if runs.record_key(context.problem, one.run.run_id) in gone]
    age = in_days(context.settings.model_retention)
    if versions:
        size = sum(one.bytes for version in versions for one in context.store.objects(_bentos(version)))
        reason = f"created or last used more than {age} ago, and no longer needed"
        yield Removal("versions", len(versions), size, reason, partial(_delete_versions, context, versions))
    if loose:
        size = sum(gone[runs.record_key(context.problem, one.run.run_id)].bytes for one in loose)
        reason = f"finished more than {age} ago, and no kept version is of them"
        yield Removal("runs", len(loose), size, reason, partial(_delete_runs, context, loose))


def removed_mlflow_runs(context: Context, records: Sequence[RunRecord]) -> Iterator[Removal]:
    """MLflow's old runs without a model of ours: trials, searches and failed trainings. `records`: our runs."""
    limit = context.limit(context.settings.model_retention)
    if limit is None or mlflow_runs.is_new():
        return
    client = mlflow_runs.connect_mlflow()
    place = client.get_experiment_by_name(context.problem)
    if place is None or place.lifecycle_stage == "deleted":
        return
    ours, token, found = {one.run.run_id for one in records}, None, []
    query = f"attributes.end_time < {int(limit.timestamp() * 1000)} and tags.`mlflow.source.name` LIKE 'truecourse %'"
    while True:
        page = client.search_runs([place.experiment_id], query, max_results=1000, page_token=token)
        found += [run.info.run_id for run in page if not {run.info.run_id, run.data.tags.get(mlflow_runs.RUN)} & ours]
        token = page.token
        if not token:
            break

    def remove() -> None:
        for run_id in found:
            client.delete_run(run_id)

    if found:
        reason = f"ended more than {in_days(context.settings.model_retention)} ago, and have no model"
        yield Removal("runs of tuning and failed ones in MLflow", len(found), 0, reason, remove)


def _bentos(version: ModelVersion) -> str:
    return f"bentos/{version.problem}/{version.version}-"


def _delete_versions(context: Context, versions: Sequence[ModelVersion]) -> None:
    """Delete versions in MLflow, then their objects, and last their entries, by which a repetition finds them. A
    version that became champion or challenger meanwhile stays."""
    needed = alias_reasons(aliases.history(context.problem), context.settings.champion_retention)
    versions = [version for version in versions if version.version not in needed]
    if not mlflow_runs.is_new():
        client = mlflow_runs.connect_mlflow()
        for version in versions:
            there = mlflow_mirror.find_entry(client, version)
            if there is not None:
                client.delete_model_version(version.problem, there.version)
    for version in versions:
        _delete_objects(context.store, version)
    for version in versions:
        context.store.delete(registry.ledger(version.problem).key(version.version))


def _delete_objects(store: ObjectStore, version: ModelVersion) -> None:
    problem, number = version.problem, version.version
    if load_package(problem, number) is not None:
        store.delete(package_key(problem, number))
    delete_prefix(store, _bentos(version))
    delete_prefix(store, f"models/{problem}/tries/{number:09d}/")
    for key in (f"inference/{problem}/{number}.json", registry.tags_key(problem, number)):
        store.delete(key)


def _delete_runs(context: Context, loose: Sequence[RunRecord]) -> None:
    """Delete runs in MLflow and their objects, unless a version of a run was registered meanwhile."""
    if not mlflow_runs.is_new():
        client = mlflow_runs.connect_mlflow()
        for one in loose:
            run = mlflow_mirror.mlflow_run(client, one.run.run_id)
            if run is not None and run.info.lifecycle_stage == "active":
                client.delete_run(run.info.run_id)
    with registry.lock(context.problem):
        registered = {version.run_id for version in registry.versions(context.problem)}
        for one in loose:
            if one.run.run_id not in registered:
                delete_run(context.store, one)


def delete_run(store: ObjectStore, one: RunRecord) -> None:
    """Delete the objects of a run: its pages, its copy for MLflow, its record and its files."""
    run_id = one.run.run_id
    for page in (f"model-{run_id}.html", page_file("select", run_id)):
        store.delete(f"reports/{one.run.problem}/{page}")
    delete_prefix(store, mlflow_runs.run_artifact_key(run_id, ""))
    runs.delete_run(store, one)


def delete_prefix(store: ObjectStore, prefix: str) -> None:
    for key in list(store.list(prefix)):
        store.delete(key)
