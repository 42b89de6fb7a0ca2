"""Durability of local files: only synced files and names survive a loss of power.

delta-rs does not sync the files that it writes to a folder. A commit is synced here before it is acknowledged; an
unsynced commit that a loss of power left incomplete is removed.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

from truecourse.settings import get_settings

LOG, CHECKPOINT = "_delta_log", "_last_checkpoint"
_MAGIC = b"PAR1"
"""The first and last bytes of a Parquet file."""


def sync_descriptor(descriptor: int) -> None:
    """Sync an open file or folder, unless the setting `durable` is off."""
    if get_settings().durable:
        os.fsync(descriptor)


def sync_file(path: Path) -> None:
    """Sync a file's content, or the names in a folder, unless the setting `durable` is off."""
    if not get_settings().durable:
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(folder: Path) -> None:
    """Create a folder and its parents, and sync their names. Raises OSError."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in missing:
        sync_file(path.parent)


def newest_commit(table: Path) -> int:
    """The newest version of a Delta table in a folder, by the names of its commits; -1 if there is none."""
    log = table / LOG
    if not log.is_dir():
        return -1
    with os.scandir(log) as entries:  # called often: names are faster than paths
        names = [entry.name for entry in entries]
    return max(map(commit_number, names), default=-1)


def commit_number(name: str) -> int:
    """The version that a file of a table's log commits; -1 for a file that is no commit."""
    return int(name[:-5]) if name.endswith(".json") and name[:-5].isdecimal() else -1


def sync_commits(table: Path, after: int, root: Path) -> None:
    """Sync every commit after version `after`, the files that it adds, and all folders from `root` down to them, unless
    the setting `durable` is off. Raises OSError."""
    if not get_settings().durable:
        return
    log = table / LOG
    folders = {log}
    for path in log.iterdir():
        if path.name != CHECKPOINT and not (path.name[:20].isdecimal() and int(path.name[:20]) > after):
            continue
        if path.suffix == ".json":
            for file, _ in _added(table, path):
                sync_file(file)
                folders.add(file.parent)
        sync_file(path)
    folders |= {parent for folder in folders for parent in folder.parents if parent.is_relative_to(root)}
    for folder in folders:
        sync_file(folder)


def remove_torn_commits(table: Path) -> list[str]:
    """Remove the newest commits that are incomplete or whose files are. Return their names. Raises OSError.

    A commit gets its name after it is written, so an incomplete one was cut off by a loss of power before it was synced
    and acknowledged."""
    removed: list[str] = []
    while (version := newest_commit(table)) >= 0:
        commit = table / LOG / f"{version:020d}.json"
        for path in commit.parent.glob(f"{commit.stem}.checkpoint*.parquet"):
            if not _is_parquet(path):
                (commit.parent / CHECKPOINT).unlink(missing_ok=True)
                path.unlink()
        if _is_complete(table, commit):
            break
        commit.unlink()
        removed.append(commit.name)
    return removed


def _commits(table: Path) -> Iterator[Path]:
    return (path for path in (table / LOG).glob("*.json") if path.stem.isdecimal())


def _added(table: Path, commit: Path) -> Iterator[tuple[Path, int]]:
    """The files that a commit adds, with their sizes in bytes. Raises ValueError if the commit is incomplete."""
    for line in commit.read_bytes().splitlines():  # as bytes: str.splitlines() also splits at U+2028 and others
        added = json.loads(line).get("add")
        if added is not None:
            yield table / unquote(added["path"]), added["size"]


def _is_complete(table: Path, commit: Path) -> bool:
    try:
        added = list(_added(table, commit))
    except (ValueError, AttributeError):
        return False
    return bool(commit.stat().st_size) and all(
        file.is_file() and file.stat().st_size == size and _is_parquet(file) for file, size in added
    )


def _is_parquet(path: Path) -> bool:
    with path.open("rb") as file:
        begins = file.read(len(_MAGIC))
        file.seek(max(0, path.stat().st_size - len(_MAGIC)))
        return begins == file.read() == _MAGIC
