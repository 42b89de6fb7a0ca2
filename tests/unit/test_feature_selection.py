"""Features that help are kept, and those that repeat others or do nothing are dropped, for each kind of problem."""

import dataclasses
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from truecourse.errors import ModelError
from truecourse.evaluation.feature_selection import Selection, select_features, use
from truecourse.problem import (
    Boolean,
    Entity,
    Files,
    Float,
    Integer,
    Label,
    Problem,
    RandomSplit,
    Table,
    Text,
    TimeSplit,
    View,
    XGBoost,
)  # fmt: skip
from truecourse.problem.definition import Kind
from truecourse.statistics.intervals import Estimate

pytestmark = pytest.mark.usefixtures("_one_thread")
DAYS, START = 60, datetime(2024, 1, 1, 12, tzinfo=UTC)
COSTS = {"history": {"cpu_seconds": 12.0, "bytes": 4e6}, "facts": {"cpu_seconds": 3.0, "bytes": 1e6}}
VIEWS = [
    View("history", sql="h.sql", entity="shop", features={"useful": Float(), "shade": Text()}),
    View("facts", sql="f.sql", entity="shop", features={"noise": Float(), "constant": Integer()}),
]


@pytest.fixture
def _one_thread(configure: Callable[..., None]) -> None:
    configure(threads=1)  # for so few rows the fastest


def problem(kind: Kind, in_time: bool) -> Problem:
    request = {"main": Float(), "copy": Float(), "flag": Boolean()}
    split = TimeSplit(train_until="2024-02-05", validate_until="2024-02-20") if in_time else RandomSplit()
    return Problem(
        "shops",
        kind=kind,
        tables=[Table("sales", source=Files("sales.csv"), columns={"x": Float()})],
        spine="spine.sql",
        label=Label(sql="label.sql"),
        request=request,
        entities=[Entity("shop")],
        views=VIEWS,
        split=split,
        model=XGBoost(rounds=12, learning_rate=0.4, max_depth=2, early_stopping_rounds=5, folds=0 if in_time else 2),
    )


def frame(kind: Kind, in_time: bool, a_day: int = 25, seed: int = 0) -> pa.Table:
    """`main` and its `copy` are one; `useful` and `shade` help; `flag`, `noise` and `constant` do nothing."""
    random, count = np.random.default_rng(seed), DAYS * a_day
    main, useful = random.standard_normal((2, count))
    shade = random.integers(0, 3, count)
    score = 1.5 * main + 1.5 * useful + 1.2 * (shade - 1)
    label: Any = score + random.standard_normal(count)
    if kind == "binary":
        label = (label > 0).astype(int)
    elif kind == "multiclass":
        label = np.array(["low", "middle", "high"])[np.digitize(label, [-1, 1])]
    day = np.repeat(np.arange(DAYS), a_day)
    sides = np.where(day < 35, "train", np.where(day < 50, "validate", "test"))
    columns = {
        "id": [str(place) for place in range(count)],
        "main": main, "copy": main, "flag": random.random(count) < 0.5,
        "useful": useful, "shade": np.array(["a", "b", "c"])[shade], "noise": random.standard_normal(count),
        "constant": np.ones(count, dtype=np.int64),
        "label": label, "split": sides,
    }  # fmt: skip
    if in_time:
        columns["decision_time"] = [START + timedelta(days=int(one)) for one in day]
    return pa.table(columns)


KINDS: list[tuple[Kind, bool]] = [("binary", True), ("regression", False), ("multiclass", False)]


@pytest.mark.parametrize(("kind", "in_time"), KINDS)
def test_what_helps_is_kept_and_the_rest_is_dropped(kind: Kind, in_time: bool) -> None:
    declared, fits = problem(kind, in_time), list[int]()
    selection = Selection(declared, frame(kind, in_time), declared.model, fits.append)
    found = select_features(selection, COSTS)
    uses = {one["feature"]: one["use"] for one in found["features"]}
    assert {uses[name] for name in ("useful", "shade")} == {"useful"}
    assert uses["main"] in ("replaceable", "no gain"), "its copy replaces it"
    assert "useful" not in {uses[name] for name in ("copy", "flag", "noise", "constant")}
    kept = set(found["proposed"]["kept"])
    assert {"useful", "shade"} < kept
    assert len({"main", "copy"} & kept) == 1, "one of two equal features stays"
    assert not {"noise", "constant"} & kept
    assert found["proposed"]["groups"] == ["facts"]
    assert found["proposed"]["saved"] == COSTS["facts"]
    assert {*found["proposed"]["kept"]} | {*found["proposed"]["dropped"]} == set(declared.features)
    groups = {one["group"]: one for one in found["groups"]}
    assert (groups["history"]["use"], groups["facts"]["use"]) in (("useful", "no gain"), ("useful", "harmful"))
    assert groups["history"]["cost"] == COSTS["history"]
    assert found["rows"] == 15 * 25
    assert found["days"] == (15 if in_time else None)
    assert fits == list(range(1, found["fits"] + 1))
    without = {one["feature"]: one["dropped"]["value"] for one in found["features"]}
    loss = Selection(declared, frame(kind, in_time).drop_columns(["useful"]), declared.model).loss()
    assert without["useful"] == pytest.approx(loss - found["loss"], rel=0.1), "as if it had never been there"


@pytest.mark.parametrize(("kind", "in_time"), KINDS[:2])
def test_test_rows_are_not_used(kind: Kind, in_time: bool) -> None:
    """Other labels and values of test rows change nothing."""
    declared, rows = problem(kind, in_time), frame(kind, in_time)
    test = np.array(rows["split"].to_pylist()) == "test"
    spoiled = rows
    for name in ("main", "useful"):
        values = np.where(test, 1e6, rows[name].to_numpy())
        spoiled = spoiled.set_column(spoiled.column_names.index(name), name, pa.array(values))
    labels = np.where(test, 1, rows["label"].to_numpy())
    spoiled = spoiled.set_column(spoiled.column_names.index("label"), "label", pa.array(labels))
    found = []
    for each in (rows, spoiled, rows.filter(pa.array(~test))):
        selection = Selection(declared, each, declared.model)
        found.append([selection.without(["useful"]), selection.importance("main"), selection.loss()])
    assert found[0] == found[1] == found[2]


def test_too_few_validation_rows_are_an_error() -> None:
    declared, rows = problem("binary", True), frame("binary", True)
    day = np.array(rows["decision_time"].to_pylist())
    few = rows.filter(pa.array((day < START + timedelta(days=37)) | (np.array(rows["split"].to_pylist()) == "test")))
    with pytest.raises(ModelError, match="only 2 days of validation rows, 7 needed"):
        Selection(declared, few, declared.model)


def test_the_only_feature_is_kept() -> None:
    declared = dataclasses.replace(problem("binary", True), views=(), request={"noise": Float()}, entities=())
    found = select_features(Selection(declared, frame("binary", True), declared.model), {})
    assert found["proposed"]["kept"] == ["noise"]
    assert found["groups"] == []


ENDS = st.tuples(st.floats(-1, 1), st.floats(-1, 1)).map(lambda ends: (min(ends), max(ends)))


@given(ENDS, ENDS)
def test_the_use_of_a_feature_follows_from_its_intervals(
    dropped: tuple[float, float], permuted: tuple[float, float]
) -> None:
    def estimate(ends: tuple[float, float]) -> Estimate:
        return {"value": sum(ends) / 2, "low": ends[0], "high": ends[1]}

    found = use(estimate(dropped), estimate(permuted))
    assert (found == "useful") == (dropped[0] > 0)
    assert (found == "harmful") == (dropped[1] < 0)
    if dropped[0] <= 0 <= dropped[1]:
        assert found == ("replaceable" if permuted[0] > 0 else "no gain")
    assert use({"value": 0.1, "low": None, "high": None}, estimate(permuted)) == "unknown"
