"""A version is rebuilt byte for byte from what is archived with it, even after its problem was edited."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import write_deltalake

from tasks.training.build_snapshot import build_snapshot
from tasks.training.reproduce import reproduce
from tasks.training.trace import trace_model
from tasks.training.train import train_model
from tests.frames import store_wine
from tests.integration.conftest import Trained
from tests.unevaluated_versions import set_champion
from truecourse.problem.loader import load_problem
from truecourse.references import ModelVersion, TableVersion
from truecourse.registry import aliases, mlflow_runs, run_archive, runs
from truecourse.registry import versions as registry
from truecourse.storage.delta_tables import Tables, clean_table
from truecourse.storage.object_store import open_store

Configure = Callable[..., None]


@pytest.fixture
def wine(tmp_path: Path, home: Path, configure: Configure) -> ModelVersion:
    configure(problems=tmp_path, problem="wine")
    clean = store_wine(tmp_path)
    snapshot = build_snapshot(load_problem(), Tables(), clean=clean, features={})
    return registry.create_version(train_model.fn("wine", snapshot))


def test_a_model_is_rebuilt_byte_for_byte_after_edits(wine: ModelVersion, tmp_path: Path, configure: Configure) -> None:
    run = runs.trained_run("wine", wine.run_id)
    tables, name = Tables(), clean_table("wine", "wines")
    tables.append(name, tables.read(tables.version(name)).slice(0, 9), {})  # type: ignore[arg-type]
    configure(threads=1)
    file = tmp_path / "wine" / "problem.py"
    file.write_text("# a comment\n" + file.read_text().replace("max_depth=3", "max_depth=4"))
    open_store().delete(run.snapshot.frame_key)  # it is rebuilt, not read, and reported as missing
    result = reproduce("wine", wine.version)
    assert result["identical"]
    assert result["rebuilt_sha256"] == result["recorded_sha256"] == wine.model_sha256
    assert result["snapshot"]["identical"]
    assert result["environment"] == {}
    assert json.loads(registry.artifact(wine.run_id, "training.json"))["parameters"]["max_depth"] == 3
    assert [(link["link"], link["state"]) for link in result["links"] if not link["verified"]] == [
        ("snapshot", "missing")
    ]


def test_a_gate_or_a_monitoring_window_changes_no_training(wine: ModelVersion, tmp_path: Path) -> None:
    file = tmp_path / "wine" / "problem.py"
    run = runs.trained_run("wine", wine.run_id)
    before = file.read_text()
    file.write_text(
        before.replace("PROBLEM = Problem(", "from truecourse.problem import Monitoring, days\n\nPROBLEM = Problem(")
    )
    file.write_text(re.sub(r"\n\)\s*$", "\n    monitoring=Monitoring(window=days(3)),\n)\n", file.read_text()))
    assert load_problem().monitoring.window.days == 3
    assert train_model.fn("wine", run.snapshot) == run
    file.write_text(before.replace("max_depth=3", "max_depth=4"))
    assert train_model.fn("wine", run.snapshot) != run


def test_the_inputs_of_a_run_are_archived_with_it(wine: ModelVersion, tmp_path: Path) -> None:
    environment = json.loads(runs.artifact(wine.run_id, run_archive.ENVIRONMENT))
    assert re.fullmatch("[0-9a-f]{40}", environment["truecourse"]["commit"])
    assert environment["truecourse"]["dirty"] in (True, False)
    assert environment["problem"] == {"commit": None, "dirty": None}
    assert environment["packages"]["xgboost"] == environment["versions"]["xgboost"]
    assert environment["platform"]
    run_archive.unpack_folder(runs.artifact(wine.run_id, run_archive.FOLDER), tmp_path / "unpacked")
    written = (tmp_path / "wine" / "problem.py").read_bytes()
    assert (tmp_path / "unpacked" / "problem.py").read_bytes() == written
    assert not (tmp_path / "unpacked" / "data").exists(), "source bytes are archived elsewhere"


def test_a_moved_home_is_reproduced_from_its_source_bytes(
    trained: Trained, tmp_path: Path, configure: Configure
) -> None:
    """The problem's folder and the home where it was trained are gone."""
    home = tmp_path / "moved"
    shutil.copytree(trained.home, home, ignore=shutil.ignore_patterns("serving", "*.log", "spool"))
    configure(home=home, problems=tmp_path / "nowhere")
    tables, name = Tables(), clean_table("deliveries", "deliveries")
    for _ in range(2):  # later versions of the table
        tables.append(name, tables.read(tables.version(name)).slice(0, 1), {})  # type: ignore[arg-type]
    result = reproduce("deliveries", trained.version.version, "source")
    assert result["identical"], [link for link in result["links"] if not link["verified"]]
    kinds = [link["link"] for link in result["links"] if link["link"].startswith("rebuilt")]
    assert kinds.count("rebuilt clean table") == 2
    assert kinds.count("rebuilt feature table") == 3
    assert result["state"] == "verified", [link for link in result["links"] if not link["verified"]]
    _change_one_cell(tables, name)
    changed = trace_model("deliveries", trained.version.version)
    assert [link["link"] for link in changed["links"] if link["state"] == "changed"] == ["clean table"]


def test_a_moved_home_trains_and_rolls_back_and_mlflow_loads_from_it(
    trained: Trained, tmp_path: Path, configure: Configure
) -> None:
    import mlflow

    first, moved = tmp_path / "first", tmp_path / "moved"
    shutil.copytree(trained.home, first, ignore=shutil.ignore_patterns("serving", "*.log", "spool"))
    shutil.copytree(trained.problems, tmp_path / "problems")
    configure(home=first, problems=tmp_path / "problems")
    mlflow_runs.connect_mlflow()
    first.rename(moved)
    configure(home=moved)
    file = tmp_path / "problems" / "deliveries" / "problem.py"
    file.write_text(file.read_text().replace("max_depth=3", "max_depth=2"))
    run = train_model.fn("deliveries", runs.trained_run("deliveries").snapshot)
    assert run.model_sha256 != trained.version.model_sha256
    version = registry.create_version(run)
    set_champion(version)
    assert trace_model("deliveries", version.version)["verified"]
    client = mlflow_runs.connect_mlflow()
    for one in (run.run_id, trained.version.run_id):
        assert client.get_run(one).info.artifact_uri.startswith(f"{moved}/")
    assert aliases.roll_back("deliveries", "it was better").champion == trained.version
    registry.mirror_aliases("deliveries")
    mlflow.set_tracking_uri(client.tracking_uri)
    assert mlflow.pyfunc.load_model("models:/deliveries@champion") is not None
    assert not first.exists(), "nothing was written to the old place"


def _change_one_cell(tables: Tables, name: str) -> None:
    """Change one cell of a clean table by rewriting its file under the same name."""
    version = TableVersion(name=name, version=0)
    (file,) = [Path(open_store().root) / key for key in tables.files(version)]
    rows = tables.read(version)
    distance = rows["distance"].to_pylist()
    distance[0] += 40
    rows = rows.set_column(rows.schema.get_field_index("distance"), "distance", pa.array(distance))
    place = file.parent.parent / "aside"
    write_deltalake(place, rows)
    (rewritten,) = place.glob("*.parquet")
    rewritten.replace(file)
    shutil.rmtree(place)
