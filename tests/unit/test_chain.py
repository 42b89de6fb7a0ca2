"""A change of any byte of a ledger or of a sealed document is detected."""

import json
import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from truecourse.hashing import seal, unseal
from truecourse.references import Aliases, Entry, ModelVersion
from truecourse.registry import aliases
from truecourse.registry.relocation import relocate_artifacts
from truecourse.storage.ledger import Ledger
from truecourse.storage.object_store import LocalStore


def ledger_of(tmp_path: Path, entries: int) -> Ledger[Aliases]:
    ledger = Ledger(LocalStore(tmp_path), "aliases/wine", Aliases)
    version = ModelVersion(problem="wine", version=1, run_id="run", model_sha256="0" * 64)
    for number in range(1, entries + 1):
        at = datetime(2024, 1, number, tzinfo=UTC)
        entry = Aliases(number=number, action="promote", reason="ü", author="me", at=at, champion=version, share=0.05)
        assert ledger.append(entry) == ledger.newest()
    return ledger


def test_a_change_of_any_byte_of_a_ledger_is_detected(tmp_path: Path) -> None:
    ledger = ledger_of(tmp_path, 3)
    assert ledger.faults() == []
    second, third = ledger.entry(2), ledger.entry(3)
    assert second is not None
    assert third is not None
    assert third.follows == second.sha256 != third.sha256
    path = tmp_path / ledger.key(2)
    before = path.read_bytes()
    for place in range(len(before)):
        path.write_bytes(before[:place] + bytes([before[place] ^ 1]) + before[place + 1 :])
        assert any("000000002" in fault for fault in ledger.faults()), before[:place]
    path.write_bytes(before)
    assert ledger.faults() == []


def test_retention_is_no_fault_but_a_gap_is(tmp_path: Path) -> None:
    ledger = ledger_of(tmp_path, 4)
    (tmp_path / ledger.key(1)).unlink()
    assert ledger.faults() == []
    (tmp_path / ledger.key(3)).unlink()
    assert ledger.faults() == ["entries 3 to 3 are gone"]
    assert ledger.faults(gaps=True) == []


def test_every_entry_holds_the_hash_of_its_predecessor(home: Path) -> None:
    seen = aliases.current("wine")
    first = aliases.move(seen, "wine", "promote", "one")
    second = aliases.move(first, "wine", "promote", "two")
    assert (first.follows, second.follows) == ("", first.sha256)
    assert Entry.model_validate(first.model_dump(include=set(Entry.model_fields))).sha256 == first.sha256


@pytest.mark.parametrize("document", [{"a": 1, "b": [1.5, None, "ü"]}, {"n": float("nan")}, {}])
def test_a_change_of_any_byte_of_a_sealed_document_is_detected(document: dict[str, object]) -> None:
    data = seal(document)
    assert json.dumps(unseal(data)) == json.dumps(document)
    for place in range(len(data)):
        assert unseal(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]) is None
    assert unseal(json.dumps(document).encode()) is None


def test_moving_a_home_updates_mlflows_paths(tmp_path: Path) -> None:
    old, new = "/old place/it's/storage", tmp_path / "new" / "storage"
    database = tmp_path / "mlflow.db"
    with closing(sqlite3.connect(database)) as connection, connection:
        for table, columns in {
            "experiments": "artifact_location", "runs": "artifact_uri", "model_versions": "source, storage_location",
            "logged_models": "artifact_location",
        }.items():  # fmt: skip
            connection.execute(f"CREATE TABLE {table} ({columns})")
        connection.execute("INSERT INTO experiments VALUES (?), ('s3://bucket/mlflow')", [f"{old}/mlflow"])
        connection.execute("INSERT INTO runs VALUES (?), ('/elsewhere/1')", [f"{old}/mlflow/1/artifacts"])
        connection.execute("INSERT INTO model_versions VALUES (?, NULL)", [f"{old}/mlflow/1/artifacts/model"])
    relocate_artifacts(database, str(new))
    with closing(sqlite3.connect(database)) as connection:
        assert connection.execute("SELECT artifact_uri FROM runs").fetchone() == (f"{old}/mlflow/1/artifacts",)
    (new / "mlflow").mkdir(parents=True)
    relocate_artifacts(database, str(new))
    with closing(sqlite3.connect(database)) as connection:
        places = connection.execute("SELECT artifact_location FROM experiments").fetchall()
        assert places == [(f"{new}/mlflow",), ("s3://bucket/mlflow",)]
        assert connection.execute("SELECT artifact_uri FROM runs").fetchall() == [
            (f"{new}/mlflow/1/artifacts",), ("/elsewhere/1",),
        ]  # fmt: skip
        found = connection.execute("SELECT source, storage_location FROM model_versions").fetchall()
        assert found == [(f"{new}/mlflow/1/artifacts/model", None)]
