"""A change of a definition affects dependent features only."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from tests.simulated_deliveries import install
from tests.static_tables import install_wine
from truecourse.features.definition_digests import (
    changed_features,
    feature_definitions,
    feature_table,
    label_definition,
    views_digest,
)
from truecourse.problem import Float, View
from truecourse.problem.loader import load_problem, problem_digest

REQUEST, CLOCK = {"depot", "distance", "promised"}, {"hour", "weekend", "km_a_minute"}
HISTORY, DEPOT = {"courier_late_7d", "courier_count_7d"}, {"depot_late_1d", "depot_last_took"}
FACTS = {"vehicle", "since"}
SOURCE = 'source=Files("data/deliveries*.csv")'
CHANGES = {
    "a view's SQL": ("features/courier_history.sql", "INTERVAL 7 DAY", "INTERVAL 6 DAY", HISTORY, False),
    "a comment in SQL": ("features/courier_history.sql", "SELECT", "-- it's so\nSELECT", set(), False),
    "a relation": ("outcomes.sql", "took > promised", "took > promised + '--'", HISTORY | DEPOT, True),
    "the spine": ("spine.sql", "distance FROM", "distance * 2 AS distance FROM", REQUEST | CLOCK, False),
    "a helper's constant": ("problem.py", "minutes // 60 % 24", "minutes // 60 % 12", CLOCK, False),
    "a type": ("problem.py", '"since": Integer("year")', '"since": Float("year")', FACTS, False),
    "how long a value lives": ("problem.py", "ttl=hours(12)", "ttl=hours(11)", DEPOT, False),
    "parsing": (
        "problem.py",
        SOURCE,
        f"{SOURCE[:-1]}, csv=Csv(decimal=','))",
        REQUEST | CLOCK | HISTORY | DEPOT,
        True,
    ),
    "another table": ("problem.py", '"since": Integer(nulls=True)', '"since": Text(nulls=True)', FACTS, False),
    "the label's rule": ("label.sql", "late AS label", "1 - late AS label", set(), True),
    "a gate": ("problem.py", "gates=[BeatsBaseline(), ", "gates=[", set(), False),
    "a description": ("problem.py", '"share late"', '"the share"', set(), False),
    "an owner and tags": ("problem.py", "ttl=hours(12)", "ttl=hours(12), owner='ops', tags=['late']", set(), False),
    "what is allowed": ("problem.py", '"minutes", ge=5', '"minutes", ge=1', set(), False),
}  # fmt: skip


@pytest.mark.parametrize("name", list(CHANGES))
def test_a_change_affects_the_digests_of_dependent_features_only(
    name: str, tmp_path: Path, configure: Callable[..., None]
) -> None:
    file, old, new, reached, label = CHANGES[name]
    configure(home=tmp_path / "home", problems=tmp_path, problem="deliveries")
    folder = install(tmp_path)
    problem = load_problem()
    before, rule = feature_definitions(problem), label_definition(problem)
    tables = {view.name: feature_table(problem, view.name) for view in problem.views}
    assert set(before) == set(problem.features) == REQUEST | CLOCK | HISTORY | DEPOT | FACTS
    text = (folder / file).read_text()
    assert old in text
    text = text.replace(old, new, 1)
    (folder / file).write_text(text.replace("    Entity,\n", "    Csv,\n    Entity,\n", 1) if "Csv(" in new else text)
    problem = load_problem()
    assert set(changed_features(before, feature_definitions(problem), problem.features)) == reached
    assert (label_definition(problem) != rule) == label
    moved = {view.name for view in problem.views if tables[view.name] != feature_table(problem, view.name)}
    assert moved == {view.name for view in problem.views if set(view.features) & reached}


def test_an_edit_of_a_column_redefines_no_other_feature_of_a_table_without_spine(
    tmp_path: Path, configure: Callable[..., None]
) -> None:
    install_wine(tmp_path)
    configure(home=tmp_path / "home", problems=tmp_path, problem="wine")
    problem = load_problem()
    before, rule = feature_definitions(problem), label_definition(problem)
    text = (tmp_path / "wine" / "problem.py").read_text()
    edited = text.replace("    columns={", "    columns={'hue': Integer(ge=0)} | {", 1)
    edited = edited.replace("for name in MEASURED}", "for name in MEASURED if name not in ('hue', 'ash')}", 1)
    assert edited.count("'hue'") == 2
    (tmp_path / "wine" / "problem.py").write_text(edited)
    problem = load_problem()
    now = feature_definitions(problem)
    assert set(changed_features(before, now, before)) == {"hue", "ash"}
    assert "ash" not in now
    assert label_definition(problem) == rule


def test_owners_and_tags_change_no_digest(tmp_path: Path, configure: Callable[..., None]) -> None:
    configure(home=tmp_path / "home", problems=tmp_path, problem="deliveries")
    install(tmp_path)
    problem = load_problem()
    assert problem.request_features is not None
    own: Any = {"owner": "ops", "tags": ("late",)}
    owned = replace(
        problem,
        owner="ops",
        views=tuple(replace(view, **own) for view in problem.views),
        request_features=replace(problem.request_features, **own),
    )
    assert [problem_digest(owned), views_digest(owned)] == [problem_digest(problem), views_digest(problem)]
    assert problem_digest(replace(owned, description="x")) != problem_digest(problem)


@pytest.mark.parametrize("tags", [["a b"], ["late", "late"], ["truecourse_x"], [""], ["é"]])
def test_a_tag_is_one_word_and_no_reserved_one(tags: list[str]) -> None:
    with pytest.raises(ValidationError):
        View("v", sql="v.sql", entity="e", features={"x": Float()}, tags=tags)


def test_a_helper_function_is_part_of_the_definition(tmp_path: Path, configure: Callable[..., None]) -> None:
    configure(home=tmp_path / "home", problems=tmp_path, problem="deliveries")
    folder = install(tmp_path)
    (folder / "helpers.py").write_text("def twice(x):\n    return 2 * x\n")
    text = (
        (folder / "problem.py")
        .read_text()
        .replace("import numpy as np\n", "import numpy as np\n\nfrom .helpers import twice\n", 1)
    )
    (folder / "problem.py").write_text(text.replace('columns["distance"] /', 'twice(columns["distance"]) /', 1))
    before = feature_definitions(load_problem())
    (folder / "helpers.py").write_text("def twice(x):\n    return 3 * x\n")
    assert set(changed_features(before, feature_definitions(load_problem()), before)) == CLOCK
