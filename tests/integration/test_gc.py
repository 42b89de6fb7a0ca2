"""Cleanups of a real storage after random histories: every kept version can be traced, read and rolled back to."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pytest

from cli.main import execute
from tests.conftest import S3Server, existing
from tests.edited_orders import HERE, replace_text
from tests.log_records import entry, record
from truecourse.data.deliveries import Delivery, archive
from truecourse.errors import IntegrityError, StorageError
from truecourse.features.definition_digests import feature_table
from truecourse.hashing import sha256
from truecourse.modeling.snapshot import Input, Manifest, load_frame, load_manifest, save
from truecourse.problem import RandomSplit
from truecourse.problem.loader import load_problem
from truecourse.references import TableVersion, TrainedRun
from truecourse.registry import aliases, lineage_record, runs
from truecourse.registry import versions as registry
from truecourse.registry.runs import RunRecord
from truecourse.retention import collect, removal
from truecourse.serving import prediction_log
from truecourse.serving.batch_scoring import Batch, Span, predictions_table
from truecourse.serving.prediction_log import encode_entry
from truecourse.storage.delta_tables import Tables, clean_table, raw_table
from truecourse.storage.object_store import LocalStore, open_store

SQL = "features/spend.sql"


@dataclass
class Shop:
    """A storage of the problem `orders` with small tables, written as the flows write them. `now`: of cleanups."""

    folder: Path
    random: Random
    now: datetime = field(default_factory=lambda: datetime.now(UTC))
    days: int = 7
    deliveries: list[dict[str, Any]] = field(default_factory=list)
    trained: int = 0

    @property
    def tables(self) -> Tables:
        return Tables()

    def ingest(self) -> None:
        number, data = len(self.deliveries), f"delivery {len(self.deliveries)}".encode()
        file = self.folder / "source.csv"
        file.write_bytes(data)
        archive(open_store(), "orders", "orders", sha256(data), file)
        delivery = Delivery(number=number, uri=str(file), place="source.csv", sha256=sha256(data), bytes=len(data),
                            rows=1, start=number, group=number, at=datetime.now(UTC))  # fmt: skip
        self.deliveries.append(delivery.model_dump(mode="json"))
        commit = {"shape": "s", "combine": "replace", "deliveries": self.deliveries[-1:], "rows": 1}
        raw = self.tables.append(raw_table("orders", "orders"), _rows(number), commit)
        commit = {"inputs": [raw.model_dump()], "deliveries": [{"number": number}], "watermark": None, "total": 1}
        self.tables.replace(clean_table("orders", "orders"), _rows(number), commit)
        self.materialize()

    def read_again(self) -> None:
        """Rewrite the raw table, as an edit of its declaration does."""
        commit = {"shape": "s", "combine": "replace", "deliveries": self.deliveries, "rewritten": True}
        self.tables.replace(raw_table("orders", "orders"), _rows(0), commit)

    def materialize(self) -> None:
        name = feature_table(load_problem(), "spend")
        commit = {"inputs": [self.newest(clean_table("orders", "orders")).model_dump()], "view_digest": name}
        self.tables.replace(name, _rows(self.random.randrange(1000)), commit)

    def edit(self) -> None:
        days = self.random.choice([7, 8, 9])
        replace_text(self.folder / SQL, f"INTERVAL {self.days} DAY", f"INTERVAL {days} DAY")
        self.days = days
        self.materialize()

    def newest(self, name: str) -> TableVersion:
        return existing(self.tables.version(name))

    def inputs(self) -> list[TableVersion]:
        return [self.newest(clean_table("orders", "orders")), self.newest(feature_table(load_problem(), "spend"))]

    def train(self) -> None:
        self.trained += 1
        run_id, tables, (clean, features) = f"{self.trained:032x}", self.tables, self.inputs()
        parts = (("orders", "clean", clean), ("spend", "features", features))
        inputs = tuple(Input(name=n, role=r, table=v, files=tables.digests(v)) for n, r, v in parts)  # type: ignore[arg-type]
        manifest = Manifest(problem="orders", problem_digest="", document={}, until=None, split=RandomSplit(), rows={},
                            columns={}, inputs=inputs)  # fmt: skip
        snapshot = save(tables.store, _rows(self.trained), manifest)
        lineage = lineage_record.record_lineage(tables, load_manifest(tables.store, snapshot))
        runs.put_artifacts(run_id, {"model/model.ubj": b"model", "lineage.json": json.dumps(lineage).encode()})
        run = TrainedRun(problem="orders", run_id=run_id, snapshot=snapshot, model_sha256=sha256(b"model"))
        runs.save_record(RunRecord(run=run, key=run_id, name="", note="", tags={}, at=datetime.now(UTC)))
        if self.random.random() < 0.8:
            newest = registry.ledger("orders").newest()
            registry.ledger("orders").append(
                registry.RegisteredVersion(
                    number=newest.number + 1 if newest else 1, action="register", reason="-", run_id=run_id,
                    model_sha256=run.model_sha256, record_sha256=runs.record_digest("orders", run_id),
                    **aliases.signature(),
                )
            )  # fmt: skip

    def promote(self) -> None:
        if versions := registry.versions("orders"):
            aliases.move(aliases.current("orders"), "orders", "promote", "-", champion=self.random.choice(versions))

    def roll_back(self) -> None:
        if aliases.previous_champions(aliases.history("orders")):
            before = aliases.rollback_target("orders", aliases.history("orders"))
            assert before in registry.versions("orders"), "a rollback leads to a version that exists"
            aliases.roll_back("orders", "-")

    def score(self) -> None:
        """Score a batch with the champion, which must stay with its inputs as long as the rows do."""
        version = aliases.current("orders").champion
        if version is not None:
            number = self.random.randrange(3)
            batch = Batch(id=f"b{number}", inputs="", version=version, explain=False, tables=tuple(self.inputs()))
            rows = pa.table({"_tc_batch": [batch.id], "_tc_model_version": [version.version]})
            where = f"_tc_batch = '{batch.id}'" if self.tables.exists(predictions_table("orders")) else None
            commit = batch.commit(Span(0, 1), 1)
            self.tables.replace(predictions_table("orders"), rows, commit, where=where)

    def batches(self) -> list[dict[str, Any]]:
        """The last commit of each batch."""
        name = predictions_table("orders")
        commits = self.tables.commits(name) if self.tables.exists(name) else []
        return list({commit["batch"]: commit for _, commit in commits}.values())

    def clean_up(self) -> None:
        self.now += timedelta(days=self.random.choice([0, 10, 200]))
        kept = set(self.kept_numbers())
        if self.random.random() < 0.3:
            self._killed()
        collect.make_plan("orders", self.now).carry_out()
        assert not collect.make_plan("orders", self.now).removals, "a second cleanup removes nothing"
        assert kept <= {version.version for version in registry.versions("orders")}
        self.verify()

    def kept_numbers(self) -> Iterator[int]:
        """The champion, the one before it, the newest version, and those with scored rows."""
        history = aliases.history("orders")
        chain = [v.version for v in aliases.previous_champions(history)]
        yield from chain[-1:]
        yield from (entry.champion.version for entry in history[-1:] if entry.champion)
        yield from registry.ledger("orders").numbers()[-1:]
        reference = self.tables.version(predictions_table("orders"))
        yield from self.tables.read(reference)["_tc_model_version"].to_pylist() if reference else ()

    def _killed(self) -> None:
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
                collect.make_plan("orders", self.now).carry_out()
            except StorageError:
                return

    def verify(self) -> None:
        tables = self.tables
        for version in registry.versions("orders"):
            run = runs.trained_run("orders", version.run_id)
            manifest = load_manifest(tables.store, run.snapshot)
            recorded = json.loads(runs.artifact(run.run_id, "lineage.json"))
            links = [*lineage_record.verify_tables(tables, manifest, recorded)]
            links += lineage_record.verify_sources("orders", tables, recorded)
            assert not [link for link in links if not link["verified"]]
            assert len(load_frame(tables.store, run.snapshot)) == 1
            for item in manifest.inputs:
                assert len(tables.read(item.table)) == 1
        for batch in self.batches():
            for used in map(TableVersion.model_validate, batch["tables"]):
                assert len(tables.read(used)) == 1, "the batch's inputs can be computed again"
        for reference in (*self.inputs(), tables.version(predictions_table("orders"))):
            assert reference is None or len(tables.read(reference))


def _rows(number: int) -> pa.Table:
    return pa.table({"number": [number]})


@pytest.fixture
def shop(tmp_path: Path, home: Path, configure: Callable[..., None]) -> Callable[[int], Shop]:
    def open_shop(seed: int) -> Shop:
        folder = tmp_path / f"{seed}" / "problems" / "orders"
        for name in ("problem.py", "label.sql", "spine.sql", "features"):
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copytree(HERE / name, target) if name == "features" else shutil.copy(HERE / name, target)
        configure(home=tmp_path / f"{seed}" / ".truecourse", problems=folder.parent, problem="orders", durable=False,
                  champion_retention=2, source_retention=1)  # fmt: skip
        shop = Shop(folder, Random(seed))
        shop.ingest()
        shop.train()
        return shop

    return open_shop


def test_what_kept_versions_need_stays_after_random_histories(shop: Callable[[int], Shop]) -> None:
    for seed in range(20):
        one = shop(seed)
        steps = [one.ingest, one.read_again, one.edit, one.train, one.promote, one.roll_back, one.score, one.clean_up]
        for _ in range(8):
            one.random.choice(steps)()
        one.clean_up()


def _store_contents() -> list[tuple[str, int]]:
    return [(one.key, one.bytes) for one in open_store().objects("")]


def test_the_command_lists_the_same_as_it_removes(
    shop: Callable[[int], Shop], seaweed: S3Server, tmp_path: Path, configure: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    configure(**seaweed.settings(prefix=tmp_path.name))
    one = shop(3)
    for step in (one.promote, one.ingest, one.train, one.ingest, one.promote, one.edit, one.ingest):
        step()

    def ask(*words: str) -> dict[str, Any]:
        assert execute(["gc", "--json", *words]) == 0
        answer: dict[str, Any] = json.loads(capsys.readouterr().out)
        return answer

    assert not ask("--dry-run")["removed"], "everything is younger than a day"
    monkeypatch.setattr(removal, "GRACE", timedelta(0))
    configure(**dict.fromkeys(("model_retention", "table_retention", "source_retention"), 1e-9))
    before = _store_contents()
    planned = ask("--dry-run")
    assert _store_contents() == before, "nothing is written"
    champion = existing(aliases.current("orders").champion)
    reasons = {kept["what"]: kept["reason"] for kept in planned["kept"]}
    assert reasons[f"version {champion.version} of orders"] == "champion"
    assert execute(["gc", "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "would be removed" in printed
    assert f"version {champion.version} of orders" in printed
    removed = ask("--problem", "orders")
    assert removed | {"dry_run": True} == planned
    assert {"table files", "sources"} <= {each["kind"] for each in removed["removed"]}
    lost = sum(size for _, size in before) - sum(size for _, size in _store_contents())
    assert 0 < lost <= removed["bytes"]
    assert not ask()["removed"]
    one.verify()
    assert execute(["gc", "--problem", "order", "--json"]) == 1
    assert "orders" in json.loads(capsys.readouterr().out)["error"]["hint"]


def test_leftovers_of_dead_processes_are_removed_and_those_of_running_ones_stay(home: Path) -> None:
    store, old = open_store(), (datetime.now(UTC) - timedelta(days=3)).timestamp()
    run, open_file = "0" * 32, home / "tmp" / "running" / "file"
    for key in (
        f"runs/{run}/model.ubj",
        "bentos/wine/1-00.bento",
        "bentos/wine/2-11.bento",
        "reports/wine/.a.0123abcd",
    ):
        store.put(key, b"x")
    store.put("deployments/here/wine/000000001.json", b'{"bento": {"key": "bentos/wine/2-11.bento"}}')
    for name in ("running", "dead", "young"):
        (home / "tmp" / name).mkdir(parents=True)
        (home / "tmp" / name / "file").write_text("x")
    for path in home.rglob("*"):
        if "young" not in path.parts:
            os.utime(path, (old, old))
    with open_file.open():
        found = collect.machine_plan(datetime.now(UTC)).carry_out()
    assert found == {
        "files of interrupted trainings": 1, "Bentos": 1, "temporary files": 1, "interrupted writes": 1
    }  # fmt: skip
    assert {path.name for path in (home / "tmp").iterdir()} == {"running", "young"}
    assert list(store.list("bentos/")) == ["bentos/wine/2-11.bento"]
    assert collect.machine_plan(datetime.now(UTC)).carry_out() == {"temporary files": 1}, "its process ended"


def test_old_predictions_of_batches_are_removed_back_from_the_newest(
    home: Path, configure: Callable[..., None]
) -> None:
    configure(batch_retention=30)
    newest, name = datetime(2026, 5, 1, 12, tzinfo=UTC), predictions_table("wine")
    times = pa.array([newest - timedelta(days=days) for days in (0, 29, 31)], pa.timestamp("us", tz="UTC"))
    features = {f"feature_{number}": [1.0] * 3 for number in range(40)}  # Delta has statistics of 32 columns
    ours = {"_tc_scored_at": times, "_tc_batch": ["b"] * 3, "_tc_model_version": [1, 2, 3]}
    Tables().append(name, pa.table({"id": ["a", "b", "c"], **features, **ours}), {})
    assert collect.make_plan("wine", datetime.now(UTC)).carry_out() == {"batch predictions": 1}
    assert Tables().read(existing(Tables().version(name)))["id"].to_pylist() == ["a", "b"]
    assert not collect.make_plan("wine", datetime.now(UTC)).removals


def test_nothing_is_removed_while_a_record_cannot_be_read(shop: Callable[[int], Shop]) -> None:
    one = shop(0)
    one.ingest()
    open_store().put(f"runs/{1:032x}/lineage.json", b"{")
    with pytest.raises(IntegrityError, match="cannot be read"):
        collect.make_plan("orders", one.now + timedelta(days=500))


def test_replaced_files_of_the_prediction_log_are_removed_with_their_digests_after_a_week(home: Path) -> None:
    tables, name = Tables(), prediction_log.log_table("wine")
    for number in range(3):
        entries = [encode_entry(entry(record(str(number)) | {"problem": "wine"}))]
        tables.append(name, prediction_log.entries_table(entries), {}, partition_by="day", keep_log=False, merge=True)
    tables.compact(name)
    now = datetime.now(UTC)
    assert not collect.make_plan("wine", now + timedelta(days=6)).removals
    assert collect.make_plan("wine", now + timedelta(days=8)).carry_out() == {"files of the prediction log": 3}
    assert len(Tables().read(existing(Tables().version(name)))) == 3
    assert len(list(open_store().list("digests/"))) == 1
