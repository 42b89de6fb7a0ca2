"""Edits in MLflow and outages of MLflow: models are served, evaluated, traced and moved as before, the differences are
reported, and MLflow is rewritten from our record."""

import json
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from cli.main import execute
from tasks.training.build_snapshot import build_snapshot
from tasks.training.trace import trace_model
from tasks.training.train import train_model
from tests.frames import store_wine
from truecourse.errors import MirrorError
from truecourse.monitoring.dashboard import control_page
from truecourse.monitoring.health.registry import check_registry
from truecourse.problem.loader import load_problem
from truecourse.references import ModelVersion, Snapshot
from truecourse.registry import aliases, mirror_check, mlflow_mirror, mlflow_runs
from truecourse.registry import versions as registry
from truecourse.registry.mirror_check import FOREIGN
from truecourse.registry.runs import artifact_key
from truecourse.settings import get_settings
from truecourse.storage.delta_tables import Tables
from truecourse.storage.object_store import open_store

Configure = Callable[..., None]
Wines = tuple[Path, Path, list[ModelVersion], Snapshot]


@pytest.fixture(scope="module")
def _wines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wines]:
    folder = tmp_path_factory.mktemp("wines")
    home, problems = folder / ".truecourse", folder / "problems"
    problems.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRUECOURSE_HOME", str(home))
        patch.setenv("TRUECOURSE_PROBLEMS", str(problems))
        patch.setenv("TRUECOURSE_PROBLEM", "wine")
        get_settings.cache_clear()
        clean = store_wine(problems)
        snapshot = build_snapshot(load_problem(), Tables(), clean=clean, features={})
        file, versions = problems / "wine" / "problem.py", []
        for depth in (3, 4, 5):
            file.write_text(file.read_text().replace(f"max_depth={depth - 1}", f"max_depth={depth}"))
            version = registry.create_version(train_model.fn("wine", snapshot))
            registry.set_gates(version, [{"gate": "loss", "passed": True, "detail": "0.1"}])
            versions.append(version)
        for version in versions[:2]:
            registry.promote(aliases.current("wine"), version, "a test says so", challenger=version)
        yield home, problems, versions, snapshot
    get_settings.cache_clear()


@pytest.fixture
def wines(_wines: Wines, configure: Configure) -> Wines:
    """Three versions: the second is champion and challenger, the first was champion; MLflow agrees."""
    configure(home=_wines[0], problems=_wines[1], problem="wine")
    assert mirror_check.differences("wine") == []
    return _wines


def delete_version(client: Any, wines: Wines) -> None:
    client.delete_model_version("wine", "2")


def move_alias(client: Any, wines: Wines) -> None:
    client.set_registered_model_alias("wine", "champion", "3")


def move_alias_back(client: Any, wines: Wines) -> None:
    client.set_registered_model_alias("wine", "champion", "1")


def delete_alias(client: Any, wines: Wines) -> None:
    client.delete_registered_model_alias("wine", "champion")


def delete_model(client: Any, wines: Wines) -> None:
    client.delete_registered_model("wine")


def rename_model(client: Any, wines: Wines) -> None:
    for alias in ("champion", "challenger"):
        client.delete_registered_model_alias("wine", alias)
    client.rename_registered_model("wine", f"grapes{time.monotonic_ns()}")


def delete_run(client: Any, wines: Wines) -> None:
    client.delete_run(wines[2][1].run_id)


def purge_run(client: Any, wines: Wines) -> None:
    client.delete_run(wines[2][1].run_id)
    with closing(sqlite3.connect(wines[0] / "mlflow.db")) as database, database:
        for table in ("tags", "params", "metrics", "latest_metrics", "runs"):
            database.execute(f"DELETE FROM {table} WHERE run_uuid = ?", [wines[2][1].run_id])
    shutil.rmtree(Path(open_store().root) / "mlflow" / wines[2][1].run_id)


def delete_artifacts(client: Any, wines: Wines) -> None:
    shutil.rmtree(Path(open_store().root) / "mlflow")


def edit_version_tags(client: Any, wines: Wines) -> None:
    client.set_model_version_tag("wine", "2", "truecourse.gates", "[]")
    client.delete_model_version_tag("wine", "1", "truecourse.model_sha256")


def edit_run_tags(client: Any, wines: Wines) -> None:
    client.set_tag(wines[2][0].run_id, "truecourse.snapshot", "0" * 64)


def delete_experiment(client: Any, wines: Wines) -> None:
    client.delete_experiment(mlflow_runs.experiment("wine"))


EDITS: list[tuple[Callable[[Any, Wines], None], str, str]] = [
    (edit_version_tags, "Tags of versions 1, 2 were edited", "mirror write"),
    (edit_run_tags, "Tags of the MLflow run of version 1 differ from those at training", "mirror write"),
    (move_alias, "alias champion names version 3; our records name version 2", "promote 3 --problem wine"),
    (move_alias_back, "alias champion names version 1; our records name version 2", "rollback --to 1 --problem wine"),
    (delete_alias, "alias champion was deleted; our records name version 2", "mirror write"),
    (delete_run, "The MLflow run of version 2 was deleted.", "restores it"),
    (purge_run, "The MLflow run of version 2 was purged.", "recreates it"),
    (delete_artifacts, "Artifacts of the MLflow run of versions", "copies them again"),
    (delete_experiment, "experiment wine was deleted in MLflow", "restores it"),
    (delete_model, "registered model wine was deleted in MLflow, with 3 versions", "registers it again"),
    (rename_model, "registered model wine was renamed to grapes", "registers it again"),
    (delete_version, "Version 2 of wine was deleted in MLflow", "registers it again"),
]


@pytest.mark.parametrize(("edit", "what", "hint"), EDITS, ids=lambda value: getattr(value, "__name__", None))
def test_an_edit_in_mlflow_is_a_finding_that_can_be_reverted(
    wines: Wines, edit: Callable[[Any, Wines], None], what: str, hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(mlflow_runs.connect_mlflow(), wines)
    differences = mirror_check.differences("wine")
    assert any(what in one.sentence and hint in one.hint for one in differences), differences
    _assert_unaffected(wines, capsys)
    assert execute(["mirror", "show", "--json"]) == 1
    assert what in capsys.readouterr().out
    assert execute(["mirror", "write", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["differences"] == []
    client = mlflow_runs.connect_mlflow()
    champion = client.get_model_version_by_alias("wine", "champion")
    assert champion.tags["truecourse.version"] == "2"
    shown = mlflow_mirror.mlflow_run(client, wines[2][1].run_id)
    assert shown.data.params["max_depth"] == "4"
    assert Path(champion.source, "model.ubj").is_file()
    assert shown.info.status == "FINISHED"


def _assert_unaffected(wines: Wines, capsys: pytest.CaptureFixture[str], state: str = "warning") -> None:
    problem = load_problem("wine")
    report = check_registry(problem, open_store(), datetime.now(UTC))
    assert report.state == state, report.sentence
    assert report.findings[0].sentence
    assert control_page.document(open_store(), problem)["champion"]["version"] == 2
    unverified = {link["link"] for link in trace_model("wine", 2)["links"] if not link["verified"]}
    assert unverified <= {"MLflow run", "MLflow version", "MLflow artifacts"}, "nothing depends on MLflow"
    for version in wines[2]:
        assert registry.open_model(version, "multiclass").ubj()
        assert registry.gates(version)
    assert [version.version for version in registry.versions("wine")] == [1, 2, 3]
    capsys.readouterr()
    assert execute(["status", "--json"]) == 0
    status = json.loads(capsys.readouterr().out)
    assert status["champion"]["version"] == 2
    assert status["mirror"]


def test_a_deleted_database_is_filled_again(wines: Wines, capsys: pytest.CaptureFixture[str]) -> None:
    aside = (wines[0] / "mlflow.db").rename(wines[0] / "aside.db")
    try:
        (gone,) = mirror_check.differences("wine")
        assert gone.sentence == "MLflow's database is missing: it shows none of 3 versions of wine."
        _assert_unaffected(wines, capsys)
        # In another process: SQLAlchemy keeps the deleted file open.
        command = [str(Path(sys.executable).with_name("truecourse")), "mirror", "write", "--json"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert json.loads(done.stdout)["differences"] == [], done.stderr
    finally:
        aside.replace(wines[0] / "mlflow.db")


def test_a_foreign_version_is_reported_and_kept(wines: Wines, capsys: pytest.CaptureFixture[str]) -> None:
    client = mlflow_runs.connect_mlflow()
    created = client.create_model_version("wine", "elsewhere", None, await_creation_for=0)
    client.set_registered_model_alias("wine", "champion", created.version)
    foreign, alias = mirror_check.differences("wine")
    assert f"Version {created.version} of wine in MLflow is not in our records" in foreign.sentence
    assert f"names version {created.version}; our records name version 2, which is served" in alias.sentence
    assert "promote" not in alias.hint
    _assert_unaffected(wines, capsys)
    assert mirror_check.write(load_problem("wine")) == [foreign]
    client.set_model_version_tag("wine", created.version, FOREIGN, "true")
    assert mirror_check.differences("wine") == []
    client.delete_model_version("wine", created.version)


@pytest.mark.parametrize("fault", ["down", "silent", "locked", "damaged"])
def test_everything_else_works_without_mlflow(
    wines: Wines, fault: str, tmp_path: Path, configure: Configure, capsys: pytest.CaptureFixture[str]
) -> None:
    database = wines[0] / "mlflow.db"
    mlflow_runs.unreachable_until.clear()
    with ExitStack() as stack:
        holder = stack.enter_context(closing(sqlite3.connect(":memory:" if fault != "locked" else database)))
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        if fault == "down":
            configure(mlflow_uri="http://127.0.0.1:9")
        elif fault == "silent":
            configure(mlflow_uri=f"http://127.0.0.1:{listener.getsockname()[1]}")
        elif fault == "damaged":
            (tmp_path / "damaged.db").write_bytes(b"no database" * 1000)
            configure(mlflow_uri=f"sqlite:///{tmp_path / 'damaged.db'}")
        else:
            holder.execute("BEGIN EXCLUSIVE")
        before = time.monotonic()
        with pytest.raises(MirrorError, match="MLflow"):
            mirror_check.differences("wine")
        assert time.monotonic() - before < 15
        _assert_unaffected(wines, capsys)
        registry.set_gates(wines[2][2], [{"gate": "loss", "passed": True, "detail": "without MLflow"}])
        now = registry.promote(aliases.current("wine"), wines[2][2], "without MLflow")
        assert registry.champion("wine") == wines[2][2]
        aliases.roll_back("wine", "back again")
        assert now.number < aliases.current("wine").number
        assert execute(["mirror", "write", "--json"]) == 1
        assert "MLflow" in json.loads(capsys.readouterr().out)["error"]["what"]
    configure(mlflow_uri="")
    mlflow_runs.unreachable_until.clear()
    assert mirror_check.write(load_problem("wine")) == []


def test_a_model_trained_and_registered_without_mlflow_is_shown_there_later(wines: Wines, configure: Configure) -> None:
    file = wines[1] / "wine" / "problem.py"
    text = file.read_text()
    configure(mlflow_uri="http://127.0.0.1:9")
    try:
        file.write_text(text.replace("max_depth=5", "max_depth=6"))
        run = train_model.fn("wine", wines[3])
    finally:
        file.write_text(text)
    version = registry.create_version(run)
    assert registry.open_model(version, "multiclass").ubj()
    traced = trace_model("wine", version.version)
    assert traced["state"] == "unknown"
    assert [link["link"] for link in traced["links"] if not link["verified"]] == ["MLflow run"]
    configure(mlflow_uri="")
    assert {one.cause for one in mirror_check.differences("wine")} == {"purged", "deleted"}
    assert mirror_check.write(load_problem("wine")) == []
    shown = mlflow_runs.connect_mlflow().search_runs([mlflow_runs.experiment("wine")], "params.max_depth = '6'")
    assert [one.data.tags["truecourse.run"] for one in shown] == [run.run_id]
    assert trace_model("wine", version.version)["verified"], "what MLflow shows under another id is compared too"


def test_a_lost_file_of_our_own_is_critical(wines: Wines) -> None:
    store, key = open_store(), artifact_key(wines[2][1].run_id, "model/model.ubj")
    data = store.get(key)
    store.delete(key)
    try:
        report = check_registry(load_problem("wine"), store, datetime.now(UTC))
    finally:
        store.put(key, data)
    assert report.state == "critical"
    assert key in report.sentence
