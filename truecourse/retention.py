"""Retention: deletion of old training runs, versions, frames, reports and days of the prediction log.

Never deleted: versions that are or were champion, are challenger, answered or shadowed requests, were deployed, scored
rows that still exist, or belong to a retraining in the current findings; the newest version and run; and the runs and
frames of all these. Every step is safe to repeat: an object is deleted before what refers to it.
"""

import json
import logging
import re
import shutil
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import get_args

import pyarrow.compute as pc
from pydantic import Field

from truecourse import processes
from truecourse.deployment.bento import load_package, package_key
from truecourse.errors import MirrorError, ModelError, NotFound
from truecourse.monitoring import report_store
from truecourse.monitoring.alerts import alert_record as record
from truecourse.monitoring.findings import Check
from truecourse.references import ModelVersion, StoredRecord, UtcTime
from truecourse.registry import aliases, mlflow_mirror, mlflow_runs, runs
from truecourse.registry import versions as registry
from truecourse.registry.runs import RunRecord
from truecourse.serving.batch_scoring import MODEL_VERSION, predictions_table
from truecourse.serving.prediction_log import PARTITION, log_table
from truecourse.settings import Settings, get_settings
from truecourse.storage.delta_tables import Tables
from truecourse.storage.object_store import ObjectStore, open_store
from truecourse.stored_format import FORMER_HISTOGRAMS, HISTOGRAMS

log = logging.getLogger("truecourse.retention")
PERIOD = timedelta(hours=20)
"""Minimum time between two cleanups."""
_DIGEST = re.compile("[0-9a-f]{64}")
_WINDOW = re.compile(r"(drift|evidently)-\d{8}T\d{4}-(?P<end>\d{8}T\d{4})\.(html|parquet)")
_ENTRIES = 200
"""The number of newest entries of the findings ledger that are always kept."""


class RetentionState(StoredRecord):
    """State between cleanups. `cleaned`: time of the last one. `unused`: since when (UTC) a frame belongs to no run."""

    cleaned: UtcTime
    unused: dict[str, UtcTime] = Field(default_factory=dict)


def clean(problem: str, now: datetime) -> dict[str, int] | None:
    """Delete what is older than the settings allow; returns the number of each kind.

    None if the last cleanup was less than PERIOD ago. `now`: wall clock, UTC. Raises StorageError."""
    store, settings, tables = open_store(), get_settings(), Tables()
    before = _load_state(store, problem)
    if before is not None and now - before.cleaned < PERIOD:
        return None
    unused = before.unused if before else {}
    removed = _clean_reports(store, problem, settings) | _clean_log(tables, problem, settings)
    if settings.model_retention:
        limit = now - timedelta(days=settings.model_retention)
        removed |= _clean_models(store, tables, problem, limit)
        unused, removed["frames"] = _clean_frames(store, problem, unused, now, limit)
        removed["unpacked Bentos"] = clean_unpacked(store, settings.home / "serving")
    store.put(_state_key(problem), RetentionState(cleaned=now, unused=unused).model_dump_json().encode())
    log.info("removed: %s", ", ".join(f"{count} {kind}" for kind, count in removed.items() if count) or "nothing")
    return removed


def _state_key(problem: str) -> str:
    return f"retention/{problem}.json"


def _load_state(store: ObjectStore, problem: str) -> RetentionState | None:
    try:
        return RetentionState.model_validate_json(store.get(_state_key(problem)))
    except NotFound:
        return None


def kept_versions(store: ObjectStore, problem: str) -> set[int]:
    """Return the numbers of the versions that are always kept, apart from those named in rows of predictions."""
    entries, kept = aliases.history(problem), set[int]()
    for entry in entries:
        kept |= {entry.champion.version} if entry.champion else set()
        kept |= {entry.challenger.version} if entry.challenger and (entry.shadow or entry.share) else set()
    if entries and entries[-1].challenger:
        kept.add(entries[-1].challenger.version)
    for key in store.list("deployments/"):
        if key.split("/")[2] == problem:
            kept.add(json.loads(store.get(key))["version"]["version"])
    stands = record.load_record(store, problem)
    kept |= {attempt.version for attempt in (stands.attempts if stands else ()) if attempt.version is not None}
    return kept | set(registry.ledger(problem).numbers()[-1:])


def _clean_models(store: ObjectStore, tables: Tables, problem: str, limit: datetime) -> dict[str, int]:
    """Delete versions and runs older than the limit that nothing refers to; none if MLflow cannot be updated."""
    kept, entries = kept_versions(store, problem), registry.ledger(problem).entries()
    old = [entry.of(problem) for entry in entries if entry.at < limit and entry.number not in kept]
    if old:
        used = _versions_with_rows(tables, problem)
        old = [version for version in old if version.version not in used]
    gone = {version.version for version in old}
    held = {entry.run_id for entry in entries if entry.number not in gone} | _held_runs(store, problem)
    loose = [one for one in _records(problem) if one.at < limit and one.run.run_id not in held]
    try:
        shown = _clean_mlflow(problem, old, loose, limit)
    except MirrorError as error:
        log.warning("no models deleted, since MLflow cannot be updated: %s", error)
        return {"versions": 0, "runs": 0}
    for version in old:
        _delete_version(store, version)
    for one in loose:
        delete_run(store, one)
    for version in old:  # last: an interrupted cleanup finds the version again
        store.delete(registry.ledger(problem).key(version.version))
    return {"versions": len(old), "runs": len(loose), "runs of tuning and failed ones in MLflow": shown}


def _versions_with_rows(tables: Tables, problem: str) -> set[int]:
    """Return the versions named in rows of predictions, logged or scored in batch."""
    found = set[int]()
    for name, column in ((log_table(problem), "model_version"), (predictions_table(problem), MODEL_VERSION)):
        reference = tables.version(name)
        if reference is not None:
            found |= set(pc.unique(tables.read(reference, columns=[column])[column]).to_pylist())
    return found


def _held_runs(store: ObjectStore, problem: str) -> set[str]:
    """Return the runs that are kept without a version: the newest, and those of retraining attempts."""
    try:
        held = {runs.trained_run(problem).run_id}
    except ModelError:
        held = set()
    stands = record.load_record(store, problem)
    return held | {attempt.run_id for attempt in (stands.attempts if stands else ()) if attempt.run_id is not None}


def _records(problem: str) -> Iterator[RunRecord]:
    return (runs.load_record(problem, run_id) for run_id in runs.run_ids(problem))


def _clean_mlflow(problem: str, old: Iterable[ModelVersion], loose: Iterable[RunRecord], limit: datetime) -> int:
    """Delete in MLflow these versions and runs, and old runs without a model (trials, searches, failed trainings).

    Returns the number of the latter. Raises MirrorError."""
    if mlflow_runs.is_new():
        return 0
    client, going = mlflow_runs.connect_mlflow(), {one.run.run_id for one in loose}
    for version in old:
        there = mlflow_mirror.find_entry(client, version)
        if there is not None:
            client.delete_model_version(problem, there.version)
    for run_id in going:
        run = mlflow_mirror.mlflow_run(client, run_id)
        if run is not None and run.info.lifecycle_stage == "active":
            client.delete_run(run.info.run_id)
    place = client.get_experiment_by_name(problem)
    if place is None or place.lifecycle_stage == "deleted":
        return 0
    ours, token, others = set(runs.run_ids(problem)), None, []
    query = f"attributes.end_time < {int(limit.timestamp() * 1000)} and tags.`mlflow.source.name` LIKE 'truecourse %'"
    while True:
        page = client.search_runs([place.experiment_id], query, max_results=1000, page_token=token)
        others += [run.info.run_id for run in page if not {run.info.run_id, run.data.tags.get(mlflow_runs.RUN)} & ours]
        token = page.token
        if not token:
            break
    for run_id in others:
        client.delete_run(run_id)
    return len(others)


def _delete_version(store: ObjectStore, version: ModelVersion) -> None:
    problem, number = version.problem, version.version
    if load_package(problem, number) is not None:
        store.delete(package_key(problem, number))
    _delete(store, f"bentos/{problem}/{number}-")
    for key in (f"inference/{problem}/{number}.json", registry.tags_key(problem, number)):
        store.delete(key)


def delete_run(store: ObjectStore, one: RunRecord) -> None:
    run_id = one.run.run_id
    store.delete(f"reports/{one.run.problem}/model-{run_id}.html")
    _delete(store, mlflow_runs.run_artifact_key(run_id, ""))
    runs.delete_run(store, one)


def _delete(store: ObjectStore, prefix: str) -> int:
    keys = list(store.list(prefix))
    for key in keys:
        store.delete(key)
    return len(keys)


def _clean_frames(
    store: ObjectStore, problem: str, unused: dict[str, datetime], now: datetime, limit: datetime
) -> tuple[dict[str, datetime], int]:
    """Delete training frames that have belonged to no run since before the limit.

    Returns the remaining unused frames, each with the time since when, and the number of deleted ones."""
    used = {one.run.snapshot.sha256 for one in _records(problem)}
    there = {key.split("/")[2] for key in store.list(f"snapshots/{problem}/")} - {"inputs"}
    since = {sha: unused.get(sha, now) for sha in there - used}
    gone = [sha for sha, moment in since.items() if moment < limit]
    for sha in gone:
        store.delete(f"snapshots/{problem}/{sha}/manifest.json")  # first: a frame exists if its manifest does
        _delete(store, f"snapshots/{problem}/{sha}/")
        store.delete(f"tuning/{problem}/{sha}.json")
    return {sha: moment for sha, moment in since.items() if sha not in gone}, len(gone)


def clean_unpacked(store: ObjectStore, place: Path) -> int:
    """Delete unpacked Bentos on this machine that are no longer in storage, of any problem; returns their number.

    Bentos of running servers are kept."""
    packed = {key.rpartition("-")[2].removesuffix(".bento") for key in store.list("bentos/") if key.endswith(".bento")}
    digests = [folder for folder in place.glob("*") if _DIGEST.fullmatch(folder.name)]
    unpacked = [folder for folder in digests if folder.name[:12] not in packed]
    used = processes.command_line_words() if unpacked else set()
    gone = [folder for folder in unpacked if str(folder) not in used]
    for folder in gone:
        shutil.rmtree(folder, ignore_errors=True)
    return len(gone)


def _clean_reports(store: ObjectStore, problem: str, settings: Settings) -> dict[str, int]:
    """Delete old reports, daily histograms and findings; ages are relative to the newest of each kind, since they may
    be dated by the data's clock."""
    removed = {"reports": 0, "histograms": 0, "findings": 0}
    if not settings.report_retention:
        return removed
    days = timedelta(days=settings.report_retention)
    for check in get_args(Check):
        removed["reports"] += report_store.expire(store, problem, check, days)
    removed["reports"] += _clean_windows(store, problem, days)
    by_key: dict[str, list[str]] = {}
    for key in [key for place in (HISTOGRAMS, FORMER_HISTOGRAMS) for key in store.list(f"{place}/{problem}/")]:
        folder, _, name = key.rpartition("/")
        if name.removesuffix(".json").isdecimal():
            by_key.setdefault(folder, []).append(name)
    for folder, names in by_key.items():
        first = f"{datetime.strptime(max(names), '%Y%m%d.json').replace(tzinfo=UTC) - days:%Y%m%d}.json"
        removed["histograms"] += sum(_delete(store, f"{folder}/{name}") for name in names if name < first)
    removed["findings"] = _clean_record(store, problem, days)
    return removed


def _clean_windows(store: ObjectStore, problem: str, days: timedelta) -> int:
    """Delete pages and samples named after a time window; ages are relative to the newest window."""
    place, ends = f"reports/{problem}/", dict[str, str]()
    for key in store.list(place):
        named = _WINDOW.fullmatch(key.removeprefix(place))
        if named:
            ends[key] = named["end"]
    if not ends:
        return 0
    first = f"{datetime.strptime(max(ends.values()), '%Y%m%dT%H%M').replace(tzinfo=UTC) - days:%Y%m%dT%H%M}"
    return sum(_delete(store, key) for key, end in ends.items() if end < first)


def _clean_record(store: ObjectStore, problem: str, days: timedelta) -> int:
    book, removed = record.open_ledger(store, problem), 0
    newest = book.newest()
    if newest is None:
        return 0
    for number in book.numbers()[:-_ENTRIES]:
        entry = book.entry(number)
        if entry is None or newest.at - entry.at < days:
            break
        store.delete(book.key(number))
        removed += 1
    return removed


def _clean_log(tables: Tables, problem: str, settings: Settings) -> dict[str, int]:
    """Delete days of the prediction log, relative to its newest one, and after a week files replaced by compaction."""
    name = log_table(problem)
    reference = tables.version(name)
    if reference is None:
        return {}
    removed, first, newest = 0, "", tables.newest(name, "at")
    if settings.log_retention and newest is not None:
        first = f"{newest - timedelta(days=settings.log_retention):%Y-%m-%d}"
        removed = tables.count(reference, [(PARTITION, "<", first)])
    if removed:
        tables.delete(name, f"{PARTITION} < '{first}'", {"flow": "cleanup", "before": first})
    tables.vacuum(name)
    return {"logged predictions": removed}
