"""The metadata of the commits of Delta tables; each commit is read once.

The log's files are read here, because DeltaTable.history() numbers commits wrongly if the table is open at another
version than the newest: it lists later commits too, and counts back from its own.
"""

import json
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from deltalake import CommitProperties, Transaction

from truecourse.errors import NotFound, StorageError
from truecourse.storage.fsync import LOG, commit_number
from truecourse.storage.object_store import ObjectStore

COMMIT_KEY = "truecourse"
"""The member of a commit's metadata that holds ours."""
_AT_ONCE = 8
Commits = list[tuple[int, dict[str, Any]]]


@dataclass(frozen=True)
class Commit:
    """A version of a table. `at`: when it was written (UTC). `metadata`: ours; empty if another program wrote it."""

    version: int
    at: datetime
    metadata: dict[str, Any]


def commit_properties(commit: Mapping[str, Any], transactions: Mapping[str, int] | None = None) -> CommitProperties:
    """The properties of a commit with our metadata. `transactions`: numbers by application."""
    numbers = [Transaction(*item) for item in (transactions or {}).items()] or None
    metadata = {COMMIT_KEY: json.dumps(commit, sort_keys=True)}
    return CommitProperties(custom_metadata=metadata, app_transactions=numbers)


class CommitHistory:
    """Reads commits of tables, and keeps them: commits are immutable."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._kept: dict[str, dict[int, Commit]] = {}
        self._complete: dict[str, int] = {}
        """The version up to which all commits of a table are kept."""

    def all(self, name: str, newest: int) -> list[Commit]:
        """The commits of every version up to the newest one, oldest first; without those whose logs were deleted."""
        complete = self._complete.get(name, -1)
        if complete < 0:
            numbers = (commit_number(key.rpartition("/")[2]) for key in self._store.list(f"{name}/{LOG}/"))
            self._read(name, [number for number in numbers if 0 <= number <= newest])
        else:
            self._read(name, range(complete + 1, newest + 1))
        self._complete[name] = max(complete, newest)
        kept = self._kept[name]
        return [kept[version] for version in sorted(kept) if version <= newest]

    def last(self, name: str, newest: int, count: int) -> list[Commit]:
        """The commits of the last `count` versions, oldest first; without those whose logs were deleted."""
        versions = range(max(newest - count + 1, 0), newest + 1)
        self._read(name, versions)
        return [self._kept[name][version] for version in versions if version in self._kept[name]]

    def one(self, name: str, version: int) -> Commit | None:
        """The commit of a version; None if its log was deleted."""
        self._read(name, [version])
        return self._kept.get(name, {}).get(version)

    def drop(self, name: str) -> None:
        """Drop the kept commits of a table, because it was written anew."""
        self._kept.pop(name, None)
        self._complete.pop(name, None)

    def _read(self, name: str, versions: Iterable[int]) -> None:
        kept = self._kept.setdefault(name, {})
        missing = [_key(name, version) for version in versions if version not in kept]
        if len(missing) > 1:
            with ThreadPoolExecutor(_AT_ONCE) as pool:
                read = list(pool.map(self._load, missing))
        else:
            read = list(map(self._load, missing))
        kept.update({commit.version: commit for commit in read if commit is not None})

    def _load(self, key: str) -> Commit | None:
        try:
            lines = self._store.get(key).splitlines()
        except NotFound:
            return None
        try:
            info = next(json.loads(line)["commitInfo"] for line in lines if line.startswith(b'{"commitInfo"'))
            at = datetime.fromtimestamp(info["timestamp"] / 1000, UTC)
            return Commit(commit_number(key.rpartition("/")[2]), at, json.loads(info.get(COMMIT_KEY, "{}")))
        except (StopIteration, ValueError, KeyError, TypeError) as error:
            what = f"a commit of the table cannot be read: {error or 'it has no commitInfo'}"
            raise StorageError(what, where=key, hint="restore it from a backup") from None


def _key(name: str, version: int) -> str:
    return f"{name}/{LOG}/{version:020}.json"
