"""Where a subject is looked for: in problems and feature areas that name it, and along the entities that they share."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests import shared_area
from tests.edited_orders import replace_text
from truecourse.erasure.subject import declared_keys
from truecourse.erasure.targets import Targets, find_targets
from truecourse.errors import SettingsError
from truecourse.problem.loader import load_area, load_problem

EVERYWHERE = {"customers", "growth", "leaving", "segments"}
GROWTH = "problems/growth/problem.py"


@pytest.fixture
def root(tmp_path: Path, configure: Callable[..., None]) -> Path:
    configure(home=tmp_path / "home", problems=shared_area.install(tmp_path), problem="leaving")
    return tmp_path


def names(targets: Targets) -> set[str]:
    return {one.namespace.name for one in targets.found}


@pytest.mark.parametrize("name", ["customer", "customers.customer"])
def test_a_subject_of_an_area_is_one_in_every_problem_that_uses_it(root: Path, name: str) -> None:
    found = find_targets(name, ["c007"])
    assert names(found) == EVERYWHERE
    assert found.keys == {name: ("c007",)}
    for one in found.found:
        assert [(part.name, part.text) for part in one.subject.parts] == [("customer", "c007")]


def test_a_subject_is_followed_from_a_problem_to_the_area_and_to_its_other_problems(root: Path) -> None:
    """The problem's own entity has another name; its key is the field by which it uses the area."""
    replace_text(root / GROWTH, 'Entity("customer")', 'Entity("client", keys=["customer"])')
    replace_text(root / GROWTH, 'entity="customer"', 'entity="client"')
    found = find_targets("client", ["c007"])
    assert names(found) == EVERYWHERE
    assert found.keys == {"client": ("c007",), "customers.customer": ("c007",)}
    assert names(find_targets("customer", ["c007"])) == EVERYWHERE


def test_a_table_is_chosen_by_the_name_of_its_problem_or_area(root: Path) -> None:
    assert names(find_targets("orders", ["17"])) == {"customers", "growth"}
    assert names(find_targets("customers.orders", ["17"])) == {"customers"}
    assert names(find_targets("growth.orders", ["17"])) == {"growth"}
    assert names(find_targets("segments.answers", ["a17"])) == {"segments"}
    (answers,) = find_targets("segments.answers", ["a17"]).found
    assert answers.subject.ids == {"a17"}


def test_an_entity_with_other_keys_in_a_problem_must_be_chosen(root: Path) -> None:
    replace_text(root / GROWTH, 'Entity("customer")', 'Entity("customer", keys=["month"])')
    with pytest.raises(SettingsError, match="has the key") as raised:
        find_targets("customer", ["c007"])
    assert "customers.customer" in raised.value.hint
    assert names(find_targets("customers.customer", ["c007"])) == EVERYWHERE
    assert names(find_targets("growth.customer", ["m1"])) == {"growth"}


def test_an_unknown_name_lists_the_known_ones(root: Path) -> None:
    with pytest.raises(SettingsError, match="no problem or feature area declares") as raised:
        find_targets("kunde", ["1"])
    assert raised.value.hint.endswith(": answers, customer, customers, months, orders, reviews")
    with pytest.raises(SettingsError, match="has 1 parts"):
        find_targets("customer", ["c007", "c008"])
    assert declared_keys(load_area("customers"))["customers.orders"] == ("order",)
    assert declared_keys(load_problem("leaving"))["customers.customer"] == ("customer",)


def test_what_cannot_be_read_is_named(root: Path) -> None:
    replace_text(root / "problems/segments/problem.py", 'shared_views=["customers.facts"]', "shared_views=[]")
    (root / "feature_views/customers/area.py").write_text("AREA = FeatureArea(")
    found = find_targets("answers", ["a17"])
    assert names(found) == {"segments"}
    assert set(found.unread) == {"customers", "growth", "leaving"}
