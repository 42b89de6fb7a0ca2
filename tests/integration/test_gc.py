"""Cleanups of a real storage after random histories: every kept version can be traced, read and rolled back to."""

import json
import os
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pytest

from cli.main import execute
from tests.conftest import S3Server, existing
from tests.edited_orders import HERE
from tests.log_records import entry, record
from tests.small_shop import Shop
from truecourse.errors import IntegrityError
from truecourse.registry import aliases
from truecourse.retention import collect, removal
from truecourse.serving import prediction_log
from truecourse.serving.batch_scoring import predictions_table
from truecourse.serving.prediction_log import encode_entry
from truecourse.storage.delta_tables import Tables
from truecourse.storage.object_store import open_store


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
