"""The flows `train` and `tune` on real MLflow and Prefect, and the objects that they write."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
import pytest

from flows.train import train
from flows.tune import tune
from tasks.training import tune as tuning
from tasks.training.train import chosen_parameters, tuning_key
from tests.conftest import S3Server
from tests.frames import store_diabetes, store_wine
from tests.unevaluated_versions import set_champion
from truecourse.arrays import columns_of
from truecourse.errors import IntegrityError, ModelError, NotFound
from truecourse.hashing import sha256
from truecourse.modeling.snapshot import load_frame
from truecourse.problem.loader import load_problem
from truecourse.registry import mlflow_runs, runs
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


def test_tuning_resumes_after_a_kill_and_train_uses_its_result(diabetes: None, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = train()
    with pytest.raises(NotFound, match="was not tuned"):
        chosen_parameters(load_problem(), open_store(), plain.snapshot)
    logged = tuning.log_trial

    def killed(*arguments: Any) -> None:
        if arguments[2] == 2:
            raise KeyboardInterrupt
        logged(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(tuning, "log_trial", killed)
        with pytest.raises(KeyboardInterrupt):
            tuning.search_parameters.fn("diabetes", plain.snapshot, 4)
    assert not open_store().exists(tuning_key(plain.snapshot))
    result = tune(trials=4)
    assert len(result["trials"]) == 4
    parameters = [json.dumps(trial["parameters"], sort_keys=True) for trial in result["trials"]]
    assert len(set(parameters)) == 4
    assert result["trials"][0]["parameters"] == {"max_depth": 3, "learning_rate": 0.05}
    assert result["loss"] == min(trial["loss"] for trial in result["trials"])
    assert tune(trials=4) == result
    tuned = train(tune=True, trials=4)
    assert tuned.snapshot == plain.snapshot
    assert mlflow_runs.connect_mlflow().get_run(tuned.run_id).data.params["max_depth"] == str(
        result["best"]["max_depth"]
    )
    _check_child_runs(result)


def _check_child_runs(result: dict[str, Any]) -> None:
    logged_runs = mlflow_runs.connect_mlflow().search_runs([mlflow_runs.experiment("diabetes")])
    (parent,) = [run for run in logged_runs if run.data.tags.get("truecourse.step") == "tune"]
    children = [run for run in logged_runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    finished = [run for run in children if run.info.status == "FINISHED"]
    assert {round(run.data.metrics["rmse"], 9) for run in finished} == {round(t["loss"], 9) for t in result["trials"]}
    assert optuna.logging.get_verbosity() == optuna.logging.WARNING


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
