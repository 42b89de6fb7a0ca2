"""A storage with tables of one row, written as the flows write them, for tests of cleanups after random histories."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pytest

from tests.conftest import existing
from tests.edited_orders import replace_text
from truecourse.data.deliveries import Delivery, archive
from truecourse.data.quarantine import quarantine_of
from truecourse.errors import StorageError
from truecourse.features.definition_digests import feature_table
from truecourse.hashing import sha256
from truecourse.modeling.snapshot import Input, Manifest, load_frame, load_manifest, save, serialize
from truecourse.problem import RandomSplit
from truecourse.problem.loader import load_problem
from truecourse.references import TableVersion, TrainedRun
from truecourse.registry import aliases, lineage_record, runs
from truecourse.registry import versions as registry
from truecourse.registry.runs import RunRecord
from truecourse.retention import collect
from truecourse.serving.batch_scoring import Batch, Span, predictions_table
from truecourse.storage.delta_tables import Tables, clean_table, quarantine_table, raw_table
from truecourse.storage.object_store import LocalStore, open_store

SQL = "features/spend.sql"


@dataclass
class Shop:
    """A storage of a problem with small tables, written as the flows write them. `folder`: that of the tables' SQL.
    `now`: of cleanups. `owner`: the problem or feature area that the tables belong to."""

    folder: Path
    random: Random
    now: datetime = field(default_factory=lambda: datetime.now(UTC))
    days: int = 7
    deliveries: list[dict[str, Any]] = field(default_factory=list)
    trained: int = 0
    """The number of runs; run ids are numbers, so that of a second problem starts higher."""
    problem: str = "orders"
    owner: str = "orders"

    @property
    def tables(self) -> Tables:
        return Tables()

    def ingest(self) -> None:
        number, data = len(self.deliveries), f"delivery {len(self.deliveries)}".encode()
        file = self.folder / "source.csv"
        file.write_bytes(data)
        archive(open_store(), self.owner, "orders", sha256(data), file)
        delivery = Delivery(number=number, uri=str(file), place="source.csv", sha256=sha256(data), bytes=len(data),
                            rows=1, start=number, group=number, at=datetime.now(UTC))  # fmt: skip
        self.deliveries.append(delivery.model_dump(mode="json"))
        commit = {"shape": "s", "combine": "replace", "deliveries": self.deliveries[-1:], "rows": 1}
        raw = self.tables.append(raw_table(self.owner, "orders"), one_row(number), commit)
        commit = {"inputs": [raw.model_dump()], "deliveries": [{"number": number}], "watermark": None, "total": 1}
        clean = self.tables.replace(clean_table(self.owner, "orders"), one_row(number), commit)
        if self.owner != self.problem:
            self.tables.replace(quarantine_table(self.owner, "orders"), one_row(number), {"clean": clean.version})
        self.materialize()

    def read_again(self) -> None:
        """Rewrite the raw table, as an edit of its declaration does."""
        commit = {"shape": "s", "combine": "replace", "deliveries": self.deliveries, "rewritten": True}
        self.tables.replace(raw_table(self.owner, "orders"), one_row(0), commit)

    def materialize(self) -> None:
        name = feature_table(load_problem(self.problem), "spend")
        commit = {"inputs": [self.newest(clean_table(self.owner, "orders")).model_dump()], "view_digest": name}
        self.tables.replace(name, one_row(self.random.randrange(1000)), commit)

    def edit(self) -> None:
        days = self.random.choice([7, 8, 9])
        replace_text(self.folder / SQL, f"INTERVAL {self.days} DAY", f"INTERVAL {days} DAY")
        self.days = days
        self.materialize()

    def newest(self, name: str) -> TableVersion:
        return existing(self.tables.version(name))

    def inputs(self) -> list[TableVersion]:
        return [
            self.newest(clean_table(self.owner, "orders")),
            self.newest(feature_table(load_problem(self.problem), "spend")),
        ]

    def train(self) -> None:
        self.trained += 1
        run_id, tables, (clean, features) = f"{self.trained:032x}", self.tables, self.inputs()
        parts = (("orders", "clean", clean), ("spend", "features", features))
        inputs = tuple(Input(name=n, role=r, table=v, files=tables.digests(v)) for n, r, v in parts)  # type: ignore[arg-type]
        manifest = Manifest(problem=self.problem, problem_digest="", document={}, until=None, split=RandomSplit(),
                            rows={}, columns={}, inputs=inputs)  # fmt: skip
        snapshot = save(tables.store, serialize([one_row(self.trained)]), manifest)
        lineage = lineage_record.record_lineage(tables, load_manifest(tables.store, snapshot))
        runs.put_artifacts(run_id, {"model/model.ubj": b"model", "lineage.json": json.dumps(lineage).encode()})
        run = TrainedRun(problem=self.problem, run_id=run_id, snapshot=snapshot, model_sha256=sha256(b"model"))
        runs.save_record(RunRecord(run=run, key=run_id, name="", note="", tags={}, at=datetime.now(UTC)))
        if self.random.random() < 0.8:
            newest = registry.ledger(self.problem).newest()
            registry.ledger(self.problem).append(
                registry.RegisteredVersion(
                    number=newest.number + 1 if newest else 1, action="register", reason="-", run_id=run_id,
                    model_sha256=run.model_sha256, record_sha256=runs.record_digest(self.problem, run_id),
                    **aliases.signature(),
                )
            )  # fmt: skip

    def promote(self) -> None:
        if versions := registry.versions(self.problem):
            aliases.move(
                aliases.current(self.problem), self.problem, "promote", "-", champion=self.random.choice(versions)
            )

    def roll_back(self) -> None:
        if aliases.previous_champions(aliases.history(self.problem)):
            before = aliases.rollback_target(self.problem, aliases.history(self.problem))
            assert before in registry.versions(self.problem), "a rollback leads to a version that exists"
            aliases.roll_back(self.problem, "-")

    def score(self) -> None:
        """Score a batch with the champion, which must stay with its inputs as long as the rows do."""
        version = aliases.current(self.problem).champion
        if version is not None:
            number = self.random.randrange(3)
            batch = Batch(id=f"b{number}", inputs="", version=version, explain=False, tables=tuple(self.inputs()))
            rows = pa.table({"_tc_batch": [batch.id], "_tc_model_version": [version.version]})
            where = f"_tc_batch = '{batch.id}'" if self.tables.exists(predictions_table(self.problem)) else None
            commit = batch.commit(Span(0, 1), 1)
            self.tables.replace(predictions_table(self.problem), rows, commit, where=where)

    def batches(self) -> list[dict[str, Any]]:
        """The last commit of each batch."""
        name = predictions_table(self.problem)
        commits = self.tables.commits(name) if self.tables.exists(name) else []
        return list({commit["batch"]: commit for _, commit in commits}.values())

    def clean_up(self) -> None:
        self.now += timedelta(days=self.random.choice([0, 10, 200]))
        kept = set(self.kept_numbers())
        if self.random.random() < 0.3:
            self.kill(lambda: collect.make_plan(self.problem, self.now))
        collect.make_plan(self.problem, self.now).carry_out()
        assert not collect.make_plan(self.problem, self.now).removals, "a second cleanup removes nothing"
        assert kept <= {version.version for version in registry.versions(self.problem)}
        self.verify()

    def kept_numbers(self) -> Iterator[int]:
        """The champion, the one before it, the newest version, and those with scored rows."""
        history = aliases.history(self.problem)
        chain = [v.version for v in aliases.previous_champions(history)]
        yield from chain[-1:]
        yield from (entry.champion.version for entry in history[-1:] if entry.champion)
        yield from registry.ledger(self.problem).numbers()[-1:]
        reference = self.tables.version(predictions_table(self.problem))
        yield from self.tables.read(reference)["_tc_model_version"].to_pylist() if reference else ()

    def kill(self, plan: Callable[[], collect.Plan]) -> None:
        """Carry out a plan, and die after a few deletions."""
        left = self.random.randrange(6)
        delete = LocalStore.delete

        def dying(store: LocalStore, key: str) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise StorageError("killed")
            delete(store, key)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(LocalStore, "delete", dying)
            try:
                plan().carry_out()
            except StorageError:
                return

    def verify(self) -> None:
        tables = self.tables
        for version in registry.versions(self.problem):
            run = runs.trained_run(self.problem, version.run_id)
            manifest = load_manifest(tables.store, run.snapshot)
            recorded = json.loads(runs.artifact(run.run_id, "lineage.json"))
            links = [*lineage_record.verify_tables(tables, manifest, recorded)]
            links += lineage_record.verify_sources(self.problem, tables, recorded)
            assert not [link for link in links if not link["verified"]]
            assert len(load_frame(tables.store, run.snapshot)) == 1
            for item in manifest.inputs:
                assert len(tables.read(item.table)) == 1
            if self.owner != self.problem:
                (clean,) = (item.table for item in manifest.inputs if item.role == "clean")
                quarantined = quarantine_of(tables, self.owner, "orders", {"version": clean.version})
                assert len(tables.read(existing(quarantined))) == 1, "the rows that were quarantined by then"
        for batch in self.batches():
            for used in map(TableVersion.model_validate, batch["tables"]):
                assert len(tables.read(used)) == 1, "the batch's inputs can be computed again"
        for reference in (*self.inputs(), tables.version(predictions_table(self.problem))):
            assert reference is None or len(tables.read(reference))


def one_row(number: int) -> pa.Table:
    return pa.table({"number": [number]})
