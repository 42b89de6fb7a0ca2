"""Find and remove a subject in storage and home, object by object, in an order that may be interrupted and repeated.

Everything that is derived from the tables comes before them: their rows say which values to look for.
"""

import os
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from truecourse.data.deliveries import read_deliveries
from truecourse.data.sources import locate_archived, scratch
from truecourse.erasure import databases, delta_files, documents
from truecourse.erasure.search import files_outside, hidden_files, names_subject
from truecourse.erasure.sources import rewrite_source
from truecourse.erasure.subject import (
    Subject,
    identifying_values,
    matching_rows,
    shared_values,
    tables_with,
)
from truecourse.errors import NotFound, SourceError
from truecourse.hashing import sha256
from truecourse.problem.namespace import Namespace
from truecourse.problem.schema import Csv, Table
from truecourse.registry import runs
from truecourse.settings import Settings, get_settings
from truecourse.storage.delta_tables import Tables, raw_table
from truecourse.storage.fsync import LOG, sync_file
from truecourse.storage.redactions import Redaction, record_redaction

REWRITTEN, DELETED = "rewritten", "deleted"
_TABLES = ("features/", "predictions/", "predictions_log/", "rejected/")
"""Prefixes of tables that are derived from those of the problem."""
_KINDS = {
    "sources": "sources",
    "snapshots": "snapshots",
    "features": "features",
    "predictions": "batch predictions",
    "predictions_log": "prediction log",
    "rejected": "rejected rows",
    "reports": "reports",
    "checks": "reports",
    "runs": "models",
    "models": "models",
    "mlflow": "models",
    "bentos": "models",
    "inference": "models",
    "backup": "backups",
}
_SKIPPED = ("locks/", "forgotten/", "format.json")
_DIGEST = 64
"""Characters of the name of an unpacked Bento's folder."""


@dataclass(frozen=True)
class Target:
    """A problem or feature area with data of the subject, and the subject in its terms."""

    namespace: Namespace
    subject: Subject


@dataclass(frozen=True)
class RemovedData:
    """What is removed from one object or file. `how`: whether it is rewritten or deleted."""

    key: str
    kind: str
    rows: int = 0
    texts: int = 0
    how: str = REWRITTEN

    def document(self) -> dict[str, Any]:
        return {"key": self.key, "kind": self.kind, "rows": self.rows, "texts": self.texts, "how": self.how}


class SubjectRemoval:
    """The removal of a subject. With `dry_run`, everything is found and nothing is changed.

    `known`: what an interrupted removal of the same subject removes."""

    def __init__(
        self,
        targets: Sequence[Target],
        tables: Tables,
        at: datetime,
        *,
        dry_run: bool,
        known: Mapping[str, RemovedData] | None = None,
        settings: Settings | None = None,
    ) -> None:
        self._targets, self._tables, self._at, self._dry_run = targets, tables, at, dry_run
        self._store, self._settings = tables.store, settings or get_settings()
        self._known = known or {}
        valued = [self._with_values(target) for target in targets]
        self._of = {target.namespace.name: target.subject for target in valued}
        shared = frozenset(value for subject in self._of.values() for value in subject.values)
        self._runs = {run: name for name in self._of for run in runs.run_ids(name)}
        self._everywhere = [replace(subject.with_values(shared), ids=frozenset()) for subject in self._of.values()]

    def run(self) -> Iterator[RemovedData]:
        """Find, and unless it is a dry run remove, all data of the subject."""
        yield from self._documents()
        for prefix in _TABLES:
            for name in self._names():
                yield from self._delta_tables(f"{prefix}{name}/", _KINDS[prefix.rstrip("/")], declared=False)
        yield from self._home()
        yield from self._sources()
        for place, kind in (("quarantine", "quarantine"), ("clean", "tables"), ("raw", "tables")):
            for name in self._names():
                yield from self._delta_tables(f"tables/{name}/{place}/", kind, declared=True)

    def _names(self) -> list[str]:
        return [target.namespace.name for target in self._targets]

    # -- values

    def _with_values(self, target: Target) -> Target:
        """Add to the subject the values of its rows in the raw tables that no other row has."""
        values: set[str] = set()
        for table in tables_with(target.namespace, target.subject):
            values |= self._values_of(target, table)
        subject = target.subject.with_values(values)
        return Target(target.namespace, replace(subject, ids=subject.ids | self._ids_of(target)))

    def _ids_of(self, target: Target) -> frozenset[str]:
        """The ids of the subject's decisions, from the training frames. Files of runs name decisions by id alone."""
        ids: set[str] = set()
        for key in self._store.list(f"snapshots/{target.namespace.name}/"):
            if key.endswith(".parquet"):
                rows = pq.read_table(pa.BufferReader(self._store.get(key)))
                ids |= {str(one) for one in rows.filter(matching_rows(rows, target.subject))["id"].to_pylist()}
        return frozenset(ids)

    def _values_of(self, target: Target, table: Table) -> set[str]:
        keys = {name for part in target.subject.parts for name in part.columns}
        found: set[str] = set()
        files = delta_files.data_files(self._store, raw_table(target.namespace.name, table.name))
        for rows, own, names in self._raw_rows(files, target.subject, keys):
            found |= identifying_values(rows, own, names)
        for rows, own, names in self._raw_rows(files, target.subject, keys) if found else ():
            found -= shared_values(rows, own, names, found)
        return found

    def _raw_rows(
        self, files: Iterable[str], subject: Subject, keys: set[str]
    ) -> Iterator[tuple[pa.Table, pa.ChunkedArray | pa.Array, list[str]]]:
        for file in files:
            rows = pq.read_table(pa.BufferReader(self._store.get(file)))
            names = [name for name in rows.column_names if not name.startswith("_tc_") and name not in keys]
            yield rows, matching_rows(rows, subject), names

    # -- storage

    def _documents(self) -> Iterator[RemovedData]:
        """Everything in storage that is neither a table nor a source."""
        ledgers: set[str] = set()
        for key in list(self._store.list("")):
            first, _, rest = key.partition("/")
            if key.startswith((*_SKIPPED, "sources/", "tables/", *_TABLES)) or not self._is_ours(first, rest):
                continue
            try:
                data = self._store.get(key)
            except NotFound:  # replaced meanwhile
                continue
            place = documents.ledger_of(key, data)
            if place is not None:
                ledgers.add(place)
                continue
            subjects = self._subjects_of(first, rest)
            new = documents.rewrite_document(data, subjects)
            if new is not None:
                yield self._put(key, _KINDS.get(first, "monitoring"), data, new.data, new.removed, new.masked)
        for place in sorted(ledgers):
            for key, data, entry in list(documents.rewrite_ledger(self._store, place, self._everywhere)):
                yield self._put(key, "ledgers", data, entry.data, 0, entry.masked)

    def _is_ours(self, first: str, rest: str) -> bool:
        """Whether an object belongs to one of the targets, or to all problems."""
        shared = {"mlflow", "runs", "backup", "keys", "manifests", "deployments", "digests"}
        if first in shared or (first == "reports" and "/" not in rest):  # pages of several problems
            return True
        return rest.partition("/")[0].removesuffix(".json") in self._of

    def _subjects_of(self, first: str, rest: str) -> list[Subject]:
        """The subject by its key, and in frames of a problem or a run also by the ids of its decisions."""
        name = rest.partition("/")[0]
        subject = self._of.get(self._runs.get(name, name if first == "snapshots" else ""))
        return [subject.with_values(self._everywhere[0].values)] if subject else self._everywhere

    def _put(self, key: str, kind: str, before: bytes, after: bytes | None, rows: int, texts: int) -> RemovedData:
        """Replace or delete an object; its redaction is recorded first."""
        if not self._dry_run:
            digest = "" if after is None else sha256(after)
            record_redaction(self._store, key, Redaction(before=sha256(before), after=digest, at=self._at))
            if after is None:
                self._store.delete(key)
            else:
                self._store.put(key, after)
        return RemovedData(key, kind, rows, texts, DELETED if after is None else REWRITTEN)

    def _delta_tables(self, prefix: str, kind: str, *, declared: bool) -> Iterator[RemovedData]:
        names = delta_files.table_names(self._store, prefix)
        for name in names:
            yield from self._delta_table(name, kind, declared=declared)

    def _delta_table(self, name: str, kind: str, *, declared: bool) -> Iterator[RemovedData]:
        subject = replace(self._of[name.split("/")[1]].with_values(self._everywhere[0].values), ids=self._own_ids(name))
        columns = delta_files.statistics_columns(self._store, name)
        files = {key for key in self._known if key.startswith(f"{name}/") and f"/{LOG}/" not in key}
        facts: dict[str, tuple[int, str]] = {}
        for key in delta_files.data_files(self._store, name):
            data = self._store.get(key)
            new = delta_files.rewrite_file(data, [subject], columns, declared=declared)
            if new is not None:
                facts[key] = len(new.data), new.statistics
                yield self._put(key, kind, data, new.data, new.removed, new.masked)
            elif key in files:  # an interrupted removal has rewritten it, and perhaps not the log
                facts[key] = delta_files.facts_of(data, columns)
        patched = dict(delta_files.patch_log(self._store, name, facts))
        if patched and not self._dry_run:
            delta_files.remove_pointer(self._store, name)
        for key in [key for key in self._store.list(f"{name}/") if f"/{LOG}/" in key]:
            data = self._store.get(key)
            log = patched.get(key, data)
            masked = documents.rewrite_document(log, [subject])
            if masked is not None or log != data:
                text = masked.data if masked is not None else log
                yield self._put(key, kind, data, text, 0, masked.masked if masked is not None else 0)

    def _own_ids(self, name: str) -> frozenset[str]:
        """The ids by which rows of a table are found: those of a label's table, and in predictions of all decisions."""
        problem = name.split("/")[1]
        if name.startswith(("tables/", "features/")):
            return frozenset()
        return self._of[problem].ids

    # -- sources

    def _sources(self) -> Iterator[RemovedData]:
        for name, subject in self._of.items():
            namespace = next(target.namespace for target in self._targets if target.namespace.name == name)
            by_table: dict[str, dict[str, str]] = {}
            for key in list(self._store.list(f"sources/{name}/")):
                table, sha = key.split("/")[2:4]
                if table not in by_table:
                    known = read_deliveries(self._tables, name, table)[0] if table in _names(namespace) else []
                    by_table[table] = {one.sha256: one.uri for one in known}
                yield from self._source(namespace, table, key, by_table[table].get(sha, ""), subject)

    def _source(self, namespace: Namespace, table: str, key: str, uri: str, subject: Subject) -> Iterator[RemovedData]:
        data = self._store.get(key)
        dialect, is_lines = source_dialect(namespace, table, uri, data)
        new, removed = rewrite_source(data, dialect, is_lines, [subject])
        if removed:
            yield self._put(key, "sources", data, new, removed, 0)

    # -- home

    @cached_property
    def _home_files(self) -> list[Path]:
        home, root = self._settings.home, Path(self._settings.storage_root).absolute()
        inside = root if not self._settings.storage_root.startswith("s3://") else None
        return list(files_outside(home, inside))

    def _home(self) -> Iterator[RemovedData]:
        unpacked = [folder for folder in (self._settings.home / "serving").glob("*") if len(folder.name) == _DIGEST]
        for folder in unpacked:
            yield from self._package(folder)
        replays = list((self._settings.home / "replay").glob("*/"))
        for folder in replays:
            yield from self._replay(folder)
        for path in hidden_files(self._settings):
            if names_subject(path.read_bytes(), self._everywhere):
                if not self._dry_run:
                    path.unlink()
                yield RemovedData(
                    path.relative_to(self._settings.storage_root).as_posix(), "caches", texts=1, how=DELETED
                )
        for path in self._home_files:
            name = path.relative_to(self._settings.home).as_posix()
            if not any(path.is_relative_to(folder) for folder in (*unpacked, *replays)):
                with suppress(FileNotFoundError):  # removed meanwhile, by the process it belongs to
                    removed = self._home_file(path, name)
                    if removed is not None:
                        yield removed

    def _package(self, folder: Path) -> Iterator[RemovedData]:
        """An unpacked Bento: its files change as those in the Bento do."""
        files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in files_outside(folder, None)}
        for name, new in documents.rewrite_files(files, self._everywhere).items():
            if not self._dry_run:
                _replace(folder / name, new.data)
            yield RemovedData(f"serving/{folder.name}/{name}", "caches", new.removed, new.masked)

    def _replay(self, folder: Path) -> Iterator[RemovedData]:
        """A replay can be run again: it is deleted with its home, if that names the subject."""
        if any(names_subject(path.read_bytes(), self._everywhere) for path in files_outside(folder, None)):
            if not self._dry_run:
                shutil.rmtree(folder)
            yield RemovedData(f"replay/{folder.name}/", "caches", texts=1, how=DELETED)

    def _home_file(self, path: Path, name: str) -> RemovedData | None:
        if name.endswith(("-wal", "-shm")):
            return None
        if databases.is_database(path):
            count = (databases.count_texts if self._dry_run else databases.mask_texts)(path, self._everywhere)
            return RemovedData(name, "databases", texts=count) if count else None
        data = path.read_bytes()
        new = documents.rewrite_document(data, self._everywhere)
        if new is None:
            return None
        caches, is_log = name.startswith("tmp/"), name.startswith("logs/") or path.suffix == ".log"
        if not self._dry_run:
            if caches:
                path.unlink()
            elif is_log and documents.is_text(data):
                _overwrite(path, data, self._everywhere)
            else:
                _replace(path, new.data)
        kind = "logs" if is_log else "caches"
        return RemovedData(name, kind, new.removed, new.masked, DELETED if caches else REWRITTEN)


def _names(namespace: Namespace) -> set[str]:
    return {table.name for table in namespace.tables}


def source_dialect(namespace: Namespace, table: str, uri: str, data: bytes) -> tuple[Csv, bool]:
    """How the archived bytes of a source are read: its CSV dialect, and whether they are JSON lines."""
    if table in _names(namespace) and uri:
        with scratch() as folder:
            path = folder / "source"
            path.write_bytes(data)
            with suppress(SourceError):
                located = locate_archived(namespace.table(table), uri, path)
                return located.csv, located.format == "jsonl"
    return Csv(), data.lstrip()[:1] == b"{"


def _overwrite(path: Path, data: bytes, subjects: Sequence[Subject]) -> None:
    """Overwrite texts in a log with as many bytes as they have: another process may be appending to it."""
    masked = data
    for subject in subjects:
        masked = subject.blank(masked)
    with path.open("r+b") as file:
        file.write(masked)
        file.flush()
        os.fsync(file.fileno())


def _replace(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        temporary.write_bytes(data)
        temporary.chmod(path.stat().st_mode)
        temporary.replace(path)
        sync_file(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def counts_by_kind(removed_data: Iterable[RemovedData]) -> dict[str, dict[str, int]]:
    """By kind: the number of objects rewritten and deleted, of rows and of texts."""
    counts: dict[str, dict[str, int]] = {}
    for one in removed_data:
        kind = counts.setdefault(one.kind, {REWRITTEN: 0, DELETED: 0, "rows": 0, "texts": 0})
        kind[one.how] += 1
        kind["rows"] += one.rows
        kind["texts"] += one.texts
    return counts
