"""`truecourse check` binds every SQL file, and traces leaks of the label's columns."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.planted_errors import PROBLEM, Case, assert_found, faults_after
from tests.simulated_deliveries import install

VIEW = "features/courier_history.sql"
DEPOT = "features/depot_history.sql"
FACTS = "features/courier_facts.sql"

CASES: dict[str, Case] = {
    "unknown column in SQL": (
        VIEW, "SELECT courier,", "SELECT courrier,", f"{VIEW}:1", "unknown column courrier", "courier"),
    "unknown column on a later line": (
        VIEW, "sum(sum(late))", "sum(sum(lat))", f"{VIEW}:2", "unknown column lat", "late"),
    "unknown column of an alias": (
        FACTS, "vehicle, since FROM couriers", "\nc.vehicel, since FROM couriers c", f"{FACTS}:2", "vehicel",
        "vehicle"),
    "unknown table in SQL": (
        FACTS, "FROM couriers", "FROM courier_list", f"{FACTS}:1", "unknown table courier_list", "couriers"),
    "unknown function": (
        DEPOT, "max(took)", "maxx(took)", f"{DEPOT}:3", "maxx", "correct the SQL"),
    "syntax error": (
        DEPOT, "GROUP BY", "GRUOP BY", f"{DEPOT}:5", "syntax error", "correct the SQL"),
    "two statements": (
        FACTS, "FROM couriers", "FROM couriers; SELECT 1", FACTS, "2 statements", "one SELECT"),
    "no SELECT": (
        FACTS, "SELECT courier", "DROP TABLE couriers -- SELECT courier", FACTS, "inside", "one SELECT"),
    "a comment at the end": (
        FACTS, "FROM couriers", "FROM couriers -- all", FACTS, "inside another", "comment"),
    "SQL file missing": (
        PROBLEM, "features/courier_facts.sql", "features/facts.sql", "features/facts.sql", "no such file",
        "features/courier_facts.sql"),
    "relation file missing": (
        PROBLEM, '"outcomes.sql"', '"outcome.sql"', "outcome.sql", "no such file", "outcomes.sql"),
    "relation used before its definition": (
        PROBLEM, 'relations={"outcomes"', 'relations={"early": "label.sql", "outcomes"', "label.sql:1",
        "unknown table outcomes", "move that relation before"),
    "relation named as a table": (
        PROBLEM, 'relations={', 'relations={"couriers": "outcomes.sql", ', "relations.couriers", "a table",
        "another name"),
    "declared feature not returned": (
        VIEW, "AS courier_count_7d", "AS courier_count", VIEW, "no column 'courier_count_7d'", "courier_count"),
    "undeclared feature": (
        FACTS, "since FROM", "since, 2 AS wheels FROM", FACTS, "returns 'wheels', which is not a declared feature",
        "declare"),
    "feature of another type": (
        FACTS, "vehicle, since", "vehicle, CAST(since AS DOUBLE) AS since", FACTS, "since is DOUBLE",
        "CAST(since AS BIGINT)"),
    "view without its key": (
        FACTS, "SELECT courier, vehicle", "SELECT vehicle", FACTS, "no column 'courier'", "add it"),
    "view without event_timestamp": (
        VIEW, "known_at AS event_timestamp", "known_at", VIEW, "no column 'event_timestamp'", "known_at"),
    "event_timestamp that is not a time": (
        DEPOT, "known_at AS event_timestamp", "CAST(known_at AS VARCHAR) AS event_timestamp", DEPOT,
        "event_timestamp is VARCHAR", "CAST(event_timestamp AS TIMESTAMP)"),
    "timeless view that returns a time": (
        FACTS, "since FROM", "since, now()::TIMESTAMP AS event_timestamp FROM", FACTS, "declared timeless", "remove"),
    "spine without an id": (
        "spine.sql", "delivery AS id", "delivery", "spine.sql", "no column 'id'", "delivery"),
    "spine without a request field": (
        "spine.sql", ", distance FROM", " FROM", "spine.sql", "no column 'distance'", "add it"),
    "spine with a field of another type": (
        "spine.sql", ", distance FROM", ", 'far' AS distance FROM", "spine.sql", "distance is VARCHAR", "DOUBLE"),
    "spine that returns the label": (
        "spine.sql", "distance FROM", "distance, took AS label FROM", "spine.sql", "returns label", "label's SQL"),
    "label SQL without label": (
        "label.sql", "late AS label", "late", "label.sql", "no column 'label'", "late"),
    "label SQL without known_at": (
        "label.sql", ", known_at", "", "label.sql", "no column 'known_at'", "add it"),
    "label SQL without id": (
        "label.sql", "delivery AS id", "delivery", "label.sql", "no column 'id'", "delivery"),
    "id of another type": (
        "label.sql", "delivery AS id", "'d' || delivery AS id", "label.sql", "id is VARCHAR", "CAST one"),
    "label of the wrong type": (
        "label.sql", "late AS label", "late * 0.5e0 AS label", "label.sql", "label is DOUBLE", "CAST(... AS INTEGER)"),
    "request field computed from the outcome": (
        "spine.sql", ", distance FROM", ", took + 0.5e0 AS distance FROM", "spine.sql",
        "'distance' is computed from deliveries.took, like the label: a leak", "not known at"),
    "timeless view of the outcome": (
        FACTS, "SELECT courier, vehicle, since FROM couriers",
        "SELECT courier, 'bike' AS vehicle, max(took) AS since FROM deliveries GROUP BY courier", FACTS,
        "'since' of a timeless view is computed from deliveries.took", "event_timestamp"),
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path, configure: Callable[..., None]) -> Path:
    """Install the deliveries in a temporary problems folder."""
    configure(problems=tmp_path, problem="deliveries")
    return install(tmp_path)


@pytest.mark.parametrize("case", CASES)
def test_invalid_sql_is_reported_with_place_and_hint(case: str, folder: Path) -> None:
    assert_found(folder, CASES[case])


def test_every_unknown_column_of_a_file_is_reported(folder: Path) -> None:
    faults = faults_after(folder, (DEPOT, "sum(late)", "sum(lat)"), (DEPOT, "max(took)", 'max("tok")'))
    assert [(f.where, f.what) for f in faults] == [
        (f"{DEPOT}:2", "unknown column lat"),
        (f"{DEPOT}:3", "unknown column tok"),
    ]


def test_a_broken_relation_is_one_fault(folder: Path) -> None:
    """Queries that select from it do not bind either; they are not reported."""
    faults = faults_after(folder, ("outcomes.sql", "took > promised", "took > promise"))
    assert [fault.where for fault in faults] == ["outcomes.sql:2"]


OUTCOME_VIEW = """
SELECT depot, {moment} AS event_timestamp, avg(late) AS depot_late_1d, max(took) AS depot_last_took
FROM (SELECT *, CAST(took > promised AS INTEGER) AS late FROM deliveries)
GROUP BY ALL"""


@pytest.mark.parametrize(("moment", "leaks"), [("ordered_at", 2), ("ordered_at + INTERVAL 3 DAY", 0)])
def test_an_outcome_at_the_decision_time_is_a_leak(moment: str, leaks: int, folder: Path) -> None:
    (folder / DEPOT).write_text(OUTCOME_VIEW.format(moment=moment))
    faults = faults_after(folder)
    assert [fault.where for fault in faults] == [DEPOT] * leaks
    assert all("deliveries.took" in f.what and "a leak" in f.what and "known_at" in f.hint for f in faults)


def test_predicting_tomorrows_value_from_todays_is_no_leak(folder: Path) -> None:
    """A label computed by a window may share its column with valid fields."""
    label = "lead(took) OVER (PARTITION BY courier ORDER BY ordered_at)"
    query = f"SELECT delivery AS id, CAST({label} > 30 AS INTEGER) AS label, ordered_at AS known_at FROM deliveries"
    (folder / "label.sql").write_text(query)
    assert faults_after(folder, ("spine.sql", ", distance FROM", ", took + 0.5e0 AS distance FROM")) == []


def test_a_regression_predicts_a_number(folder: Path) -> None:
    (folder / "label.sql").write_text("SELECT delivery AS id, CAST(late AS VARCHAR) AS label, known_at FROM outcomes")
    (fault,) = faults_after(folder, (PROBLEM, 'kind="binary"', 'kind="regression"'))
    assert (fault.where, fault.what) == ("label.sql", "label is VARCHAR, but a regression predicts a number")
