"""Evaluation, registration and promotion on real MLflow: which versions become champion."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import sklearn.metrics as reference

import truecourse
from cli.main import execute
from flows.register import register
from flows.train import train
from tasks.release.register import register_model
from tasks.training.evaluate_model import evaluate_model, model_card, page_key
from tests.conftest import existing
from tests.frames import store_diabetes, store_wine
from tests.unevaluated_versions import set_champion
from truecourse.arrays import columns_of
from truecourse.errors import ModelError, NotFound
from truecourse.html import remove_page_links
from truecourse.modeling.snapshot import load_frame
from truecourse.modeling.training import rows_of
from truecourse.monitoring.dashboard import control_page
from truecourse.problem.loader import load_problem
from truecourse.references import ModelVersion
from truecourse.registry import aliases, mirror_check, mlflow_mirror, mlflow_runs
from truecourse.registry import versions as registry
from truecourse.storage.object_store import open_store

Configure = Callable[..., None]


@pytest.fixture
def problems(tmp_path: Path, home: Path, configure: Configure, prefect_server: str) -> Path:
    configure(problems=tmp_path, problem="diabetes")
    store_diabetes(tmp_path)
    return tmp_path


def edit(problems: Path, **changes: str) -> None:
    """Change the diabetes problem: gates="[...]", rounds="5"."""
    file = problems / "diabetes" / "problem.py"
    text = re.sub(r"gates=\[.*\],", f"gates={changes['gates']},", file.read_text()) if "gates" in changes else ""
    text = text or file.read_text()
    text = re.sub(r"rounds=\d+", f"rounds={changes['rounds']}", text, count=1) if "rounds" in changes else text
    if "    SliceFloor,\n" not in text:
        text = text.replace("    BeatsBaseline,\n", "    BeatsBaseline,\n    BeatsChampion,\n    SliceFloor,\n")
    file.write_text(text)


def test_a_good_model_becomes_champion_and_a_bad_one_challenger(problems: Path) -> None:
    assert registry.champion("diabetes") is None
    with pytest.raises(ModelError, match="no model was trained yet"):
        register()
    first_run = train()
    first = register()
    assert first == ModelVersion(
        problem="diabetes", version=1, run_id=first_run.run_id, model_sha256=first_run.model_sha256
    )
    assert registry.champion("diabetes") == registry.challenger("diabetes") == first
    edit(problems, gates="[BeatsBaseline(), MetricGate('rmse', max=10)]", rounds="40")
    train()
    second = register()
    assert second.version == 2
    assert registry.champion("diabetes") == first
    assert registry.challenger("diabetes") == second
    gates = registry.gates(second)
    assert [gate["passed"] for gate in gates] == [True, False]


def test_changed_gates_evaluate_the_same_version_again_without_training(problems: Path) -> None:
    edit(problems, gates="[BeatsBaseline(), MetricGate('rmse', max=10)]")
    run = train()
    first = register()
    assert registry.champion("diabetes") is None
    edit(problems, gates="[BeatsBaseline(), MetricGate('rmse', max=100)]")
    assert train() == run
    assert register() == registry.champion("diabetes") == first
    results = registry.gate_ledger("diabetes").entries()
    assert [[gate["passed"] for gate in result.gates] for result in results] == [[True, False], [True, True]]


def test_registering_again_changes_nothing_not_even_after_a_rollback(problems: Path) -> None:
    first_run = train()
    first = register()
    assert register() == register(run_id=first_run.run_id) == first
    edit(problems, rounds="40")
    train()
    second = register()
    assert registry.champion("diabetes") == second
    set_champion(first)
    assert register() == second
    assert registry.champion("diabetes") == first
    assert [version.version for version in registry.versions("diabetes")] == [1, 2]
    with pytest.raises(ModelError, match=r"no version 3.*\n.*1, 2"):
        registry.version("diabetes", 3)


def test_mlflow_describes_runs_and_versions(problems: Path, configure: Configure, tmp_path: Path) -> None:
    run, version = train(), register()
    mlflow = mlflow_runs.connect_mlflow()
    mlflow_run = mlflow.get_run(run.run_id)
    tags = mlflow_run.data.tags
    assert mlflow_run.info.run_name.startswith("train diabetes ")
    assert f"snapshot `{run.snapshot.sha256}`" in tags["mlflow.note.content"]
    assert tags["mlflow.source.name"] == "truecourse run train --problem diabetes"
    assert tags["mlflow.source.type"] == "LOCAL"
    assert tags["mlflow.user"]
    experiment = mlflow.get_experiment(mlflow_run.info.experiment_id)
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"
    described = mlflow.get_model_version("diabetes", str(version.version)).description
    assert run.model_sha256 in described
    assert "truecourse reproduce 1 --problem diabetes" in described
    assert f"#/experiments/{mlflow_run.info.experiment_id}/runs/{run.run_id}/artifacts/model.html" in described
    assert described.count("truecourse card 1 --problem diabetes") == 1
    assert mirror_check.write(load_problem("diabetes")) == []
    assert mlflow.get_model_version("diabetes", str(version.version)).description == described
    assert {"model.html", "card.md"} <= {item.path for item in mlflow.list_artifacts(run.run_id)}
    assert mlflow.get_registered_model("diabetes").description
    configure(mlflow_uri=f"sqlite:///{tmp_path / 'empty.db'}")
    assert mirror_check.write(load_problem("diabetes")) == []
    mlflow = mlflow_runs.connect_mlflow()
    moved = mlflow_mirror.mlflow_run(mlflow, run.run_id)
    described = mlflow.get_model_version("diabetes", str(version.version)).description
    assert f"runs/{moved.info.run_id}/artifacts/model.html" in described
    assert "model.html" in {item.path for item in mlflow.list_artifacts(moved.info.run_id)}


def test_the_card_is_stored_printed_and_rebuilt(problems: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = train()
    with pytest.raises(NotFound, match="never evaluated"):
        model_card("diabetes", run)
    register()
    stored = json.loads(registry.artifact(run.run_id, "card.json"))
    assert stored["cost"]["cpu_seconds"] > 0
    assert stored["data"]["sources"][0]["rows"] == 442
    assert [side["rows"] for side in stored["split"]["sides"]] == [242, 90, 110]
    assert execute(["card"]) == 0
    assert capsys.readouterr().out == registry.artifact(run.run_id, "card.md").decode()
    assert execute(["card", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == stored
    opened = truecourse.open("diabetes").model(1).card
    assert opened.document == stored
    assert "<svg" in opened._repr_html_()
    file = problems / "diabetes" / "problem.py"
    text = file.read_text().replace("    BeatsBaseline,\n", "    BeatsBaseline,\n    Card,\n", 1)
    file.write_text(text.replace("    gates=", "    card=Card(use='Plan visits.', groups=['sex']),\n    gates="))
    assert execute(["card", "champion", "--rebuild", "--json"]) == 0
    rebuilt = json.loads(capsys.readouterr().out)
    assert rebuilt["declared"]["use"] == "Plan visits."
    assert {group["value"] for group in rebuilt["fairness"][0]["groups"]} == {"1", "2"}
    kept = ("metrics", "dependence", "interactions", "examples", "operating", "split", "data", "cost")
    assert {name: rebuilt[name] for name in kept} == {name: stored[name] for name in kept}
    assert train() == run


def test_an_interrupted_registration_is_finished(problems: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = train()

    def killed(problem: str) -> None:
        raise KeyboardInterrupt

    report = evaluate_model.fn("diabetes", run)
    with monkeypatch.context() as patch:
        patch.setattr(registry, "mirror_aliases", killed)
        with pytest.raises(KeyboardInterrupt):
            register_model.fn(run, report)
    version = register()
    assert version.version == 1
    assert registry.champion("diabetes") == version
    assert len(aliases.history("diabetes")) == 1
    mlflow = mlflow_runs.connect_mlflow()
    assert all(int(mlflow.get_model_version_by_alias("diabetes", a).version) == 1 for a in ("champion", "challenger"))


def test_a_worse_model_does_not_replace_the_champion(problems: Path) -> None:
    edit(problems, gates="[BeatsChampion()]")
    train()
    champion = register()
    edit(problems, rounds="1")
    train()
    worse = register()
    assert registry.champion("diabetes") == champion != worse
    loss, _ = registry.gates(worse)
    assert not loss["passed"]
    assert "version 1: difference +" in loss["detail"]
    compared = json.loads(registry.artifact(worse.run_id, "card.json"))["champion"]
    rmse = {side: metrics["rmse"]["value"] for side, metrics in compared["metrics"].items()}
    assert compared["loss"]["value"] == pytest.approx(rmse["model"] - rmse["champion"])
    files = control_page.document(open_store(), load_problem("diabetes"))["pages"]
    sides = {"champion": champion, "challenger": worse}
    assert files == {f"Model card of the {alias}": f"model-{one.run_id}.html" for alias, one in sides.items()}


def test_a_floor_is_evaluated_on_its_slices_which_the_page_shows(problems: Path) -> None:
    edit(problems, gates="[SliceFloor('sex', 'rmse', max=100, rows=10), SliceFloor('bmi', 'rmse', max=1, rows=10)]")
    run = train()
    gates = registry.gates(register())
    assert [gate["passed"] for gate in gates] == [True, False]
    parts = json.loads(registry.artifact(run.run_id, "report.json"))["slices"]
    assert {part["value"] for part in parts if part["column"] == "sex"} == {"1", "2"}
    page = open_store().get(page_key(run)).decode()
    assert "<h3>sex</h3>" in page
    assert "<h3>bmi</h3>" in page
    assert "stays challenger" in page
    assert registry.champion("diabetes") is None


def test_a_champion_promoted_in_the_meantime_is_not_replaced(problems: Path) -> None:
    run = train()
    report = evaluate_model.fn("diabetes", run)
    edit(problems, rounds="40")
    other = register(run_id=train().run_id)
    with pytest.raises(ModelError, match="became champion after"):
        register_model.fn(run, report)
    assert registry.champion("diabetes") == other
    register(run_id=run.run_id)
    assert existing(registry.champion("diabetes")).run_id == run.run_id


def test_the_report_is_of_the_test_rows_alone(problems: Path) -> None:
    run = train()
    version = register()
    report = json.loads(registry.artifact(version.run_id, "report.json"))
    frame = load_frame(open_store(), run.snapshot)
    test, rest = rows_of(frame, "test"), rows_of(frame, "train", "validate")
    model = registry.open_model(run, "regression")
    predictions = model.predict(model.vocabulary.encode(columns_of(test, model.vocabulary.features)))
    truth = test["label"].to_numpy()
    figures = report["metrics"]["model"]
    assert figures["rmse"]["value"] == pytest.approx(reference.root_mean_squared_error(truth, predictions), rel=1e-5)
    assert figures["rmse"]["low"] < figures["rmse"]["value"] < figures["rmse"]["high"]
    mean = rest["label"].to_numpy().mean()
    expected = reference.root_mean_squared_error(truth, np.full(len(truth), mean))
    assert report["metrics"]["constant"]["rmse"]["value"] == pytest.approx(expected, rel=1e-5)
    assert report["metrics"]["linear"]["rmse"]["value"] < expected
    assert report["rows"]["test"] == len(test)
    shap = model.contributions(model.vocabulary.encode(columns_of(test, model.vocabulary.features)))
    means = {name: float(np.abs(shap[:, at]).mean()) for at, name in enumerate(model.vocabulary.features)}
    assert report["contributions"] == pytest.approx(means)
    logged = mlflow_runs.connect_mlflow().get_run(run.run_id).data.metrics
    assert logged["test_rmse"] == pytest.approx(figures["rmse"]["value"])
    plots = [item.path for item in mlflow_runs.connect_mlflow().list_artifacts(run.run_id, "plots")]
    assert {"plots/calibration.png", "plots/contributions.png", "plots/predicted.png"} <= set(plots)
    page = open_store().get(page_key(run)).decode()
    assert remove_page_links(page) == registry.artifact(run.run_id, "model.html").decode()
    assert run.model_sha256 in page
    assert "http://" not in page.replace("http://www.w3.org", "").replace("http://purl.org", "").replace(
        "http://creativecommons.org", ""
    )


def test_a_multiclass_model_is_evaluated_with_multiclass_metrics(
    tmp_path: Path, home: Path, configure: Configure, prefect_server: str
) -> None:
    configure(problems=tmp_path, problem="wine")
    store_wine(tmp_path)
    train()
    version = register()
    assert registry.champion("wine") == version
    report = json.loads(registry.artifact(version.run_id, "report.json"))
    assert set(report["metrics"]["model"]) == {"log_loss", "accuracy", "macro_f1", "auc", "calibration_error"}
    assert report["metrics"]["model"]["accuracy"]["value"] > 0.9
    assert set(report["contributions"]) == set(load_problem("wine").features)
    assert all(mean >= 0 for mean in report["contributions"].values())
    assert [gate["passed"] for gate in report["gates"]] == [True, True]
