"""`truecourse check` reports every invalid declaration with its place and hint; a valid problem has no faults."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.planted_errors import PROBLEM, Case, assert_found, faults_after
from tests.simulated_deliveries import install
from tests.static_tables import install_diabetes, install_wine
from truecourse.authoring.checks.run_checks import check_problem, require_valid
from truecourse.errors import ProblemError
from truecourse.problem import BeatsChampion, Decision, Files, Label, MetricGate, Problem, Table, TimeSplit
from truecourse.problem.loader import load_problem
from truecourse.problem.schema import Boolean, Columns, Float, Integer, Text, Time

CASES: dict[str, Case] = {
    "ttl on a view with no time": (
        PROBLEM, "timeless=True", "timeless=True, ttl=days(1)", "views.courier_facts.ttl", "without time", "ttl"),
    "lookback on a view with no time": (
        PROBLEM, "timeless=True", "timeless=True, lookback=days(1)", "views.courier_facts.lookback", "without time",
        "remove"),
    "negative ttl": (
        PROBLEM, "ttl=hours(12)", "ttl=hours(-12)", "views.depot_history.ttl", "negative", "positive"),
    "unknown entity": (
        PROBLEM, 'entity="depot"', 'entity="depots"', "views.depot_history.entity", "'depots'", "depot"),
    "entity key that is not a request field": (
        PROBLEM, 'Entity("depot")', 'Entity("depot", keys=["depo"])', "entities.depot.keys", "depo is not", "depot"),
    "two tables of one name": (
        PROBLEM, '"couriers",\n', '"deliveries",\n', "tables", "'deliveries'", "rename"),
    "two views of one name": (
        PROBLEM, '"depot_history",', '"courier_history",', "views", "'courier_history'", "rename"),
    "two entities of one name": (
        PROBLEM, 'Entity("depot")', 'Entity("depot"), Entity("depot")', "entities", "'depot'", "rename"),
    "feature declared twice": (
        PROBLEM, '"depot_last_took": Integer', '"courier_late_7d": Integer',
        "views.depot_history.features.courier_late_7d", "views.courier_history.features.courier_late_7d", "rename"),
    "feature named as a request field": (
        PROBLEM, '"since": Integer("year")', '"distance": Integer("year")', "views.courier_facts.features.distance",
        "request.distance", "rename"),
    "feature of a reserved name": (
        PROBLEM, '"since": Integer("year")', '"label": Integer("year")', "views.courier_facts.features.label",
        "reserved", "another name"),
    "request field of a reserved name": (
        PROBLEM, '"promised": Integer(ge=5, le=600),\n        "distance"', '"split": Integer(),\n        "distance"',
        "request.split", "training frame", "rename"),
    "feature that is a time": (
        PROBLEM, '"since": Integer("year")', '"since": Time()', "views.courier_facts.features.since", "Time",
        "number"),
    "unknown key column": (
        PROBLEM, 'key=["delivery"]', 'key=["deliverie"]', "tables.deliveries.key", "'deliverie'", "delivery"),
    "unknown column of updates": (
        PROBLEM, 'key=["delivery"]', 'key=["delivery"], updated="ordered"', "tables.deliveries.updated", "'ordered'",
        "ordered_at"),
    "column of updates that has no order": (
        PROBLEM, 'key=["delivery"]', 'key=["delivery"], updated="depot"', "tables.deliveries.updated", "declared Text",
        "Time()"),
    "updates without a key": (
        PROBLEM, 'key=["delivery"]', 'updated="ordered_at"', "tables.deliveries.updated", "has none", "key"),
    "unknown time column": (
        PROBLEM, 'time="ordered_at"', 'time="ordered"', "tables.deliveries.time", "'ordered'", "ordered_at"),
    "time column of another type": (
        PROBLEM, "Time(severity=", "Text(severity=", "tables.deliveries.time", "declared Text", "Time()"),
    "reference to an unknown table": (
        PROBLEM, 'in_table="couriers"', 'in_table="courier"', "tables.deliveries.columns.courier.in_table",
        "'courier'", "couriers"),
    "reference to a table without a single key": (
        PROBLEM, 'key=["courier"]', 'key=["courier", "since"]', "tables.deliveries.columns.courier.in_table",
        "no single-column key", "key of one column"),
    "reference of another type": (
        PROBLEM, 'columns={"courier": Text()', 'columns={"courier": Integer()',
        "tables.deliveries.columns.courier.in_table", "is Text, but couriers.courier is Integer", "one type"),
    "cyclic references": (
        PROBLEM, 'columns={"courier": Text()', 'columns={"courier": Text(), "d": Integer(in_table="deliveries")',
        "tables.deliveries", "form a cycle", "remove one"),
    "reserved column": (
        PROBLEM, '"since": Integer(nulls=True)', '"_TC_row": Integer()', "tables.couriers.columns._TC_row", "reserved",
        "another name"),
    "rows in the wrong order": (
        PROBLEM, "rows=(1, None)", "rows=(9, 1)", "tables.deliveries.rows", "9 and 1", "(least"),
    "freshness without time": (
        PROBLEM, 'key=["courier"]', 'key=["courier"], freshness=days(1)', "tables.couriers.freshness", "no time",
        "time"),
    "ge above le": (
        PROBLEM, '"minutes", ge=5, le=600', '"minutes", ge=600, le=5', "tables.deliveries.columns.promised", "600",
        "swap"),
    "one_of outside the range": (
        PROBLEM, '"since": Integer(nulls=True)', '"since": Integer(ge=3, one_of=[1, 4])',
        "tables.couriers.columns.since.one_of", "1 lies outside", "leave it out"),
    "empty one_of": (
        PROBLEM, 'one_of=["bike", "van"]', "one_of=[]", "tables.couriers.columns.vehicle.one_of", "no value", "list"),
    "invalid pattern": (
        PROBLEM, 'feature=False)', 'feature=False, pattern="c[")', "request.courier.pattern", "not a reg", "correct"),
    "one_of against the pattern": (
        PROBLEM, 'one_of=["bike", "van"]', 'one_of=["bike", "van"], pattern="^b"',
        "tables.couriers.columns.vehicle.one_of", "'van' does not match", "correct"),
    "three classes of a binary label": (
        PROBLEM, 'sql="label.sql"', 'sql="label.sql", classes=["0", "1", "2"]', "label.classes", "two classes",
        "last"),
    "label with a column beside its spine": (
        PROBLEM, 'sql="label.sql"', 'sql="label.sql", column="took"', "label.column", "has a spine", "remove"),
    "split dates in the wrong order": (
        PROBLEM, 'validate_until="2024-02-20"', 'validate_until="2024-02-01"', "split.validate_until", "not after",
        "later"),
    "test before validation": (
        PROBLEM, 'validate_until="2024-02-20"', 'validate_until="2024-02-20", test_until="2024-02-20"',
        "split.test_until", "not after", "later"),
    "training that begins after its end": (
        PROBLEM, 'validate_until="2024-02-20"', 'validate_until="2024-02-20", train_from="2024-02-10"',
        "split.train_from", "not before", "earlier"),
    "a test of hours": (
        PROBLEM, "window=days(7)", "window=days(7), retraining=Retraining(test=hours(5))",
        "monitoring.retraining.test", "shorter than a day", "days"),
    "a cause that triggers and blocks retraining": (
        PROBLEM, "window=days(7)", 'window=days(7), retraining=Retraining(causes=["dead feed"])',
        "monitoring.retraining.blockers", "triggers and blocks", "causes or blockers"),
    "reminders without a pause": (
        PROBLEM, "window=days(7)", "window=days(7), alerts=Alerts(remind=days(0))",
        "monitoring.alerts.remind", "not positive", "days"),
    "unknown search parameter": (
        PROBLEM, "max_depth=3", 'max_depth=3, search={"max_dept": Range(1, 2)}', "model.search.max_dept",
        "not a parameter", "max_depth"),
    "search out of range": (
        PROBLEM, "max_depth=3", 'max_depth=3, search={"subsample": Range(0.5, 1.5)}', "model.search.subsample",
        "1.5 is out of range", "correct"),
    "search between equal ends": (
        PROBLEM, "max_depth=3", 'max_depth=3, search={"gamma": Range(1.0, 1.0)}', "model.search.gamma", "no range",
        "low"),
    "one fold": (PROBLEM, "max_depth=3", "max_depth=3, folds=1", "model.folds", "no rows to fit", "5"),
    "folds without refit": (
        PROBLEM, "max_depth=3", "max_depth=3, folds=5, refit=False", "model.folds", "refit=True", "leave out refit",
    ),
    "folds in time": (
        PROBLEM, "max_depth=3", "max_depth=3, folds=5", "model.folds", "random folds", "TimeSplit's validation rows",
    ),
    "logarithmic search from zero": (
        PROBLEM, "max_depth=3", 'max_depth=3, search={"gamma": Range(0.0, 1.0, log=True)}', "model.search.gamma",
        "logarithmic", "above 0"),
    "choice without values": (
        PROBLEM, "max_depth=3", 'max_depth=3, search={"gamma": Choice([])}', "model.search.gamma", "no values", "list"),
    "gate on an unknown metric": (
        PROBLEM, "BeatsBaseline(),", 'MetricGate("rmse", max=1.0),', "gates.0.metric", "no metric 'rmse'",
        "there are auc"),
    "gate without bounds": (
        PROBLEM, "BeatsBaseline(),", 'MetricGate("auc"),', "gates.0", "no bound", "max= or min="),
    "gate that no model can pass": (
        PROBLEM, "BeatsBaseline(),", 'MetricGate("auc", min=0.9, max=0.1),', "gates.0", "at least 0.9", "swap"),
    "slice floor of an unknown field": (
        PROBLEM, "BeatsBaseline(),", 'SliceFloor("depots", "auc", min=0.5),', "gates.0.column", "'depots'", "depot"),
    "no patience for approval": (
        PROBLEM, "BeatsChampion()],", "BeatsChampion()],\n    promotion=Promotion(patience=days(0)),",
        "promotion.patience", "shorter than a second", "days(1)"),
    "slices of an unknown field": (
        PROBLEM, 'slices=["depot"]', 'slices=["dept"]', "monitoring.slices", "'dept'", "depot"),
    "no window to monitor": (
        PROBLEM, "window=days(7)", "window=days(0)", "monitoring.window", "not positive", "days(7)"),
    "function input that is not a request field": (
        PROBLEM, '"distance", "promised"]', '"distanse", "promised"]', "request_features.inputs", "distanse",
        "distance"),
    "label as function input": (
        PROBLEM, '"distance", "promised"]', '"distance", "promised", "label"]', "request_features.inputs", "a leak",
        "remove it"),
    "function that reads an undeclared input": (
        PROBLEM, 'inputs=["decision_time", "distance",', 'inputs=["decision_time",', "request_features.clock",
        "reads column 'distance'", "inputs"),
    "function without a declared feature": (
        PROBLEM, '"weekend": ((', '"weekday": ((', "request_features.clock",
        "does not return the declared feature 'weekend'", "weekday"),
    "function with an undeclared feature": (
        PROBLEM, '"hour": (minutes', '"minute": minutes, "hour": (minutes', "request_features.clock",
        "'minute', which is not declared", "drop it"),
    "function that loses rows": (
        PROBLEM, 'columns["distance"] / columns["promised"]', 'columns["distance"][:1]', "request_features.clock",
        "for 2 rows", "one value per row"),
    "function that fails on no rows": (
        PROBLEM, 'columns["distance"] / columns["promised"]', 'columns["distance"] / columns["promised"].max()',
        "request_features.clock", "fails on 0 sample rows", "any number of rows"),
    "function that returns no dict": (
        PROBLEM, "return {\n", "return 0, {\n", "request_features.clock", "not a dict", "dict of arrays"),
    "function that returns fractions as integers": (
        PROBLEM, '"km_a_minute": Float()', '"km_a_minute": Integer()', "request_features.clock", "declared Integer",
        "round"),
    "function without a source": (
        PROBLEM, "        clock,\n", "        np.abs,\n", "request_features.function", "source", "def in problem.py"),
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path, configure: Callable[..., None]) -> Path:
    """Install the deliveries in a temporary problems folder."""
    configure(problems=tmp_path, problem="deliveries")
    return install(tmp_path)


@pytest.mark.parametrize("name", ["deliveries", "wine", "diabetes"])
def test_a_valid_problem_has_no_faults(name: str, tmp_path: Path, configure: Callable[..., None]) -> None:
    configure(problems=tmp_path)
    installers: dict[str, Callable[[Path], Any]] = {
        "deliveries": install, "wine": install_wine, "diabetes": install_diabetes,
    }  # fmt: skip
    installers[name](tmp_path)
    assert check_problem(load_problem(name)) == []


def test_the_bundled_problem_has_no_faults() -> None:
    assert check_problem(load_problem()) == []


@pytest.mark.parametrize("case", CASES)
def test_an_invalid_declaration_is_reported_with_place_and_hint(case: str, folder: Path) -> None:
    assert_found(folder, CASES[case])


def test_all_faults_are_reported_at_once(folder: Path) -> None:
    faults = faults_after(
        folder,
        (PROBLEM, 'entity="depot"', 'entity="depots"'),
        (PROBLEM, 'slices=["depot"]', 'slices=["dept"]'),
        (PROBLEM, 'time="ordered_at"', 'time="ordered"'),
        ("features/courier_history.sql", "late", "lat"),
        ("label.sql", "late AS label", "late"),
    )
    places = [fault.where for fault in faults]
    for place in ("depot_history.entity", "monitoring.slices", "deliveries.time", "courier_history.sql:2", "label.sql"):
        assert any(place in where for where in places), (place, places)
    with pytest.raises(ProblemError, match=f"{len(faults)} faults") as raised:
        require_valid(load_problem())
    assert list(raised.value.faults) == faults


def spineless(columns: Columns, label: Label, **changes: Any) -> Problem:
    table = Table("rows", source=Files("rows.csv"), columns={"size": Float(), **columns})
    return dataclasses.replace(Problem("plain", kind="binary", tables=[table], label=label), **changes)


BY_TIME = TimeSplit(train_until="2024-01-01", validate_until="2024-02-01")


@pytest.mark.parametrize(
    ("problem", "where", "what"),
    [
        (spineless({}, Label()), "label.column", "no label column"),
        (spineless({}, Label(column="y")), "label.column", "no column 'y'"),
        (spineless({}, Label(table="row", column="y")), "label.table", "no table 'row'"),
        (spineless({}, Label(sql="label.sql")), "label.sql", "needs a spine"),
        (spineless({"y": Time()}, Label(column="y")), "label.column", "column is Time"),
        (spineless({"y": Float()}, Label(column="y")), "label.column", "column is Float"),
        (spineless({"y": Text()}, Label(column="y"), kind="regression"), "label.column", "predicts a number"),
        (spineless({"y": Float()}, Label(column="y", classes=["a", "b"]), kind="regression"), "classes", "no classes"),
        (spineless({"y": Boolean()}, Label(column="y", unit="minutes")), "label.unit", "classes and no unit"),
        (spineless({"y": Integer(one_of=[1, 2, 3])}, Label(column="y")), "label.column", "one_of lists 3"),
        (spineless({"y": Text(one_of=["a", "b"])}, Label(column="y", classes=["a", "c"])), "classes", "never occur"),
        (spineless({"y": Boolean()}, Label(column="y", classes=["no", "yes"])), "classes", "written 0 and 1"),
        (spineless({"y": Boolean()}, Label(column="y"), request={"y": Boolean()}), "request.y", "a leak"),
        (spineless({"y": Boolean()}, Label(column="y"), request={"sise": Float()}), "request.sise", "no such column"),
        (spineless({"y": Boolean()}, Label(column="y"), request={"size": Text()}), "request.size", "is Text"),
        (spineless({"y": Boolean(), "id": Text()}, Label(column="y")), "request.id", "training frame"),
        (
            spineless({"y": Boolean()}, Label(column="y"), split=BY_TIME),
            "split",
            "have none",
        ),
        (Problem("plain", kind="binary", tables=[], label=Label(column="y")), "tables", "no table"),
        (spineless({"y": Float()}, Label(column="y"), kind="regression", decision=Decision(recall=0.5)), "decision",
         "predicts values"),
        (spineless({"y": Text()}, Label(column="y"), kind="multiclass", decision=Decision(recall=0.5)), "decision",
         "two classes"),
        (spineless({"y": Text()}, Label(column="y", classes=["a", "b"]), decision=Decision(costs={"a": {"c": 1.0}})),
         "decision.costs", "no class 'c'"),
        (spineless({"y": Text()}, Label(column="y"), gates=[BeatsChampion(metric="cost")]), "gates.0.metric",
         "no costs"),
        (spineless({"y": Text()}, Label(column="y"), gates=[MetricGate("cost", max=1.0)],
                   decision=Decision(recall=0.5)), "gates.0.metric", "no metric 'cost'"),
    ],
)  # fmt: skip
def test_faults_of_a_problem_without_spine_are_reported(problem: Problem, where: str, what: str) -> None:
    faults = check_problem(problem)
    assert any(where in fault.where and what in fault.what and fault.hint for fault in faults), faults
