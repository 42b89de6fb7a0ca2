"""The feature catalogue: every feature once, with the figures of its tables and versions, and no invented ones."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pytest

from cli.main import execute
from tasks.training.evaluate_model import page_key
from tests import edited_orders, simulated_deliveries, simulated_orders, static_tables
from tests.integration.conftest import Trained
from truecourse.catalogue.build import build_catalogue
from truecourse.catalogue.declared_features import LABEL
from truecourse.catalogue.page import load_entry
from truecourse.catalogue.records import PAGE, Catalogue, Feature
from truecourse.features.definition_digests import feature_table
from truecourse.modeling.snapshot import load_frame
from truecourse.monitoring.dashboard.control_page import page_key as control_key
from truecourse.monitoring.dashboard.index import INDEX
from truecourse.problem.loader import load_problem
from truecourse.registry import runs
from truecourse.storage.delta_tables import Tables

INSTALL: dict[str, Callable[[Path], object]] = {
    "deliveries": simulated_deliveries.install,
    "wine": static_tables.install_wine,
    "diabetes": static_tables.install_diabetes,
    "churn": lambda problems: simulated_orders.install(problems, simulated_orders.orders(50)),
    "orders": edited_orders.install,
}


def catalogue(before: Catalogue | None = None) -> Catalogue:
    return build_catalogue(load_problem(), Tables(), before)


def features_of(found: Catalogue) -> dict[str, Feature]:
    return {one.name: one for group in found.groups for one in group.features}


@pytest.mark.parametrize("name", list(INSTALL))
def test_every_feature_is_listed_once_and_no_figure_is_invented(
    name: str, tmp_path: Path, configure: Callable[..., None]
) -> None:
    INSTALL[name](tmp_path)
    configure(home=tmp_path / "home", problems=tmp_path, problem=name)
    problem, found = load_problem(), catalogue()
    names = [one.name for group in found.groups for one in group.features]
    assert names == [*problem.features, LABEL]
    assert {one.name: group.name for group in found.groups[:-1] for one in group.features} == problem.feature_groups
    for group in found.groups:
        assert (group.rows, group.newest, group.computed, group.cost) == (None, None, None, None)
        for one in group.features:
            assert (one.distribution, one.uses) == (None, ())
            assert one.origins is not None
            assert one.type
    assert Catalogue.model_validate_json(found.model_dump_json(exclude_defaults=True)) == found


def test_aggregations_show_function_window_and_columns(tmp_path: Path, configure: Callable[..., None]) -> None:
    INSTALL["churn"](tmp_path)
    configure(home=tmp_path / "home", problems=tmp_path, problem="churn")
    problem = load_problem()
    view = next(each for each in problem.views if hasattr(each, "table"))
    group = next(group for group in catalogue().groups if group.name == view.name)
    assert group.kind == "aggregation"
    assert group.ttl is None
    for one in group.features:
        function: Any = view.features[one.name]
        assert one.function.startswith(type(function).__name__)
        assert one.window == (function.window.total_seconds() if function.window else None)
        value = getattr(function, "value", None)
        if value in problem.table(group.tables[0]).columns:
            assert f"{group.tables[0]}.{value}" in (one.origins or ())


def test_figures_are_those_of_tables_frame_and_versions(trained: Trained) -> None:
    found, problem, tables = catalogue(), load_problem(), Tables()
    run = runs.trained_run("deliveries")
    frame = load_frame(tables.store, run.snapshot)
    report = json.loads(runs.artifact(run.run_id, "report.json"))
    for name, one in features_of(found).items():
        assert one.distribution is not None
        assert one.distribution.total.rows == len(frame) == sum(part.rows for part in one.distribution.periods)
        assert one.distribution.total.missing == frame[name].null_count
        use = next(use for use in one.uses if use.version == trained.version.version)
        assert use.definition == "same"
        assert use.contribution == (None if name == LABEL else pytest.approx(report["contributions"][name]))
    last_took = features_of(found)["depot_last_took"]
    assert last_took.origins == ("deliveries.took",)
    assert last_took.distribution is not None
    assert last_took.distribution.total.quantiles[2] == pc.quantile(frame["depot_last_took"], 0.5)[0].as_py()
    largest = sorted(report["contributions"].values(), reverse=True)
    for name in problem.features:
        assert features_of(found)[name].uses[-1].rank == 1 + largest.index(report["contributions"][name])
    for group in found.groups:
        if group.kind == "view feature":
            version = tables.version(feature_table(problem, group.name))
            assert version is not None
            assert (group.table, group.rows) == (str(version), tables.read(version).num_rows)
            assert (group.newest is None) == group.timeless
            assert group.cost is not None
            assert group.cost.last.version == version.version
    assert catalogue(found).groups == found.groups


def test_the_page_is_linked_from_index_control_and_model_page(trained: Trained) -> None:
    store = Tables().store
    stored, page = load_entry(store, "deliveries"), store.get(PAGE).decode()
    assert stored is not None
    ids = set(re.findall(r'id="([^"]+)"', page))
    assert {f"deliveries.{group.name}.{one.name}" for group in stored.groups for one in group.features} <= ids
    assert 'href="features.html"' in store.get(INDEX).decode()
    assert 'href="../features.html#deliveries"' in store.get(control_key("deliveries")).decode()
    model = store.get(page_key(runs.trained_run("deliveries"))).decode()
    linked = set(re.findall(r'href="\.\./features\.html#([^"]+)"', model))
    assert len(linked) > len(load_problem().features)
    assert linked <= ids


@pytest.fixture
def edited(trained: Trained, tmp_path: Path, configure: Callable[..., None]) -> Path:
    """A copy of the trained problem, with the trained home; its problem.py."""
    shutil.copytree(trained.problems, tmp_path / "problems")
    configure(home=trained.home, problems=tmp_path / "problems", problem="deliveries")
    return tmp_path / "problems" / "deliveries" / "problem.py"


def replace(file: Path, old: str, new: str) -> None:
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new, 1))


def test_a_redefined_view_has_no_figures_of_its_earlier_definition(edited: Path) -> None:
    replace(edited.parent / "features" / "courier_history.sql", "INTERVAL 7 DAY", "INTERVAL 6 DAY")
    found = catalogue()
    group = next(group for group in found.groups if group.name == "courier_history")
    assert (group.rows, group.cost, group.table) == (None, None, "")
    for one in group.features:
        assert one.distribution is None
        assert {use.definition for use in one.uses} == {"earlier"}
    assert features_of(found)["depot_late_1d"].distribution is not None


def test_values_of_private_fields_and_of_what_is_computed_from_them_are_not_shown(edited: Path) -> None:
    replace(edited, '"distance": Float(ge=0),\n    }', '"distance": Float(ge=0, private="hash"),\n    }')
    found = features_of(catalogue())
    for name in ("distance", "km_a_minute"):
        one = found[name]
        assert one.private
        assert one.distribution is not None
        assert [part.quantiles for part in (one.distribution.total, *one.distribution.periods)].count(()) > 1
        assert not any(part.quantiles for part in one.distribution.periods)
        assert one.distribution.total.missing_share == 0
    assert not found["promised"].private


def answer(capsys: pytest.CaptureFixture[str], *words: str, status: int = 0) -> Any:
    capsys.readouterr()
    assert execute(["features", *words, "--json"]) == status
    return json.loads(capsys.readouterr().out)


def test_the_command_lists_views_and_features(edited: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (edited.parents[1] / "broken").mkdir()
    (edited.parents[1] / "broken" / "problem.py").write_text("PROBLEM = 1\n")
    every = answer(capsys)
    names = {(one["view"], one["name"]) for one in every["features"] if one["problem"] == "deliveries"}
    assert names == {*((group, name) for name, group in load_problem().feature_groups.items()), (LABEL, LABEL)}
    assert [one["problem"] for one in every["invalid"]] == ["broken"]
    view = answer(capsys, "depot_history", "--problem", "deliveries")
    assert [one["name"] for one in view["features"]] == ["depot_late_1d", "depot_last_took"]
    (one,) = answer(capsys, "depot_history.depot_late_1d", "--problem", "deliveries")["features"]
    assert one == answer(capsys, "depot_late_1d", "--problem", "deliveries")["features"][0]
    assert "SELECT" in one["code"]
    assert one["rows"] > 0
    wrong = answer(capsys, "depot_histroy", "--problem", "deliveries", status=1)
    assert "depot_history" in wrong["error"]["hint"]
    assert answer(capsys, "--problem", "broken", status=1)["error"]["kind"] == "ProblemError"
    capsys.readouterr()
    assert execute(["features", "depot_history.depot_late_1d", "--problem", "deliveries"]) == 0
    shown = capsys.readouterr().out
    for words in ("share late", "deliveries.took", "12 hours", "CPU seconds", "version 1 (champion)", "2024-01-01"):
        assert words in shown
