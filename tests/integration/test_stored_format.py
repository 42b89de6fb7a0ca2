"""A home of stored format 1 works as it is and after `truecourse migrate`, which may be killed at any moment.

The home was written by that format's last release: tests/data/make_format_1_home.py."""

import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cli.main import execute
from services.process import endpoint_process, platform_state
from tests.conftest import REPOSITORY, S3Server, free_ports
from truecourse import migration, processes
from truecourse.errors import FormatError
from truecourse.monitoring.alerts import alert_record
from truecourse.registry import aliases
from truecourse.registry import versions as registry
from truecourse.serving import api_keys
from truecourse.serving.batch_scoring import MODEL_VERSION, predictions_table
from truecourse.serving.prediction_log import log_table
from truecourse.settings import get_settings
from truecourse.storage.delta_tables import Tables
from truecourse.storage.ledger import Ledger
from truecourse.storage.object_store import LocalStore, ObjectStore, open_store
from truecourse.stored_format import FORMAT, current_key

ARCHIVE = Path(__file__).parent.parent / "data" / "format_1_home.tar.xz"
PROBLEM = "deliveries"
FIELDS = ("id=7", "courier=c03", "depot=north", "promised=42", "distance=6.5")
Command = Callable[..., dict[str, Any]]
DIES = """
import os, sys
from pathlib import Path
from truecourse import migration, processes
from truecourse.storage.object_store import LocalStore
left = int(sys.argv[2])
def dying(method):
    def change(self, key, *data):
        global left
        if not key.startswith("locks/"):
            if not left:
                os._exit(9)
            left -= 1
        return method(self, key, *data)
    return change
for name in ("put", "put_new", "delete"):
    setattr(LocalStore, name, dying(getattr(LocalStore, name)))
migration.migrate(LocalStore(Path(sys.argv[1])))
"""


def unpack(folder: Path) -> Path:
    with tarfile.open(ARCHIVE, "r:xz") as tar:
        tar.extractall(folder, filter="data")
    return folder / "home" / "storage"


@pytest.fixture
def old(tmp_path: Path, configure: Callable[..., None]) -> LocalStore:
    """The storage of a home of format 1, in the current settings."""
    unpack(tmp_path)
    (port,) = free_ports(1)
    configure(home=tmp_path / "home", problems=tmp_path / "problems", problem=PROBLEM, endpoint_port=port)
    return LocalStore(tmp_path / "home" / "storage")


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], prefect_server: str) -> Command:
    """Run a command of the command line with --json; its answer, and its exit status as `status`."""

    def run(*words: str) -> dict[str, Any]:
        capsys.readouterr()
        status = execute([*words, "--json"])
        found: dict[str, Any] = json.loads(capsys.readouterr().out)
        return found | {"exit": status}

    return run


def contents(store: ObjectStore) -> dict[str, bytes]:
    """Every object, without locks."""
    return {key: store.get(key) for key in store.list("") if not key.startswith("locks/")}


def ledgers() -> Iterator[Ledger[Any]]:
    yield aliases.ledger(PROBLEM)
    yield registry.ledger(PROBLEM)
    yield registry.gate_ledger(PROBLEM)
    yield alert_record.open_ledger(open_store(), PROBLEM)
    yield api_keys.ledger()


def test_the_home_is_small_and_of_format_1(old: LocalStore) -> None:
    assert ARCHIVE.stat().st_size < 1_000_000
    assert not old.exists("format.json")
    assert not any('"format"' in old.get(key).decode() for key in old.list("aliases/"))
    assert migration.plan(old).oldest == 1
    record = alert_record.load_record(old, PROBLEM)
    assert record is not None
    assert any(alarm.notified_at for alarm in record.open)
    assert any("webhook" in notice.channels for notice in record.pending)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("migrated", [False, True], ids=["as it was", "migrated"])
def test_every_command_works_on_a_home_of_format_1(old: LocalStore, command: Command, migrated: bool) -> None:
    from flows.monitor import monitor
    from flows.package import package

    if migrated:
        assert command("migrate")["rewritten"]
    before = alert_record.load_record(old, PROBLEM)
    assert before is not None
    state = command("status")
    assert (state["exit"], state["champion"]["version"], state["format"]["format"]) == (0, 2, FORMAT)
    assert state["format"]["oldest"] == (FORMAT if migrated else 1)
    assert [one["action"] for one in state["history"]] == ["promote", "promote"]

    assert trace_states(command("trace", "model", "1")) == trace_states(command("trace", "model", "2")) == set()
    for prediction in predictions():
        assert trace_states(command("trace", "prediction", prediction)) == set()
    again = command("reproduce", "2")
    assert again["snapshot"]["identical"]
    assert again["identical"] or "library xgboost" in again["environment"]

    card = command("card")
    assert (card["exit"], card["data"]["sources"][0]["rows"], card["cost"]) == (0, 12, None)

    package(PROBLEM)
    assert command("predict", *FIELDS)["predictions"]

    moved = command("rollback", "--reason", "a test")
    assert (moved["exit"], registry.champion(PROBLEM)) == (0, registry.version(PROBLEM, 1))
    package(PROBLEM)
    assert command("predict", *FIELDS)["predictions"]

    monitor(PROBLEM)
    after = alert_record.load_record(old, PROBLEM)
    assert after is not None
    kept = {alarm.id for alarm in before.open} & {alarm.id for alarm in after.open}
    assert kept, "an open alert stays the same alert"
    assert [ledger.faults() for ledger in ledgers()] == [[]] * 5


def trace_states(found: dict[str, Any]) -> set[tuple[str, str]]:
    """The links that are not verified, apart from those to Bentos, which the archive of the home lacks."""
    return {
        (link["link"], link["state"]) for link in found["links"] if not link["verified"] and link["link"] != "Bento"
    }


def predictions() -> list[str]:
    """A served prediction, and a decision scored in a batch, by version 2."""
    names = ((log_table(PROBLEM), "prediction_id", "model_version"), (predictions_table(PROBLEM), "id", MODEL_VERSION))
    tables, found = Tables(), []
    for name, column, by in names:
        reference = tables.version(name)
        assert reference is not None
        rows = tables.read(reference, [column, by]).to_pylist()
        found.append(next(row[column] for row in reversed(rows) if row[by] == 2))
    return found


def test_a_migration_rewrites_state_once_and_keeps_the_bytes_before(old: LocalStore, command: Command) -> None:
    before = contents(old)
    planned = command("migrate", "--dry-run")
    assert (planned["exit"], planned["format"], contents(old)) == (0, {"before": 1, "after": 1}, before)
    done = command("migrate")
    assert (done["exit"], done["format"], done["rewritten"]) == (
        0,
        {"before": 1, "after": FORMAT},
        planned["rewritten"],
    )
    after, keys = contents(old), {one["key"] for one in done["rewritten"]}
    assert {f"alarms/{PROBLEM}.json"} < keys
    assert {key.partition("/")[0] for key in keys} == {"alarms", "quality", "sketches"}
    assert {key: before[key] for key in before.keys() - keys} == {key: after[key] for key in before.keys() - keys}
    assert {one["key"]: after[one["backup"]] for one in done["rewritten"]} == {key: before[key] for key in keys}
    assert all(one["becomes"] in after for one in done["rewritten"])
    assert not any(key in after for key in keys if current_key(key) != key)
    assert after.keys() - before.keys() - {current_key(key) for key in keys} == {
        "format.json", *(one["backup"] for one in done["rewritten"])
    }  # fmt: skip
    assert command("migrate")["rewritten"] == command("migrate", "--dry-run")["rewritten"] == []
    assert contents(old) == after


def test_a_migration_that_is_killed_is_completed_by_the_next(tmp_path: Path) -> None:
    whole = LocalStore(unpack(tmp_path / "whole"))
    steps = 3 * len(migration.migrate(whole).rewrites)
    assert steps > 12
    wanted = contents(whole)
    store = LocalStore(unpack(tmp_path / "killed"))
    for left in (0, 1, 2, 3, 5, 4, 7, steps // 2):
        command = [sys.executable, "-c", DIES, store.root, str(left)]
        assert subprocess.run(command, cwd=REPOSITORY, check=False).returncode == 9
        assert contents(store) != wanted
    migration.migrate(store)
    assert contents(store) == wanted


def test_a_storage_on_s3_is_migrated_alike(
    tmp_path: Path, old: LocalStore, seaweed: S3Server, configure: Callable[..., None]
) -> None:
    local = contents(old)
    configure(**seaweed.settings("format-1"))
    store = open_store()
    for key in local:
        if key.partition("/")[0] in ("alarms", "quality", "sketches"):
            store.put(key, local[key])
    done = migration.migrate(store)
    on_s3 = contents(store)
    assert done.rewrites == migration.migrate(old).rewrites
    now = contents(old)
    assert on_s3 == {key: now[key] for key in on_s3}
    assert not migration.migrate(store).rewrites


def test_an_object_that_cannot_be_read_is_left_and_reported(old: LocalStore, command: Command) -> None:
    key = next(key for key in old.list("quality/") if key.endswith("yardstick.json"))
    old.put(key, b"{")
    found = command("migrate")
    assert (found["exit"], [one["key"] for one in found["unreadable"]]) == (1, [key])
    assert old.get(key) == b"{"


def test_no_migration_starts_while_the_platform_runs(old: LocalStore, command: Command) -> None:
    url, here = "http://127.0.0.1:4200", os.getpid()
    started = processes.started_at(here)
    assert started is not None
    platform_state.write_platform(platform_state.Platform(here, started, url, url, url, url))
    before = contents(old)
    refused = command("migrate")
    assert (refused["exit"], refused["error"]["where"]) == (1, url)
    assert f"truecourse up runs as process {here}" in refused["error"]["what"]
    assert command("migrate", "--dry-run")["rewritten"]
    assert contents(old) == before


def test_a_newer_format_is_refused_by_commands_flows_and_the_endpoint(old: LocalStore, command: Command) -> None:
    from flows.monitor import monitor
    from flows.package import package

    package(PROBLEM)
    folder = endpoint_process.prepare(PROBLEM)
    newer = json.dumps({"format": FORMAT + 1, "oldest": FORMAT + 1}).encode()
    old.put("format.json", newer)
    before = contents(old)
    for words in (["status"], ["trace", "model", "1"], ["migrate"], ["rollback", "--reason", "r"], ["run", "monitor"]):
        refused = command(*words)
        assert refused["exit"] == 1
        assert f"format {FORMAT + 1}" in refused["error"]["what"]
        assert refused["error"]["hint"] == "upgrade Truecourse"
    with pytest.raises(FormatError, match="newer Truecourse"):
        monitor(PROBLEM)
    log, port = get_settings().home / "endpoint.log", get_settings().endpoint_port
    with pytest.raises(FormatError, match="newer Truecourse"):
        endpoint_process.start(folder, port, log)
    assert contents(old) == before


def test_todays_entries_continue_the_chain_of_format_1(old: LocalStore) -> None:
    moved = aliases.roll_back(PROBLEM, "a test")
    ledger = aliases.ledger(PROBLEM)
    assert (moved.number, ledger.faults()) == (3, [])
    first = {*json.loads(old.get(ledger.key(1)))}
    assert {*json.loads(old.get(ledger.key(3)))} == first, "servers with the code of format 1 read it too"
