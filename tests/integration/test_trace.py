"""A change of any single byte breaks a link of the lineage, which the trace names."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pytest

from tasks.release.register import register_model
from tasks.training.build_snapshot import build_snapshot
from tasks.training.evaluate_model import evaluate_gates
from tasks.training.trace import trace_model
from tasks.training.train import train_model
from tests.frames import store_wine
from truecourse.errors import ModelError
from truecourse.modeling.snapshot import Input, Manifest, load_frame, load_manifest, save, serialize
from truecourse.problem.loader import load_problem, training_digest, training_document
from truecourse.references import Aliases, ModelVersion, Snapshot
from truecourse.registry import run_archive, runs
from truecourse.registry.mlflow_runs import run_artifact_key
from truecourse.registry.runs import artifact_key
from truecourse.settings import get_settings
from truecourse.storage.delta_tables import Tables, quarantine_table
from truecourse.storage.object_store import open_store


@dataclass(frozen=True)
class Lineage:
    version: ModelVersion
    snapshot: Snapshot


@pytest.fixture
def lineage(tmp_path: Path, home: Path, configure: Callable[..., None]) -> Lineage:
    """A registered model of the wines; its snapshot has a feature table too, and some rows are quarantined."""
    configure(problems=tmp_path / "problems", problem="wine")
    (tmp_path / "problems").mkdir()
    clean = store_wine(tmp_path / "problems")
    tables, problem = Tables(), load_problem()
    tables.append(quarantine_table("wine", "wines"), pa.table({"_tc_row": [4]}), {"flow": "validate"})
    plain = build_snapshot(problem, tables, clean=clean, features={})
    view = tables.append(
        "features/wine/facts",
        pa.table({"key": [1, 2, 3]}),
        {"flow": "materialize", "inputs": [reference.model_dump() for reference in clean.values()]},
    )
    inputs = (
        Input(name="facts", role="features", table=view, files=tables.digests(view)),
        *load_manifest(tables.store, plain).inputs,
    )
    frame = load_frame(tables.store, plain).slice(1)
    manifest = Manifest(
        problem="wine",
        problem_digest=training_digest(problem),
        document=training_document(problem),
        until=None,
        rows={"decisions": len(frame), "train": 1, "validate": 1, "test": 1},
        columns={},
        inputs=inputs,
    )
    snapshot = save(tables.store, serialize([frame]), manifest)
    run = train_model.fn("wine", snapshot)
    return Lineage(register_model.fn(run, evaluate_gates("wine", run)), snapshot)


def test_an_unchanged_lineage_is_verified_to_its_sources(lineage: Lineage) -> None:
    trace = trace_model("wine", 1)
    assert [link for link in trace["links"] if not link["verified"]] == []
    assert trace["verified"]
    assert trace["state"] == "verified"
    assert all(link["detail"] for link in trace["links"])
    assert list(dict.fromkeys(link["link"] for link in trace["links"])) == [
        "version", "run", "artifact", "model", "gate results", "gate report", "version's tags", "alias ledger",
        "MLflow run", "MLflow artifacts", "MLflow version", "snapshot", "manifest", "inputs", "feature table",
        "clean table", "quarantine table", "raw table", "validation report", "source",
    ]  # fmt: skip
    with pytest.raises(ModelError, match="no version 2"):
        trace_model("wine", 2)


@contextmanager
def flip_byte(path: Path, find: bytes = b"") -> Iterator[None]:
    """Flip one bit of a file's middle byte, or of the byte after `find`, until the block ends."""
    before = path.read_bytes()
    data = bytearray(before)
    place = data.index(find) + len(find) if find else len(data) // 2
    data[place] ^= 1
    path.write_bytes(bytes(data))
    yield
    path.write_bytes(before)


def stored(key: str) -> Path:
    return Path(open_store().root) / key


def only(folder: str, pattern: str) -> Path:
    (path,) = stored(folder).glob(pattern)
    return path


def of_run(name: str) -> Callable[[Lineage], Path]:
    return lambda lineage: stored(artifact_key(lineage.version.run_id, name))


LINKS: dict[str, tuple[Callable[[Lineage], Path], bytes, str]] = {
    "the model": (of_run("model/model.ubj"), b"", "model"),
    "its vocabulary": (of_run("model/vocabulary.json"), b"", "artifact"),
    "its contract": (of_run("model/contract.json"), b"", "artifact"),
    "the problem's document": (of_run("model/problem.json"), b"", "artifact"),
    "the account of the training": (of_run("training.json"), b"", "artifact"),
    "the record of the tables": (of_run("lineage.json"), b"sha256", "artifact"),
    "the archived problem": (of_run(run_archive.FOLDER), b"", "artifact"),
    "the archived lock": (of_run(run_archive.LOCK), b"", "artifact"),
    "the recorded environment": (of_run(run_archive.ENVIRONMENT), b"", "artifact"),
    "the evaluation": (of_run("report.json"), b'"value": 0.', "gate report"),
    "the gates' results": (lambda _: only("models/wine/gates", "*.json"), b'"passed": ', "gate results"),
    "the run's record": (lambda lineage: stored(runs.record_key("wine", lineage.version.run_id)), b"", "run"),
    "the version": (lambda _: only("models/wine/versions", "*.json"), b'"model_sha256": "', "version"),
    "what is known of the version": (lambda _: only("models/wine/tags", "*.json"), b"", "version's tags"),
    "the aliases": (lambda _: only("aliases/wine", "*.json"), b'"reason": "', "alias ledger"),
    "the snapshot": (lambda lineage: stored(lineage.snapshot.frame_key), b"", "snapshot"),
    "its manifest": (lambda lineage: stored(lineage.snapshot.manifest_key), b"", "manifest"),
    "a clean table": (lambda _: only("tables/wine/clean/wines", "*.parquet"), b"", "clean table"),
    "its log": (lambda _: only("tables/wine/clean/wines/_delta_log", "*0.json"), b"numRecords", "clean table"),
    "a raw table": (lambda _: only("tables/wine/raw/wines", "*.parquet"), b"", "raw table"),
    "a delivery": (lambda _: only("tables/wine/raw/wines/_delta_log", "*0.json"), b'\\"sha256\\": \\"', "raw table"),
    "the quarantine": (lambda _: only("tables/wine/quarantine/wines", "*.parquet"), b"", "quarantine table"),
    "a feature table": (lambda _: only("features/wine/facts", "*.parquet"), b"", "feature table"),
    "a validation report": (lambda _: only("reports/wine/validation/wines", "*.json"), b"", "validation report"),
    "the source": (lambda _: only("sources/wine/wines", "*"), b"", "source"),
    "MLflow's model": (
        lambda lineage: stored(run_artifact_key(lineage.version.run_id, "model/model.ubj")), b"", "MLflow artifacts",
    ),
}  # fmt: skip


def test_one_flipped_byte_at_any_link_is_found_and_named(lineage: Lineage) -> None:
    for name, (place, find, kind) in LINKS.items():
        path = place(lineage)
        with flip_byte(path, find):
            trace = trace_model("wine", 1)
        broken = [item for item in trace["links"] if item["state"] in ("changed", "missing")]
        assert trace["state"] == "changed", name
        assert kind in [item["link"] for item in broken], (name, broken)
        (first,) = [item for item in broken if item["link"] == kind][:1]
        assert path.name in f"{first['id']} {first['detail']}" or kind in ("version", "MLflow artifacts"), (name, first)
    assert trace_model("wine", 1)["verified"]


EDITS = {
    "UPDATE metrics SET value = value + 0.001 WHERE key LIKE 'curve_train_%' AND step = 1": "MLflow run",
    "UPDATE metrics SET value = 0.99 WHERE key = 'test_accuracy'": "MLflow run",
    "UPDATE params SET value = '9' WHERE key = 'max_depth'": "MLflow run",
    "UPDATE tags SET value = 'x' WHERE key = 'truecourse.snapshot'": "MLflow run",
    "UPDATE model_version_tags SET value = 'x' WHERE key = 'truecourse.gates'": "MLflow version",
}


def test_edited_values_in_mlflow_are_changed_links(lineage: Lineage) -> None:
    file = get_settings().home / "mlflow.db"
    kept = file.read_bytes()
    for edit, kind in EDITS.items():
        with closing(sqlite3.connect(file)) as database, database:
            assert database.execute(edit).rowcount == 1, edit
        trace = trace_model("wine", 1)
        assert [item["link"] for item in trace["links"] if item["state"] == "changed"] == [kind], edit
        file.write_bytes(kept)


def test_values_missing_in_mlflow_are_unknown_links(lineage: Lineage) -> None:
    (get_settings().home / "mlflow.db").unlink()
    trace = trace_model("wine", 1)
    assert trace["state"] == "unknown"
    assert [item["link"] for item in trace["links"] if item["state"] == "unknown"] == ["MLflow run"]


def test_missing_or_replaced_entries_break_their_ledger(lineage: Lineage) -> None:
    from tests.unevaluated_versions import set_champion
    from truecourse.registry import aliases

    for _ in range(2):
        set_champion(lineage.version)
    assert trace_model("wine", 1)["verified"]
    first, second, third = (stored(f"aliases/wine/{number:09d}.json") for number in (1, 2, 3))
    kept = second.read_bytes()
    second.unlink()
    (broken,) = [item for item in trace_model("wine", 1)["links"] if not item["verified"]]
    assert broken["link"] == "alias ledger"
    assert "entries 2 to 2 are gone" in broken["detail"]
    forged = Aliases.model_validate_json(kept).model_copy(update={"reason": "another", "follows": "", "sha256": ""})
    second.unlink(missing_ok=True)
    kept_first = first.read_bytes()
    first.unlink()
    aliases.ledger("wine").append(forged)  # its own digest is valid, but it follows no entry
    first.write_bytes(kept_first)
    (broken,) = [item for item in trace_model("wine", 1)["links"] if not item["verified"]]
    assert "does not follow from the one before it" in broken["detail"]
    assert third.is_file()


def archived_source() -> Path:
    return only("sources/wine/wines", "*")


def test_lost_objects_break_their_links_too(lineage: Lineage, tmp_path: Path) -> None:
    file = tmp_path / "problems" / "wine" / "data" / "wines.parquet"
    file.write_bytes(file.read_bytes() + b"!")
    assert trace_model("wine", 1)["verified"], "the bytes that were ingested are archived"
    archived_source().unlink()
    (link,) = [item for item in trace_model("wine", 1)["links"] if not item["verified"]]
    assert "SHA-256 at the source is" in link["detail"]
    file.unlink()
    (link,) = [item for item in trace_model("wine", 1)["links"] if not item["verified"]]
    assert (link["link"], link["state"]) == ("source", "missing")
    assert "neither archived nor readable at the source; recorded SHA-256" in link["detail"]
    stored(lineage.snapshot.manifest_key).unlink()
    broken = [(item["link"], item["state"]) for item in trace_model("wine", 1)["links"] if not item["verified"]]
    assert broken == [("manifest", "missing"), ("inputs", "unknown")]
