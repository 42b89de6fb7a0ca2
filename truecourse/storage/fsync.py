"""What survives a loss of power: files and names that were synced, and nothing else.

delta-rs syncs nothing that it writes to a folder. A commit is synced here before anybody is told of it; one that was
not, and that a loss of power left torn, is taken back.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

LOG, CHECKPOINT = "_delta_log", "_last_checkpoint"
_MAGIC = b"PAR1"
"""A Parquet file begins and ends with it."""


def sync_file(path: Path) -> None:
    """What is written in it, or, of a folder, the names that were given or taken in it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(folder: Path) -> None:
    """Create a folder, and those above it, so that their names survive a loss of power. Raises OSError."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in missing:
        sync_file(path.parent)


def newest_commit(table: Path) -> int:
    """The version of a Delta table in a folder, by the names of its commits; -1 where there is none."""
    log = table / LOG
    if not log.is_dir():
        return -1
    with os.scandir(log) as found:  # asked often, of many: names are quicker than paths
        names = [entry.name for entry in found]
    return max((int(name[:-5]) for name in names if name.endswith(".json") and name[:-5].isdecimal()), default=-1)


def sync_commits(table: Path, after: int, root: Path) -> None:
    """Sync every commit above the version `after` with the files that it adds, and all folders on the way down from
    `root`. Raises OSError."""
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
    """Remove the newest commits as long as they, or files that they add, are not whole; their names.

    A commit is given its name when all of it is written, so one that is torn was cut off by a loss of power before it
    was synced, and whoever made it was told of nothing. Raises OSError."""
    gone: list[str] = []
    while (version := newest_commit(table)) >= 0:
        commit = table / LOG / f"{version:020d}.json"
        for path in commit.parent.glob(f"{commit.stem}.checkpoint*.parquet"):
            if not _is_parquet(path):
                (commit.parent / CHECKPOINT).unlink(missing_ok=True)
                path.unlink()
        if _whole(table, commit):
            break
        commit.unlink()
        gone.append(commit.name)
    return gone


def _commits(table: Path) -> Iterator[Path]:
    return (path for path in (table / LOG).glob("*.json") if path.stem.isdecimal())


def _added(table: Path, commit: Path) -> Iterator[tuple[Path, int]]:
    """The files that a commit adds, each with its size in bytes. Raises ValueError for a torn commit."""
    for line in commit.read_bytes().splitlines():  # of bytes: texts hold U+2028 and others that end a line in str
        added = json.loads(line).get("add")
        if added is not None:
            yield table / unquote(added["path"]), added["size"]


def _whole(table: Path, commit: Path) -> bool:
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
