"""Leftovers of dead processes, and files of this machine, of all problems."""

import logging
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from truecourse import processes
from truecourse.deployment.bento import load_package
from truecourse.errors import MirrorError
from truecourse.registry import mlflow_mirror, mlflow_runs
from truecourse.registry import versions as registry
from truecourse.retention.removal import GRACE, Context, Removal, in_days, objects_removal
from truecourse.storage.object_store import ObjectStore, StoredObject

log = logging.getLogger("truecourse.retention")
_DIGEST = re.compile("[0-9a-f]{64}")
_ASIDE = re.compile(r"\..+\.[0-9a-f]{8}")
"""The name of a file that an interrupted write left beside its object."""
_DAY = "older than a day, and of no running process"


def home_leftovers(context: Context) -> Iterator[Removal]:
    """What dead processes left in the storage and in the home, and unpacked Bentos that no longer have a package."""
    store, home, now = context.store, context.settings.home, context.now
    yield from _interrupted_trainings(context)
    yield from objects_removal(store, "Bentos", _loose_bentos(store, now), "no package names them")
    yield from removed_unpacked(store, home / "serving")
    used = processes.open_files()
    temporary = [path for path in (home / "tmp").glob("*") if _is_left(path, now, used)]
    yield from _paths("temporary files", temporary, _DAY)
    if not store.root.startswith("s3://"):
        aside = [path for path in Path(store.root).rglob(".*") if path.is_file() and _ASIDE.fullmatch(path.name)]
        yield from _paths("interrupted writes", [path for path in aside if _is_left(path, now, used)], _DAY)
    limit = context.limit(context.settings.model_retention)
    searches = [p for p in (home / "tuning").glob("*") if limit is not None and _modified(p) < limit]
    reason = f"not continued for {in_days(context.settings.model_retention)}"
    yield from _paths("studies of parameter searches", searches, reason)


def removed_unpacked(store: ObjectStore, place: Path) -> Iterator[Removal]:
    """Unpacked Bentos on this machine that are no longer in storage. Those of running servers are kept."""
    packed = {key.rpartition("-")[2].removesuffix(".bento") for key in store.list("bentos/") if key.endswith(".bento")}
    digests = [folder for folder in place.glob("*") if _DIGEST.fullmatch(folder.name)]
    unpacked = [folder for folder in digests if folder.name[:12] not in packed]
    used = processes.command_line_words() if unpacked else set()
    gone = [folder for folder in unpacked if str(folder) not in used]
    yield from _paths("unpacked Bentos", gone, "their packages were removed, and no server runs from them")


def _loose_bentos(store: ObjectStore, now: datetime) -> Iterator[StoredObject]:
    """Bentos that neither a package nor a deployment names: packaging stopped before it recorded them."""
    named = set[str]()
    for key in store.list("deployments/"):
        named |= set(re.findall(r"bentos/[^\"]+\.bento", store.get(key).decode()))
    for one in store.objects("bentos/"):
        path = re.fullmatch(r"bentos/([^/]+)/(\d+)-[0-9a-f]+\.bento", one.key)
        if path is None or one.key in named or one.modified > now - GRACE:
            continue
        package = load_package(path[1], int(path[2]))
        if package is None or package.bento.key != one.key:
            yield one


def _interrupted_trainings(context: Context) -> Iterator[Removal]:
    """Files of runs that have no record, in our storage or as MLflow's artifacts: their training was interrupted."""
    store, now = context.store, context.now
    recorded = {key.rpartition("/")[2].removesuffix(".json") for key in store.list("models/") if "/runs/" in key}
    recorded |= {entry.run_id for problem in _registered(store) for entry in registry.ledger(problem).entries()}
    for place, kind in (("runs/", "files of interrupted trainings"), ("mlflow/", "MLflow artifacts")):
        by_run: dict[str, list[StoredObject]] = {}
        for one in store.objects(place):
            by_run.setdefault(one.key.split("/")[1], []).append(one)
        loose = {
            run: found
            for run, found in by_run.items()
            if run not in recorded and all(one.modified < now - GRACE for one in found)
        }
        if place == "mlflow/":
            loose = _deleted_in_mlflow(loose)
        found = [one for parts in loose.values() for one in parts]
        yield from objects_removal(store, kind, found, "their runs have no record, and are older than a day")


def _registered(store: ObjectStore) -> set[str]:
    return {key.split("/")[1] for key in store.list("models/") if "/versions/" in key}


def _deleted_in_mlflow(loose: Mapping[str, list[StoredObject]]) -> dict[str, list[StoredObject]]:
    """Those runs that MLflow does not have, or has deleted: people may log runs of their own."""
    if not loose or mlflow_runs.is_new():
        return {}
    try:
        client = mlflow_runs.connect_mlflow()
        there = {run_id: mlflow_mirror.mlflow_run(client, run_id) for run_id in loose}
    except MirrorError as error:
        log.warning("no artifacts deleted, since MLflow cannot be read: %s", error)
        return {}
    gone = {run_id for run_id, run in there.items() if run is None or run.info.lifecycle_stage == "deleted"}
    return {run_id: loose[run_id] for run_id in gone}


def _is_left(path: Path, now: datetime, used: Iterable[str]) -> bool:
    """Whether nothing below the path was written in the last day, and no process has a file of it open."""
    if any(name == str(path) or name.startswith(f"{path}/") for name in used):
        return False
    return _modified(path) < now - GRACE


def _modified(path: Path) -> datetime:
    """When (UTC) the path or anything below it was last written; far in the future if it is gone."""
    try:
        newest = max(one.stat().st_mtime for one in (path, *path.rglob("*")))
    except FileNotFoundError:
        return datetime.max.replace(tzinfo=UTC)
    return datetime.fromtimestamp(newest, UTC)


def _size(path: Path) -> int:
    size = 0
    for one in (path, *path.rglob("*")):
        with suppress(FileNotFoundError):  # another cleanup was faster
            size += one.stat().st_size if one.is_file() else 0
    return size


def _paths(kind: str, found: list[Path], reason: str) -> Iterator[Removal]:
    if found:
        yield Removal(kind, len(found), sum(map(_size, found)), reason, partial(_delete_paths, found))


def _delete_paths(found: list[Path]) -> None:
    for path in found:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
