"""The data files of a Delta table: those in storage, and from the table's log which versions have them.

Delta's own vacuum writes two commits, and so a new version of a table whose rows did not change. Here files are listed
without a commit.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import unquote

from truecourse.errors import NotFound
from truecourse.references import TableVersion
from truecourse.storage.delta_tables import Tables
from truecourse.storage.fsync import LOG
from truecourse.storage.object_store import ObjectStore, StoredObject


@dataclass(frozen=True)
class FileSpan:
    """The versions that have a file: from `added` up to `removed`, exclusive (None: the newest version has it).
    `removed_at`: when it was removed, UTC."""

    added: int
    removed: int | None = None
    removed_at: datetime | None = None


@dataclass(frozen=True)
class TableFiles:
    """A table's files by key. `stored`: in storage. `newest`: of the newest version. `spans`: from the log; a file that
    is not in it was never committed, or its commit was deleted. `is_whole`: the log has every commit."""

    name: str
    stored: Mapping[str, StoredObject]
    newest: frozenset[str]
    spans: Mapping[str, FileSpan]
    is_whole: bool

    def files(self, version: int) -> set[str]:
        """The keys of a version's files. Right only for a whole log."""
        return {
            key
            for key, span in self.spans.items()
            if span.added <= version and (span.removed is None or version < span.removed)
        }

    def unused_since(self, key: str) -> datetime:
        """When (UTC) the file was last part of the newest version, or written."""
        span = self.spans.get(key)
        removed = span.removed_at if span is not None else None
        return max(removed, self.stored[key].modified) if removed else self.stored[key].modified


def list_files(tables: Tables, name: str) -> TableFiles | None:
    """List a table's files; None if there is no such table.

    Files are listed before the newest version is read: a file that is committed meanwhile is young."""
    log = f"{name}/{LOG}/"
    found = {one.key: one for one in tables.store.objects(f"{name}/") if not one.key.startswith(log)}
    reference = tables.version(name)
    if reference is None:
        return None
    spans, is_whole = _read_log(tables.store, name, reference)
    newest = {unquote(key) for key in tables.files(reference)} | set(tables.files(reference))
    stored = {key: one for key, one in found.items() if key.endswith(".parquet")}
    return TableFiles(name, stored, frozenset(newest), spans, is_whole)


def _read_log(store: ObjectStore, name: str, newest: TableVersion) -> tuple[dict[str, FileSpan], bool]:
    prefix, spans, count = f"{name}/{LOG}/", dict[str, FileSpan](), 0
    numbers = (key.removeprefix(prefix).removesuffix(".json") for key in store.list(prefix) if key.endswith(".json"))
    for version in sorted(int(number) for number in numbers if number.isdecimal()):
        if version > newest.version:
            break
        try:
            lines = store.get(f"{prefix}{version:020d}.json").splitlines()
        except NotFound:  # Delta cleaned it up meanwhile
            continue
        count += 1
        for action in map(json.loads, lines):
            if added := action.get("add"):
                spans[f"{name}/{unquote(added['path'])}"] = FileSpan(version)
        for action in map(json.loads, lines):
            if removed := action.get("remove"):
                key = f"{name}/{unquote(removed['path'])}"
                at = datetime.fromtimestamp(removed.get("deletionTimestamp", 0) / 1000, UTC)
                spans[key] = FileSpan(spans[key].added if key in spans else 0, version, at)
    return spans, count == newest.version + 1
