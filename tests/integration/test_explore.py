"""`truecourse explore` over a table and over the decisions of a problem."""

import json
from pathlib import Path
from typing import Any

import pytest

from cli.main import execute
from tests.integration.conftest import Trained
from truecourse.problem.loader import load_problem
from truecourse.storage.delta_tables import Tables, clean_table


def answer(capfd: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert execute(["explore", *arguments, "--json"]) == 0
    document: dict[str, Any] = json.loads(capfd.readouterr().out)
    assert Path(document["page"]).exists()
    return document


def test_decisions_are_explored_with_label_time_and_features(
    trained: Trained, capfd: pytest.CaptureFixture[str]
) -> None:
    document, problem = answer(capfd), load_problem()
    assert (document["label"], document["label_kind"], document["time"]) == ("label", problem.kind, "decision_time")
    features = {column["name"] for column in document["columns"] if column["role"] == "feature"}
    assert features == set(problem.features)
    related = {column["name"] for column in document["columns"] if column["relation"]}
    assert features <= related | {c["name"] for c in document["columns"] if c["distinct"] < 2}


def test_a_table_is_explored_at_a_version(trained: Trained, capfd: pytest.CaptureFixture[str]) -> None:
    table = load_problem().tables[0]
    document = answer(capfd, table.name)
    newest = Tables().version(clean_table("deliveries", table.name))
    assert newest is not None
    assert document["origin"] == f"deliveries.{table.name} version {newest.version}"
    assert {column["name"] for column in document["columns"]} == set(table.columns)
    assert answer(capfd, table.name, "--version", str(newest.version))["rows"] == document["rows"]
    assert execute(["explore", table.name, "--version", "999", "--json"]) == 1
    error = json.loads(capfd.readouterr().out)["error"]
    assert "999" in error["where"] + error["what"]
    assert error["hint"]
    assert execute(["explore", "no_table", "--json"]) == 1
    assert "no table" in json.loads(capfd.readouterr().out)["error"]["what"]
