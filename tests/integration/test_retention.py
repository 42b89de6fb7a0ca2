"""Old unneeded objects are removed; what serves, has served, can be promoted again or traced is kept."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tasks.training.build_snapshot import build_snapshot
from tasks.training.trace import trace_model
from tasks.training.train import train_model
from tests.conftest import existing
from tests.frames import store_wine
from tests.log_records import entry, record
from truecourse.deployment import deployment_history as deployments
from truecourse.errors import StorageError
from truecourse.modeling.snapshot import load_frame, load_manifest, save, serialize
from truecourse.monitoring import report_store
from truecourse.monitoring.findings import Report
from truecourse.problem.loader import load_problem
from truecourse.references import ArtifactRef, Deployment, ModelVersion, Snapshot
from truecourse.registry import aliases, mirror_check, mlflow_runs, runs
from truecourse.registry import versions as registry
from truecourse.retention import collect, leftovers, models
from truecourse.serving import prediction_log
from truecourse.serving.prediction_log import encode_entry, log_table
from truecourse.settings import prefect_retention
from truecourse.storage.delta_tables import Tables
from truecourse.storage.object_store import open_store

NOW = datetime.now(UTC)
LATER = NOW + timedelta(days=200)


@dataclass(frozen=True)
class Home:
    """Versions by their history, two run ids, and the snapshot of all runs."""

    versions: dict[str, ModelVersion]
    loose: str
    failed: str
    snapshot: Snapshot

    def left(self) -> set[str]:
        numbers = {version.version for version in registry.versions("wine")}
        return {name for name, version in self.versions.items() if version.version in numbers}


def copy_run(original: runs.RunRecord, name: str) -> str:
    """Copy a run, in MLflow and in our records; the id of the copy."""
    run_id, _ = mlflow_runs.begin_run("wine", name, {"mlflow.source.name": "truecourse run train --problem wine"})
    place = runs.artifact_key(original.run.run_id, "")
    files = {key.removeprefix(place): open_store().get(key) for key in open_store().list(place)}
    runs.put_artifacts(run_id, files)
    mlflow_runs.copy_artifacts(run_id, files)
    run = original.run.model_copy(update={"run_id": run_id})
    runs.save_record(original.model_copy(update={"run": run, "key": name}))
    client = mlflow_runs.connect_mlflow()
    for tag, value in original.tags.items():
        client.set_tag(run_id, tag, value)
    client.set_terminated(run_id, "FINISHED")
    return run_id


@pytest.fixture
def wines(tmp_path: Path, home: Path, configure: Callable[..., None]) -> Home:
    configure(problems=tmp_path, problem="wine")
    clean = store_wine(tmp_path)
    snapshot = build_snapshot(load_problem("wine"), Tables(), clean=clean, features={})
    run = train_model.fn("wine", snapshot)
    original = runs.load_record("wine", run.run_id)
    versions = {"first champion": registry.create_version(run)}
    for name in ("shadowed", "unneeded", "answered", "deployed", "champion", "newest"):
        versions[name] = registry.create_version(runs.trained_run("wine", copy_run(original, name)))
    loose = copy_run(original, "loose")
    copy_run(original, "the newest run")
    failed, _ = mlflow_runs.begin_run("wine", "failed", {"mlflow.source.name": "truecourse run train --problem wine"})
    mlflow_runs.connect_mlflow().set_terminated(failed, "FAILED")
    for name in ("first champion", "champion"):
        registry.promote(aliases.current("wine"), versions[name], name, challenger=versions["unneeded"])
    for shadow in (True, False):
        challenger = versions["shadowed" if shadow else "newest"]
        registry.move_aliases(aliases.current("wine"), "wine", "split", "-", challenger=challenger, shadow=shadow)
    bento = ArtifactRef(key="bentos/wine/0.bento", sha256="0" * 64, bytes=1)
    deployments.ledger("here", "wine").append(
        Deployment(
            number=1, action="deploy", reason="-", author="ann", at=NOW, environment="here", target="process",
            version=versions["deployed"], bento=bento, config_sha256="0" * 64, outcome="deployed",
        )
    )  # fmt: skip
    logged = [record(str(day), at=(NOW - timedelta(days=day)).isoformat()) for day in (0, 5, 40)]
    records = [one | {"problem": "wine", "model_version": versions["answered"].version} for one in logged]
    rows = prediction_log.entries_table(encode_entry(entry(one)) for one in records)
    Tables().append(log_table("wine"), rows, {}, partition_by="day", stats_columns=prediction_log.SEARCHED, merge=True)
    return Home(versions, loose, failed, snapshot)


def test_only_unneeded_objects_are_removed(wines: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    frame, manifest = load_frame(open_store(), wines.snapshot), load_manifest(open_store(), wines.snapshot)
    other = save(open_store(), serialize([frame.slice(3)]), manifest)
    everything = set(wines.versions)
    assert collect.clean("wine", NOW) == {}
    assert wines.left() == everything
    assert collect.clean("wine", NOW + timedelta(hours=1)) is None, "it was done an hour ago"

    with monkeypatch.context() as patch:
        patch.setattr(models, "delete_run", _killed)
        with pytest.raises(StorageError, match="killed"):
            collect.clean("wine", LATER)
    assert "unneeded" not in wines.left()
    removed = collect.clean("wine", LATER)
    assert removed is not None
    assert (removed["runs"], removed["frames"]) == (2, 1), "an interrupted cleanup is repeated"
    assert wines.left() == everything - {"unneeded"}
    gone = wines.versions["unneeded"]
    for prefix in (
        f"runs/{gone.run_id}/",
        f"mlflow/{gone.run_id}/",
        f"runs/{wines.loose}/",
        f"snapshots/wine/{other.sha256}",
    ):
        assert not list(open_store().list(prefix)), prefix
    for name in wines.left():
        traced = trace_model("wine", wines.versions[name].version)
        unverified = {link["link"] for link in traced["links"] if not link["verified"]}
        assert unverified <= {"MLflow run"}, name  # MLflow has no metrics of a copied run
    client = mlflow_runs.connect_mlflow()
    assert {client.get_run(run).info.lifecycle_stage for run in (gone.run_id, wines.loose, wines.failed)} == {"deleted"}
    assert mirror_check.differences("wine") == []
    assert aliases.roll_back("wine", "as ever").champion == wines.versions["first champion"]
    registered = registry.create_version(runs.trained_run("wine"))
    assert registered.version == wines.versions["newest"].version + 1


def _killed(*_: Any) -> None:
    raise StorageError("killed")


def test_without_mlflow_no_model_is_removed(wines: Home, configure: Callable[..., None]) -> None:
    configure(mlflow_uri="http://127.0.0.1:9")
    removed = collect.clean("wine", LATER)
    assert removed is not None
    assert not {"versions", "runs"} & removed.keys()
    assert wines.left() == set(wines.versions)


def test_retention_of_reports_and_log_counts_back_from_the_newest(
    home: Path, configure: Callable[..., None], tmp_path: Path
) -> None:
    configure(problems=tmp_path, problem="wine", log_retention=30, report_retention=100)
    store, years = open_store(), datetime(2013, 6, 1, tzinfo=UTC)
    for days in (300, 101, 99, 0):
        at = years - timedelta(days=days)
        report_store.save(store, Report(check="drift", problem="wine", at=at, sentence="-"))
        store.put(f"histograms/wine/abc/{at:%Y%m%d}.json", b"{}")
        window = f"{at - timedelta(days=7):%Y%m%dT%H%M}-{at:%Y%m%dT%H%M}"
        store.put(f"reports/wine/drift-{window}.html", b"")
        store.put(f"reports/wine/evidently-{window}.parquet", b"")
    store.put("reports/wine/drift.html", b"")
    store.put("histograms/wine/abc/profile.json", b"{}")
    logged = [record(str(day), at=(years - timedelta(days=day)).isoformat()) for day in (31, 29, 0)]
    rows = prediction_log.entries_table(encode_entry(entry(one)) for one in logged)
    Tables().append(log_table("wine"), rows, {}, partition_by="day", stats_columns=prediction_log.SEARCHED, merge=True)
    removed = collect.clean("wine", NOW)
    assert removed is not None
    assert (removed["reports"], removed["histograms"], removed["logged predictions"]) == (2 + 4, 2, 1)
    assert len(report_store.history(store, "wine", "drift")) == 2
    assert store.exists("histograms/wine/abc/profile.json")
    assert store.exists("reports/wine/drift.html")
    assert len([key for key in store.list("reports/wine/") if "T0000-" in key]) == 4
    table: pa.Table = Tables().read(existing(Tables().version(log_table("wine"))))
    assert sorted(table["prediction_id"].to_pylist()) == ["0", "29"]
    again = collect.clean("wine", NOW + timedelta(days=1))
    assert again is not None
    assert not any(again.values())


def test_an_unpacked_bento_is_removed_with_its_package_unless_it_runs(home: Path) -> None:
    """A regression test: they were never removed."""
    packed, running, loose = ("ab" * 32, "cd" * 32, "ef" * 32)
    open_store().put(f"bentos/wine/3-{packed[:12]}.bento", b"")
    for name in (packed, running, loose, "bentoml-3000"):
        (home / "serving" / name / "src").mkdir(parents=True)
    script = "import sys; print(flush=True); sys.stdin.read()"
    server = [sys.executable, "-c", script, str(home / "serving" / running)]
    with subprocess.Popen(server, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        for removal in leftovers.removed_unpacked(open_store(), home / "serving"):
            assert removal.count == 1
            removal.remove()
        process.communicate()
    assert {folder.name for folder in (home / "serving").iterdir()} == {packed, running, "bentoml-3000"}
    assert [removal.count for removal in leftovers.removed_unpacked(open_store(), home / "serving")] == [1]


def test_prefect_accepts_the_retention_settings(
    monkeypatch: pytest.MonkeyPatch, configure: Callable[..., None]
) -> None:
    from prefect.settings.models.server.services import ServerServicesDBVacuumSettings

    configure(prefect_retention=7)
    for name, value in prefect_retention().items():
        monkeypatch.setenv(name, value)
    vacuum = ServerServicesDBVacuumSettings()
    assert "flow_runs" in vacuum.enabled_vacuum_types
    assert vacuum.retention_period == timedelta(days=7)
    configure(prefect_retention=0)
    assert prefect_retention() == {}
