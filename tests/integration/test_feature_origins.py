"""Every feature of a prediction resolves to source rows, from which it is computed again."""

from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pytest

from cli.main import execute
from tasks.scoring.score_decisions import score_decisions
from tasks.scoring.score_files import score_file
from tasks.training.trace import trace_prediction
from tests import traced_home
from tests.frames import store_wine
from tests.integration.conftest import TracedWorld
from truecourse.lineage import feature_origins
from truecourse.lineage.candidate_rows import TOO_MANY
from truecourse.lineage.feature_origins import prediction_origins
from truecourse.references import TableVersion, Window
from truecourse.registry import versions as registry
from truecourse.serving.batch_scoring import find_scored_rows, predictions_table
from truecourse.storage.delta_tables import Tables

VIEWS = ["courier_history", "depot_history", "courier_facts"]


def origins(id: str, version: int = 1) -> dict[str, Any]:
    tables = Tables()
    (record, *_) = find_scored_rows(tables, "deliveries", id)
    found = prediction_origins(tables, record, registry.version("deliveries", version))
    return found | {"by_view": {one["view"]: one for one in found["origins"]}}


def scored_ids() -> list[str]:
    version = Tables().version(predictions_table("deliveries"))
    assert version is not None
    return sorted(Tables().read(version, ["id"])["id"].to_pylist())


def test_every_feature_is_computed_again_from_its_source_rows(traced_world: TracedWorld) -> None:
    for id in scored_ids()[::40]:
        found = origins(id)
        assert [one["view"] for one in found["origins"]] == [*VIEWS, "request"]
        assert [one["state"] for one in found["origins"]] == ["sufficient"] * 4, id
        features = {one["feature"]: one for one in found["features"]}
        history, key = features["courier_late_7d"], found["by_view"]["courier_history"]["key"]
        rows = _window(traced_world.folder, key["courier"], history["event_time"])
        assert history["changed_by"] == features["courier_count_7d"]["changed_by"] == len(rows)
        assert features["courier_count_7d"]["value"] == len(rows)
        assert (features["vehicle"]["from"], features["vehicle"]["rows"]) == ("courier_facts", 1)
        assert (features["hour"]["from"], features["hour"]["rows"]) == ("request function", None)
        assert (features["distance"]["from"], features["distance"]["rows"]) == ("request", 1)


def _window(folder: Path, courier: str, event: datetime) -> pd.DataFrame:
    """The delivered rows of a courier that arrived in the seven days up to a time."""
    rows = pd.concat([pd.read_csv(path) for path in sorted((folder / "data").glob("deliveries-*.csv"))])
    rows = rows[rows["depot"].isin(["north", "south", "east"]) & (rows["courier"] == courier)].dropna(subset=["took"])
    known = pd.to_datetime(rows["ordered_at"]) + pd.to_timedelta(rows["took"], unit="min")
    return rows[(known <= event) & (known >= event - timedelta(days=7))].drop_duplicates("delivery")


def test_the_query_lists_the_rows_with_files_and_bytes(traced_world: TracedWorld) -> None:
    found = [each for origin in origins(scored_ids()[-1])["origins"] for each in origin["tables"]]
    assert len(found) == 4
    for each in found:
        name, _, number = each["version"].rpartition("@")
        with duckdb.connect() as connection:
            connection.execute("SET TimeZone = 'UTC'")
            connection.register(each["table"], Tables().dataset(TableVersion(name=name, version=int(number))))
            assert len(connection.execute(each["query"]).fetchall()) == each["rows"] > 0
        files = each["files"]["first"]
        assert sum(file["rows"] for file in files) == each["rows"]
        assert {file["state"] for file in files} == {"verified"}
        for row in each["first"]:
            lines = (traced_world.folder / row["file"]).read_text().splitlines()
            header = 0 if row["file"].endswith(".jsonl") else 1
            assert str(next(iter(row["values"].values()))) in lines[row["line"] - 1 + header]
    path = Path(Tables().uri(found[-1]["files"]["first"][0]["archived"]))
    path.write_bytes(path.read_bytes() + b"!")
    changed = origins(scored_ids()[-1])["origins"][-1]["tables"][0]["files"]["first"][0]
    assert changed["state"] == "changed"


def test_logged_predictions_name_the_rows_that_were_served(
    traced_world: TracedWorld, capsys: pytest.CaptureFixture[str]
) -> None:
    row = {"courier": "c03", "depot": "north", "promised": 42, "distance": 6.5}
    known, unknown = traced_home.serve("deliveries", 1, [row, row | {"courier": "c99"}], datetime(2024, 3, 1))
    traced = trace_prediction("deliveries", known)
    assert [one["state"] for one in traced["origins"]] == ["sufficient"] * 3
    assert traced["origins"][0]["event_time"] > pd.Timestamp("2024-02-29", tz="UTC")
    assert {one["feature"]: one["from"] for one in traced["features"]}["distance"] == "request"
    assert execute(["trace", "prediction", known]) in (0, 1), "1 if MLflow is not there"
    shown = " ".join(capsys.readouterr().out.split())
    assert "SELECT * FROM couriers WHERE" in shown
    assert "1 row of tables/deliveries/clean/couriers@0, 1 of them change a value" in shown
    assert "bytes verified" in shown
    missing = trace_prediction("deliveries", unknown)["origins"]
    assert [one["state"] for one in missing] == ["none", "sufficient", "none"]
    assert missing[0]["detail"] == "no row of its key was known within the time to live"


def test_views_that_read_rows_of_other_keys(traced_world: TracedWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    (traced_world.folder / "features" / "courier_facts.sql").write_text(
        "SELECT courier, vehicle, CAST(rank() OVER (ORDER BY since) AS BIGINT) AS since FROM couriers"
    )
    traced_home.refresh("deliveries")
    traced_home.train("deliveries")
    window = Window(start=datetime(2024, 2, 25), end=datetime(2024, 2, 25, 12))
    score_decisions.fn("deliveries", 2, window, explain=False)
    id = "2200"  # decided in the window
    found = origins(id, 2)["by_view"]["courier_facts"]
    assert (found["state"], found["rows"]) == ("sufficient", 12), "a rank needs all couriers"
    courier = int(found["key"]["courier"][1:])
    assert found["changed_by"] == {"vehicle": 1, "since": courier + 1}, "its own row, and those before it"
    monkeypatch.setattr(feature_origins, "MOST_CANDIDATES", 3)
    found = origins(id, 2)["by_view"]["courier_history"]
    assert (found["state"], found["detail"], found["changed_by"]) == ("candidates", TOO_MANY, None)


def test_rows_of_scored_files_have_no_decision_in_the_tables(traced_world: TracedWorld, tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_text("id,courier,depot,promised,distance,decision_time\nmine,c01,east,30,4.5,2024-02-20T10:00:00Z\n")
    score_file.fn("deliveries", str(file), 1, explain=False)
    found = origins("mine")
    assert [one["view"] for one in found["origins"]] == VIEWS
    assert [one["state"] for one in found["origins"]] == ["sufficient"] * 3


def test_a_table_without_time(tmp_path: Path, home: Path, configure: Callable[..., None]) -> None:
    configure(problems=tmp_path, problem="wine")
    store_wine(tmp_path)
    traced_home.train("wine")
    score_decisions.fn("wine", 1, Window.all(), explain=False)
    traced = trace_prediction("wine", "5")
    (origin,) = traced["origins"]
    assert (origin["view"], origin["state"], origin["rows"]) == ("request", "sufficient", 1)
    (each,) = origin["tables"]
    assert (each["first"][0]["line"], each["files"]["first"][0]["file"]) == (6, "wines.parquet")
    assert {one["from"] for one in traced["features"]} == {"request"}
    row = dict.fromkeys((one["feature"] for one in traced["features"]), 1.5)
    (id,) = traced_home.serve("wine", 1, [row], datetime(2024, 1, 1))
    served = trace_prediction("wine", id)
    assert served["origins"] == []
    assert {one["rows"] for one in served["features"]} == {None}
