"""Monitoring a champion that was really trained and registered, over predictions in a real Delta table."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from tests.deliveries import install
from tests.office import put_in_office
from tests.records import record
from truecourse import frame as frames
from truecourse import predictionlog, registry
from truecourse.encoding import columns_of
from truecourse.errors import FeatureError, ModelError, NotFound
from truecourse.loading import load_problem, problem_digest, problem_document
from truecourse.monitoring import freezing, reports
from truecourse.monitoring.findings import Report
from truecourse.monitoring.freezing import freeze
from truecourse.monitoring.frozen import Frozen
from truecourse.monitoring.sketches import sketches
from truecourse.references import ModelVersion, Snapshot, TableVersion, Window
from truecourse.settings import get_settings
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
    for table in ("predictions", "predictions_log", "sketches"):
        shutil.rmtree(_home / "home" / "storage" / table, ignore_errors=True)
    found = registry.champion("deliveries")
    if found is None:
        found = registry.create_version(train_model.fn("deliveries", snapshot()))
        put_in_office(found)
    return found


def monitored(at: datetime | None = None, window: Window | None = None, evidently: bool = False) -> Report:
    from tasks.drift import monitored as check

    return check(load_problem("deliveries"), Tables(), at, window, evidently)


def moved(report: Report, cause: str = "drift") -> list[str]:
    return [finding.subject for finding in report.findings if finding.cause == cause]


def paged(report: Report) -> list[tuple[str, str]]:
    return [(finding.subject, finding.cause) for finding in report.findings if finding.page]


def shifted(rows: pa.Table, name: str, by: float) -> pa.Table:
    return rows.set_column(rows.column_names.index(name), name, pa.array(rows[name].to_numpy() + by))


def test_an_unchanged_world_is_on_course(champion: ModelVersion) -> None:
    score(champion, decisions(60, 14, seed=2))
    report = monitored()
    assert report.findings == ()
    assert report.sentence == "No feature drifted; nor did the predictions."
    data, scores, window = (report.figures[name] for name in ("data", "prediction", "window"))
    assert data["rows"][1] == scores["rows"][1]
    assert tuple(data["blocks"]) == (50, 7)
    assert datetime.fromisoformat(window["start"]) == FIRST + timedelta(days=67)
    assert datetime.fromisoformat(window["end"]) == FIRST + timedelta(days=74)
    assert scores["against"] == "held-out rows of before the window"
    assert report.figures["largest"] == data["columns"][0]["psi"]


def test_drift_of_a_feature_reaches_the_predictions_and_the_page(champion: ModelVersion) -> None:
    score(champion, shifted(decisions(60, 14, seed=2), "distance", 4.0))
    report = monitored()
    assert (moved(report), moved(report, "prediction drift")) == (["distance"], ["score"])
    # It has been so for two weeks: far from the training rows, and as it was in the days before.
    assert paged(report) == []
    assert report.sentence == "1 of 12 features drifted: distance; so did the predictions."
    store = open_store()
    assert reports.latest(store, "deliveries", "drift") == Report.model_validate_json(report.model_dump_json())
    assert len(report.model_dump_json()) < 20_000
    page = store.get("reports/deliveries/drift.html").decode()
    assert page == store.get("reports/deliveries/drift-20240308T0000-20240315T0000.html").decode()
    assert report.sentence in page
    assert "http" not in page.replace("http://www.w3.org", "")


def test_missing_values_are_drift(champion: ModelVersion) -> None:
    rows = decisions(60, 14, seed=2)
    values = rows["courier_late_7d"].to_numpy().copy()
    values[::2] = np.nan
    place = rows.column_names.index("courier_late_7d")
    score(champion, rows.set_column(place, "courier_late_7d", pa.array(values, from_pandas=True)))
    column = monitored().figures["data"]["columns"][0]
    assert (column["name"], column["drifted"]) == ("courier_late_7d", True)
    assert column["missing"][0] == pytest.approx(0.05, abs=0.02)
    assert column["missing"][1] > 0.45


def change(rows: pa.Table, first: datetime, name: str, by: Callable[[np.ndarray], np.ndarray]) -> pa.Table:
    """One column is otherwise from a moment on."""
    values = rows[name].to_pandas().to_numpy().copy()
    late = rows["decision_time"].to_pandas().dt.tz_localize(None).to_numpy() >= np.datetime64(first)
    values[late] = by(values[late])
    return rows.set_column(rows.column_names.index(name), name, pa.array(values, rows[name].type, from_pandas=True))


LAST = FIRST + timedelta(days=95)
BROKEN: list[tuple[str, Callable[[np.ndarray], np.ndarray], tuple[str, str]]] = [
    ("courier_late_7d", lambda v: v * np.nan, ("courier_late_7d", "dead feed")),
    ("depot", lambda v: np.where(np.arange(len(v)) % 20 == 0, "west", v), ("depot", "new category")),
    ("promised", lambda v: v * 60, ("promised", "unit change")),
]


@pytest.mark.parametrize(("name", "by", "named"), BROKEN, ids=[named[1] for *_, named in BROKEN])
def test_what_broke_today_is_named(champion: ModelVersion, name: str, by: Any, named: tuple[str, str]) -> None:
    rows = decisions(60, 36, seed=2)
    score(champion, change(rows, LAST, name, by))
    assert paged(monitored(at=LAST)) == []  # what comes after the moment is not read
    assert paged(monitored(at=LAST + timedelta(days=1))) == [named]


def test_a_sudden_shift_pages_and_volume_too(champion: ModelVersion) -> None:
    rows = change(decisions(60, 36, seed=2), LAST - timedelta(days=6), "distance", lambda v: v + 6.0)
    times = rows["decision_time"].to_pandas().dt.tz_localize(None).to_numpy()
    score(champion, rows.filter(pa.array((times < np.datetime64(LAST)) | (np.arange(len(rows)) % 4 == 0))))
    at = LAST + timedelta(days=1)
    report = monitored(at=at)
    assert sorted(paged(report)) == [("deliveries", "volume"), ("distance", "drift"), ("score", "prediction drift")]
    assert report.at == at.replace(tzinfo=UTC)
    sketches = open_store().list("sketches/deliveries/")
    again = monitored(at=at)
    assert (again, list(open_store().list("sketches/deliveries/"))) == (report, list(sketches))


def sketched_days() -> dict[str, bytes]:
    """By day, as they lie in storage."""
    store = open_store()
    keys = [key for key in store.list("sketches/deliveries/") if not key.endswith("frozen.json")]
    return {key.rsplit("/", 1)[1]: store.get(key) for key in keys}


def spans_read(monkeypatch: pytest.MonkeyPatch) -> list[tuple[datetime, datetime]]:
    """The spans of predictions whose rows were read from now on."""
    from truecourse.monitoring.seen import Predictions

    read, spans = Predictions.read, []

    def told(self: Predictions, *span: Any) -> pa.Table:
        spans.append(span)
        return read(self, *span)

    monkeypatch.setattr(Predictions, "read", told)
    return spans


def test_days_are_counted_when_they_arrive_and_a_check_reads_no_rows(
    champion: ModelVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tasks.drift import sketch_days

    rows = decisions(60, 36, seed=2)
    last = pc.greater_equal(rows["decision_time"], pa.scalar(LAST - timedelta(days=2), pa.timestamp("us", tz="UTC")))
    score(champion, rows.filter(pc.invert(last)))
    assert sketch_days.fn("deliveries") == 33
    spans = spans_read(monkeypatch)
    score(champion, rows.filter(last))
    assert sketch_days.fn("deliveries") == 35  # the window's seven days and 28 before it
    assert len(spans) == 3  # those that are new
    first = sketched_days()
    spans.clear()
    report = monitored(at=LAST)
    assert sketch_days.fn("deliveries") == 35
    assert (spans, sketched_days()) == ([], first)
    # A day that is corrected or comes late is counted anew, in its place, and none but it.
    again = (FIRST + timedelta(days=80), FIRST + timedelta(days=81))
    moments = rows["decision_time"].to_pandas().dt.tz_localize(None).to_numpy()
    corrected = (moments >= np.datetime64(again[0])) & (moments < np.datetime64(again[1]))
    score(champion, shifted(rows.filter(pa.array(corrected)), "distance", 9.0))
    sketch_days.fn("deliveries")
    assert spans == [again]
    changed = sketched_days()
    assert [day for day in changed if changed[day] != first[day]] == ["20240321.json"]
    spans.clear()
    assert monitored(at=LAST).figures["data"]["columns"] != report.figures["data"]["columns"]
    assert spans == []


def test_a_large_day_is_counted_part_by_part_and_comes_out_the_same(
    champion: ModelVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = change(decisions(60, 10, seed=2), FIRST + timedelta(days=65), *BROKEN[2][:2])
    score(champion, change(rows, FIRST + timedelta(days=65), *BROKEN[1][:2]))
    score(champion, rows.slice(100, 50))  # scored again
    problem = load_problem("deliveries")
    frozen = freeze(problem, champion)
    span = (FIRST + timedelta(days=60), FIRST + timedelta(days=70))
    whole = sketches(problem, Tables(), frozen, *span)
    assert sum(one.rows for one in whole) == len(rows)
    shutil.rmtree(get_settings().home / "storage" / "sketches")
    monkeypatch.setattr("truecourse.monitoring.seen.PART_ROWS", 7)
    spans = spans_read(monkeypatch)
    assert sketches(problem, Tables(), frozen, *span) == whole
    assert len(spans) > 10 * len(whole)


def test_training_rows_are_read_once_and_what_is_kept_of_them_says_the_same(champion: ModelVersion) -> None:
    score(champion, shifted(decisions(60, 36, seed=2), "distance", 4.0))
    problem = load_problem("deliveries")
    freezing._frozen.cache_clear()
    made, report = freeze(problem, champion), monitored(at=LAST)
    assert Frozen.load(made.dump(), made.version, made.key).dump() == made.dump()
    snapshots = get_settings().home / "storage" / "snapshots"
    snapshots.rename(snapshots.with_name("away"))
    try:
        freezing._frozen.cache_clear()
        assert monitored(at=LAST) == report
    finally:
        snapshots.with_name("away").rename(snapshots)


def test_scoring_and_shipping_sketch_by_themselves(champion: ModelVersion, prefect_server: str) -> None:
    from flows.ship import ship

    ship("deliveries")
    assert sketched_days() == {}
    score(champion, decisions(60, 14, seed=2))
    ship("deliveries")
    assert len(sketched_days()) == 14


def test_what_the_endpoint_logged_is_watched_as_batches_are(champion: ModelVersion) -> None:
    rows = change(decisions(60, 36, seed=2), LAST, "courier_late_7d", lambda values: values * np.nan)
    score(champion, rows)
    batches = monitored(at=LAST + timedelta(days=1))
    told = Tables().read(TableVersion(name=PREDICTIONS, version=0)).to_pylist()
    shutil.rmtree(get_settings().home / "storage" / PREDICTIONS)
    problem = load_problem("deliveries")
    logged = [
        record(
            f"p{i}",
            at=row["decision_time"],
            decision_time=row["decision_time"].isoformat(),
            model_version=champion.version,
            features={name: row[name] for name in problem.features},
            score=row["score"],
            role="shadow" if i % 7 == 0 else "champion",
        )
        for i, row in enumerate([*told, *told[::6]])
    ]
    table = predictionlog.rows(predictionlog.encoded(one) for one in logged)
    Tables().append(predictionlog.log_table("deliveries"), table, {}, partition_by=predictionlog.PARTITION)
    found = monitored(at=LAST + timedelta(days=1))
    assert paged(found) == paged(batches) == [("courier_late_7d", "dead feed")]
    week = pc.greater_equal(table["at"], pa.scalar(LAST - timedelta(days=6), pa.timestamp("us", tz="UTC")))
    answered = table.filter(pc.and_(week, pc.not_equal(table["role"], "shadow")))
    assert found.figures["data"]["rows"][1] == len(answered)


def test_what_the_log_hides_is_not_watched(champion: ModelVersion) -> None:
    from tasks.drift import monitored as check

    score(champion, change(decisions(60, 36, seed=2), LAST, "promised", lambda v: v * 60))
    problem = load_problem("deliveries")
    hidden = {name: replace(column, private="hash") for name, column in problem.request.items() if name == "promised"}
    report = check(replace(problem, request={**problem.request, **hidden}), Tables(), LAST + timedelta(days=1))
    assert "promised" not in [column["name"] for column in report.figures["data"]["columns"]]
    assert "promised" not in report.model_dump_json()


def test_a_window_of_ones_own_and_rows_scored_twice(champion: ModelVersion) -> None:
    rows = decisions(60, 14, seed=2)
    score(champion, rows)
    score(champion, shifted(rows, "distance", 4.0))  # the same decisions again: these hold
    score(champion, decisions(60, 14, seed=3), number=99)  # another version's: it saw the same world
    report = monitored(window=Window(start=FIRST + timedelta(days=60), end=datetime(2024, 3, 11, tzinfo=UTC)))
    assert report.figures["prediction"]["rows"][1] == sum(
        FIRST + timedelta(days=60) <= moment.replace(tzinfo=None) < datetime(2024, 3, 11)
        for moment in rows["decision_time"].to_pylist()
    )
    assert report.figures["data"]["rows"][1] > report.figures["prediction"]["rows"][1]
    assert moved(report) == ["distance"]


def test_the_flow_runs_by_name_and_leaves_an_artifact(champion: ModelVersion, prefect_server: str) -> None:
    from prefect.client.orchestration import get_client

    from flows.monitor import monitor

    score(champion, decisions(60, 14, seed=2))
    assert monitor("deliveries")["reports"]["drift"].findings == ()
    with get_client(sync_client=True) as client:
        found = client.request("POST", "/artifacts/latest/filter", json={}).json()
    (mine,) = [item for item in found if item["key"] == "drift-deliveries"]
    assert "reports/deliveries/drift-20240308T0000-20240315T0000.html" in mine["data"]


def test_the_flow_looks_from_a_moment_that_is_named(champion: ModelVersion, prefect_server: str) -> None:
    from flows.monitor import monitor

    score(champion, change(decisions(60, 36, seed=2), FIRST + timedelta(days=74), "promised", lambda v: v * 60))
    at = FIRST + timedelta(days=74)
    made = monitor("deliveries", at=at)["reports"]
    assert {check: made[check].at for check in ("drift", "skew", "pipelines")} == dict.fromkeys(
        ("drift", "skew", "pipelines"), at.replace(tzinfo=UTC)
    )
    assert made["drift"].figures["window"]["end"] == "2024-03-15T00:00:00"
    assert paged(made["drift"]) == []
    later = monitor("deliveries", at=at + timedelta(days=1))["reports"]["drift"]
    assert paged(later) == [("promised", "unit change")]


def test_evidentlys_report_opens_offline(champion: ModelVersion) -> None:
    score(champion, decisions(60, 14, seed=2))
    report = monitored(evidently=True)
    page = open_store().get(report.figures["evidently"]).decode()
    assert "distance" in page
    for loaded in ('src="http', "src='http", '<link href="http', "@import url(http"):
        assert loaded not in page
    assert "evidently.html" in open_store().get(report.page).decode()


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
    assert monitored().sentence == "No feature drifted; the champion made no predictions."
    with pytest.raises(FeatureError, match="no predictions from 2025-01-01") as raised:
        monitored(window=Window(start=datetime(2025, 1, 1), end=datetime(2025, 1, 8)))
    assert "2024-03-01" in raised.value.cure
