"""The inventory of a problem or feature area: what is stored of its models and data, and what each part needs to be of
use.

A version needs its run; a run needs its training frame, the files of every table version that it was trained from, and
the bytes of their sources; a frame needs the files of its input tables; a batch of predictions needs the table versions
and files that it was scored from; a table needs the files of its newest version. So a kept version can be traced,
reproduced and made champion again.

An area has tables and sources, and no models: the versions, runs, frames and batches of all problems may need them.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from itertools import groupby
from typing import Any

import pyarrow.compute as pc

from truecourse.data.deliveries import archive_key, unused_sources
from truecourse.data.quarantine import quarantine_of
from truecourse.errors import ModelError, NotFound, ProblemError, TruecourseError
from truecourse.features.definition_digests import feature_table
from truecourse.modeling.snapshot import Manifest, load_manifest
from truecourse.problem.loader import load_namespace
from truecourse.references import Snapshot, TableVersion
from truecourse.registry import aliases, mlflow_runs, runs
from truecourse.registry import versions as registry
from truecourse.retention.kept_versions import held_attempts, last_used
from truecourse.retention.marking import Item, Marked
from truecourse.serving.batch_scoring import BATCH, SCORED, Span, predictions_table, rejected_table
from truecourse.serving.prediction_log import log_table
from truecourse.storage.area_marks import marked_areas
from truecourse.storage.delta_tables import Limit, Tables
from truecourse.storage.fsync import LOG
from truecourse.storage.object_store import ObjectStore
from truecourse.storage.table_files import TableFiles, list_files


def version_id(problem: str, number: int) -> str:
    return f"version {number} of {problem}"


def frame_id(snapshot: Snapshot) -> str:
    return f"snapshots/{snapshot.problem}/{snapshot.sha256}/"


def problems(store: ObjectStore) -> list[str]:
    """The names of the problems that have stored tables or models. Feature areas are none."""
    found = {key.split("/")[1] for place in ("tables/", "models/") for key in store.list(place) if key.count("/") > 1}
    return sorted(found - marked_areas(store))


@dataclass(frozen=True)
class DataInventory:
    """Lists the tables and sources of a problem or feature area. `problem`: its name."""

    tables: Tables
    problem: str

    def items(self) -> list[Item]:
        """List all items, those that may be held by themselves first. Raises StorageError."""
        return [*self._tables(), *self._sources()]

    @cached_property
    def files(self) -> dict[str, TableFiles]:
        """The files of the problem's tables, by the table's name."""
        store, names = self.tables.store, {predictions_table(self.problem), log_table(self.problem)}
        for place in (f"tables/{self.problem}/", f"features/{self.problem}/"):
            names |= {key.partition(f"/{LOG}/")[0] for key in store.list(place) if f"/{LOG}/" in key}
        names.add(rejected_table(self.problem))
        found = {name: list_files(self.tables, name) for name in sorted(names)}
        return {name: files for name, files in found.items() if files is not None}

    def _table_files(self, name: str) -> TableFiles | None:
        """The files of a table, also of one of an area; None if it is not stored."""
        if name not in self.files and name not in self._others:
            self._others[name] = list_files(self.tables, name)
        return self.files.get(name) or self._others[name]

    @cached_property
    def _others(self) -> dict[str, TableFiles | None]:
        """The files of tables of areas, by the table's name; None for those that are not stored."""
        return {}

    def _files_of(self, version: TableVersion) -> Iterable[str]:
        files = self._table_files(version.name)
        return files.files(version.version) if files is not None else ()

    def _tables(self) -> Iterator[Item]:
        current = self._current_features()
        for name, files in self.files.items():
            is_feature = name.startswith("features/")
            held = current.get(name, current.get("", "")) if is_feature else f"a table of {self.problem}"
            last = self.tables.recent(name, 1)[-1]
            needs = set(files.newest)
            if is_feature:  # the next computation compares with the versions that the last one read
                for version in map(TableVersion.model_validate, last[2].get("inputs", ())):
                    needs |= set(self._files_of(version))
            kind, size = (
                ("feature table" if is_feature else "table"),
                sum(files.stored[key].bytes for key in files.newest if key in files.stored),
            )
            held = held or ("it has no rows" if not files.newest else "")
            yield Item(kind, name, size, frozenset(needs), held, last[1])  # type: ignore[arg-type]
            if files.is_whole or name == log_table(self.problem):
                yield from _file_items(name, files, is_log=name == log_table(self.problem))

    def _current_features(self) -> dict[str, str]:
        """The feature tables of the current definitions, with the reason that keeps them; "" stands for all others."""
        try:
            namespace = load_namespace(self.problem)
            return {feature_table(namespace, view.name): f"a view of {self.problem}" for view in namespace.views}
        except TruecourseError as error:
            why = "cannot be read" if isinstance(error, ProblemError) else "cannot be compared"
            return {"": f"the folder of {self.problem} {why}, so its views are not known"}

    @cached_property
    def _sizes(self) -> dict[str, tuple[int, datetime]]:
        """The archived source bytes: size and time of writing, by key."""
        objects = self.tables.store.objects(f"sources/{self.problem}/")
        return {one.key: (one.bytes, one.modified) for one in objects}

    def _sources(self) -> Iterator[Item]:
        """Source bytes: held are current deliveries, and those of tables whose deliveries are not known."""
        for table in sorted({key.split("/")[2] for key in self._sizes}):
            since = unused_sources(self.tables, self.problem, table) if table != SCORED else {}
            for key, (size, modified) in self._sizes.items():
                if key.split("/")[2] == table:
                    moment = since.get(key.rpartition("/")[2], modified)
                    held = "a current delivery" if moment is None else ""
                    yield Item("source", key, size, frozenset(), held, moment)


@dataclass(frozen=True)
class Inventory(DataInventory):
    """Lists the items of a problem. `reasons`: why each version is kept, by number. `rows`: limits of the
    rows of predictions that are kept, by table. `champions`: how many of the last ones are kept; 0: all."""

    reasons: Mapping[int, str]
    rows: Mapping[str, Sequence[Limit]]
    champions: int

    def items(self) -> list[Item]:
        parts = (self._versions(), self._batches(), self._tables(), self._runs(), self._frames(), self._sources())
        return [item for part in parts for item in part]

    @cached_property
    def records(self) -> list[runs.RunRecord]:
        return [runs.load_record(self.problem, run_id) for run_id in runs.run_ids(self.problem)]

    def version_numbers(self, marked: Marked) -> set[int]:
        """The numbers of the versions that are kept."""
        numbers = registry.ledger(self.problem).numbers()
        return {number for number in numbers if version_id(self.problem, number) in marked.holders}

    def _versions(self) -> Iterator[Item]:
        used = last_used(aliases.history(self.problem))
        for entry in sorted(registry.ledger(self.problem).entries(), key=lambda one: one.number, reverse=True):
            since = max(entry.at, used.get(entry.number, entry.at))
            needs = frozenset({runs.record_key(self.problem, entry.run_id)})
            held = self.reasons.get(entry.number, "")
            yield Item("version", version_id(self.problem, entry.number), 0, needs, held, since)

    def _runs(self) -> Iterator[Item]:
        held = self._held_runs()
        for one in self.records:
            run_id = one.run.run_id
            places = (f"runs/{run_id}/", mlflow_runs.run_artifact_key(run_id, ""))
            size = sum(found.bytes for place in places for found in self.tables.store.objects(place))
            needs = {frame_id(one.run.snapshot), *self._lineage(run_id)}
            key = runs.record_key(self.problem, run_id)
            yield Item("run", key, size, frozenset(needs), held.get(run_id, ""), one.at)

    def _held_runs(self) -> dict[str, str]:
        """The runs that are kept without a version, with the reason: the newest, and those of retraining attempts."""
        found = held_attempts(self.tables.store, self.problem, self.champions)
        attempts = [attempt.run_id for attempt in found if attempt.run_id is not None]
        held = dict.fromkeys(attempts, "trained by a retraining in the current findings")
        try:
            return held | {runs.trained_run(self.problem).run_id: "the newest run"}
        except ModelError:
            return held

    def _lineage(self, run_id: str) -> Iterator[str]:
        """What a run's lineage refers to: files of tables, feature tables, source bytes."""
        try:
            recorded = json.loads(runs.artifact(run_id, "lineage.json"))
        except NotFound:
            return
        for reference, item in recorded["tables"].items():
            name = reference.rpartition("@")[0]
            yield from (name, *item["files"])
            path = name.split("/")
            if path[2] == "raw":
                for _, commit in item["commits"]:
                    yield from (archive_key(path[1], path[3], d["sha256"]) for d in commit.get("deliveries", ()))

    def _frames(self) -> Iterator[Item]:
        store, place = self.tables.store, f"snapshots/{self.problem}/"
        objects = sorted(store.objects(place), key=lambda one: one.key.split("/")[2])
        used: dict[str, list[datetime]] = {}
        for one in objects:
            if one.key.startswith(f"{place}inputs/"):
                sha256 = json.loads(store.get(one.key))["sha256"]
                used.setdefault(sha256, []).append(one.modified)
        for sha256, found in groupby(objects, key=lambda one: one.key.split("/")[2]):
            if sha256 == "inputs":
                continue
            parts = list(found)
            snapshot = Snapshot(problem=self.problem, sha256=sha256, rows=0)
            since = max([*(one.modified for one in parts), *used.get(sha256, ())])
            size = sum(one.bytes for one in parts)
            yield Item("frame", frame_id(snapshot), size, frozenset(self._inputs(snapshot)), since=since)

    def _inputs(self, snapshot: Snapshot) -> Iterator[str]:
        """The files of a frame's input tables, and of the quarantine tables that belong to them."""
        try:
            manifest: Manifest = load_manifest(self.tables.store, snapshot)
        except NotFound:  # it was not completed
            return
        for item in manifest.inputs:
            yield from (item.table.name, *item.files)
            if item.role == "clean":
                yield from self._quarantined(item.table)

    def _quarantined(self, clean: TableVersion) -> Iterable[str]:
        """The files of the quarantine table's version that belongs to a clean table's version."""
        _, owner, _, table = clean.name.split("/")  # of the problem, or of an area
        commits = [(number, commit) for number, commit in self._commits(clean.name) if number <= clean.version]
        listed = [(number, commit) for number, commit in commits if "deliveries" in commit]
        if not listed:
            return ()
        version, last = listed[-1]
        found = quarantine_of(self.tables, owner, table, {**last, "version": version})
        return self._files_of(found) if found is not None else ()

    def _commits(self, name: str) -> list[tuple[int, dict[str, Any]]]:
        if name not in self._all_commits:
            self._all_commits[name] = self.tables.commits(name) if self._table_files(name) is not None else []
        return self._all_commits[name]

    @cached_property
    def _all_commits(self) -> dict[str, list[tuple[int, dict[str, Any]]]]:
        return {}

    def _batches(self) -> Iterator[Item]:
        """The batches of predictions that still have rows."""
        name = predictions_table(self.problem)
        reference = self.tables.version(name)
        if reference is None:
            return
        rows = self.tables.read(reference, columns=[BATCH], where=self.rows.get(name, ()))
        present = set(pc.unique(rows[BATCH]).to_pylist())
        later: dict[str, list[Span]] = {}
        for number, commit in reversed(self._commits(name)):
            if commit.get("batch") in present:
                span, after = Span.load(commit["span"]), later.setdefault(commit["batch"], [])
                if any(one.covers(span) for one in after):
                    continue  # its rows were scored again
                after.append(span)
                needs = {f"sources/{self.problem}/{SCORED}/{sha256}" for sha256 in commit["source"]}
                for version in map(TableVersion.model_validate, commit["tables"]):
                    needs |= {version.name, *self._files_of(version)}
                held = f"scored predictions in {name}"
                yield Item("batch", f"batch {commit['batch'][:12]}, commit {number}", 0, frozenset(needs), held)


def _file_items(name: str, files: TableFiles, *, is_log: bool) -> Iterator[Item]:
    for key, one in files.stored.items():
        since = None if key in files.newest else files.unused_since(key)
        yield Item("log file" if is_log else "table file", key, one.bytes, since=since)
