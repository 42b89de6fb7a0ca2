"""Differences between tables, model versions and snapshots, against those computed from the files and models."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest

from cli.main import execute
from tests import traced_home
from tests.frames import store_diabetes, store_wine
from tests.integration.conftest import TracedWorld
from tests.one_table import COLUMNS, World
from truecourse.deployment.config_loader import load_deployment
from truecourse.lineage.table_diff import diff_tables
from truecourse.modeling.snapshot import load_frame
from truecourse.modeling.training import matrix_of, rows_of
from truecourse.problem import Float, Integer
from truecourse.problem.loader import load_problem
from truecourse.registry import runs
from truecourse.registry import versions as registry
from truecourse.storage.delta_tables import Tables


def answer(capsys: pytest.CaptureFixture[str], *words: str, status: int = 0) -> dict[str, Any]:
    assert execute(["diff", *words, "--json"]) == status
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    return document


def test_table_by_key(home: Path, tmp_path: Path) -> None:
    """Random upserts; the same difference as of two pandas frames."""
    world, random, files = (
        World(tmp_path, key=("visits",), max_removed=1.0, combine="replace"),
        np.random.default_rng(0),
        [],
    )
    for _ in range(3):
        visits = np.sort(random.choice(40, 30, replace=False))
        weights = random.integers(1, 4, 30)
        files.append(pd.DataFrame({"weight": weights + 0.5, "visits": visits, "colour": "red", "bought": visits % 2}))
        world.feed(files[-1].to_csv(index=False))
    for one, other in ((0, 1), (0, 2), (1, 2), (2, 0), (1, 1)):
        rows = diff_tables(Tables(), world.problem, f"sales@{one}", f"sales@{other}")["rows"]
        before, after = (files[number].set_index("visits") for number in (one, other))
        shared = before.index.intersection(after.index)
        changed = shared[before.loc[shared, "weight"] != after.loc[shared, "weight"]]
        added, removed = after.index.difference(before.index), before.index.difference(after.index)
        assert (rows["before"], rows["after"]) == (30, 30)
        assert (rows["added"], rows["removed"], rows["changed"]) == (len(added), len(removed), len(changed))
        assert rows["by_column"] == ({"weight": len(changed)} if len(changed) else {})
        assert [row["visits"] for row in rows["first"]["added"]] == added[:5].tolist()
        assert [row["visits"] for row in rows["first"]["removed"]] == removed[:5].tolist()
        assert [(row["visits"], row["weight"]) for row in rows["first"]["changed"]] == [
            (key, [before["weight"][key], after["weight"][key]]) for key in changed[:5]
        ]


HEAD = "weight,visits,colour,bought\n"


def test_table_without_key_with_quarantine_and_another_column(home: Path, tmp_path: Path) -> None:
    world = World(tmp_path, max_removed=1.0, max_quarantined=1.0, columns=COLUMNS | {"visits": Integer(ge=0)})
    world.feed(HEAD + "1.5,1,red,1\n1.5,1,red,1\n2.5,2,red,0\n")
    world.feed(HEAD + "1.5,1,red,1\n2.5,3,red,0\n2.5,-1,red,0\n")
    found = diff_tables(Tables(), world.problem, "sales@0", "sales@1")
    assert found["key"] == []
    rows = found["rows"]
    assert (rows["added"], rows["removed"], rows["changed"]) == (1, 2, 0)
    assert rows["first"]["added"] == [{"weight": 2.5, "visits": 3, "colour": "red", "bought": 0}]
    assert [row["visits"] for row in rows["first"]["removed"]] == [1, 2], "one of two equal rows"
    assert found["quarantine"] == [{"rows": 0, "reasons": {}}, {"rows": 1, "reasons": {"visits: range": 1}}]
    assert [one["number"] for one in found["deliveries"]["added"]["first"]] == [1]
    world.declare(columns={**world.table.columns, "visits": Float(), "extra": Integer(nulls=True)})
    world.feed("weight,visits,colour,bought,extra\n1.5,1,red,1,7\n")
    columns = diff_tables(Tables(), world.problem, "sales@1", "sales")["columns"]
    assert columns == {"added": {"extra": "int64"}, "removed": {}, "changed": {"visits": ["int64", "double"]}}


def test_tables_of_a_home(traced_world: TracedWorld, capsys: pytest.CaptureFixture[str]) -> None:
    found = answer(capsys, "deliveries@0", "deliveries@1")
    assert (found["rows"]["added"], found["rows"]["removed"], found["rows"]["changed"]) == (91, 0, 1)
    assert found["rows"]["first"]["changed"] == [{"delivery": 1000, "took": [47, 400]}]
    back = answer(capsys, "deliveries", "deliveries@0")
    assert (back["rows"]["added"], back["rows"]["removed"], back["deliveries"]["removed"]["count"]) == (0, 91, 1)
    assert execute(["diff", "deliveries@0", "deliveries@1"]) == 0
    text = capsys.readouterr().out
    assert "91 added, 0 removed, 1 changed (by delivery)" in text
    assert "and 86 more added rows" in text


def test_models_with_other_parameters_features_and_code(
    traced_world: TracedWorld, capsys: pytest.CaptureFixture[str]
) -> None:
    view, problem = traced_world.folder / "features" / "depot_history.sql", traced_world.folder / "problem.py"
    view.write_text(view.read_text().replace("INTERVAL 1 DAY", "INTERVAL 2 DAY"))
    problem.write_text(problem.read_text().replace("max_depth=3", "max_depth=6"))
    traced_home.refresh("deliveries")
    traced_home.train("deliveries")
    found = answer(capsys, "1", "2")
    assert found["parameters"]["max_depth"] == [3, 6]
    assert found["features"] == {"added": [], "removed": [], "redefined": ["depot_late_1d", "depot_last_took"]}
    assert sorted(found["code"]) == ["features/depot_history.sql", "problem.py"]
    assert any(
        line.startswith("+") and "INTERVAL 2 DAY" in line for line in found["code"]["features/depot_history.sql"]
    )
    test = found["test"]
    assert (test["reason"], test["days"]) == ("", 10)
    for name, values in test["metrics"].items():
        low, value, high = (values["difference"][end] for end in ("low", "value", "high"))
        assert low <= value <= high, name
        if name != "calibration_error":
            assert value == pytest.approx(values["to"] - values["from"])
            for side, recorded in zip(("from", "to"), found["recorded"], strict=True):
                assert values[side] == pytest.approx(recorded[name]["value"]), "each with the features of its training"
    assert [part["column"] for part in test["slices"]] == ["depot"] * 3
    ids, labels, outputs = _outputs("deliveries", 1, 2)
    chosen = [(output >= 0.5) for output in outputs]
    flips = {i for i, a, b in zip(ids, *chosen, strict=True) if a != b}
    assert test["flipped"]["count"] == len(flips) > 0
    assert {one["id"] for one in test["flipped"]["first"]} <= flips
    right = sum(b == label for a, b, label in zip(*chosen, labels, strict=True) if a != b)
    assert test["flipped"]["by"].get("right now", 0) == right
    same = answer(capsys, "2", "2")
    assert (same["same_bytes"], same["code"], same["test"]["flipped"]["count"]) == (True, {}, 0)


def _outputs(problem: str, *numbers: int) -> tuple[list[str], list[float], list[Any]]:
    """Ids, labels and outputs of the test rows; each model with its own snapshot's features."""
    outputs = []
    for number in numbers:
        version = registry.version(problem, number)
        rows = rows_of(load_frame(Tables().store, runs.trained_run(problem, version.run_id).snapshot), "test")
        model = registry.open_model(version, load_problem(problem).kind)
        outputs.append(model.predict(matrix_of(model.vocabulary, rows)))
    return rows["id"].to_pylist(), model.vocabulary.labels(rows).tolist(), outputs


STATIC: dict[str, Callable[[Path], Any]] = {"wine": store_wine, "diabetes": store_diabetes}


@pytest.mark.parametrize("name", STATIC)
def test_models_of_problems_without_time(
    name: str, tmp_path: Path, home: Path, configure: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    configure(problems=tmp_path, problem=name)
    STATIC[name](tmp_path)
    traced_home.train(name)
    problem = tmp_path / name / "problem.py"
    text = problem.read_text().replace("max_depth=", "seed=3, linear=False, max_depth=1")
    problem.write_text(text.replace("range(1, 7)", "range(1, 6)"))
    traced_home.train(name)
    found = answer(capsys, "1", "2")
    gone = ["s6"] if name == "diabetes" else []
    assert found["features"] == {"added": [], "removed": gone, "redefined": []}
    assert answer(capsys, "2", "1")["features"] == {"added": gone, "removed": [], "redefined": []}
    assert {"max_depth", "seed"} <= {*found["parameters"]}
    test = found["test"]
    assert (test["reason"], test["days"]) == ("", None)
    metric = "log_loss" if name == "wine" else "rmse"
    assert test["metrics"][metric]["difference"]["low"] < test["metrics"][metric]["difference"]["high"]
    _, labels, outputs = _outputs(name, 1, 2)
    if name == "diabetes":
        moved = [abs(b - a) > 0.1 * np.std(labels) for a, b in zip(*outputs, strict=True)]
        nearer = [abs(b - y) < abs(a - y) for a, b, y in zip(*outputs, labels, strict=True)]
        by = Counter("nearer" if near else "farther" for near, far in zip(nearer, moved, strict=True) if far)
        assert by["nearer"] != by["farther"]
    else:
        chosen = [(int(np.argmax(a)), int(np.argmax(b)), y) for a, b, y in zip(*outputs, labels, strict=True)]
        by = Counter(
            "right now" if b == y else "wrong now" if a == y else "wrong in both" for a, b, y in chosen if a != b
        )
    assert (test["flipped"]["by"], test["flipped"]["count"]) == (by, by.total())
    assert execute(["diff", "challenger", "1"]) == 0
    assert "the second minus the first" in capsys.readouterr().out
    assert execute(["compare", "1", "2", "--json"]) == 0
    (compared,) = json.loads(capsys.readouterr().out)["comparisons"]
    ours, theirs = compared["metrics"][metric], test["metrics"][metric]["difference"]
    assert ours["value"] == theirs["value"]
    assert ours["low"] < theirs["low"] < theirs["high"] < ours["high"], "97.5% intervals are wider"
    assert compared["flipped"] == test["flipped"]


def test_models_that_cannot_be_compared(traced_world: TracedWorld, capsys: pytest.CaptureFixture[str]) -> None:
    label = traced_world.folder / "label.sql"
    label.write_text(label.read_text().replace("late AS label", "1 - late AS label"))
    traced_home.refresh("deliveries")
    traced_home.train("deliveries")
    found = answer(capsys, "1", "2")
    assert found["test"]["reason"] == "version 1: its label was redefined since it was trained"
    assert execute(["diff", "1", "2"]) == 0
    assert "not compared on test rows: version 1: its label was redefined" in " ".join(capsys.readouterr().out.split())


def test_snapshots(traced_world: TracedWorld, capsys: pytest.CaptureFixture[str]) -> None:
    rows = pd.read_csv(traced_world.folder / "data" / "deliveries-2.csv")
    third = pd.concat([rows.iloc[1:2].assign(took=300), rows.iloc[2:4].assign(delivery=[9000, 9001])])
    third.to_csv(traced_world.folder / "data" / "deliveries-3.csv", index=False)
    problem = traced_world.folder / "problem.py"
    problem.write_text(problem.read_text().replace('validate_until="2024-02-20"', 'validate_until="2024-02-22"'))
    traced_home.refresh("deliveries")
    traced_home.train("deliveries")
    digests = [runs.trained_run("deliveries", registry.version("deliveries", n).run_id).snapshot for n in (1, 2)]
    found = answer(capsys, digests[0].sha256[:10], digests[1].sha256[:10])
    before, after = (pl.DataFrame(load_frame(Tables().store, one)) for one in digests)
    moved = before.join(after, on="id").filter(pl.col("split") != pl.col("split_right"))
    assert found["rows"]["moved"] == {"test to validate": len(moved)}
    assert len(moved) > 20
    assert found["rows"]["added"]["count"] == len(set(after["id"]) - set(before["id"])) > 0
    assert found["rows"]["removed"]["count"] == len(set(before["id"]) - set(after["id"]))
    back = answer(capsys, digests[1].sha256[:10], digests[0].sha256[:10])
    assert back["rows"]["moved"] == {"validate to test": len(moved)}
    assert back["rows"]["removed"] == found["rows"]["added"]
    names = [name for name in before.columns if name not in ("id", "split")]
    joined = before.join(after, on="id", suffix="_right")
    counts = {n: int((~joined[n].eq_missing(joined[f"{n}_right"])).sum()) for n in names}
    assert {n: one["count"] for n, one in found["rows"]["changed"].items()} == {n: c for n, c in counts.items() if c}
    assert found["inputs"][0]["input"] == "clean deliveries"
    assert any("2024-02-22" in line for line in found["definition"])
    assert execute(["diff", digests[0].sha256[:10], digests[1].sha256[:10]]) == 0
    assert "test to validate" in capsys.readouterr().out


def test_wrong_arguments_are_errors_with_hints(traced_world: TracedWorld, capsys: pytest.CaptureFixture[str]) -> None:
    for words, what, hint in (
        (("deliveries@0", "1"), "a table and a model", "compare two tables"),
        (("deliveries@0", "couriers@0"), "these are two tables", "another version of deliveries"),
        (("deliveries@0", "deliveries@9"), "no version 9", "there are 0, 1"),
        (("deliverys@0", "deliveries"), "no table 'deliverys'", "did you mean deliveries"),
        (("1", "7"), "no version 7", "registered versions: 1"),
        (("00000000", "00000001"), "no such snapshot", "there are"),
        (("Some Thing", "1"), "is no table, model version, snapshot, problem or environment", "for example"),
    ):
        error = answer(capsys, *words, status=1)["error"]
        assert what in error["what"], words
        assert hint in error["hint"], words


def test_problems(traced_world: TracedWorld, capsys: pytest.CaptureFixture[str]) -> None:
    """An edit of a gate affects no training; an edit of a view does."""
    assert answer(capsys, "problem:1", "problem:champion")["affects"] == "nothing"
    assert answer(capsys, "problem:1", "problem:deliveries")["code"] == {}
    file = traced_world.folder / "problem.py"
    text = file.read_text()
    file.write_text(text.replace("gates=[BeatsBaseline(), ", "gates=[", 1))
    gates = answer(capsys, "problem:1", "problem:deliveries")
    assert gates["affects"].startswith("gates, monitoring")
    assert all(str(one["field"]).startswith("gates") for one in gates["declared"])
    file.write_text(file.read_text().replace('validate_until="2024-02-20"', 'validate_until="2024-02-22"'))
    split = answer(capsys, "problem:1", "problem:deliveries")
    assert split["affects"] == "training; a packaged model serves as before"
    assert {"field": "split.validate_until", "from": "2024-02-20", "to": "2024-02-22"} in split["declared"]
    view = traced_world.folder / "features" / "depot_history.sql"
    view.write_text(view.read_text() + "\n-- edited\n")
    edited = answer(capsys, "problem:1", "problem:deliveries", "--page")
    assert any(line == "+-- edited" for line in edited["code"]["features/depot_history.sql"])
    assert edited["affects"].startswith("training and the endpoint")
    assert "sql.features/depot_history.sql" in [one["field"] for one in edited["declared"]]
    page = Path(edited["page"]).read_text()
    assert "depot_history.sql" in page
    assert "<ins>+-- edited</ins>" in page
    assert answer(capsys, "problem:1", "problem:nowhere", status=1)["error"]
    assert answer(capsys, "problem:7", "problem:1", status=1)["error"]


def test_environments(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The shipped configurations: each field that differs in the files is listed, and no other."""
    found = answer(capsys, "environment:dev", "environment:prod")
    assert (found["from"]["version"], found["to"]["version"]) == (None, None)
    sides = [load_deployment(name).model_dump(mode="json") for name in ("dev", "prod")]
    tops = {name for name in {*sides[0], *sides[1]} if sides[0].get(name) != sides[1].get(name)}
    assert {one["field"].partition(".")[0] for one in found["fields"]} == tops
    for one in found["fields"]:
        values: list[Any] = sides
        for part in one["field"].split("."):
            values = [(value or {}).get(part) for value in values]
        assert [None if value is None else str(value) for value in values] == [one["from"], one["to"]]
        assert values[0] != values[1]
    assert "port" in [one["field"].rpartition(".")[2] for one in found["fields"]]
    assert answer(capsys, "environment:dev", "environment:dev")["fields"] == []
    assert answer(capsys, "environment:dev", "environment:mars", status=1)["error"]
