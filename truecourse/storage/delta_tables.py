"""Versioned Delta Lake tables under the storage root. Every commit records its inputs."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from deltalake import DeltaTable, WriterProperties, write_deltalake

from truecourse.errors import NotFound
from truecourse.references import TableVersion
from truecourse.settings import Settings, get_settings
from truecourse.storage import delta_options, file_digests, row_search
from truecourse.storage.commit_history import CommitHistory, Commits, commit_properties
from truecourse.storage.delta_errors import table_errors
from truecourse.storage.fsync import LOG, newest_commit, remove_torn_commits, sync_commits
from truecourse.storage.object_store import ObjectStore, open_store
from truecourse.storage.open_tables import NewestVersions, OpenTables

CHECKPOINT_EVERY = 10
"""Commits between two checkpoints of a table's log. Opening a table reads the last checkpoint and later commits."""
ROW_GROUP = 1 << 15
"""Rows of a Parquet row group, the unit that readers skip by statistics: a week of time-sorted rows costs a week."""
_WRITER = WriterProperties(max_row_group_size=ROW_GROUP, compression="SNAPPY")
_KEPT_OPEN = 64
_AT_ONCE = 4
_KEEP_LOG = {"delta.enableExpiredLogCleanup": "false"}
"""Delta must not delete old commits, because lineage reads them."""
_STATISTICS = "delta.dataSkippingStatsColumns"
_FEW_FILES = 64
"""Datasets of up to this many files are kept open with all files; larger ones are pruned by file statistics."""
Rows: TypeAlias = pa.Table | pa.RecordBatchReader
Read = TypeVar("Read")
Limit: TypeAlias = tuple[str, str, Any]
"""A condition on one column: ("at", ">=", moment)."""


def raw_table(problem: str, table: str) -> str:
    return f"tables/{problem}/raw/{table}"


def clean_table(problem: str, table: str) -> str:
    return f"tables/{problem}/clean/{table}"


def quarantine_table(problem: str, table: str) -> str:
    return f"tables/{problem}/quarantine/{table}"


class Tables:
    """Delta tables by name (their path below the storage root)."""

    def __init__(self, settings: Settings | None = None) -> None:
        self._settings = settings or get_settings()
        self.store: ObjectStore = open_store(self._settings)
        self._options = delta_options.options(self._settings)
        # Versions are immutable, so they stay open, and their datasets can be cached.
        self._opened = OpenTables(self._open)
        self._scanned = lru_cache(_KEPT_OPEN)(self._scan)
        self._history = CommitHistory(self.store)
        self._newest = NewestVersions(
            self.store, self._folder, lambda name: self._opened.newest(name).version(), self._close
        )

    def uri(self, name: str) -> str:
        return f"{self._settings.storage_root}/{name}"

    def _errors(self, name: str) -> AbstractContextManager[None]:
        return table_errors(name, self.uri(name))

    def _folder(self, name: str) -> Path | None:
        """The table's folder; None if the storage root is S3."""
        return None if self._settings.storage_root.startswith("s3://") else Path(self.uri(name))

    @contextmanager
    def _synced(self, name: str) -> Iterator[None]:
        """Sync the commits of the block, so that they survive a loss of power."""
        folder = self._folder(name)
        before = newest_commit(folder) if folder is not None else -1
        yield
        if folder is not None:
            sync_commits(folder, before, Path(self._settings.storage_root))

    def remove_torn_commits(self, name: str) -> list[str]:
        """Remove incomplete commits that a loss of power left, which make the table unreadable. Return their names."""
        folder = self._folder(name)
        with self._errors(name):
            return remove_torn_commits(folder) if folder is not None else []

    def open(self, name: str, version: int | None = None) -> DeltaTable:
        """Open the newest version, or the given one, to read: it is kept. Raises NotFound if there is none."""
        return self._opened.at(name, self._existing(name).version if version is None else version)

    def _open(self, name: str, version: int | None = None) -> DeltaTable:
        with self._errors(name):
            return DeltaTable(self.uri(name), version=version, storage_options=self._options)

    def exists(self, name: str) -> bool:
        return self.version(name) is not None

    def version(self, name: str) -> TableVersion | None:
        """The newest version; None if the table does not exist."""
        with self._errors(name):
            newest = self._newest.find(name)
        return TableVersion(name=name, version=newest) if newest >= 0 else None

    def _existing(self, name: str) -> TableVersion:
        """The newest version. Raises NotFound if the table does not exist."""
        newest = self.version(name)
        if newest is None:
            raise NotFound("no such table", where=name, hint="run the flow that writes it first")
        return newest

    def dataset(self, reference: TableVersion, where: Sequence[Limit] = ()) -> ds.Dataset:
        """A lazy dataset of exactly this version, with push-down of columns and filters.

        `where`: in a table of many files, files without such rows are excluded by their statistics. A table of few
        files keeps all of them, and reading skips them."""
        few = len(self.open(reference.name, reference.version).file_uris()) <= _FEW_FILES
        return self._scanned(reference, () if few else tuple(where))

    def _scan(self, reference: TableVersion, where: tuple[Limit, ...]) -> ds.Dataset:
        table = self.open(reference.name, reference.version)
        with self._errors(reference.name):
            dataset: ds.Dataset = table.to_pyarrow_dataset(
                filesystem=delta_options.filesystem(self._settings, self.uri(reference.name)),
                file_pruning_predicate=list(where) or None,
            )
            return dataset

    def changed_files(self, old: TableVersion, new: TableVersion) -> tuple[ds.Dataset, ds.Dataset]:
        """The files that only `old` has, and the files that only `new` has. Files are immutable: all others are in both
        versions."""
        sides = [{fragment.path: fragment for fragment in self.dataset(v).get_fragments()} for v in (old, new)]
        shared = sides[0].keys() & sides[1].keys()
        only = ([fragment for path, fragment in side.items() if path not in shared] for side in sides)
        schemas, form = (self.dataset(version).schema for version in (old, new)), ds.ParquetFileFormat()
        removed, added = (ds.FileSystemDataset(*side, form) for side in zip(only, schemas, strict=True))
        return removed, added

    def read(
        self,
        reference: TableVersion,
        columns: list[str] | None = None,
        filter: Any = None,
        where: Sequence[Limit] = (),
    ) -> pa.Table:
        """Read the rows selected by `filter` (an expression) and `where` (limits, combined with and). In a table of
        many files, `where` is faster: files without such rows are not opened."""
        selected = delta_options.filter_expression(where, filter)
        with self._errors(reference.name):
            return self._read(
                reference, lambda: self.dataset(reference, where).to_table(columns=columns, filter=selected)
            )

    def _read(self, reference: TableVersion, read: Callable[[], Read]) -> Read:
        """Call `read`, and once more if files were rewritten after their dataset was opened (`truecourse forget`)."""
        try:
            return read()
        except (OSError, pa.ArrowInvalid):
            self._close(reference.name)
            return read()

    def _close(self, name: str) -> None:
        """Read all of a table anew from now on."""
        self._opened.close(name)
        self._history.drop(name)
        self._scanned.cache_clear()

    def find_rows(self, reference: TableVersion, condition: Any, where: Sequence[Limit] = ()) -> list[dict[str, Any]]:
        """Find the few rows selected by `condition`, each with the key of its `file`. `where`: as in read()."""
        selected = delta_options.filter_expression(where, condition)
        with self._errors(reference.name):
            return self._read(
                reference, lambda: row_search.find_rows(self.dataset(reference, where), selected, reference.name)
            )

    def parts(
        self, reference: TableVersion, columns: list[str], rows: int, filter: Any = None, where: Sequence[Limit] = ()
    ) -> Iterator[pa.Table]:
        """Read as read() does, in parts of about `rows` rows. Each file is read once, with little memory."""
        held, few = [], {"batch_size": rows, "batch_readahead": 1, "fragment_readahead": 1}
        with self._errors(reference.name):
            scanner = self.dataset(reference, where).scanner(
                columns=columns, filter=delta_options.filter_expression(where, filter), **few
            )
            for batch in scanner.to_batches():
                held.append(batch)
                if sum(map(len, held)) >= rows:
                    yield pa.Table.from_batches(held)
                    held.clear()
            if any(map(len, held)):
                yield pa.Table.from_batches(held)

    def count(self, reference: TableVersion, where: Sequence[Limit]) -> int:
        """Count the rows that the limits select."""
        with self._errors(reference.name):
            selected = delta_options.filter_expression(where)
            return self._read(reference, lambda: int(self.dataset(reference, where).count_rows(filter=selected)))

    def append(
        self,
        name: str,
        rows: Rows,
        commit: dict[str, Any],
        partition_by: str | None = None,
        stats_columns: Sequence[str] = (),
        transactions: Mapping[str, int] | None = None,
        merge: bool = False,
        keep_log: bool = True,
        after: TableVersion | None = None,
    ) -> TableVersion:
        """Append rows; create the table if it does not exist.

        `partition_by`: a column. `stats_columns`: columns whose minimum and maximum commits record (default: all).
        Both apply when the table is created. `transactions`: numbers by application, committed with the rows; see
        transactions(). `merge`: as in replace(). `keep_log`: keep all commits of a new table; otherwise Delta deletes
        them after 30 days. `after`: the version that the caller has read; raises ConflictError if a later one has a
        number of the same application."""
        new = {_STATISTICS: ",".join(stats_columns)} if stats_columns else {}
        new |= {} if keep_log else {"delta.enableExpiredLogCleanup": "true"}
        options: dict[str, Any] = {"mode": "append", "partition_by": partition_by, "schema_mode": _mode(merge)}
        return self._write(name, rows, commit, transactions, new, after, **options)

    def compact(self, name: str, stats_columns: Sequence[str] = (), commit: Any = None, size: int | None = None) -> int:
        """Merge small files in a new version with the same rows, into files of up to `size` bytes (default: Delta's).
        Return how many files it removed. `stats_columns`: as in append(); an older table has them from now on."""
        table, wanted = self._open(name), ",".join(stats_columns)
        with self._errors(name), self._synced(name):
            if wanted and table.metadata().configuration.get(_STATISTICS) != wanted:
                table.alter.set_table_properties({_STATISTICS: wanted})
            properties = commit_properties(commit) if commit else None
            found = table.optimize.compact(None, size, writer_properties=_WRITER, commit_properties=properties)
        self._record_files(name)
        return int(found["numFilesRemoved"])

    def delete(self, name: str, where: str, commit: dict[str, Any]) -> None:
        """Delete the rows that `where` (a Delta predicate) selects. Retention deletes their bytes later.

        They are replaced by no rows: Delta's own command writes the texts of the rows that stay with a type
        (string_view) by which Arrow cannot filter."""
        none = pa.schema(self.open(name).schema().to_arrow()).empty_table()
        self._write(name, none, commit, mode="overwrite", predicate=where)

    def delete_files(self, name: str, files: Iterable[str]) -> None:
        """Delete data files, by key, that no needed version has (truecourse/storage/table_files.py). No commit is
        written, so the table keeps its version, and all its commits."""
        for file in files:
            self.store.delete(file)
            if name.startswith(file_digests.RECORDED):
                self.store.delete(file_digests.digest_key(file))

    def _record_files(self, name: str) -> None:
        version = self.version(name) if name.startswith(file_digests.RECORDED) else None
        if version is not None:
            file_digests.record(self.store, name, version.version)

    def transactions(self, name: str, applications: Iterable[str]) -> dict[str, int]:
        """The last committed transaction number of each application; without those that have none."""
        if not self.exists(name):
            return {}
        table = self.open(name)
        with self._errors(name):
            numbers = {application: table.transaction_version(application) for application in applications}
        return {application: number for application, number in numbers.items() if number is not None}

    def replace(
        self, name: str, rows: Rows, commit: dict[str, Any], where: str | None = None, merge: bool = False
    ) -> TableVersion:
        """Replace all rows, or those that `where` (a Delta predicate) selects, by `rows`.

        `merge`: add new columns to the table; they are null in other rows."""
        return self._write(name, rows, commit, mode="overwrite", predicate=where, schema_mode=_mode(merge))

    def rewrite(self, name: str, rows: Rows, commit: dict[str, Any]) -> TableVersion:
        """Replace all rows and the schema."""
        return self._write(name, rows, commit, mode="overwrite", schema_mode="overwrite")

    def _write(
        self,
        name: str,
        rows: Rows,
        commit: dict[str, Any],
        transactions: Mapping[str, int] | None = None,
        new: Mapping[str, str] | None = None,
        after: TableVersion | None = None,
        **options: Any,
    ) -> TableVersion:
        target = self._to_write(name, None if after is None else after.version)
        with self._errors(name), self._synced(name):
            write_deltalake(
                target,
                rows,
                storage_options=self._options,
                commit_properties=commit_properties(commit, transactions),
                # Ignored if the table already exists.
                configuration={**_KEEP_LOG, "delta.checkpointInterval": str(CHECKPOINT_EVERY), **(new or {})},
                writer_properties=_WRITER,
                **options,
            )
        written = target if isinstance(target, DeltaTable) else self._open(name)  # at the version that it wrote
        self._opened.keep(name, written)
        self._record_files(name)
        return TableVersion(name=name, version=written.version())

    def _to_write(self, name: str, version: int | None) -> DeltaTable | str:
        """The table, as it is now or was at a version; its address if it does not exist."""
        try:
            return self._open(name, version)
        except NotFound:
            return self.uri(name)

    def commits(self, name: str) -> Commits:
        """Every version with its commit's metadata, oldest first; none of a table that does not exist."""
        newest = self.version(name)
        found = self._history.all(name, newest.version) if newest is not None else []
        return [(commit.version, commit.metadata) for commit in found]

    def commit(self, reference: TableVersion) -> dict[str, Any] | None:
        """The metadata of the commit that wrote a version; None if it is unknown."""
        found = self._history.one(reference.name, reference.version)
        return found.metadata if found is not None else None

    def recent(self, name: str, count: int) -> list[tuple[int, datetime, dict[str, Any]]]:
        """The last `count` versions, oldest first: number, commit time (UTC), commit metadata."""
        found = self._history.last(name, self._existing(name).version, count)
        return [(commit.version, commit.at, commit.metadata) for commit in found]

    def newest(self, name: str, column: str) -> datetime | None:
        """The maximum (UTC) of a time column in the newest version, from file statistics."""
        reference = self.version(name)
        files = self._files(reference) if reference is not None else pa.table(())
        greatest = f"max.{column}"
        return pc.max(files[greatest]).as_py() if greatest in files.column_names else None

    def files(self, reference: TableVersion) -> list[str]:
        """Sorted keys of the Parquet files of a version."""
        uris = self.open(reference.name, reference.version).file_uris()
        root = self._settings.storage_root
        return sorted(uri.removeprefix("file://").removeprefix(root).lstrip("/") for uri in uris)

    def bounds(self, reference: TableVersion, column: str) -> list[tuple[str, Any, Any]]:
        """The names of a version's files, each with the column's minimum and maximum from file statistics (None if
        there are none). No rows are read."""
        added = self._files(reference)
        known, none = f"min.{column}" in added.column_names, [None] * len(added)
        limits = [added[f"{end}.{column}"].to_pylist() if known else none for end in ("min", "max")]
        return list(zip(added["path"].to_pylist(), *limits, strict=True))

    def added(self, old: TableVersion | None, new: TableVersion) -> tuple[int, int, int]:
        """The number of Parquet files of `new` that `old` lacks (all if it is None), their rows, and their bytes."""
        before = set(self._files(old)["path"].to_pylist()) if old else set()
        files = self._files(new)
        columns = (files[name].to_pylist() for name in ("path", "num_records", "size_bytes"))
        added = [(rows or 0, size) for path, rows, size in zip(*columns, strict=True) if path not in before]
        return len(added), sum(rows for rows, _ in added), sum(size for _, size in added)

    def _files(self, reference: TableVersion) -> pa.Table:
        """The path, size and statistics of each file of a version."""
        table = self.open(reference.name, reference.version)
        with self._errors(reference.name):
            return pa.table(table.get_add_actions(flatten=True))

    def digests(self, reference: TableVersion) -> dict[str, str]:
        """SHA-256 of every Parquet file of a version, by key. Raises NotFound if a file is missing."""
        files = self.files(reference)
        digests = self.digests_of(files)
        if len(digests) < len(files):
            lost = next(key for key in files if key not in digests)
            raise NotFound("a file of the table is gone", where=lost, hint="restore it from a backup")
        return digests

    def log_digests(self, reference: TableVersion) -> dict[str, str]:
        """SHA-256 of every file of the table's log up to a version, by key: commits and checkpoints."""
        prefix = f"{reference.name}/{LOG}/"
        numbered = ((key, key.removeprefix(prefix)[:20]) for key in self.store.list(prefix))
        return self.digests_of([key for key, n in numbered if n.isdecimal() and int(n) <= reference.version])

    def digests_of(self, keys: Iterable[str]) -> dict[str, str]:
        """SHA-256 of those objects that exist, by key."""
        with ThreadPoolExecutor(_AT_ONCE) as pool:  # hashing lets other threads run
            digests = zip(keys, pool.map(self._digest, keys), strict=True)
            return {key: digest for key, digest in digests if digest is not None}

    def _digest(self, key: str) -> str | None:
        try:
            return self.store.digest(key)
        except NotFound:
            return None


def _mode(merge: bool) -> Literal["merge"] | None:
    return "merge" if merge else None
