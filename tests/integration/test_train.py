"""The flows `train` and `tune` on real MLflow and Prefect, and the objects that they write."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
import pytest

from cli.main import execute
from flows.train import train
from flows.tune import tune
from tasks.training.train import chosen_parameters
from tests.conftest import S3Server
from tests.frames import store_diabetes, store_wine
from tests.unevaluated_versions import set_champion
from truecourse.arrays import columns_of
from truecourse.errors import IntegrityError, ModelError, NotFound
from truecourse.hashing import sha256
from truecourse.modeling.snapshot import load_frame
from truecourse.problem.loader import load_problem
from truecourse.registry import mirror_check, mlflow_runs, runs
from truecourse.registry import versions as registry
from truecourse.storage.locks import locked
from truecourse.storage.object_store import open_store

Configure = Callable[..., None]


@pytest.fixture
def wine(tmp_path: Path, home: Path, configure: Configure, prefect_server: str) -> None:
    configure(problems=tmp_path, problem="wine")
    store_wine(tmp_path)


@pytest.fixture
def diabetes(tmp_path: Path, home: Path, configure: Configure, prefect_server: str) -> None:
    configure(problems=tmp_path, problem="diabetes")
    store_diabetes(tmp_path)


def test_a_run_has_the_artifacts_to_use_and_reproduce_its_model(wine: None) -> None:
    run = train()
    model = registry.open_model(run, "multiclass")
    assert sha256(model.ubj()) == run.model_sha256
    rows = load_frame(open_store(), run.snapshot)
    assert model.predict(model.vocabulary.encode(columns_of(rows, model.vocabulary.features))).shape == (178, 3)
    recorded = mlflow_runs.connect_mlflow().get_run(run.run_id)
    tags = recorded.data.tags
    assert recorded.info.status == "FINISHED"
    assert tags["truecourse.snapshot"] == run.snapshot.sha256
    assert tags["truecourse.rows"] == "178"
    for name, digest in json.loads(tags["truecourse.artifacts"]).items():
        assert sha256(registry.artifact(run.run_id, name)) == digest
    assert {"model/contract.json", "model/problem.json", "lineage.json"} <= set(
        json.loads(tags["truecourse.artifacts"])
    )
    (dataset,) = [item.dataset for item in recorded.inputs.dataset_inputs]
    assert run.snapshot.sha256.startswith(dataset.digest)
    assert json.loads(dataset.source)["sha256"] == run.snapshot.sha256
    assert recorded.data.params["max_depth"] == "3"
    assert recorded.data.metrics["rounds"] == model.booster.num_boosted_rounds()


def test_mlflows_own_loader_gives_the_same_predictions(diabetes: None) -> None:
    import mlflow

    run = train()
    set_champion(registry.create_version(run))
    mlflow.set_tracking_uri(mlflow_runs.connect_mlflow().tracking_uri)
    loaded = mlflow.pyfunc.load_model("models:/diabetes@champion")
    model = registry.open_model(run, "regression")
    rows = load_frame(open_store(), run.snapshot)
    matrix = model.vocabulary.encode(columns_of(rows, model.vocabulary.features))
    theirs = loaded.predict(pd.DataFrame(matrix, columns=list(model.vocabulary.features)))
    np.testing.assert_array_equal(np.asarray(theirs), model.predict(matrix))


def test_training_is_not_repeated_unless_its_model_is_lost(wine: None) -> None:
    run = train()
    assert train() == run
    open_store().delete(runs.artifact_key(run.run_id, "model/model.ubj"))
    again = train()
    assert again.run_id != run.run_id
    assert again.model_sha256 == run.model_sha256


def test_a_failed_run_is_marked_and_not_reused(wine: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise ModelError("broken")

    with monkeypatch.context() as patch:
        patch.setattr("tasks.training.train.train", broken)
        with pytest.raises(ModelError, match="broken"):
            train()
    logged_runs = mlflow_runs.connect_mlflow().search_runs([mlflow_runs.experiment("wine")])
    assert [run.info.status for run in logged_runs] == ["FAILED"]
    with pytest.raises(ModelError, match="no model was trained yet"):
        runs.trained_run("wine")
    assert train().run_id != logged_runs[0].info.run_id


def test_a_model_with_changed_bytes_is_refused(wine: None) -> None:
    run = train()
    key = runs.artifact_key(run.run_id, "model/model.ubj")
    data = bytearray(open_store().get(key))
    data[len(data) // 2] ^= 1
    open_store().put(key, bytes(data))
    with pytest.raises(IntegrityError, match="bytes were changed"):
        registry.open_model(run, "multiclass")


def test_tuning_continues_after_an_interruption_and_train_uses_its_result(
    diabetes: None, capsys: pytest.CaptureFixture[str], configure: Configure, home: Path
) -> None:
    plain = train()
    with pytest.raises(NotFound, match="was not tuned"):
        chosen_parameters(load_problem(), open_store(), plain.snapshot)
    first = tune(trials=2)
    _interrupt_logging(trial=1)
    assert execute(["tune", "--trials", "5", "--workers", "2", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["trials"][:2] == first["trials"]
    assert [trial["number"] for trial in result["trials"]] == [0, 1, 2, 3, 4]
    assert result["trials"][0]["parameters"] == {"max_depth": 3, "learning_rate": 0.05}
    assert result["loss"] == min(trial["loss"] for trial in result["trials"] if trial["state"] == "complete")
    assert result["gain"]["rows"] == 90
    page = Path(result["page"]).read_text()
    assert all(title in page for title in ("History", "Parallel coordinates", "Importance of the parameters"))
    assert tune(trials=4)["trials"] == result["trials"]
    tuned = train(tune=True, trials=4)
    assert tuned.snapshot == plain.snapshot
    assert mlflow_runs.connect_mlflow().get_run(tuned.run_id).data.params["max_depth"] == str(
        result["best"]["max_depth"]
    )
    _check_child_runs(result)
    _check_restored_runs(result, configure, home)


def _child_runs() -> tuple[Any, list[Any]]:
    """The search's run in MLflow, and those of its trials."""
    logged_runs = mlflow_runs.connect_mlflow().search_runs([mlflow_runs.experiment("diabetes")])
    (parent,) = [run for run in logged_runs if run.data.tags.get("truecourse.step") == "tune"]
    return parent, [run for run in logged_runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]


def _interrupt_logging(trial: int) -> None:
    """Leave a trial's run in MLflow as it is if the process dies while it logs the run."""
    (run,) = [run for run in _child_runs()[1] if run.data.tags["truecourse.trial"] == str(trial)]
    mlflow_runs.connect_mlflow().update_run(run.info.run_id, status="RUNNING")


def _check_child_runs(result: dict[str, Any]) -> None:
    parent, children = _child_runs()
    assert {run.info.status for run in (parent, *children)} == {"FINISHED"}
    logged = sorted((int(run.data.tags["truecourse.trial"]), round(run.data.metrics["rmse"], 9)) for run in children)
    assert logged == [(trial["number"], round(trial["loss"], 9)) for trial in result["trials"]]
    assert optuna.logging.get_verbosity() == optuna.logging.WARNING


def _check_restored_runs(result: dict[str, Any], configure: Configure, home: Path) -> None:
    """A deleted run of a trial is restored; in an empty database all are written, with their own times."""
    _, children = _child_runs()
    mlflow_runs.connect_mlflow().delete_run(children[0].info.run_id)
    (difference,) = mirror_check.differences("diabetes")
    assert "does not show 1 of 5 trials of parameter searches of diabetes" in difference.sentence
    assert execute(["mirror", "write", "--json"]) == 0
    assert {run.info.run_id for run in _child_runs()[1]} == {run.info.run_id for run in children}
    configure(mlflow_uri=f"sqlite:///{home / 'empty.db'}")
    assert mirror_check.write(load_problem()) == []
    _check_child_runs(result)
    restored = {int(run.data.tags["truecourse.trial"]): run for run in _child_runs()[1]}
    for trial in result["trials"]:
        run = restored[trial["number"]]
        assert run.info.start_time == int(trial["began"] * 1000)
        assert {name: str(value) for name, value in trial["parameters"].items()}.items() <= run.data.params.items()
    configure(mlflow_uri=f"sqlite:///{home / 'empty.db'}", model_retention=1e-6)
    mlflow_runs.connect_mlflow().delete_run(restored[0].info.run_id)
    assert mirror_check.differences("diabetes") == [], "gc removes old runs of trials"


@pytest.mark.parametrize("options", [["--trials", "0"], ["--minutes", "-1"], ["--workers", "0"], ["--feature-groups"]])
def test_a_search_that_is_not_possible_says_why(
    diabetes: None, options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert execute(["tune", *options, "--json"]) == 1
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["kind"] in ("SettingsError", "ModelError")
    assert error["hint"]


def test_a_problem_with_no_space_cannot_be_tuned(wine: None) -> None:
    with pytest.raises(ModelError, match=r"no search space.*\n.*search="):
        tune()


def test_artifacts_and_locks_work_on_s3(
    tmp_path: Path, home: Path, configure: Configure, prefect_server: str, seaweed: S3Server
) -> None:
    configure(problems=tmp_path, problem="wine", **seaweed.settings("training"))
    store_wine(tmp_path)
    run = train()
    version = registry.create_version(run)
    set_champion(version)
    assert registry.champion("wine") == version
    assert registry.open_model(version, "multiclass").ubj()
    assert any(key.startswith(f"mlflow/{run.run_id}/") for key in open_store().list("mlflow/"))
    with locked(open_store(), "registry/wine"), pytest.raises(Exception, match="waited"):  # noqa: SIM117
        with locked(open_store(), "registry/wine", patience=0.3):
            pass
    import mlflow

    mlflow.set_tracking_uri(mlflow_runs.connect_mlflow().tracking_uri)
    assert mlflow.pyfunc.load_model("models:/wine@champion") is not None
