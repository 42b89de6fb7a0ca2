"""Edits of a table's columns keep rows, values and earlier versions, and recompute only the views that read them."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from cli.main import execute
from tasks.features.load_online import load_for_models
from tasks.features.trained_features import rows_as_trained
from tasks.scoring.score_decisions import score_decisions
from tasks.scoring.score_files import score_file
from tasks.training.build_snapshot import build_snapshot
from tasks.training.reproduce import reproduce
from tasks.training.trace import trace_model
from tasks.training.train import train_model
from tests.conftest import existing
from tests.edited_orders import (
    ANONYMOUS,
    CORRECTED,
    DECIMAL,
    PHONE,
    Rows,
    install,
    orders,
    replace_text,
    rows_of,
    run_data,
)
from tests.table_edits import ALL, AMOUNT, EDITS, Edit, edit_columns
from tests.unevaluated_versions import set_champion
from truecourse.authoring.checks.run_checks import require_valid
from truecourse.authoring.table_changes import plan_changes
from truecourse.data.sql import clean_versions
from truecourse.data.validation_report import TableResult, read_result
from truecourse.errors import FeatureError, ModelError, ValidationFailed
from truecourse.features.definition_digests import feature_table
from truecourse.features.feature_tables import compute_view
from truecourse.hashing import sha256
from truecourse.modeling.snapshot import load_frame, load_manifest
from truecourse.modeling.training import train
from truecourse.problem import Problem
from truecourse.problem.loader import load_problem
from truecourse.references import ModelVersion, TableVersion, Window
from truecourse.registry import aliases, runs
from truecourse.registry import versions as registry
from truecourse.registry.trained_problem import archived_problem
from truecourse.retention import collect
from truecourse.serving.batch_scoring import ROW, SCORE
from truecourse.settings import get_settings
from truecourse.storage.delta_tables import Tables, clean_table, quarantine_table, raw_table

Configure = Callable[..., None]


def train_version(problem: Problem) -> ModelVersion:
    tables = Tables()
    clean = clean_versions(problem, tables)
    features = {view.name: compute_view(problem, tables, view.name) for view in problem.views}
    snapshot = build_snapshot(problem, tables, clean=clean, features=features)
    return registry.create_version(train_model.fn(problem.name, snapshot))


def assert_rebuilt(version: ModelVersion, folder: Path) -> None:
    """Require that a version's pinned tables and archived problem give the same frame and model again."""
    tables, run = Tables(), runs.trained_run("orders", version.run_id)
    manifest, own = load_manifest(tables.store, run.snapshot), archived_problem(version, folder)
    clean, features = manifest.versions("clean"), manifest.versions("features")
    assert build_snapshot(own, tables, clean=clean, features=features, proof=manifest.look_ahead) == run.snapshot
    model = train(own, load_frame(tables.store, run.snapshot), own.model).model
    assert sha256(model.ubj()) == version.model_sha256


WEEK = Window(start=datetime(2026, 2, 5), end=datetime(2026, 2, 12))


def score_both(version: ModelVersion, folder: Path, window: Window = WEEK) -> dict[str, tuple[float, float]]:
    """Score the decisions of a window, and the same rows in a file. The two scores of each decision by id."""
    decided = Tables().read(score_decisions.fn("orders", version.version, window, explain=False)).to_pandas()
    times = decided["decision_time"].dt.tz_localize(None)
    decided = decided[decided[ROW].isna() & (times >= window.start) & (times < window.end)].sort_values("id")
    file = folder / "rows.csv"
    decided[["id", "decision_time", "customer", "channel"]].to_csv(file, index=False)
    written = score_file.fn("orders", str(file), version.version, explain=False)
    assert (written.scored, written.rejected) == (len(decided), 0)
    scored = Tables().read(written.predictions).to_pandas()
    filed = scored[scored[ROW].notna() & scored["id"].isin(decided["id"])].sort_values("id")
    assert filed["id"].tolist() == decided["id"].tolist()
    assert len(decided) > 30
    return dict(zip(decided["id"], zip(decided[SCORE], filed[SCORE], strict=True), strict=True))


@dataclass(frozen=True)
class World:
    """`scores`: of the first version before any edit."""

    folder: Path
    first: ModelVersion
    scores: dict[str, tuple[float, float]]

    def edit(self, edit: Edit) -> Problem:
        for file, old, new in edit.replacements:
            replace_text(self.folder / file, old, new)
        problem = load_problem()
        require_valid(problem)
        return problem


@pytest.fixture(scope="module")
def trained_orders(tmp_path_factory: pytest.TempPathFactory) -> World:
    base = tmp_path_factory.mktemp("orders")
    install(base / "problems")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("HOME", base / ".truecourse"), ("PROBLEMS", base / "problems"), ("PROBLEM", "orders")):
            patch.setenv(f"TRUECOURSE_{name}", str(value))
        get_settings.cache_clear()
        run_data(load_problem())
        version = train_version(load_problem())
        set_champion(version)
        scores = score_both(version, base)
    get_settings.cache_clear()
    return World(base, version, scores)


@pytest.fixture
def world(trained_orders: World, tmp_path: Path, configure: Configure) -> World:
    shutil.copytree(trained_orders.folder, tmp_path, dirs_exist_ok=True)
    configure(home=tmp_path / ".truecourse", problems=tmp_path / "problems", problem="orders")
    return replace(trained_orders, folder=tmp_path / "problems" / "orders")


class Killed(BaseException):
    pass


def run_killed(problem: Problem, monkeypatch: pytest.MonkeyPatch) -> dict[str, TableResult]:
    """Ingest and validate; the first run is killed after its first commit, the next one after its second, and so on."""
    real, left = Tables._write, 0

    def write(self: Tables, *args: Any, **options: Any) -> TableVersion:
        nonlocal left
        version = real(self, *args, **options)
        left -= 1
        if left == 0:
            raise Killed
        return version

    for number in range(1, 9):
        left = number
        with monkeypatch.context() as patch:
            patch.setattr(Tables, "_write", write)
            try:
                return run_data(problem)
            except Killed:
                continue
    raise AssertionError("the run never ended")


def assert_nothing_lost(before: dict[str, Rows], after: dict[str, Rows], edit: Edit) -> None:
    renamed = dict(edit.renamed)
    for table, rows in before.items():
        assert rows.keys() <= after[table].keys()
        for number, row in rows.items():
            now = after[table][number]
            for name, value in row.items():
                if name not in edit.removed:
                    found = now[renamed.get(name, name)]
                    assert _same(value, found), (table, number, name, value, found)


def _same(value: Any, found: Any) -> bool:
    if isinstance(found, str) and not isinstance(value, str) and value is not None:
        return found.lstrip("0") == str(value).lower()
    return bool(value == found)


def test_the_first_version_has_the_expected_rows(world: World) -> None:
    quarantined = {row["_tc_row"] for row in rows_of("orders", quarantine_table).values()}
    assert quarantined == {DECIMAL, ANONYMOUS, PHONE}
    corrected = [row for row in rows_of("orders").values() if row["number"] == CORRECTED]
    assert [row["amount"] for row in corrected if row["_tc_superseded_at"] is None] == [1000]
    assert len(corrected) == 2
    assert trace_model("orders", world.first.version)["verified"]


@pytest.mark.parametrize("name", list(EDITS))
def test_an_edit_keeps_rows_and_versions(
    name: str, world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    edit, tables = EDITS[name], Tables()
    former = load_problem()
    before = {table: rows_of(table) for table in ("orders", "customers")}
    raw = {table: rows_of(table, raw_table) for table in ("orders", "customers")}
    names = {view.name: feature_table(former, view.name) for view in former.views}
    computed = {view: len(tables.commits(name)) for view, name in names.items()}
    problem = world.edit(edit)
    run_killed(problem, monkeypatch)
    assert_nothing_lost(before, {table: rows_of(table) for table in before}, edit)
    now = {table: rows_of(table, raw_table) for table in raw}
    assert {table: rows.keys() for table, rows in raw.items()} == {table: rows.keys() for table, rows in now.items()}
    quarantined = {DECIMAL, ANONYMOUS, PHONE} - {*edit.returned}
    assert set(rows_of("orders", quarantine_table)) == quarantined
    assert set(rows_of("orders")) == (before["orders"].keys() | {*edit.returned})
    results = [read_result(tables.store, "orders", "orders", number) for number in (0, 1)]
    warnings = [line for result in results if result is not None for line in result.warnings]
    assert edit.reported in "\n".join(warnings) if edit.reported else not warnings, warnings
    for table in problem.tables:
        newest = tables.commits(clean_table("orders", table.name))[-1][1]
        changed = tables.commits(clean_table("orders", table.name))[1:]
        assert len(changed) <= 1, "an edit is one commit"
        assert (newest["edits"] != []) == bool(changed)
    assert all(not result.validated for result in run_data(problem).values()), "nothing new"

    second = train_version(problem)
    for view in problem.views:
        same = feature_table(problem, view.name) == names[view.name]
        kept = same and not any(c["rows"] for _, c in tables.commits(names[view.name])[computed[view.name] :])
        assert kept == (view.name in edit.kept), view.name
    for version in (world.first, second):
        assert trace_model("orders", version.version)["verified"]
    assert_rebuilt(world.first, tmp_path / "first")
    set_champion(second)
    assert aliases.roll_back("orders", "it was better").champion == world.first
    if edit.kept != ALL:
        assert score_both(world.first, world.folder) == world.scores


LOST = ("remove a column that a view reads", "rename and widen a column", "widen a category to text")


def deliver_more(folder: Path, rows: pd.DataFrame, drop: str = "") -> None:
    """Deliver rows in a new file, and compute the views."""
    rows.drop(columns=[drop] if drop else []).to_csv(folder / "data" / "orders-9.csv", index=False)
    run_data(load_problem())


def test_an_earlier_version_gets_new_rows_as_if_nothing_was_edited(world: World, tmp_path: Path) -> None:
    """Its features and decisions after three edits, of new rows, corrections and rows that its types cannot read."""
    more = orders(390, 80, "2026-02-25", 9).assign(region="north")  # ten corrections, and late rows
    month = Window(start=datetime(2026, 2, 25), end=datetime(2026, 3, 27))
    more.loc[20, "amount"] = "7.25"
    unedited = tmp_path / "unedited"
    shutil.copytree(tmp_path / ".truecourse", unedited / ".truecourse")
    shutil.copytree(tmp_path / "problems", unedited / "problems")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("HOME", unedited / ".truecourse"), ("PROBLEMS", unedited / "problems")):
            patch.setenv(f"TRUECOURSE_{name}", str(value))
        get_settings.cache_clear()
        deliver_more(unedited / "problems" / "orders", more)
        for view in load_problem().views:
            compute_view(load_problem(), Tables(), view.name)
        expected = score_both(world.first, unedited, month)
    get_settings.cache_clear()
    for name in LOST:
        world.edit(EDITS[name])
        run_data(load_problem())
    deliver_more(world.folder, more.rename(columns={"amount": "value"}))
    found = score_both(world.first, world.folder, month)
    assert found.keys() - expected.keys() == {"410"}, "its decision is known, and only the views leave its amount out"
    assert {id: scores for id, scores in found.items() if id != "410"} == expected
    assert len(expected) > 60


@pytest.mark.parametrize("earlier", [True, False], ids=["with an earlier version", "without"])
def test_values_whose_bytes_expired_are_read_from_an_earlier_version(earlier: bool, world: World) -> None:
    world.edit(EDITS["remove a column that a view reads"])
    run_data(load_problem())
    tables, raw = Tables(), raw_table("orders", "orders")
    for key in list(tables.store.list("sources/orders/orders/")):
        tables.store.delete(key)
    if earlier:
        assert score_both(world.first, world.folder) == world.scores
        return
    kept = set(tables.files(existing(tables.version(raw))))
    replaced = [file for number in (0, 1) for file in tables.files(TableVersion(name=raw, version=number))]
    tables.delete_files(raw, set(replaced) - kept)
    with pytest.raises(FeatureError, match=r"former values are unknown: delivery 0 .*its bytes have expired"):
        score_both(world.first, world.folder)


@pytest.mark.parametrize(
    ("drop", "fault"), [("express", "delivery 2 .*has no column 'express'"), ("", "12 rows of later deliveries differ")]
)
def test_a_delivery_without_former_values_is_refused(
    world: World, drop: str, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    world.edit(EDITS["remove a column that a view reads"])
    run_data(load_problem())
    again = pd.read_csv(world.folder / "data" / "orders-2.csv", dtype=str).iloc[50:62]
    express = np.where(again["express"] == "true", "false", "true")
    deliver_more(world.folder, again.assign(express=express), drop)
    with pytest.raises(FeatureError, match=fault) as refused:
        score_both(world.first, world.folder)
    assert "run score --source" in str(refused.value)
    rows = load_frame(Tables().store, runs.trained_run("orders", world.first.run_id).snapshot)
    with pytest.raises(ModelError, match="features express_last were redefined, and computing the old definition"):
        rows_as_trained(load_problem(), world.first, rows)
    assert load_for_models.fn("orders", datetime(2026, 3, 10, tzinfo=UTC)) == [1], "the other views are loaded"
    assert "version 1 gets no new values of view haste: " in caplog.text


def test_stored_rows_are_quarantined_when_asked(world: World) -> None:
    problem = world.edit(EDITS["tighten a range"])
    run_data(problem)
    tables, broken = Tables(), {number for number, row in rows_of("orders").items() if row["amount"] > 90}
    assert len(broken) > 10
    assert broken <= rows_of("orders").keys()
    world.edit(edit_columns('key=["number"],', 'key=["number"], max_quarantined=0.2,'))
    result = run_data(load_problem(), recheck=True)["orders"]
    assert [one.refused for one in result.validated] == [(), ()]
    assert not any(one.warnings for one in result.validated)
    assert broken <= rows_of("orders", quarantine_table).keys()
    assert not broken & rows_of("orders").keys()
    assert sorted(rows_of("orders").keys() | rows_of("orders", quarantine_table).keys()) == list(range(401))
    assert not run_data(load_problem())["orders"].validated
    versions = tables.commits(clean_table("orders", "orders"))
    assert len(versions) == 3
    assert trace_model("orders", world.first.version)["verified"]


def test_a_recheck_that_refuses_changes_nothing(world: World) -> None:
    problem = world.edit(edit_columns(AMOUNT, '"amount": Integer(ge=0, le=9)'))
    run_data(problem)
    before = rows_of("orders"), rows_of("orders", quarantine_table)
    with pytest.raises(ValidationFailed, match="accepted before would be refused"):
        run_data(problem, recheck=True)
    assert (rows_of("orders"), rows_of("orders", quarantine_table)) == before


def test_every_version_of_a_chain_of_edits_is_reproduced_from_its_sources(
    world: World, configure: Callable[..., None]
) -> None:
    """Rules are tightened, loosened and tightened again between deliveries; columns come, go and are renamed."""
    steps = (
        ("tighten a range", "add a column that may be null"),
        ("rename the key", "widen a category to text", "forbid null"),
        ("remove a column that a view reads", "widen an integer to text"),
    )
    versions = [world.first]
    world.edit(edit_columns('key=["number"],', 'max_quarantined=0.2, key=["number"],'))
    for number, names in enumerate(steps):
        for name in names:
            problem = world.edit(EDITS[name])
            run_data(problem)
        more = orders(1000 * (number + 1), 50, f"2026-03-{3 + number:02d}", number).assign(region="south", note="x")
        more.to_csv(world.folder / "data" / f"orders-{3 + number}.csv", index=False)
        results = run_data(problem)["orders"]
        assert [one.refused for one in results.validated] == [()]
        versions.append(train_version(problem))
    assert len({version.run_id for version in versions}) == 4
    for version in versions:
        aliases.move(aliases.current("orders"), "orders", "promote", "the next", champion=version)
    configure(table_retention=1, source_retention=1, model_retention=1)
    removed = collect.make_plan("orders", datetime.now(UTC) + timedelta(days=2)).carry_out()
    assert removed, "there are files that no version needs"
    for version in (versions[0], *versions[2:]):
        rebuilt = reproduce("orders", version.version, "source")
        assert rebuilt["state"] == "verified", [link for link in rebuilt["links"] if not link["verified"]]
        assert rebuilt["identical"]


def planned(problem: Problem, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """What `truecourse check` says, as JSON; the command must print the same sentences."""
    assert execute(["check", "--json"]) == 0
    changes: dict[str, Any] = json.loads(capsys.readouterr().out)["changes"]
    assert execute(["check"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert all(" ".join(line.split()) in printed for line in plan_changes(problem, Tables()).sentences())
    return changes


def test_check_says_what_an_edit_does(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert planned(load_problem(), capsys) == {"tables": [], "views": {"recomputed": [], "kept": []}}
    before = sorted(Tables().store.list(""))
    world.edit(EDITS["add a column that may be null"])
    world.edit(EDITS["tighten categories, of a severity that refuses"])
    problem = world.edit(EDITS["rename and widen a column"])
    changes = planned(problem, capsys)
    assert sorted(Tables().store.list("")) == before, "nothing is written"
    (orders_change,) = changes["tables"]
    kinds = {(edit["kind"], edit["column"]) for edit in orders_change["edits"]}
    assert {("added", "region"), ("tightened", "channel"), ("renamed", "value"), ("widened", "value")} <= kinds
    effects = orders_change["effects"]
    assert effects[0] == "region is null in 200 rows of 1 of 2 deliveries, all before 2026-01-31"
    assert "break “one of web” of channel; they stay, unless validate --recheck" in effects[1]
    assert effects[2] == "1 quarantined row may return: the rule that it broke changed"
    assert changes["views"] == {"recomputed": ["spend"], "kept": ["haste", "facts"]}
    stayed = int(effects[1].split()[0])
    assert stayed == sum(row["channel"] != "web" and not row["_tc_superseded_at"] for row in rows_of("orders").values())
    run_data(problem)
    assert planned(problem, capsys)["tables"] == []
    null = [row for row in rows_of("orders").values() if row["region"] is None]
    assert max(row["ordered_at"] for row in null).strftime("%Y-%m-%d") < "2026-01-31"
