"""The archive of a training run: the problem's folder, locked packages, commit, versions and platform.

A model can be reproduced from it after the problem's folder has changed.
"""

import gzip
import importlib.metadata
import io
import json
import platform
import re
import subprocess
import tarfile
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from truecourse.errors import IntegrityError
from truecourse.hashing import sha256
from truecourse.modeling.training import library_versions, method_digest
from truecourse.problem import Problem
from truecourse.problem.namespace import AREAS, Namespace
from truecourse.problem.schema import Files
from truecourse.settings import REPOSITORY

FOLDER, LOCK = "archive/problem.tar.gz", "archive/requirements.txt.gz"
ENVIRONMENT, CHANGES = "archive/environment.json", "archive/changes.diff"
LARGEST = 16 << 20
"""Maximum bytes of a file in the problem's folder; larger files are left out."""
_MOST_CHANGES = 1 << 20
"""Maximum bytes of the diff to the commit; of a longer one only the digest is kept."""


def requirements() -> bytes:
    """Return the locked requirements; without a lock file, the installed packages."""
    lock = REPOSITORY / "requirements.lock"
    if lock.is_file():
        return lock.read_bytes()
    ours = {"truecourse"}
    installed = {d.name.lower(): d.version for d in importlib.metadata.distributions() if d.name.lower() not in ours}
    return "".join(f"{name}=={version}\n" for name, version in sorted(installed.items())).encode()


def archive_files(problem: Problem) -> dict[str, bytes]:
    """Build the archive's files, by path in the run."""
    folder, left_out = packed_folder(problem)
    (lock, lock_sha256), changes = _lock(), _changes(REPOSITORY)
    environment = environment_now() | {"problem": source_state(problem.folder)}
    environment |= {"lock_sha256": lock_sha256, "left_out": left_out}
    environment["changes_sha256"] = sha256(changes) if changes else None
    files = {FOLDER: folder, LOCK: lock}
    if changes and len(changes) <= _MOST_CHANGES:
        files[CHANGES] = changes
    return files | {ENVIRONMENT: json.dumps(environment, indent=1).encode()}


@lru_cache(maxsize=1)
def _lock() -> tuple[bytes, str]:
    """Return the compressed lock file, and the SHA-256 of the uncompressed one."""
    lock = requirements()
    return gzip.compress(lock, mtime=0), sha256(lock)


@lru_cache(maxsize=1)
def _packages() -> dict[str, str]:
    """Return the versions of all installed packages, by name."""
    return dict(sorted((d.name.lower(), d.version) for d in importlib.metadata.distributions() if d.name))


def packed_folder(problem: Problem) -> tuple[bytes, list[str]]:
    """Pack a problem's folder, with those of the areas that it uses, as .tar.gz; returns it and the names of files left
    out for their size.

    Equal files give equal bytes. Hidden files and data are excluded: `data/`, and files that tables are read from."""
    packed, left_out = io.BytesIO(), []
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, path in _all_files(problem):
            if path.stat().st_size > LARGEST:
                left_out.append(name)
                continue
            data = path.read_bytes()
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(data), 0o644
            tar.addfile(member, io.BytesIO(data))
    return gzip.compress(packed.getvalue(), mtime=0), left_out


def _all_files(problem: Problem) -> Iterator[tuple[str, Path]]:
    """The files of a problem's folder by path, and those of the areas that it uses below `feature_views/`."""
    yield from ((name, path) for name, path in _files(problem) if not name.startswith(f"{AREAS}/"))
    for area in problem.areas.values():
        yield from ((f"{AREAS}/{area.name}/{name}", path) for name, path in _files(area))


def _files(problem: Namespace) -> Iterator[tuple[str, Path]]:
    sources = [table.source.path for table in problem.tables if isinstance(table.source, Files)]
    data = {path for pattern in sources if not Path(pattern).is_absolute() for path in problem.folder.glob(pattern)}
    for path in sorted(problem.folder.rglob("*")):
        parts = path.relative_to(problem.folder).parts
        hidden = any(part.startswith((".", "__pycache__")) for part in parts)
        if path.is_file() and not hidden and parts[0] != "data" and path not in data:
            yield "/".join(parts), path


def unpack_folder(packed: bytes, folder: Path) -> None:
    """Unpack an archived problem into `folder`. Raises IntegrityError for an invalid archive."""
    try:
        with tarfile.open(fileobj=io.BytesIO(packed), mode="r:gz") as tar:
            tar.extractall(folder, filter="data")
    except (tarfile.TarError, OSError, EOFError) as error:
        raise IntegrityError(f"the archived problem cannot be unpacked: {error}", where=FOLDER) from None


def environment_now() -> dict[str, Any]:
    """Describe this process's environment. `commit` and `dirty` are None outside a Git repository."""
    packages = _packages()
    return {
        "platform": platform.platform(),
        "machine": platform.machine(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "truecourse": {
            "version": packages.get("truecourse", "not installed"),
            "method_sha256": method_digest(),
            **source_state(REPOSITORY),
        },
        "versions": library_versions(),
        "packages": packages,
    }


def source_state(folder: Path) -> dict[str, Any]:
    """Return a folder's Git commit, and whether its files differ from it; both None outside a repository."""
    commit = _git(folder, "rev-parse", "HEAD")
    state = _git(folder, "status", "--porcelain", "--", ".") if commit else None
    return {"commit": commit.decode().strip() if commit else None, "dirty": None if state is None else bool(state)}


def source_location(folder: Path) -> dict[str, str] | None:
    """Return a folder's place in its Git repository: `url`, `repoUrl`, `path`, and the commit as `version`.

    None outside a repository. Without a remote, the URL is that of the repository's folder. It has no password."""
    found = _git(folder, "rev-parse", "HEAD", "--show-toplevel", "--show-prefix")
    if found is None:
        return None
    commit, top, path, *_ = [*found.decode().split("\n"), "", ""]
    remote = _git(folder, "remote", "get-url", "origin")
    url = Path(top).as_uri() if remote is None else _remote_url(remote.decode().strip())
    return {"type": "git", "url": url, "repoUrl": url, "path": path or ".", "version": commit}


def _remote_url(remote: str) -> str:
    """Return the URL of a remote, which Git also writes as `user@host:path` or as a path, without user and password."""
    if "://" in remote:
        return re.sub(r"(?<=://)[^/@]*@", "", remote)
    short = re.fullmatch(r"(?:[^@/]+@)?([^/:]+):(.+)", remote)
    return f"ssh://{short[1]}/{short[2]}" if short else Path(remote).absolute().as_uri()


def _changes(folder: Path) -> bytes:
    """Return the `git diff` of tracked files to the commit; empty outside a repository."""
    return _git(folder, "diff", "--no-ext-diff", "HEAD", "--", ".") or b""


def _git(folder: Path, *words: str) -> bytes | None:
    """Run Git and return its output; None without Git or a repository."""
    try:
        command = ["git", "-c", "core.fsmonitor=false", "-C", str(folder), *words]
        done = subprocess.run(command, capture_output=True, timeout=30, check=True)  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout
