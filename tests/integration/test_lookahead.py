"""The look-ahead proof: planted look-ahead stops training with an error that names view, feature, decision and both
values; correct SQL passes on clean, corrected and late rows."""

import dataclasses
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pandas as pd
import pytest

from tasks.features.decision_frame import feature_versions
from tasks.training.build_snapshot import build_snapshot
from tests.cleaned import write_clean
from tests.simulated_deliveries import deliveries, install
from truecourse.data.sql import clean_versions
from truecourse.errors import FeatureError
from truecourse.features.feature_tables import compute_view
from truecourse.features.row_differences import LookAheadError
from truecourse.modeling.snapshot import Proof, load_manifest
from truecourse.problem import Problem
from truecourse.problem.loader import load_problem
from truecourse.storage.delta_tables import Tables

COURIER, DEPOT, FACTS = (f"features/{name}.sql" for name in ("courier_history", "depot_history", "courier_facts"))
WEEK = "INTERVAL 7 DAY PRECEDING AND CURRENT ROW"
COUNT = "sum(count(*)) OVER week AS courier_count_7d"
SPINE = "SELECT delivery AS id, ordered_at AS decision_time, courier, depot, promised, distance FROM deliveries"
Edit = tuple[str, str, str]

ALL_TIME = (
    "SELECT courier, any_value(vehicle) AS vehicle, count(*) AS since\nFROM couriers JOIN deliveries USING (courier)"
)
LATER = """max((SELECT min(took) FROM outcomes AS o WHERE o.known_at > outcomes.known_at
AND o.depot = outcomes.depot AND o.known_at < outcomes.known_at + INTERVAL 1 DAY))"""
ENCODED = "FROM outcomes JOIN (SELECT courier, count(*) AS n FROM outcomes GROUP BY courier) USING (courier)"
NEWEST = "\nQUALIFY row_number() OVER (PARTITION BY depot ORDER BY known_at DESC) = 1"
NEXT = "lead(promised, 1, 30) OVER (PARTITION BY courier ORDER BY ordered_at) AS promised,"
CLOSED = "FROM deliveries WHERE ordered_at < (SELECT max(ordered_at) FROM deliveries) - INTERVAL 3 DAY"
LAST_MONTH = "late * CAST(known_at > (SELECT max(known_at) FROM outcomes) - INTERVAL 30 DAY AS INTEGER) AS label"

PLANTED: dict[str, tuple[Edit, str, str]] = {
    "90 days that follow": ((COURIER, WEEK, "CURRENT ROW AND INTERVAL 90 DAY FOLLOWING"), "courier_late_7d", "is"),
    "an hour that follows": ((COURIER, WEEK, "CURRENT ROW AND INTERVAL 1 HOUR FOLLOWING"), "courier_", "is"),
    "lead": (
        (DEPOT, "max(took)", "lead(max(took)) OVER (PARTITION BY depot ORDER BY known_at)"), "depot_last_took", "is"),
    "the whole partition": (
        (COURIER, COUNT, "sum(count(*)) OVER (PARTITION BY courier) AS courier_count_7d"), "courier_count_7d", "is"),
    "a later row joined": ((DEPOT, "max(took)", LATER), "depot_last_took", "is"),
    "target encoding": ((COURIER, "FROM outcomes", ENCODED), "courier_count_7d", "is"),
    "known too early": (
        (COURIER, "courier, known_at AS", "courier, known_at - INTERVAL 3 HOUR AS"),
        "the row of courier=", "present"),
    "known twenty minutes too early": (
        (COURIER, "courier, known_at AS", "courier, known_at - INTERVAL 20 MINUTE AS"),
        "the row of courier=", "present"),
    "the newest row alone": (
        (DEPOT, "1 DAY PRECEDING AND CURRENT ROW)", f"1 DAY PRECEDING AND CURRENT ROW){NEWEST}"),
        "the row of depot=", "absent"),
    "facts of all time": (
        (FACTS, "SELECT courier, vehicle, since FROM couriers", f"{ALL_TIME} GROUP BY courier"), "since of courier=",
        "is"),
    "a field of the spine": (("spine.sql", SPINE, SPINE.replace("promised,", NEXT)), "promised of decision=", "is"),
    "a spine of what came": (("spine.sql", "FROM deliveries", CLOSED), "the row of decision=", "present"),
    "a label of the end": (("label.sql", "late AS label", LAST_MONTH), "label of decision=", "is"),
}  # fmt: skip


def prepare_problem(
    tmp_path: Path, configure: Callable[..., None], *edits: Edit, days: int = 45
) -> tuple[Problem, Tables]:
    configure(home=tmp_path / "home", problems=tmp_path, problem="deliveries")
    rows = deliveries(days=days, a_day=60)
    folder = install(tmp_path, rows)
    for file, old, new in (*edits, ("problem.py", '"2024-02-10", validate_until="2024-02-20"',
                                    '"2024-01-20", validate_until="2024-01-30"')):  # fmt: skip
        assert old in (folder / file).read_text()
        (folder / file).write_text((folder / file).read_text().replace(old, new, 1))
    problem, tables = load_problem(), Tables()
    write_clean(problem, tables, "deliveries", rows)
    write_clean(problem, tables, "couriers", pd.read_json(folder / "data" / "couriers.jsonl", lines=True))
    return problem, tables


def snapshot(problem: Problem, tables: Tables) -> Proof:
    for view in problem.views:
        compute_view(problem, tables, view.name)
    clean = clean_versions(problem, tables)
    features = feature_versions(problem, tables, clean)
    taken = build_snapshot(problem, tables, clean=clean, features=features)
    proof = load_manifest(tables.store, taken).look_ahead
    assert proof is not None
    return proof


@pytest.mark.parametrize("name", list(PLANTED))
def test_planted_look_ahead_is_found(name: str, tmp_path: Path, configure: Callable[..., None]) -> None:
    edit, subject, verb = PLANTED[name]
    if name == "target encoding":
        more = (COURIER, COUNT, "max(n) AS courier_count_7d")
        problem, tables = prepare_problem(tmp_path, configure, edit, more)
    else:
        problem, tables = prepare_problem(tmp_path, configure, edit)
    with pytest.raises(LookAheadError) as raised:
        snapshot(problem, tables)
    error = raised.value
    assert f"looks ahead: {subject}" in error.what
    assert f" {verb}" in error.what
    assert "from all sources, and" in error.what
    assert error.where == edit[0]
    assert "decision" in error.what


def test_sql_without_look_ahead_passes_and_is_recorded_in_the_manifest(
    tmp_path: Path, configure: Callable[..., None]
) -> None:
    proof = snapshot(*prepare_problem(tmp_path, configure))
    assert proof.applies
    assert proof.moments == 12
    assert set(proof.rows) == {"courier_history", "depot_history", "spine", "label"}
    assert min(proof.rows.values()) > 300
    assert proof.sentence.startswith("Look-ahead: none on 12 sampled moments")


def test_a_label_computed_from_the_key_hides_no_key(tmp_path: Path, configure: Callable[..., None]) -> None:
    """The cut hides outcome cells. A key is no outcome, even if the label is computed from it."""
    edit = ("label.sql", "late AS label", "CAST(delivery % 10 < 3 AS INTEGER) AS label")
    proof = snapshot(*prepare_problem(tmp_path, configure, edit))
    assert set(proof.rows) == {"courier_history", "depot_history", "spine", "label"}


def test_late_rows_and_corrections_are_no_look_ahead(tmp_path: Path, configure: Callable[..., None]) -> None:
    problem, tables = prepare_problem(tmp_path, configure)
    rows = deliveries(days=45, a_day=60)
    more = deliveries(days=5, a_day=60, seed=3, first=100_000)
    corrected = rows.iloc[::7].assign(took=300)
    write_clean(problem, tables, "deliveries", pd.concat([corrected, more]))
    assert snapshot(problem, tables).unstable == ()


def test_a_view_with_no_lookback_and_one_that_is_too_short(tmp_path: Path, configure: Callable[..., None]) -> None:
    problem, tables = prepare_problem(tmp_path, configure, ("problem.py", "            lookback=days(9),\n", ""))
    assert snapshot(problem, tables).rows["courier_history"] > 5000
    (tmp_path / "other").mkdir()
    problem, tables = prepare_problem(
        tmp_path / "other", configure, ("problem.py", "lookback=days(9)", "lookback=days(2)")
    )
    with pytest.raises(FeatureError, match="the lookback is too short: view courier_history"):
        snapshot(problem, tables)


def test_rows_known_before_their_time_are_declared(tmp_path: Path, configure: Callable[..., None]) -> None:
    early: Edit = ("spine.sql", "ordered_at AS decision_time", "ordered_at - INTERVAL 2 HOUR AS decision_time")
    problem, tables = prepare_problem(tmp_path, configure, early)
    with pytest.raises(LookAheadError, match="known_ahead"):
        snapshot(problem, tables)
    ahead = timedelta(hours=2)
    rows = dataclasses.replace(problem.table("deliveries"), known_ahead=ahead)
    problem = dataclasses.replace(problem, tables=(rows, problem.table("couriers")))
    assert snapshot(problem, tables).rows["spine"] > 300
    # Such rows are known ahead with their outcomes, unless a column declares `known_ahead` itself.
    leak = problem.folder / COURIER
    leak.write_text(leak.read_text().replace("courier, known_at AS", "courier, known_at - INTERVAL 90 MINUTE AS"))
    took = dataclasses.replace(rows.columns["took"], known_ahead=timedelta(0))
    strict = dataclasses.replace(rows, columns={**rows.columns, "took": took})
    problem = dataclasses.replace(problem, tables=(strict, problem.table("couriers")))
    with pytest.raises(LookAheadError, match="the row of courier="):
        snapshot(problem, tables)


def test_a_proof_is_computed_once(
    tmp_path: Path, configure: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    problem, tables = prepare_problem(tmp_path, configure)
    first = snapshot(problem, tables)

    def never(*_: object) -> Proof:
        raise AssertionError("it was proven before")

    monkeypatch.setattr("truecourse.features.lookahead_proof.prove", never)
    assert snapshot(problem, tables) == first


def test_a_label_with_a_lookback_that_is_too_short(tmp_path: Path, configure: Callable[..., None]) -> None:
    """Monitoring would miss the labels of decisions that need an older row: here those of couriers who pause."""
    spine = (
        "spine.sql",
        "FROM deliveries",
        """FROM deliveries
    WHERE EXISTS (SELECT 1 FROM deliveries AS o WHERE o.courier = deliveries.courier
    AND o.ordered_at < deliveries.ordered_at - INTERVAL 2 DAY)""",
    )
    label = ("label.sql", "FROM outcomes", "FROM outcomes JOIN decisions ON decisions.id = delivery")
    named = ("problem.py", 'relations={"outcomes"', 'relations={"decisions": "spine.sql", "outcomes"')
    with pytest.raises(FeatureError, match=r"the label of decision \d+ is [01] from all rows, and missing from those"):
        snapshot(*prepare_problem(tmp_path, configure, spine, label, named))
    (tmp_path / "other").mkdir()
    longer = ("problem.py", "lookback=days(1)", "lookback=days(60)")
    assert snapshot(*prepare_problem(tmp_path / "other", configure, spine, label, named, longer)).applies


VIEWS = "    views=[\n"
AGGREGATIONS = """Aggregations("orders", table="deliveries", entity="courier", time="ordered_at",
    features={"ordered_7d": Count(window=days(7)), "%s": %s}),
"""


def with_aggregation(name: str, function: str) -> tuple[Edit, ...]:
    imported = "from truecourse.problem import (\n"
    names = "Aggregations, Count, Mean, Share,\n"
    declared = VIEWS + AGGREGATIONS % (name, function)
    return ("problem.py", imported, imported + names), ("problem.py", VIEWS, declared)


@pytest.mark.parametrize(
    ("function", "shown"),
    [
        ('Mean("took")', "took of courier="),
        ('Share("took > promised", window=days(7))', "took > promised of courier="),
        ('Count(where="took > 20")', "took > 20 of courier="),
    ],
)
def test_aggregations_of_an_outcome_that_came_later_look_ahead(
    function: str, shown: str, tmp_path: Path, configure: Callable[..., None]
) -> None:
    problem, tables = prepare_problem(tmp_path, configure, *with_aggregation("leak", function))
    with pytest.raises(LookAheadError) as raised:
        snapshot(problem, tables)
    assert f"aggregations orders looks ahead: {shown}" in raised.value.what
    assert "from all sources, and" in raised.value.what
    assert "used this value" in raised.value.what
    assert raised.value.where == "problem.py views.orders"


def test_aggregations_of_what_was_known_pass_with_late_rows_and_corrections(
    tmp_path: Path, configure: Callable[..., None]
) -> None:
    problem, tables = prepare_problem(tmp_path, configure, *with_aggregation("far", 'Mean("distance")'))
    rows = deliveries(days=45, a_day=60)
    changed = rows.iloc[100:150].assign(distance=99.0)
    late = rows.iloc[200:230].assign(delivery=range(90_000, 90_030))
    write_clean(problem, tables, "deliveries", pd.concat([changed, late]))
    proof = snapshot(problem, tables)
    assert proof.unstable == ()
    assert proof.rows["orders"] > 1000
