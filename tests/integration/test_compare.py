"""`compare` of trained models: registered or not, with other features, parameters and code, and as a page."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cli.main import execute
from tasks.training.build_snapshot import take_snapshot
from tasks.training.train import train_model
from tests import traced_home
from tests.integration.conftest import TracedWorld
from truecourse.modeling.snapshot import load_frame
from truecourse.modeling.training import matrix_of, rows_of
from truecourse.monitoring.dashboard import control_page
from truecourse.problem.loader import load_problem
from truecourse.registry import runs
from truecourse.registry import versions as registry
from truecourse.storage.object_store import open_store


def answer(capsys: pytest.CaptureFixture[str], *words: str, status: int = 0) -> dict[str, Any]:
    assert execute(["compare", *words, "--json"]) == status
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    return document


def edit(file: Path, before: str, after: str) -> None:
    text = file.read_text()
    assert before in text
    file.write_text(text.replace(before, after))


def test_versions_and_a_run_with_other_features_and_parameters(
    traced_world: TracedWorld, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(traced_world.folder / "features" / "depot_history.sql", "INTERVAL 1 DAY", "INTERVAL 2 DAY")
    traced_home.refresh("deliveries")
    traced_home.train("deliveries")
    edit(
        traced_world.folder / "problem.py",
        "rounds=200, learning_rate=0.1, max_depth=3",
        "rounds=3, learning_rate=0.01, max_depth=1, linear=False",
    )
    run = train_model.fn("deliveries", take_snapshot.fn("deliveries"))
    found = answer(capsys, "1", "2", run.run_id[:8])
    assert [one["name"] for one in found["models"]] == ["version 1", "version 2", f"run {run.run_id[:8]}"]
    assert found["coverage"] == 1 - 0.025 / 2
    rows = rows_of(load_frame(open_store(), run.snapshot), "test")
    assert (found["rows"], found["days"]) == (len(rows), 10)
    for one in found["models"]:
        model = registry.open_model(runs.trained_run("deliveries", one["run_id"]), "binary")
        own = rows_of(load_frame(open_store(), runs.trained_run("deliveries", one["run_id"]).snapshot), "test")
        scores, labels = model.predict(matrix_of(model.vocabulary, own)), model.vocabulary.labels(own)
        loss = -np.mean(np.log(np.where(labels > 0, scores, 1 - scores)))
        assert one["metrics"]["log_loss"]["value"] == pytest.approx(loss), "each with the features of its training"
    second, third = found["comparisons"]
    for one, model in ((second, found["models"][1]), (third, found["models"][2])):
        difference = one["metrics"]["log_loss"]
        assert difference["value"] == pytest.approx(
            model["metrics"]["log_loss"]["value"] - found["models"][0]["metrics"]["log_loss"]["value"]
        )
        assert [part["column"] for part in one["slices"]] == ["depot"] * 3
        assert one["reference"] == "version 1"
    assert third["conclusion"] == "worse", "trees of depth 1, learned too slowly"
    assert third["sentence"].startswith(f"run {run.run_id[:8]} is worse than version 1 by more than noise: log loss +")
    assert second["features"]["redefined"] == ["depot_late_1d", "depot_last_took"]
    assert (second["parameters"].get("max_depth"), third["parameters"]["max_depth"]) == (None, [3, 1])
    assert (sorted(second["code"]), sorted(third["code"])) == (
        ["features/depot_history.sql"],
        ["features/depot_history.sql", "problem.py"],
    )
    page = Path(found["page"]).read_text()
    assert "by more than noise" in page
    assert "<svg" in page
    assert not re.findall(r"(?:src|href)=\"(?:https?:)?//", page)
    assert answer(capsys, "1", "2")["comparisons"][0]["metrics"]["log_loss"]["value"] == pytest.approx(
        second["metrics"]["log_loss"]["value"]
    )
    assert execute(["compare", "1", "1", "2"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "version 1 does not differ from version 1 by more than noise: log loss +0 (+0 to +0)" in text
    assert "that none was trained on" in text


def test_a_model_of_another_label_is_left_out_with_the_reason(
    traced_world: TracedWorld, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(traced_world.folder / "label.sql", "late AS label", "1 - late AS label")
    traced_home.refresh("deliveries")
    traced_home.train("deliveries")
    found = answer(capsys, "2", "1", "2")
    assert found["models"][1]["reason"] == "its label was redefined since it was trained"
    assert (found["models"][1]["metrics"], "conclusion" in found["comparisons"][0]) == ({}, False)
    assert found["comparisons"][1]["conclusion"] == "within noise", "the same model"
    assert found["models"][2]["metrics"] == found["models"][0]["metrics"]
    assert execute(["compare", "2", "1"]) == 0
    page = control_page.page(open_store(), load_problem("deliveries"), served=False)
    assert '<a href="compare/2-1.html">Comparison of 2, 1</a>' in page
    assert open_store().get("reports/deliveries/control.html").decode().count("compare/2-1.html") == 1
    text = " ".join(capsys.readouterr().out.split())
    assert "version 1 was not compared: its label was redefined since it was trained" in text
    run_id = registry.version("deliveries", 2).run_id
    contract = json.loads(runs.artifact(run_id, "model/contract.json")) | {"label_definition": "of another release"}
    runs.put_artifacts(run_id, {"model/contract.json": json.dumps(contract).encode()})
    assert answer(capsys, "2", "2")["comparisons"][0]["conclusion"] == "within noise", "both have the same snapshot"
    open_store().delete(runs.artifact_key(run_id, "model/model.ubj"))
    error = answer(capsys, "2", "1", status=1)["error"]
    assert error["what"] == "cannot be compared: the model's file is gone from storage"
    assert "version 2 of problem deliveries" in error["where"]
    assert answer(capsys, "1", "2")["comparisons"][0]["reason"] == "the model's file is gone from storage"


def test_wrong_arguments_are_errors_with_hints(traced_world: TracedWorld, capsys: pytest.CaptureFixture[str]) -> None:
    for words, what, hint in (
        (("1",), "1 given, 2 to 12 needed", "truecourse compare champion 4 5"),
        (("1", "7"), "no version 7", "registered versions: 1"),
        (("1", "00000000"), "no such model", "the start of a run's id"),
        (("1", "champoin"), "no such model", "champion, challenger"),
    ):
        error = answer(capsys, *words, status=1)["error"]
        assert what in error["what"], words
        assert hint in error["hint"], words


def test_selection_of_features_measures_each_feature_and_view(
    traced_world: TracedWorld, configure: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    configure(threads=1)  # for so few rows the fastest
    assert execute(["select", "1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    declared = load_problem("deliveries")
    assert [one["feature"] for one in found["features"]] == list(declared.features)
    assert {one["group"]: len(one["features"]) for one in found["groups"]} == {
        group: list(declared.feature_groups.values()).count(group) for group in declared.feature_groups.values()
    }
    costs = {one["group"]: one["cost"] for one in found["groups"]}
    assert all(costs[view.name]["bytes"] > 0 for view in declared.views), "what each view's computation cost"
    assert costs["request"] is None
    permuted = {one["feature"]: one["permuted"]["low"] for one in found["features"]}
    assert permuted["promised"] > 0, "the label depends on it most"
    proposed = found["proposed"]
    assert sorted([*proposed["kept"], *proposed["dropped"]]) == sorted(declared.features)
    assert "promised" in proposed["kept"]
    account = json.loads(runs.artifact(found["run_id"], "training.json"))
    assert found["loss"] == pytest.approx(account["loss"], rel=1e-6), "the loss that the training was chosen by"
    page = Path(found["page"]).read_text()
    assert all(name in page for name in declared.features)
    assert execute(["select", "nothing", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["error"]["what"] == "no such model"
