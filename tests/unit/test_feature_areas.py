"""Faults of feature areas and of problems that use their views, and what an edit of an area changes for a problem."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from cli.main import execute
from tests import shared_area
from tests.edited_orders import replace_text
from truecourse.authoring.checks.run_checks import check_area, check_problem
from truecourse.catalogue.page import publish
from truecourse.catalogue.records import PAGE
from truecourse.errors import AreaError, ProblemError
from truecourse.features.definition_digests import feature_definitions, feature_table
from truecourse.problem.loader import load_area, load_namespace, load_problem, problem_digest
from truecourse.storage.delta_tables import Tables

LEAVING, AREA = "problems/leaving/problem.py", "feature_views/customers/area.py"


@pytest.fixture
def root(tmp_path: Path, configure: Callable[..., None]) -> Path:
    configure(home=tmp_path / "home", problems=shared_area.install(tmp_path), problem="leaving")
    return tmp_path


def test_the_area_and_its_problems_have_no_faults(root: Path) -> None:
    assert check_area(load_area("customers")) == []
    for name in shared_area.USERS:
        assert check_problem(load_problem(name)) == []
    assert load_namespace("customers") == load_area("customers")
    assert [v.name for v in load_problem("growth").views] == ["announced", "orders"]
    assert load_problem("growth").owner_of(load_problem("growth").view("orders")) == "sales"


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        (LEAVING, "customers.orders", "clients.orders", "there is no feature area 'clients'"),
        (LEAVING, "customers.orders", "customers.order", "feature area customers has no view 'order'"),
        (LEAVING, '"customers.last_order"', '"customers.orders"', "two views of the problem are called 'orders'"),
        (AREA, '"customers",\n    owner', '"clients",\n    owner', "its name is 'clients'"),
        (AREA, "AREA = ", "AREAS = ", "defines no AREA"),
    ],
)
def test_an_unknown_name_is_refused_with_its_place(root: Path, file: str, old: str, new: str, message: str) -> None:
    replace_text(root / file, old, new)
    with pytest.raises(ProblemError, match=message):
        load_problem("leaving")


def test_an_area_and_a_problem_have_different_names(root: Path) -> None:
    (root / "problems" / "leaving").rename(root / "problems" / "customers")
    for load in (load_area, load_problem):
        with pytest.raises(ProblemError, match="a problem and a feature area called 'customers'"):
            load("customers")


@pytest.mark.parametrize(
    ("file", "old", "new", "where", "what"),
    [
        (
            LEAVING,
            '"customer": Text(feature=False), ',
            "",
            "problem.py shared_views.customers.orders",
            "is not a request",
        ),
        (
            LEAVING,
            '"customer": Text(feature=False)',
            '"customer": Boolean()',
            "problem.py shared_views.customers",
            "in area",
        ),
        (
            LEAVING,
            'request={"',
            'request={"last_amount": Text(), "',
            "shared_views.customers.last_order",
            "also declared",
        ),
        (
            AREA,
            'table="orders"',
            'table="order"',
            "feature_views/customers/area.py views.orders.table",
            "no table 'order'",
        ),
        (
            AREA,
            'Entity("customer")',
            'Entity("client")',
            "feature_views/customers/area.py views",
            "no entity 'customer'",
        ),
        ("feature_views/customers/bought.sql", "amount", "sum", "feature_views/customers/bought.sql", "sum"),
    ],
)
def test_every_fault_has_its_place(root: Path, file: str, old: str, new: str, where: str, what: str) -> None:
    replace_text(root / file, old, new)
    faults = check_problem(load_problem("leaving"))
    assert [fault for fault in faults if where in fault.where and what in fault.what], faults


def test_a_view_with_time_needs_decisions_with_time(root: Path) -> None:
    replace_text(root / "problems/segments/problem.py", "customers.facts", "customers.last_order")
    (fault,) = check_problem(load_problem("segments"))
    assert fault.where == "problem.py shared_views.customers.last_order"


@pytest.mark.parametrize(
    ("old", "new", "changed"),
    [
        ('owner="sales"', 'owner="logistics"', set()),
        ('description="what customers', 'description="all that customers', set()),
        ('tags=["sales", "orders"]', "tags=[]", set()),
        ('"joined": Integer()}', '"joined": Float()}', {"segments"}),
        ("Count(window=days(90))", "Count(window=days(60))", {"leaving", "growth"}),
        ('{"last_amount": Float("EUR")}', '{"last_paid": Float("EUR")}', {"leaving"}),
    ],
)
def test_a_problem_depends_only_on_the_views_that_it_uses(root: Path, old: str, new: str, changed: set[str]) -> None:
    before = {name: problem_digest(load_problem(name)) for name in shared_area.USERS}
    tables = {name: feature_table(load_problem(name), "orders") for name in ("leaving", "growth")}
    text = (root / AREA).read_text()
    assert old in text
    (root / AREA).write_text(text.replace(old, new))
    now = {name: problem_digest(load_problem(name)) for name in shared_area.USERS}
    if '"joined"' not in old:  # a table that the orders refer to; their features are not affected
        assert {name for name in now if now[name] != before[name]} == changed
    assert changed <= {name for name in now if now[name] != before[name]}
    moved = {name for name, table in tables.items() if feature_table(load_problem(name), "orders") != table}
    assert moved == ({"leaving", "growth"} if "Count" in old else set())


def test_a_broken_area_says_so(root: Path) -> None:
    (root / AREA).write_text("AREA = FeatureArea(")
    with pytest.raises(AreaError, match="feature area customers"):
        load_problem("leaving")
    with pytest.raises(AreaError, match="no such file"):
        load_area("clients")


def test_the_catalogue_says_what_an_area_is_and_who_uses_its_views(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tables = Tables()
    for name in ("leaving", "growth", "segments"):
        publish(tables, load_problem(name))
    assert execute(["features", "--json"]) == 0
    (area,) = json.loads(capsys.readouterr().out)["areas"]
    assert (area["owner"], area["tags"]) == ("sales", ["sales", "orders"])
    assert area["folder"] == "feature_views/customers"
    users = {"orders": ["growth", "leaving"], "last_order": ["leaving"], "facts": ["segments"]}
    assert {view["name"]: view["problems"] for view in area["views"]} == users
    assert execute(["features", "customers", "--problem", "leaving", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert {(one["area"], one["view"]) for one in document["features"]} == {
        ("customers", "orders"), ("customers", "last_order")
    }  # fmt: skip
    assert execute(["features", "customers.orders", "--problem", "growth"]) == 0
    assert "orders_90d" in capsys.readouterr().out
    assert execute(["features"]) == 0
    assert "feature area customers: what customers ordered; owner sales; tags sales, orders" in capsys.readouterr().out
    page = re.sub(r"\s+", " ", tables.store.get(PAGE).decode())
    section = page[page.index('id="feature-areas.customers"') :]
    assert "Owner: sales. Tags: sales, orders." in section
    for view, problems in users.items():
        row = section[section.index(f'<th scope="row">{view}') :].partition("</tr>")[0]
        assert re.findall(r'<a href="#([^"]+)">', row) == [f"{problem}.{view}" for problem in problems]
        assert all(f'id="{problem}.{view}"' in page for problem in problems)


def test_features_of_a_shared_view_are_defined_alike_in_every_problem(root: Path) -> None:
    one, other = (feature_definitions(load_problem(name)) for name in ("leaving", "growth"))
    assert {name for name in one if one[name] == other.get(name)} == set(load_area("customers").view("orders").features)
