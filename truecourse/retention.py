"""How long what piles up is kept: training runs and versions that nothing needs, frames, reports, the prediction log.

Kept whatever its age: every version that is or was champion, is challenger, answered or shadowed requests, was
deployed, scored rows that are still there, or is a retraining's that the record of findings still tells of; the newest
version and run; and every run and frame of these. Each step is safe to repeat: what refers to a thing goes after it.
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
from truecourse.monitoring.alerts import history as record
from truecourse.monitoring.findings import Check
from truecourse.references import ModelVersion, Reference, UtcTime
from truecourse.registry import aliases, mirror, mlflow_runs, runs
from truecourse.registry import versions as registry
from truecourse.registry.runs import RunRecord
from truecourse.serving.batch_scoring import MODEL_VERSION, predictions_table
from truecourse.serving.prediction_log import PARTITION, log_table
from truecourse.settings import Settings, get_settings
from truecourse.storage.object_store import ObjectStore, open_store
from truecourse.storage.tables import Tables

log = logging.getLogger("truecourse.retention")
PERIOD = timedelta(hours=20)
"""It is enough to clean up once a day."""
_DIGEST = re.compile("[0-9a-f]{64}")
_WINDOW = re.compile(r"(drift|evidently)-\d{8}T\d{4}-(?P<end>\d{8}T\d{4})\.(html|parquet)")
_ENTRIES = 200
"""So many of the newest entries of the record of findings stay, however old."""


class Memory(Reference):
    """`cleaned`: when this was done last; `unused`: since when (UTC) a frame is known to belong to no run."""

    cleaned: UtcTime
    unused: dict[str, UtcTime] = Field(default_factory=dict)


def clean(problem: str, now: datetime) -> dict[str, int] | None:
    """Remove what the settings keep no longer: how many of each kind. None where it was done less than a day ago.

    `now`: by the wall clock, UTC. Raises StorageError."""
    store, settings, tables = open_store(), get_settings(), Tables()
    before = _memory(store, problem)
    if before is not None and now - before.cleaned < PERIOD:
        return None
    unused = before.unused if before else {}
    removed = _clean_reports(store, problem, settings) | _clean_log(tables, problem, settings)
    if settings.model_retention:
        limit = now - timedelta(days=settings.model_retention)
        removed |= _clean_models(store, tables, problem, limit)
        unused, removed["frames"] = _clean_frames(store, problem, unused, now, limit)
        removed["unpacked Bentos"] = _clean_unpacked(store, settings.home / "serving")
    store.put(_memory_key(problem), Memory(cleaned=now, unused=unused).model_dump_json().encode())
    log.info("removed: %s", ", ".join(f"{count} {kind}" for kind, count in removed.items() if count) or "nothing")
    return removed


def _memory_key(problem: str) -> str:
    return f"retention/{problem}.json"


def _memory(store: ObjectStore, problem: str) -> Memory | None:
    try:
        return Memory.model_validate_json(store.get(_memory_key(problem)))
    except NotFound:
        return None


def kept_versions(store: ObjectStore, problem: str) -> set[int]:
    """Numbers of the versions that are kept whatever their age, but for those that rows tell of."""
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
    """Versions and runs that are older than the limit and that nothing refers to; none where MLflow cannot be told."""
    kept, entries = kept_versions(store, problem), registry.ledger(problem).entries()
    old = [entry.of(problem) for entry in entries if entry.at < limit and entry.number not in kept]
    if old:
        told = _answering(tables, problem)
        old = [version for version in old if version.version not in told]
    gone = {version.version for version in old}
    held = {entry.run_id for entry in entries if entry.number not in gone} | _held_runs(store, problem)
    loose = [one for one in _records(problem) if one.at < limit and one.run.run_id not in held]
    try:
        shown = _clean_mlflow(problem, old, loose, limit)
    except MirrorError as error:
        log.warning("models are cleaned up when MLflow can be told of it: %s", error)
        return {"versions": 0, "runs": 0}
    for version in old:
        _forget_version(store, version)
    for one in loose:
        _forget_run(store, one)
    for version in old:  # last: what is cut short before is found again by it
        store.delete(registry.ledger(problem).key(version.version))
    return {"versions": len(old), "runs": len(loose), "runs of tuning and failed ones in MLflow": shown}


def _answering(tables: Tables, problem: str) -> set[int]:
    """Versions that rows of predictions tell of, logged or scored in batch."""
    found = set[int]()
    for name, column in ((log_table(problem), "model_version"), (predictions_table(problem), MODEL_VERSION)):
        reference = tables.version(name)
        if reference is not None:
            found |= set(pc.unique(tables.read(reference, columns=[column])[column]).to_pylist())
    return found


def _held_runs(store: ObjectStore, problem: str) -> set[str]:
    """Runs that are kept though no version is theirs: the newest, and a retraining's."""
    try:
        held = {runs.trained_run(problem).run_id}
    except ModelError:
        held = set()
    stands = record.load_record(store, problem)
    return held | {attempt.run_id for attempt in (stands.attempts if stands else ()) if attempt.run_id is not None}


def _records(problem: str) -> Iterator[RunRecord]:
    return (runs.load_record(problem, run_id) for run_id in runs.run_ids(problem))


def _clean_mlflow(problem: str, old: Iterable[ModelVersion], loose: Iterable[RunRecord], limit: datetime) -> int:
    """Delete there what goes, and old runs that are none of a model: trials, searches and trainings that failed; how
    many of those. Raises MirrorError."""
    if mlflow_runs.is_new():
        return 0
    client, going = mlflow_runs.connect_mlflow(), {one.run.run_id for one in loose}
    for version in old:
        there = mirror.find_entry(client, version)
        if there is not None:
            client.delete_model_version(problem, there.version)
    for run_id in going:
        run = mirror.mlflow_run(client, run_id)
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


def _forget_version(store: ObjectStore, version: ModelVersion) -> None:
    problem, number = version.problem, version.version
    if load_package(problem, number) is not None:
        store.delete(package_key(problem, number))
    _delete(store, f"bentos/{problem}/{number}-")
    for key in (f"inference/{problem}/{number}.json", registry.tags_key(problem, number)):
        store.delete(key)


def _forget_run(store: ObjectStore, one: RunRecord) -> None:
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
    """Training frames that belong to no run since before the limit; those that do so for a shorter time, since when."""
    used = {one.run.snapshot.sha256 for one in _records(problem)}
    there = {key.split("/")[2] for key in store.list(f"snapshots/{problem}/")} - {"inputs"}
    since = {sha: unused.get(sha, now) for sha in there - used}
    gone = [sha for sha, moment in since.items() if moment < limit]
    for sha in gone:
        store.delete(f"snapshots/{problem}/{sha}/manifest.json")  # first: a frame is there when its manifest is
        _delete(store, f"snapshots/{problem}/{sha}/")
        store.delete(f"tuning/{problem}/{sha}.json")
    return {sha: moment for sha, moment in since.items() if sha not in gone}, len(gone)


def _clean_unpacked(store: ObjectStore, place: Path) -> int:
    """Folders on this machine of Bentos that storage has no longer, of whatever problem; how many. One that a server
    still runs from is left."""
    packed = {key.rpartition("-")[2].removesuffix(".bento") for key in store.list("bentos/") if key.endswith(".bento")}
    digests = [folder for folder in place.glob("*") if _DIGEST.fullmatch(folder.name)]
    doomed = [folder for folder in digests if folder.name[:12] not in packed]
    used = processes.command_line_words() if doomed else set()
    gone = [folder for folder in doomed if str(folder) not in used]
    for folder in gone:
        shutil.rmtree(folder, ignore_errors=True)
    return len(gone)


def _clean_reports(store: ObjectStore, problem: str, settings: Settings) -> dict[str, int]:
    """Reports of checks, daily histograms and entries of the record of findings. Counted back from the newest of each,
    which may be dated by the data's clock."""
    removed = {"reports": 0, "histograms": 0, "findings": 0}
    if not settings.report_retention:
        return removed
    days = timedelta(days=settings.report_retention)
    for check in get_args(Check):
        removed["reports"] += report_store.expire(store, problem, check, days)
    removed["reports"] += _clean_windows(store, problem, days)
    by_key: dict[str, list[str]] = {}
    for key in store.list(f"sketches/{problem}/"):
        folder, _, name = key.rpartition("/")
        if name.removesuffix(".json").isdecimal():
            by_key.setdefault(folder, []).append(name)
    for folder, names in by_key.items():
        first = f"{datetime.strptime(max(names), '%Y%m%d.json').replace(tzinfo=UTC) - days:%Y%m%d}.json"
        removed["histograms"] += sum(_delete(store, f"{folder}/{name}") for name in names if name < first)
    removed["findings"] = _clean_record(store, problem, days)
    return removed


def _clean_windows(store: ObjectStore, problem: str, days: timedelta) -> int:
    """Pages and samples that are named after the window they look at, counted back from the newest window."""
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
    """Days of the prediction log, counted back from its newest; and files that compaction replaced, after a week."""
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
