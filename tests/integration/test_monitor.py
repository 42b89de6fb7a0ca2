"""Monitoring a champion that was really trained and registered, over predictions in a real Delta table."""

import json
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tests.deliveries import install
from tests.office import put_in_office
from truecourse import frame as frames
from truecourse import registry
from truecourse.encoding import columns_of
from truecourse.errors import FeatureError, ModelError, NotFound
from truecourse.loading import load_problem, problem_digest, problem_document
from truecourse.references import ModelVersion, Snapshot
from truecourse.snapshot import Manifest, save
from truecourse.storage import open_store
from truecourse.tables import Tables

FIRST = datetime(2024, 1, 1)
PREDICTIONS = "predictions/deliveries"


def decisions(first_day: int, days: int, seed: int, a_day: int = 80) -> pa.Table:
    """Deliveries with every feature, drawn from one world; 5% of couriers' histories are missing."""
    random, n = np.random.default_rng(seed), days * a_day
    seconds = np.sort(random.integers(0, days * 86400, n)) + first_day * 86400
    at = np.datetime64(FIRST) + seconds.astype("timedelta64[s]")
    distance, promised = random.gamma(3, 2, n).round(2), random.integers(30, 90, n)
    late = np.where(random.random(n) < 0.05, np.nan, random.beta(2, 6, n))
    return pa.table(
        {
            "id": [f"{first_day}-{seed}-{i}" for i in range(n)],
            "decision_time": pa.array(at.astype("datetime64[us]"), pa.timestamp("us", tz="UTC")),
            "courier": random.choice(["c00", "c01", "c02"], n),
            "depot": random.choice(["north", "south", "east"], n),
            "promised": promised,
            "distance": distance,
            "hour": at.astype("datetime64[h]").astype(np.int64) % 24,
            "weekend": (at.astype("datetime64[D]").astype(np.int64) + 3) % 7 // 5,
            "km_a_minute": distance / promised,
            "courier_late_7d": pa.array(late, from_pandas=True),
            "courier_count_7d": random.poisson(40, n),
            "depot_late_1d": random.beta(4, 12, n),
            "depot_last_took": random.integers(10, 80, n),
            "vehicle": random.choice(["bike", "van"], n),
            "since": random.integers(2015, 2027, n),
            "label": (distance + random.normal(0, 3, n) > 8).astype(np.int64),
        }
    )


def snapshot() -> Snapshot:
    """Train to 9 February, validate to 19, test to the end of the month."""
    problem = load_problem("deliveries")
    frame = frames.with_split(problem, frames.in_order(decisions(0, 60, seed=1)))
    manifest = Manifest(
        problem="deliveries",
        problem_digest=problem_digest(problem),
        document=problem_document(problem),
        until=None,
        rows={},
        columns={},
        inputs=(),
    )
    return save(open_store(), frame, manifest)


def score(version: ModelVersion, rows: pa.Table, number: int | None = None) -> None:
    """What the score flow writes, by the version's own model."""
    problem = load_problem("deliveries")
    model = registry.open_model(version, problem.kind)
    scores = model.predict(model.vocabulary.encode(columns_of(rows, model.vocabulary.features))).astype(np.float64)
    made = rows.select(["id", "decision_time", *problem.features]).append_column("score", pa.array(scores))
    for name, values in (
        ("model_version", pa.array([number or version.version] * len(rows), pa.int64())),
        ("scored_at", pa.array([datetime.now(UTC)] * len(rows), pa.timestamp("us", tz="UTC"))),
    ):
        made = made.append_column(name, values)
    Tables().append(PREDICTIONS, made, {"flow": "score"})


@pytest.fixture(scope="module")
def _home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("monitored")
    install(folder / "problems")
    return folder


@pytest.fixture
def champion(_home: Path, configure: Callable[..., None]) -> ModelVersion:
    """Trained once for all tests here; each finds no predictions."""
    from tasks.train import train_model

    configure(home=_home / "home", problems=_home / "problems", problem="deliveries")
    shutil.rmtree(_home / "home" / "storage" / "predictions", ignore_errors=True)
    found = registry.champion("deliveries")
    if found is None:
        found = registry.create_version(train_model.fn("deliveries", snapshot()))
        put_in_office(found)
    return found


def monitored(**options: Any) -> dict[str, Any]:
    from tasks.drift import monitored as check

    return check(load_problem("deliveries"), **options)


def shifted(rows: pa.Table, name: str, by: float) -> pa.Table:
    return rows.set_column(rows.column_names.index(name), name, pa.array(rows[name].to_numpy() + by))


def test_an_unchanged_world_is_on_course(champion: ModelVersion) -> None:
    score(champion, decisions(60, 14, seed=2))
    report = monitored()
    assert report["alarm"] is False
    assert report["sentence"] == "No feature drifted; nor did the predictions."
    assert report["data"]["rows"][1] == report["prediction"]["rows"][1]
    assert report["data"]["blocks"] == (50, 7)
    assert datetime.fromisoformat(report["window"]["start"]) == FIRST + timedelta(days=67)
    assert datetime.fromisoformat(report["window"]["end"]) == FIRST + timedelta(days=74)
    assert report["prediction"]["against"] == "held-out rows of before the window"


def test_drift_of_a_feature_reaches_the_predictions_and_the_page(champion: ModelVersion) -> None:
    score(champion, shifted(decisions(60, 14, seed=2), "distance", 4.0))
    report = monitored()
    assert report["alarm"] is True
    assert report["data"]["drifted"] == ["distance"]
    assert report["prediction"]["drifted"] == ["score"]
    assert report["sentence"] == "1 of 12 features drifted: distance; so did the predictions."
    store = open_store()
    assert json.loads(store.get("reports/deliveries/drift.json")) == json.loads(json.dumps(report))
    page = store.get("reports/deliveries/drift.html").decode()
    assert page == store.get("reports/deliveries/drift-20240308T0000-20240315T0000.html").decode()
    assert report["sentence"] in page
    assert "http" not in page.replace("http://www.w3.org", "")


def test_missing_values_are_drift(champion: ModelVersion) -> None:
    rows = decisions(60, 14, seed=2)
    values = rows["courier_late_7d"].to_numpy().copy()
    values[::2] = np.nan
    place = rows.column_names.index("courier_late_7d")
    score(champion, rows.set_column(place, "courier_late_7d", pa.array(values, from_pandas=True)))
    column = monitored()["data"]["columns"][0]
    assert (column["name"], column["drifted"]) == ("courier_late_7d", True)
    assert column["missing"][0] == pytest.approx(0.05, abs=0.02)
    assert column["missing"][1] > 0.45


def test_a_window_of_ones_own_and_rows_scored_twice(champion: ModelVersion) -> None:
    rows = decisions(60, 14, seed=2)
    score(champion, rows)
    score(champion, shifted(rows, "distance", 4.0))  # the same decisions again: these hold
    score(champion, shifted(decisions(60, 14, seed=3), "promised", 500), number=99)  # another version's
    report = monitored(start=FIRST + timedelta(days=60), end=datetime(2024, 3, 11, tzinfo=UTC))
    assert report["data"]["rows"][1] == sum(
        FIRST + timedelta(days=60) <= moment.replace(tzinfo=None) < datetime(2024, 3, 11)
        for moment in rows["decision_time"].to_pylist()
    )
    assert report["data"]["drifted"] == ["distance"]


def test_the_flow_runs_by_name_and_leaves_an_artifact(champion: ModelVersion, prefect_server: str) -> None:
    from prefect.client.orchestration import get_client

    from flows.monitor import monitor

    score(champion, decisions(60, 14, seed=2))
    assert monitor("deliveries")["alarm"] is False
    with get_client(sync_client=True) as client:
        found = client.request("POST", "/artifacts/latest/filter", json={}).json()
    (mine,) = [item for item in found if item["key"] == "drift-deliveries"]
    assert "reports/deliveries/drift-20240308T0000-20240315T0000.html" in mine["data"]


def test_evidentlys_report_opens_offline(champion: ModelVersion) -> None:
    score(champion, decisions(60, 14, seed=2))
    report = monitored(evidently=True)
    page = open_store().get(report["evidently"]).decode()
    assert "distance" in page
    for loaded in ('src="http', "src='http", '<link href="http', "@import url(http"):
        assert loaded not in page
    assert "evidently.html" in open_store().get(report["page"]).decode()


def test_what_is_not_there_is_said(tmp_path: Path, configure: Callable[..., None]) -> None:
    install(tmp_path / "problems")
    configure(home=tmp_path / "home", problems=tmp_path / "problems")
    with pytest.raises(ModelError, match="no champion") as raised:
        monitored()
    assert "lifecycle" in raised.value.cure


def test_no_predictions_and_an_empty_window_are_said(champion: ModelVersion) -> None:
    with pytest.raises(NotFound, match="no predictions yet"):
        monitored()
    score(champion, decisions(60, 3, seed=2), number=99)
    with pytest.raises(NotFound, match="none of the champion"):
        monitored()
    score(champion, decisions(60, 3, seed=2))
    with pytest.raises(FeatureError, match="no predictions from 2025-01-01") as raised:
        monitored(start=datetime(2025, 1, 1), end=datetime(2025, 1, 8))
    assert "2024-03-01" in raised.value.cure
