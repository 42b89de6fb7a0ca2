"""The lifecycle on a year of real flights."""

import json

import pytest

from cli.platform.endpoint import example_rows, request_predictions
from flows.lifecycle import lifecycle
from tests.e2e.conftest import FinishedRun
from truecourse.problem import MetricGate
from truecourse.problem.loader import load_problem
from truecourse.registry import versions as registry
from truecourse.storage.delta_tables import Tables, clean_table, quarantine_table

pytestmark = pytest.mark.timeout(900)


def test_the_model_reaches_its_targets_on_the_test_months(finished: FinishedRun) -> None:
    report = json.loads(registry.artifact(finished.summary["register"].run_id, "report.json"))
    values = {name: figure["value"] for name, figure in report["metrics"]["model"].items()}
    assert values["auc"] >= 0.740
    assert values["log_loss"] <= 0.495
    assert values["brier"] <= 0.161
    assert report["metrics"]["constant"]["auc"]["value"] == pytest.approx(0.5)
    assert values["log_loss"] < report["metrics"]["linear"]["log_loss"]["value"]
    gates = registry.gates(finished.summary["register"])
    assert all(gate["passed"] for gate in gates)
    assert len(gates) == len(load_problem("flight_delays").gates)
    assert any(isinstance(gate, MetricGate) for gate in load_problem("flight_delays").gates)
    assert finished.summary["champion"] == finished.summary["register"]


def test_no_row_is_lost_between_the_tables(finished: FinishedRun) -> None:
    tables = Tables()
    for table, version in finished.summary["validate"].items():
        _, commit = tables.commits(version.name)[-1]
        rows = commit["rows"]
        assert rows["in"] == sum(count for name, count in rows.items() if name != "in")
        raw = tables.dataset(finished.summary["ingest"][table]).count_rows()
        assert rows["in"] == raw
        quarantine = tables.version(quarantine_table("flight_delays", table))
        quarantined = tables.dataset(quarantine).count_rows() if quarantine else 0
        assert rows["quarantined"] == quarantined
    flights = finished.summary["validate"]["flights"]
    assert flights.name == clean_table("flight_delays", "flights")


def test_a_second_run_repeats_nothing(finished: FinishedRun) -> None:
    again = lifecycle("flight_delays")
    for step in ("ingest", "validate", "materialize", "train", "register", "champion", "package", "score"):
        assert again[step] == finished.summary[step], step
    assert again["nothing_new"]
    assert not finished.summary["nothing_new"]


def test_the_newest_example_has_its_weather(finished: FinishedRun) -> None:
    row = example_rows(finished.summary["champion"], 1)[0]
    answer = request_predictions("flight_delays", "predict", [row])["predictions"][0]
    assert not {"temp", "visib", "pressure"} & set(answer["missing"])
    assert "warning" not in answer
    # Without a decision time, features are those at the end of the data, not those of today.
    del row["decision_time"]
    assert "warning" not in request_predictions("flight_delays", "predict", [row])["predictions"][0]
