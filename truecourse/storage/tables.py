"""Versioned tables: Delta Lake under the storage root. Every commit says what it was made from."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from deltalake import CommitProperties, DeltaTable, Transaction, WriterProperties, write_deltalake
from deltalake.exceptions import DeltaError, TableNotFoundError

from truecourse.errors import AccessDenied, NotFound, StorageError
from truecourse.references import TableVersion
from truecourse.settings import Settings, get_settings
from truecourse.storage import delta_options, file_digests
from truecourse.storage.fsync import LOG, newest_commit, remove_torn_commits, sync_commits
from truecourse.storage.object_store import ObjectStore, open_store

COMMIT_KEY = "truecourse"
CHECKPOINT_EVERY = 10
"""Commits after which a new table's log is summed up: whoever opens it reads the last sum and what came after it."""
ROW_GROUP = 1 << 15
"""Rows that a reader takes or leaves together, by their statistics: of a year of rows in the order of time, a week is
read at a week's cost."""
_KEPT_OPEN = 64
_AT_ONCE = 4
_FILE = "__filename"
_KEPT_LOG = {"delta.enableExpiredLogCleanup": "false"}
"""Lineage reads commits of any age."""
_FEW_FILES = 64
"""Of a dataset of so many files, what their commits tell is made into filters once, and not at each reading."""
Rows: TypeAlias = pa.Table | pa.RecordBatchReader
Limit: TypeAlias = tuple[str, str, Any]
"""Which rows are wanted, by one column: ("at", ">=", moment)."""


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
        # What a version holds never changes.
        self._at = lru_cache(_KEPT_OPEN)(self._open)
        self._scanned = lru_cache(_KEPT_OPEN)(self._scan)

    def uri(self, name: str) -> str:
        return f"{self._settings.storage_root}/{name}"

    @contextmanager
    def _errors(self, name: str) -> Iterator[None]:
        try:
            yield
        except TableNotFoundError:
            raise NotFound("no such table", where=name, hint="run the flow that writes it first") from None
        except (DeltaError, OSError) as error:
            if any(sign in str(error) for sign in ("403", "Forbidden", "AccessDenied", "InvalidAccessKeyId")):
                hint = "check TRUECOURSE_S3_ACCESS_KEY_ID, TRUECOURSE_S3_SECRET_ACCESS_KEY and the bucket's policy"
                raise AccessDenied("the storage refuses these credentials", where=self.uri(name), hint=hint) from None
            raise StorageError(str(error), where=self.uri(name)) from error

    def _folder(self, name: str) -> Path | None:
        """None where the storage root is no folder, but a server that keeps what it was given."""
        return None if self._settings.storage_root.startswith("s3://") else Path(self.uri(name))

    @contextmanager
    def _lasting(self, name: str) -> Iterator[None]:
        """What the block commits survives a loss of power from its end on."""
        folder = self._folder(name)
        before = newest_commit(folder) if folder is not None else -1
        yield
        if folder is not None:
            sync_commits(folder, before, Path(self._settings.storage_root))

    def remove_torn_commits(self, name: str) -> list[str]:
        """Remove commits that a loss of power left torn, for which nobody could read the table; their names."""
        folder = self._folder(name)
        if folder is None:
            return []
        with self._errors(name):
            return remove_torn_commits(folder)

    def open(self, name: str, version: int | None = None) -> DeltaTable:
        """The newest version, or exactly this one, which is not to be changed through what is returned."""
        return self._open(name) if version is None else self._at(name, version)

    def _open(self, name: str, version: int | None = None) -> DeltaTable:
        with self._errors(name):
            return DeltaTable(self.uri(name), version=version, storage_options=self._options)

    def exists(self, name: str) -> bool:
        with self._errors(name):
            return DeltaTable.is_deltatable(self.uri(name), storage_options=self._options)

    def version(self, name: str) -> TableVersion | None:
        """The newest version, or None where there is no table."""
        folder = self._folder(name)
        if folder is None:
            return TableVersion(name=name, version=self.open(name).version()) if self.exists(name) else None
        with self._errors(name):
            newest = newest_commit(folder)
        return TableVersion(name=name, version=newest) if newest >= 0 else None

    def dataset(self, reference: TableVersion, where: Sequence[Limit] = ()) -> ds.Dataset:
        """A lazy dataset of exactly this version, with push-down of columns and filters.

        `where`: of a table of many files those that hold no such row, by what their commits tell of them, are left out
        of it; of one of few files all are kept open, since reading them skips those as well."""
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
        """Of two versions of a table the files that only the one has, and those that only the other has. Files are
        never changed: what lies in all others is in both."""
        sides = [{fragment.path: fragment for fragment in self.dataset(v).get_fragments()} for v in (old, new)]
        shared = sides[0].keys() & sides[1].keys()
        only = ([one for path, one in side.items() if path not in shared] for side in sides)
        schemas, form = (self.dataset(version).schema for version in (old, new)), ds.ParquetFileFormat()
        gone, come = (ds.FileSystemDataset(*side, form) for side in zip(only, schemas, strict=True))
        return gone, come

    def read(
        self,
        reference: TableVersion,
        columns: list[str] | None = None,
        filter: Any = None,
        where: Sequence[Limit] = (),
    ) -> pa.Table:
        """The rows that `filter` (an expression) and `where` (limits that all hold) select. Of a table of many files
        `where` is the quicker one: files without such rows are not even asked for."""
        with self._errors(reference.name):
            return self.dataset(reference, where).to_table(
                columns=columns, filter=delta_options.selected(where, filter)
            )

    def read_with_files(self, reference: TableVersion, filter: Any) -> list[dict[str, Any]]:
        """The rows that `filter` selects, each with the key of the `file` that it lies in."""
        with self._errors(reference.name):
            dataset = self.dataset(reference)
            found = dataset.to_table(columns=[*dataset.schema.names, _FILE], filter=filter).to_pylist()
        return [{**row, "file": f"{reference.name}/{row.pop(_FILE)}"} for row in found]

    def parts(
        self, reference: TableVersion, columns: list[str], rows: int, filter: Any = None, where: Sequence[Limit] = ()
    ) -> Iterator[pa.Table]:
        """read() in parts of about so many rows, in the same order; each file is read once, and little is held."""
        held, few = [], {"batch_size": rows, "batch_readahead": 1, "fragment_readahead": 1}
        with self._errors(reference.name):
            scanner = self.dataset(reference, where).scanner(
                columns=columns, filter=delta_options.selected(where, filter), **few
            )
            for batch in scanner.to_batches():
                held.append(batch)
                if sum(map(len, held)) >= rows:
                    yield pa.Table.from_batches(held)
                    held.clear()
            if any(map(len, held)):
                yield pa.Table.from_batches(held)

    def count(self, reference: TableVersion, where: Sequence[Limit]) -> int:
        """How many rows there are that the limits select."""
        with self._errors(reference.name):
            return int(self.dataset(reference, where).count_rows(filter=delta_options.selected(where)))

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
    ) -> TableVersion:
        """`partition_by`: a column. `stats_columns`: columns whose minimum and maximum commits record (default: all).
        Both apply when the table is created. `transactions`: numbers by application, that become visible with the
        rows and are given back by transactions(). `merge`: as replace() has it.
        `keep_log`: a table that this creates never forgets its commits, which Delta would do after 30 days."""
        new = {"delta.dataSkippingStatsColumns": ",".join(stats_columns)} if stats_columns else {}
        new |= {} if keep_log else {"delta.enableExpiredLogCleanup": "true"}
        options: dict[str, Any] = {"mode": "append", "partition_by": partition_by, "schema_mode": _mode(merge)}
        return self._write(name, rows, commit, transactions, new, **options)

    def compact(self, name: str) -> int:
        """Put small files together, in a version with the same rows; how many files that took away."""
        table = self.open(name)
        with self._errors(name), self._lasting(name):
            removed = int(table.optimize.compact()["numFilesRemoved"])
        self._record_files(name)
        return removed

    def delete(self, name: str, where: str, commit: dict[str, Any]) -> None:
        """Remove the rows that `where` (a Delta predicate) selects. Their bytes go with vacuum(), after a week."""
        properties = CommitProperties(custom_metadata={COMMIT_KEY: json.dumps(commit, sort_keys=True)})
        table = self.open(name)
        with self._errors(name), self._lasting(name):
            table.delete(where, commit_properties=properties)
        self._record_files(name)

    def vacuum(self, name: str) -> int:
        """Remove the files that no version of the last week needs; how many."""
        table = self.open(name)
        with self._errors(name), self._lasting(name):
            gone = table.vacuum(dry_run=False)
        if name.startswith(file_digests.RECORDED):
            file_digests.forget(self.store, name, gone)
        return len(gone)

    def _record_files(self, name: str) -> None:
        version = self.version(name) if name.startswith(file_digests.RECORDED) else None
        if version is not None:
            file_digests.record(self.store, name, version.version)

    def transactions(self, name: str, applications: Iterable[str]) -> dict[str, int]:
        """The number that was last committed for each of these applications, of those that ever committed one."""
        if not self.exists(name):
            return {}
        table = self.open(name)
        with self._errors(name):
            found = {application: table.transaction_version(application) for application in applications}
        return {application: number for application, number in found.items() if number is not None}

    def replace(
        self, name: str, rows: Rows, commit: dict[str, Any], where: str | None = None, merge: bool = False
    ) -> TableVersion:
        """Write `rows` in place of all rows, or of those that `where` (a Delta predicate) selects.

        `merge`: columns that the table does not have yet are added to it, and are null in its other rows."""
        return self._write(name, rows, commit, mode="overwrite", predicate=where, schema_mode=_mode(merge))

    def rewrite(self, name: str, rows: Rows, commit: dict[str, Any]) -> TableVersion:
        """Write `rows` in place of all rows, under a schema of their own."""
        return self._write(name, rows, commit, mode="overwrite", schema_mode="overwrite")

    def _write(
        self,
        name: str,
        rows: Rows,
        commit: dict[str, Any],
        transactions: Mapping[str, int] | None = None,
        new: Mapping[str, str] | None = None,
        **options: Any,
    ) -> TableVersion:
        properties = CommitProperties(
            custom_metadata={COMMIT_KEY: json.dumps(commit, sort_keys=True)},
            app_transactions=[Transaction(*item) for item in (transactions or {}).items()] or None,
        )
        with self._errors(name), self._lasting(name):
            write_deltalake(
                self.uri(name),
                rows,
                storage_options=self._options,
                commit_properties=properties,
                # Of a table that is there already it is ignored.
                configuration={**_KEPT_LOG, "delta.checkpointInterval": str(CHECKPOINT_EVERY), **(new or {})},
                writer_properties=WriterProperties(max_row_group_size=ROW_GROUP, compression="SNAPPY"),
                **options,
            )
        self._record_files(name)
        version = self.version(name)
        assert version is not None
        return version

    def commits(self, name: str) -> list[tuple[int, dict[str, Any]]]:
        """Every version with what its commit says of itself, oldest first."""
        with self._errors(name):
            history = self.open(name).history()
        return sorted((entry["version"], json.loads(entry.get(COMMIT_KEY, "{}"))) for entry in history)

    def recent(self, name: str, count: int) -> list[tuple[int, datetime, dict[str, Any]]]:
        """The last `count` versions, oldest first: its number, when it was committed (UTC), what it says of itself."""
        table = self.open(name)
        with self._errors(name):
            history = table.history(count)
        moments = {entry["version"]: datetime.fromtimestamp(entry["timestamp"] / 1000, UTC) for entry in history}
        said = {entry["version"]: json.loads(entry.get(COMMIT_KEY, "{}")) for entry in history}
        return [(version, moments[version], said[version]) for version in sorted(said)]

    def newest(self, name: str, column: str) -> datetime | None:
        """The greatest moment (UTC) in a column of the newest version, from the statistics of its files alone."""
        table = self.open(name)
        with self._errors(name):
            files = pa.table(table.get_add_actions(flatten=True))
        greatest = f"max.{column}"
        return pc.max(files[greatest]).as_py() if greatest in files.column_names else None

    def files(self, reference: TableVersion) -> list[str]:
        """Keys of the Parquet files that make up a version, sorted."""
        uris = self.open(reference.name, reference.version).file_uris()
        root = self._settings.storage_root
        return sorted(uri.removeprefix("file://").removeprefix(root).lstrip("/") for uri in uris)

    def bounds(self, reference: TableVersion, column: str) -> list[tuple[str, Any, Any]]:
        """Names of a version's files, each with the least and the greatest value of the column that its commit tells;
        None where it tells nothing. No row is read."""
        added = pa.table(self.open(reference.name, reference.version).get_add_actions(flatten=True))
        told, none = f"min.{column}" in added.column_names, [None] * len(added)
        limits = [added[f"{end}.{column}"].to_pylist() if told else none for end in ("min", "max")]
        return list(zip(added["path"].to_pylist(), *limits, strict=True))

    def digests(self, reference: TableVersion) -> dict[str, str]:
        """SHA-256 of every Parquet file of a version, by key. Raises NotFound for one that is gone."""
        files = self.files(reference)
        found = self.digests_of(files)
        if len(found) < len(files):
            lost = next(key for key in files if key not in found)
            raise NotFound("a file of the table is gone", where=lost, hint="restore it from a backup")
        return found

    def log_digests(self, reference: TableVersion) -> dict[str, str]:
        """SHA-256 of every file of the table's log up to a version, by key: commits, and what sums them up."""
        prefix = f"{reference.name}/{LOG}/"
        numbered = ((key, key.removeprefix(prefix)[:20]) for key in self.store.list(prefix))
        return self.digests_of([key for key, n in numbered if n.isdecimal() and int(n) <= reference.version])

    def digests_of(self, keys: Iterable[str]) -> dict[str, str]:
        """SHA-256 of those objects that are there, by key."""
        with ThreadPoolExecutor(_AT_ONCE) as pool:  # hashing lets other threads run
            found = zip(keys, pool.map(self._digest, keys), strict=True)
            return {key: digest for key, digest in found if digest is not None}

    def _digest(self, key: str) -> str | None:
        try:
            return self.store.digest(key)
        except NotFound:
            return None


def _mode(merge: bool) -> Literal["merge"] | None:
    return "merge" if merge else None
