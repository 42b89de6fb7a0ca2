"""A replay of the deliveries: it uses no future data, it is repeatable, and planted faults are detected."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from feature_repo.historical_reads import HistoricReader
from tasks.replay.replay_history import Plan, isolated_settings, play, replay_home
from tasks.replay.requests import prediction_id
from tests import simulated_deliveries
from tests.conftest import REPOSITORY, wait_until
from truecourse.features.definition_digests import feature_table
from truecourse.problem.loader import load_problem
from truecourse.registry import versions as registry
from truecourse.replay.faults import parse_faults
from truecourse.replay.source_data import read_source_data
from truecourse.serving.prediction_log import log_table
from truecourse.settings import child_environment, get_settings
from truecourse.storage.delta_tables import Tables
from truecourse.storage.object_store import open_store

FIRST, LAST = date(2024, 3, 1), date(2024, 3, 12)


KILLED = """
from datetime import date
from tasks.replay.replay_history import Plan, play
if __name__ == "__main__":
    play(Plan("deliveries", date(2024, 3, 1), date(2024, 3, 12), tick=5), lambda now: print(now.done, flush=True))
"""


def world(days: int = 80) -> pd.DataFrame:
    return simulated_deliveries.deliveries(days=days, a_day=60)


@pytest.fixture
def installed(tmp_path: Path, configure: Callable[..., None]) -> Path:
    problems = tmp_path / "problems"
    simulated_deliveries.install(problems, world())
    configure(home=tmp_path / ".truecourse", problems=problems, problem="deliveries")
    return problems


def _kill_after(days: int) -> None:
    """Run a replay in a process, and kill it with its children after this number of days."""
    script = get_settings().home / "killed.py"
    script.write_text(KILLED)
    environment = child_environment(PYTHONPATH=str(REPOSITORY))
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, env=environment, text=True) as begun:
        assert begun.stdout is not None
        assert f"{days}\n" in iter(begun.stdout.readline, "")
        family = psutil.Process(begun.pid).children(recursive=True)
        begun.kill()
    assert family
    wait_until(lambda: not any(map(psutil.Process.is_running, family)), 20, "the end of its second process")


def log_of(problem: str) -> pa.Table:
    with isolated_settings(replay_home(problem)):
        tables = Tables()
        version = tables.version(log_table(problem))
        assert version is not None
        return tables.read(version).sort_by([("at", "ascending"), ("prediction_id", "ascending")])


KEPT = ["prediction_id", "at", "id", "decision_time", "request", "features", "event_times", "score", "model_version"]


def test_a_replay_serves_all_rows_is_repeatable_and_ignores_the_future(installed: Path) -> None:
    plan = Plan("deliveries", FIRST, LAST, tick=5)
    reported: list[Any] = []
    document = play(plan, reported.append)
    first = log_of("deliveries")

    served = world()
    inside = pd.to_datetime(served["ordered_at"]).between("2024-03-01", "2024-03-12T23:59:59Z")
    assert document["served"] == inside.sum() == len(first)
    assert set(first["prediction_id"].to_pylist()) == {prediction_id("deliveries", i) for i in first["id"].to_pylist()}
    assert [progress.done for progress in reported] == list(range(13))
    assert document["events"][0]["what"] == "promoted"
    assert document["refused"] == 0
    assert not (get_settings().home / "storage").exists()

    # The outcomes of the last days are changed: no earlier answer, model or label may change.
    later = pd.to_datetime(served["ordered_at"]) >= pd.Timestamp("2024-03-08", tz="UTC")
    served.loc[later, "took"] = served.loc[later, "took"] * 3 + 100
    served.to_csv(installed / "deliveries" / "data" / "deliveries-1.csv", index=False)
    other = play(plan)
    again = log_of("deliveries")
    cut = pa.scalar(datetime(2024, 3, 8, tzinfo=UTC), pa.timestamp("us", tz="UTC"))
    before, after = (rows.filter(pc.less(rows["at"], cut)).select(KEPT) for rows in (first, again))
    assert before.equals(after)
    assert len(before) > 300
    assert not first.select(KEPT).equals(again.select(KEPT))  # and later ones do change
    assert other["digest"] != document["digest"]

    # A replay that was killed does not affect the next one.
    _kill_after(4)
    simulated_deliveries.install(installed, world())
    assert play(plan)["digest"] == document["digest"]


def test_a_model_trained_ahead_does_not_depend_on_later_deliveries(installed: Path) -> None:
    plan, models = Plan("deliveries", date(2024, 2, 26), date(2024, 3, 3), tick=14), []
    for late in (1, 3):
        served = world()
        served.loc[pd.to_datetime(served["ordered_at"]) >= pd.Timestamp("2024-03-01", tz="UTC"), "took"] *= late
        served.to_csv(installed / "deliveries" / "data" / "deliveries-1.csv", index=False)
        events = play(plan)["events"]
        assert [event["at"][:10] for event in events] == ["2024-02-26", "2024-03-01"]
        with isolated_settings(replay_home("deliveries")):
            models.append([version.model_sha256 for version in registry.versions("deliveries")])
    assert models[0] == models[1]
    assert len(set(models[0])) == 2


AREA = """
from truecourse.problem import FeatureArea, Text

from .problem import PROBLEM

AREA = FeatureArea(
    "fleet",
    tables=PROBLEM.tables,
    keys={"courier": Text(), "depot": Text()},
    entities=PROBLEM.entities,
    views=PROBLEM.views,
    relations=PROBLEM.relations,
)
"""
SHARED = """
import dataclasses

shared = [f"fleet.{view.name}" for view in PROBLEM.views]
PROBLEM = dataclasses.replace(PROBLEM, views=[], entities=[], shared_views=shared)
"""


def test_shared_views_are_replayed_as_those_of_the_problem(installed: Path) -> None:
    """The area has tables of the same names as the problem, and the same data."""
    plan = Plan("deliveries", FIRST, FIRST, tick=30)
    play(plan)
    own = log_of("deliveries")
    area = installed.parent / "feature_views" / "fleet"
    shutil.copytree(installed / "deliveries", area)
    (area / "area.py").write_text(AREA)
    with (installed / "deliveries" / "problem.py").open("a") as file:
        file.write(SHARED)
    document = play(plan)
    assert log_of("deliveries").select(KEPT).equals(own.select(KEPT))
    assert document["refused"] == 0
    with isolated_settings(replay_home("deliveries")):
        problem, tables = load_problem("deliveries"), Tables()
        assert len(tables.commits(feature_table(problem, "courier_history"))) > 1
        assert not list(tables.store.list("features/deliveries/"))
    faults = ("unit:fleet.deliveries.distance:*10@2024-03-02", "category:fleet.deliveries.courier:c01>new@2024-03-02")
    problem = load_problem("deliveries")
    source = read_source_data(problem, open_store(), parse_faults(problem, list(faults), FIRST, LAST))
    planted, plain = (source.complete(f"{prefix}deliveries") for prefix in ("fleet.", ""))
    assert pc.sum(planted["distance"]).as_py() > 1.1 * pc.sum(plain["distance"]).as_py()
    assert "new" in source.complete("fleet.couriers")["courier"].to_pylist()
    assert "new" not in source.complete("couriers")["courier"].to_pylist()


def test_planted_faults_reach_requests_features_labels_and_the_serving_code(installed: Path) -> None:
    inject = (
        "unit:deliveries.distance:*10@2024-03-04..2024-03-05",
        "label:flip@2024-03-09",
        "skew:hour:+12@2024-03-11",
    )
    document = play(Plan("deliveries", FIRST, LAST, inject, tick=30))
    rows = log_of("deliveries").to_pandas()
    features = pd.json_normalize(rows["features"].map(json.loads))
    day = rows["decision_time"].dt.strftime("%m-%d")
    distance = features["distance"].groupby(day.to_numpy()).mean()
    assert distance["03-04"] > 5 * distance["03-03"]
    assert distance["03-06"] < 2 * distance["03-03"]
    hours = rows["decision_time"].dt.hour.to_numpy()
    skewed = (day >= "03-11").to_numpy()
    assert (features["hour"].to_numpy()[~skewed] == hours[~skewed]).all()
    assert (features["hour"].to_numpy()[skewed] == hours[skewed] + 12).all()
    aucs = {month["month"]: month["maintained"]["auc"]["value"] for month in document["months"]}
    assert set(aucs) == {"2024-03"}
    assert [fault["fault"] for fault in document["detections"]] == list(inject)
    detections = {fault["fault"]: fault for fault in document["detections"]}
    assert detections[inject[2]]["days"] == 0.25  # found by the first morning's check
    assert "hour" in detections[inject[2]]["sentence"]
    assert [alarm["subject"] for alarm in document["alarms"] if alarm["check"] == "skew"] == ["hour"]


def test_the_historic_reader_has_the_values_of_the_training_frame(installed: Path) -> None:
    from tasks.features.decision_frame import decision_frame, feature_versions
    from truecourse.arrays import columns_of
    from truecourse.data.sql import clean_versions

    play(Plan("deliveries", FIRST, FIRST, tick=30))
    with isolated_settings(replay_home("deliveries")):
        problem, tables = load_problem("deliveries"), Tables()
        clean = clean_versions(problem, tables)
        versions = feature_versions(problem, tables, clean)
        frame = decision_frame(problem, tables, clean, versions)
        start = datetime(2024, 2, 20, tzinfo=UTC)
        rows = frame.filter(pc.greater_equal(frame["decision_time"], pa.scalar(start, frame["decision_time"].type)))
        reader = HistoricReader(problem)
        reader.open(tables, versions, start, start + timedelta(days=30))
        times = columns_of(rows, ["decision_time"])["decision_time"]
        lookup = reader.read(columns_of(rows, list(problem.request_fields)), times, len(rows))
        assert registry.champion("deliveries") is not None
    wanted, groups = columns_of(rows, list(lookup.values)), problem.feature_groups
    for name, values in wanted.items():
        np.testing.assert_array_equal(lookup.values[name], values)
        events = np.array(lookup.events[groups[name]]).view("datetime64[us]")
        held = ~np.isnat(events)
        assert (events[held] <= times[held]).all()
    assert np.isfinite(wanted["courier_late_7d"]).mean() > 0.9
