"""The drift check of a trained and registered champion, with predictions in a real Delta table."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from tests.log_records import entry, record
from tests.monitored_champion import (
    BROKEN,
    FIRST,
    LAST,
    PREDICTIONS,
    change_from,
    critical_findings,
    decisions,
    drifted_subjects,
    run_drift_check,
    score,
    shift_column,
)
from tests.simulated_deliveries import install
from truecourse.errors import FeatureError, ModelError, NotFound
from truecourse.monitoring import report_store
from truecourse.monitoring.findings import Report
from truecourse.problem.loader import load_problem
from truecourse.references import ModelVersion, TableVersion, Window
from truecourse.serving import prediction_log
from truecourse.settings import get_settings
from truecourse.storage.delta_tables import Tables
from truecourse.storage.object_store import open_store


def test_unchanged_data_has_no_finding(champion: ModelVersion) -> None:
    score(champion, decisions(60, 14, seed=2))
    report = run_drift_check()
    assert report.findings == ()
    assert report.sentence == "No feature drifted; nor did the predictions."
    data, scores, window = (report.figures[name] for name in ("data", "prediction", "window"))
    assert data["rows"][1] == scores["rows"][1]
    assert tuple(data["blocks"]) == (50, 7)
    assert datetime.fromisoformat(window["start"]) == FIRST + timedelta(days=67)
    assert datetime.fromisoformat(window["end"]) == FIRST + timedelta(days=74)
    assert scores["against"] == "held-out rows before the window"
    assert report.figures["largest"] == data["columns"][0]["psi"]


def test_drift_of_a_feature_reaches_the_predictions_and_the_page(champion: ModelVersion) -> None:
    score(champion, shift_column(decisions(60, 14, seed=2), "distance", 4.0))
    report = run_drift_check()
    assert (drifted_subjects(report), drifted_subjects(report, "prediction drift")) == (["distance"], ["score"])
    # The shift is two weeks old: of the four weeks before the window it affects only one.
    assert critical_findings(report) == [("distance", "drift"), ("score", "prediction drift")]
    assert "times the largest past change" in report.sentence
    assert report.sentence.endswith("and 1 more; attribution drift: distance.")
    store = open_store()
    assert report_store.latest(store, "deliveries", "drift") == Report.model_validate_json(report.model_dump_json())
    assert len(report.model_dump_json()) < 20_000
    page = store.get("reports/deliveries/drift.html").decode()
    assert page == store.get("reports/deliveries/drift-20240308T0000-20240315T0000.html").decode()
    assert report.sentence in page
    assert "http" not in page.replace("http://www.w3.org", "")


def test_missing_values_are_a_finding(champion: ModelVersion) -> None:
    rows = decisions(60, 14, seed=2)
    values = rows["courier_late_7d"].to_numpy().copy()
    values[::2] = np.nan
    place = rows.column_names.index("courier_late_7d")
    score(champion, rows.set_column(place, "courier_late_7d", pa.array(values, from_pandas=True)))
    report = run_drift_check()
    assert critical_findings(report) == [("courier_late_7d", "missing values")]
    column = report.figures["data"]["columns"][0]
    assert column["name"] == "courier_late_7d"
    assert column["missing"][0] == pytest.approx(0.05, abs=0.02)
    assert column["missing"][1] > 0.45


@pytest.mark.parametrize(("name", "by", "named"), BROKEN, ids=[named[1] for *_, named in BROKEN])
def test_a_break_of_the_last_day_is_found(champion: ModelVersion, name: str, by: Any, named: tuple[str, str]) -> None:
    rows = decisions(60, 36, seed=2)
    score(champion, change_from(rows, LAST, name, by))
    assert critical_findings(run_drift_check(at=LAST)) == []  # predictions after the reference time are not read
    assert critical_findings(run_drift_check(at=LAST + timedelta(days=1))) == [named]


def test_a_sudden_shift_and_a_drop_in_volume_are_critical(champion: ModelVersion) -> None:
    rows = change_from(decisions(60, 36, seed=2), LAST - timedelta(days=6), "distance", lambda v: v + 6.0)
    times = rows["decision_time"].to_pandas().dt.tz_localize(None).to_numpy()
    score(champion, rows.filter(pa.array((times < np.datetime64(LAST)) | (np.arange(len(rows)) % 4 == 0))))
    at = LAST + timedelta(days=1)
    report = run_drift_check(at=at)
    assert sorted(critical_findings(report)) == [
        ("deliveries", "volume"),
        ("distance", "drift"),
        ("score", "prediction drift"),
    ]
    assert report.at == at.replace(tzinfo=UTC)
    histograms = open_store().list("histograms/deliveries/")
    again = run_drift_check(at=at)
    assert (critical_findings(again), again.figures["data"]) == (critical_findings(report), report.figures["data"])
    assert (report.fresh, again.fresh) == (True, False), "a second check of the same rows resolves no alarm"
    assert list(open_store().list("histograms/deliveries/")) == list(histograms)


def test_logged_predictions_are_monitored_as_batches_are(champion: ModelVersion) -> None:
    rows = change_from(decisions(60, 36, seed=2), LAST, "courier_late_7d", lambda values: values * np.nan)
    score(champion, rows)
    batches = run_drift_check(at=LAST + timedelta(days=1))
    scored = Tables().read(TableVersion(name=PREDICTIONS, version=0)).to_pylist()
    shutil.rmtree(get_settings().home / "storage" / PREDICTIONS)
    problem = load_problem("deliveries")
    logged = [
        record(
            f"p{i}",
            at=row["decision_time"],
            decision_time=row["decision_time"].isoformat(),
            model_version=champion.version,
            features={name: row[name] for name in problem.features},
            score=row["_tc_score"],
            role="shadow" if i % 7 == 0 else "champion",
        )
        for i, row in enumerate([*scored, *scored[::6]])
    ]
    table = prediction_log.entries_table(prediction_log.encode_entry(entry(one)) for one in logged)
    Tables().append(prediction_log.log_table("deliveries"), table, {}, partition_by=prediction_log.PARTITION)
    report = run_drift_check(at=LAST + timedelta(days=1))
    assert critical_findings(report) == critical_findings(batches) == [("courier_late_7d", "dead feed")]
    week = pc.greater_equal(table["at"], pa.scalar(LAST - timedelta(days=6), pa.timestamp("us", tz="UTC")))
    answered = table.filter(pc.and_(week, pc.not_equal(table["role"], "shadow")))
    assert report.figures["data"]["rows"][1] == len(answered)


def test_private_fields_are_not_monitored(champion: ModelVersion) -> None:
    from tasks.monitoring.check_drift import run_drift_check as check

    score(champion, change_from(decisions(60, 36, seed=2), LAST, "promised", lambda v: v * 60))
    problem = load_problem("deliveries")
    hidden = {name: replace(column, private="hash") for name, column in problem.request.items() if name == "promised"}
    report = check(replace(problem, request={**problem.request, **hidden}), Tables(), LAST + timedelta(days=1))
    assert "promised" not in [column["name"] for column in report.figures["data"]["columns"]]
    assert "promised" not in report.model_dump_json()


def test_features_of_the_champion_or_the_problem_alone_are_named(champion: ModelVersion) -> None:
    """A feature was renamed in the problem since the champion was trained: the others are compared."""
    from tasks.monitoring.check_drift import run_drift_check as check

    score(champion, change_from(decisions(60, 36, seed=2), LAST, "distance", lambda v: v + 9))
    problem = load_problem("deliveries")
    renamed = {"agreed" if name == "promised" else name: column for name, column in problem.request.items()}
    report = check(replace(problem, request=renamed), Tables(), LAST + timedelta(days=1), evidently=True)
    assert report.figures["unmonitored"] == ["agreed", "promised"]
    assert "trained before an edit of the problem; not compared: agreed, promised." in report.sentence
    assert "distance" in {finding.subject for finding in report.findings}
    compared = {column["name"] for column in report.figures["data"]["columns"]}
    assert compared == set(problem.features) - {"promised"}
    assert "unmonitored" not in run_drift_check(LAST + timedelta(days=1)).figures


def test_a_given_window_and_rows_scored_twice(champion: ModelVersion) -> None:
    rows = decisions(60, 14, seed=2)
    score(champion, rows)
    score(champion, shift_column(rows, "distance", 4.0))  # the same decisions again: these replace the first ones
    score(champion, decisions(60, 14, seed=3), number=99)  # another version's predictions of the same distribution
    report = run_drift_check(window=Window(start=FIRST + timedelta(days=60), end=datetime(2024, 3, 11, tzinfo=UTC)))
    assert report.figures["prediction"]["rows"][1] == sum(
        FIRST + timedelta(days=60) <= moment.replace(tzinfo=None) < datetime(2024, 3, 11)
        for moment in rows["decision_time"].to_pylist()
    )
    assert report.figures["data"]["rows"][1] > report.figures["prediction"]["rows"][1]
    assert drifted_subjects(report) == ["distance"]


def test_the_flow_runs_by_name_and_leaves_an_artifact(champion: ModelVersion, prefect_server: str) -> None:
    from prefect.client.orchestration import get_client

    from flows.monitor import monitor

    score(champion, decisions(60, 14, seed=2))
    assert monitor("deliveries")["reports"]["drift"].findings == ()
    with get_client(sync_client=True) as client:
        artifacts = client.request("POST", "/artifacts/latest/filter", json={}).json()
    (mine,) = [item for item in artifacts if item["key"] == "drift-deliveries"]
    assert "reports/deliveries/drift-20240308T0000-20240315T0000.html" in mine["data"]


def test_the_flow_checks_at_a_given_time(champion: ModelVersion, prefect_server: str) -> None:
    from flows.monitor import monitor

    score(champion, change_from(decisions(60, 36, seed=2), FIRST + timedelta(days=74), "promised", lambda v: v * 60))
    at = FIRST + timedelta(days=74)
    reports = monitor("deliveries", at=at)["reports"]
    assert {check: reports[check].at for check in ("drift", "skew", "pipelines")} == dict.fromkeys(
        ("drift", "skew", "pipelines"), at.replace(tzinfo=UTC)
    )
    assert reports["drift"].figures["window"]["end"] == "2024-03-15T00:00:00"
    assert critical_findings(reports["drift"]) == []
    later = monitor("deliveries", at=at + timedelta(days=1))["reports"]["drift"]
    assert critical_findings(later) == [("promised", "unit change")]


def test_evidentlys_report_opens_offline_and_its_figures_are_shown_with_ours(champion: ModelVersion) -> None:
    from evidently import Report as Direct
    from evidently.metrics import DriftedColumnsCount, ValueDrift

    score(champion, shift_column(decisions(60, 14, seed=2), "distance", 4.0))
    report = run_drift_check(evidently=True)
    store = open_store()
    page = store.get(report.figures["evidently"]).decode()
    assert "distance" in page
    for loaded in ('src="http', "src='http", '<link href="http', "@import url(http"):
        assert loaded not in page
    ours = store.get(report.page).decode()
    for key in (report.figures["evidently"], report.figures["sample"]):
        assert f'href="{key.rsplit("/", 1)[1]}"' in ours
    # Evidently's own results on the stored sample, by column.
    sample = pq.read_table(pa.BufferReader(store.get(report.figures["sample"]))).to_pandas()
    before, after = (sample[sample["side"] == side].drop(columns="side") for side in ("reference", "window"))
    assert len(after) == report.figures["data"]["rows"][1]
    opinions = report.figures["opinions"]
    assert set(opinions) == {column["name"] for column in report.figures["data"]["columns"]}
    metrics = [ValueDrift(column=name) for name in opinions]
    results = Direct([*metrics, DriftedColumnsCount()]).run(after, before).dict()["metrics"]
    for metric in results[:-1]:
        assert opinions[metric["config"]["column"]]["score"] == pytest.approx(float(metric["value"]), abs=1e-12)
        assert f"{float(metric['value']):.3f}" in ours
    drifted = [name for name, one in opinions.items() if one["drifted"]]
    assert len(drifted) == results[-1]["value"]["count"]
    assert "distance" in drifted
    assert f"finds {len(drifted)} of {len(opinions)} columns drifted" in " ".join(ours.split())


def test_a_check_without_champion_is_an_error(tmp_path: Path, configure: Callable[..., None]) -> None:
    install(tmp_path / "problems")
    configure(home=tmp_path / "home", problems=tmp_path / "problems")
    with pytest.raises(ModelError, match="no champion") as raised:
        run_drift_check()
    assert "lifecycle" in raised.value.hint


def test_no_predictions_and_an_empty_window_are_errors(champion: ModelVersion) -> None:
    with pytest.raises(NotFound, match="no predictions yet"):
        run_drift_check()
    score(champion, decisions(60, 3, seed=2), number=99)
    assert run_drift_check().sentence.startswith("No feature drifted; the champion made no predictions")
    with pytest.raises(FeatureError, match="no predictions from 2025-01-01") as raised:
        run_drift_check(window=Window(start=datetime(2025, 1, 1), end=datetime(2025, 1, 8)))
    assert "2024-03-01" in raised.value.hint
