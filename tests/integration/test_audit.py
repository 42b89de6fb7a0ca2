"""The audit finds skew of each cause, and none in clean traffic; with a real store, predictor and log."""

import json
import shutil
import sqlite3
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from services.log.spool import Spool
from services.model.predictor import Predictor, registered_predictor
from tests.cleaned import write_clean
from tests.integration.conftest import Trained
from tests.simulated_deliveries import deliveries
from truecourse.features.feature_tables import compute_view
from truecourse.modeling.model import Model
from truecourse.monitoring.findings import Finding, Report
from truecourse.monitoring.skew.skew_check import check_skew
from truecourse.problem import Problem
from truecourse.problem.loader import load_problem
from truecourse.references import Window
from truecourse.registry import versions as registry
from truecourse.serving.log_shipping import ship, spool_folder
from truecourse.serving.prediction_log import encode_entry
from truecourse.serving.privacy import Masks
from truecourse.storage.delta_tables import Tables

FIRST = datetime(2024, 2, 20, 9, tzinfo=UTC)
MOMENTS = [FIRST + timedelta(hours=7 * i) for i in range(4)]
END = MOMENTS[-1] + timedelta(hours=1)
DATA_ENDS = datetime(2024, 3, 2, tzinfo=UTC)
COURIERS = [f"c{i:02d}" for i in range(12)]
Encode = Callable[[dict[str, Any]], bytes]


@dataclass
class World:
    problem: Problem
    predictor: Predictor
    tables: Tables
    encode: Any = encode_entry

    def load(self, until: datetime, views: Iterable[str] | None = None) -> None:
        from feature_repo.online_loading import load_online

        for view in self.problem.views if views is None else map(self.problem.view, views):
            load_online(self.problem, self.tables, view.name, until)

    def predict(self, at: datetime) -> None:
        rows = []
        for i, courier in enumerate(COURIERS):
            row = {"id": i, "courier": courier, "depot": ("north", "south", "east")[i % 3]}
            rows.append(row | {"promised": 30 + i, "distance": i / 7})
        read = self.predictor.rows.read_request(json.dumps({"rows": rows}).encode(), at)
        spool = Spool(spool_folder(self.problem.name), self.encode)
        spool.put(self.predictor.answer(read, at=at))
        spool.close()

    def serve(self, load: bool = True) -> None:
        """Serve twelve predictions at each moment, from a store that was loaded just before."""
        for moment in MOMENTS:
            if load:
                self.load(moment)
            self.predict(moment)

    def audit(self, at: datetime = END, **monitoring: Any) -> Report:
        ship(self.problem.name)
        problem = replace(self.problem, monitoring=replace(self.problem.monitoring, **monitoring))
        return check_skew(problem, self.tables, at)


@pytest.fixture
def world(trained: Trained, tmp_path: Path, configure: Callable[..., None]) -> World:
    """The champion in a copy of its home, whose store and log a test may change."""
    skip = shutil.ignore_patterns("serving", "*.log", "spool", "predictions_log", "online.db")
    shutil.copytree(trained.home, tmp_path / ".truecourse", ignore=skip)
    configure(home=tmp_path / ".truecourse")
    problem = load_problem("deliveries")
    model = registry.open_model(trained.version, problem.kind)
    return World(problem, registered_predictor(trained.version, model), Tables())


def causes(report: Report) -> dict[str, str]:
    return {finding.subject: finding.cause for finding in report.findings}


def finding_of(report: Report, subject: str) -> Finding:
    (finding,) = [f for f in report.findings if f.subject == subject]
    assert finding.figures["examples"][0] in finding.sentence
    return finding


def store(problem: Problem) -> closing[sqlite3.Connection]:
    from feature_repo.online_location import feast_folder

    return closing(sqlite3.connect(feast_folder(problem) / "online.db"))


def test_clean_traffic_has_no_finding_and_a_report_page(world: World) -> None:
    from tasks.monitoring.check_skew import run_audit
    from truecourse.monitoring import report_store

    world.serve()
    ship("deliveries")
    report = run_audit(world.problem, world.tables, END)
    assert report.findings == ()
    assert report.figures["mismatches"] == []
    compared = dict.fromkeys(("request", "score", *(view.name for view in world.problem.views)), 48)
    assert report.figures["compared"] == compared
    assert report.sentence == "48 of 48 predictions were recomputed: they agree with the offline tables."
    assert report_store.latest(world.tables.store, "deliveries", "skew") == report
    assert report.sentence in world.tables.store.get(report.page).decode()


def test_a_store_that_is_not_loaded_is_stale(world: World) -> None:
    world.load(MOMENTS[0] - timedelta(days=2))
    world.serve(load=False)
    report = world.audit()
    assert causes(report) == {"courier_history": "stale value", "depot_history": "stale value"}
    history = finding_of(report, "courier_history")
    assert history.page
    assert 40 * 3600 < history.figures["overdue_most"] < 70 * 3600
    assert "at most" in history.sentence
    assert not finding_of(world.audit(audit_lag=timedelta(days=4)), "courier_history").page


def test_values_an_hour_old_are_a_warning(world: World) -> None:
    for moment in MOMENTS:
        world.load(moment - timedelta(hours=1))
        world.predict(moment)
    report = world.audit()
    assert set(causes(report).values()) == {"stale value"}
    assert not any(finding.page for finding in report.findings)
    assert max(finding.figures["overdue_most"] for finding in report.findings) <= 3600


def table(database: Any, view: str) -> str:
    """The online table of a view; its name includes a digest of the feature definitions."""
    query = "SELECT name FROM sqlite_master WHERE type = 'table' AND name LIKE ?"
    ((name,),) = database.execute(query, [f"deliveries%_{view}"]).fetchall()
    return str(name)


def test_deleted_values_are_missing(world: World) -> None:
    world.load(MOMENTS[0])
    with store(world.problem) as database, database:
        database.execute(f"DELETE FROM {table(database, 'courier_history')}")
    world.predict(MOMENTS[0])
    finding = finding_of(world.audit(), "courier_history")
    assert (finding.cause, finding.page, finding.figures["share"]) == ("missing", True, 1.0)
    assert set(finding.figures["features"]) == {"courier_late_7d", "courier_count_7d"}


def push(world: World, **values: float | None) -> None:
    """Overwrite values of courier_history for every courier, at the same event times."""
    from feature_repo.protos import to_value, value_field

    view = world.problem.view("courier_history")
    with store(world.problem) as database, database:
        for name, pushed in values.items():
            message = to_value(value_field(world.problem.view_columns(view)[name]), pushed).SerializeToString()
            place = table(database, view.name)
            database.execute(f"UPDATE {place} SET value = ? WHERE feature_name = ?", [message, name])


def test_a_null_in_the_store_is_missing_and_another_value_is_a_code_difference(world: World) -> None:
    world.load(MOMENTS[0])
    push(world, courier_late_7d=None, courier_count_7d=1234)
    world.predict(MOMENTS[0])
    report = world.audit()
    assert causes(report) == {"courier_history": "missing", "courier_count_7d": "code"}
    assert finding_of(report, "courier_history").figures["features"] == {"courier_late_7d": 12}
    assert finding_of(report, "courier_count_7d").page


def test_a_late_correction_is_late_data_once_it_has_arrived(world: World) -> None:
    world.serve()
    rows = deliveries()
    mine = rows[(rows["ordered_at"] > "2024-02-18") & (rows["ordered_at"] < "2024-02-20")]
    write_clean(world.problem, world.tables, "deliveries", mine.assign(took=550))
    for view in world.problem.views:
        compute_view(world.problem, world.tables, view.name)
    assert world.audit().findings == ()
    report = world.audit(at=DATA_ENDS, window=timedelta(days=20))
    assert causes(report) == {"courier_history": "late data", "depot_history": "late data"}
    assert not any(finding.page for finding in report.findings)


def test_a_request_long_after_its_decision_has_its_own_cause(world: World) -> None:
    world.load(MOMENTS[-1])
    read = world.predictor.rows.read_request(
        json.dumps(
            {"rows": [{"courier": "c03", "depot": "north", "promised": 30, "distance": 2.5,
                       "decision_time": MOMENTS[0].isoformat()}]}
        ).encode(), MOMENTS[-1],
    )  # fmt: skip
    spool = Spool(spool_folder("deliveries"), encode_entry)
    spool.put(world.predictor.answer(read, at=MOMENTS[-1]))
    spool.close()
    report = world.audit()
    assert causes(report) == {"courier_history": "asked afterwards", "depot_history": "asked afterwards"}
    assert not any(finding.page for finding in report.findings)


def test_a_request_function_that_differs_in_the_endpoint_is_code(world: World) -> None:
    declared = world.problem.request_features
    assert declared is not None

    def local_clock(columns: Any) -> Any:
        return declared.function({**columns, "decision_time": columns["decision_time"] + np.timedelta64(3, "h")})

    skewed = replace(world.problem, request_features=replace(declared, function=local_clock))
    world.predictor = replace(world.predictor, problem=skewed)
    world.serve()
    report = world.audit()
    finding = finding_of(report, "hour")
    assert causes(report) | {"weekend": "code"} == {"hour": "code", "weekend": "code"}
    assert (finding.page, finding.figures["share"]) == (True, 1.0)


def test_a_score_that_the_model_does_not_give_is_code_or_model(world: World) -> None:
    served = world.predictor.model
    fewer = Model(served.booster[: max(1, served.booster.num_boosted_rounds() // 2)], served.vocabulary, served.kind)
    world.predictor = replace(world.predictor, model=fewer)
    world.serve()
    report = world.audit()
    assert causes(report) == {"score": "code"}
    assert "model" in finding_of(report, "score").sentence


def test_a_model_that_is_not_registered_is_a_finding(world: World) -> None:
    world.predictor = replace(world.predictor, about=world.predictor.about | {"model_sha256": "ab" * 32})
    world.serve()
    report = world.audit()
    assert causes(report) == {"model": "code"}
    assert report.figures["compared"]["score"] == 0


def test_values_hidden_in_the_log_are_neither_compared_nor_reported(world: World) -> None:
    fields = world.problem.request
    hidden = {
        "courier": replace(fields["courier"], private="hash"),
        "distance": replace(fields["distance"], private="drop"),
    }
    world.problem = replace(world.problem, request={**fields, **hidden})
    masks = Masks.of(world.problem, b"secret")
    world.encode = lambda entry: encode_entry(masks.apply(entry))
    world.serve()
    report = world.audit()
    assert report.findings == ()
    closed = report.figures["not_compared"]
    assert closed["its key is hidden in the log"] == ["courier_history", "courier_facts"]
    assert closed["hidden in the log"] == ["distance", "hour", "km_a_minute", "weekend"]
    assert report.figures["compared"]["depot_history"] == 48
    assert report.figures["compared"]["score"] == 0
    assert "recomputed, in part" in report.sentence
    assert not any(courier in report.model_dump_json() for courier in COURIERS)


def test_a_sample_is_bounded_and_the_same_each_time(world: World) -> None:
    from truecourse.monitoring.predictions.log_sample import sample_log

    world.serve()
    ship("deliveries")
    window = Window(end=END.replace(tzinfo=None))
    taken = [sample_log(world.problem, world.tables, window, 10) for _ in range(2)]
    assert taken[0].ids == taken[1].ids
    assert (len(taken[0]), taken[0].total) == (10, 48)
    later = Window(start=MOMENTS[2].replace(tzinfo=None), end=MOMENTS[3].replace(tzinfo=None))
    assert sample_log(world.problem, world.tables, later, 100).total == 12


def test_the_flow_audits_a_given_window(world: World, prefect_server: str) -> None:
    from flows.audit import audit

    world.serve()
    ship("deliveries")
    result = audit("deliveries", start=MOMENTS[1], end=END)
    assert (result["figures"]["asked"], result["findings"]) == (36, [])
    assert audit("deliveries", end=MOMENTS[0])["sentence"].startswith("No data yet")
