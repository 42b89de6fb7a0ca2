"""Leaks of twenty kinds, planted in a table of orders, are named; ten public tables without leaks have no suspect."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pytest
from sklearn import datasets

from benchmarks.pipeline.tables import TABLES
from truecourse.exploration.explore import explore
from truecourse.exploration.records import Finding
from truecourse.exploration.source import Roles, file_source

ROWS = 3000
Kind = Literal["binary", "regression"]


def orders() -> pd.DataFrame:
    """Orders of 200 customers in three months. `returned` and `cost` depend weakly on the other columns."""
    random = np.random.default_rng(11)
    times = pd.Timestamp("2024-03-01") + pd.to_timedelta(np.sort(random.uniform(0, 90 * 86400, ROWS)).astype(int), "s")
    amount, quantity = random.gamma(2, 40, ROWS).round(2), random.integers(1, 9, ROWS)
    region = random.choice(["north", "south", "east", "west"], ROWS)
    words = random.choice(["please", "leave", "at", "the", "door", "call", "first", "gift", "wrap"], (ROWS, 4))
    score = 0.01 * amount - 0.1 * quantity + (region == "north") + random.normal(0, 1.5, ROWS)
    return pd.DataFrame({
        "ordered_at": times, "customer": random.integers(1000, 1200, ROWS), "amount": amount, "quantity": quantity,
        "region": region, "channel": random.choice(["web", "shop", "phone"], ROWS),
        "note": [" ".join(row) + f" {n}" for n, row in enumerate(words.tolist())],
        "reference": [f"{a}-{b}" for a, b in random.integers(10**6, 10**7, (ROWS, 2)).tolist()],
        "returned": (score > 1.6).astype(int), "cost": (5 + 0.1 * amount + random.normal(0, 6, ROWS)).round(2),
    })  # fmt: skip


RANDOM = np.random.default_rng(12)
LATER = pd.to_timedelta(RANDOM.integers(3600, 5 * 86400, ROWS), "s")
SHIP = RANDOM.integers(10**6, 10**7, ROWS)


def mean_of_others(table: pd.DataFrame) -> pd.Series:
    groups = table.groupby("customer")["returned"]
    return (groups.transform("sum") - table["returned"]) / (groups.transform("count") - 1)


def with_copies(table: pd.DataFrame) -> pd.DataFrame:
    return pd.concat([table, table.sample(150, random_state=3)], ignore_index=True)


def two_times(table: pd.DataFrame) -> pd.DataFrame:
    due = table["ordered_at"] + LATER
    late = np.where(table["returned"] == 1, 1, -1) * pd.to_timedelta(RANDOM.integers(60, 9000, ROWS), "s")
    return table.assign(due_at=due, arrived_at=due + late)


def switch(table: pd.DataFrame) -> pd.DataFrame:
    first = RANDOM.integers(0, 2, ROWS)
    return table.assign(flag_a=first, flag_b=first ^ table["returned"])


PLANTS: list[tuple[str, Kind, Callable[[pd.DataFrame], pd.DataFrame], set[str]]] = [
    ("a code of the label", "binary", lambda t: t.assign(leak=np.where(t.returned, "RET", "OK")), {"leak"}),
    ("a code with 1% of errors", "binary",
     lambda t: t.assign(leak=np.where(RANDOM.random(ROWS) < 0.004, 1 - t.returned, t.returned)), {"leak"}),
    ("a noisy score", "binary", lambda t: t.assign(leak=t.returned * 6 + RANDOM.normal(0, 1, ROWS)), {"leak"}),
    ("filled for positives only", "binary",
     lambda t: t.assign(leak=np.where(t.returned, RANDOM.integers(1, 5, ROWS), np.nan)), {"leak"}),
    ("a later time", "binary", lambda t: t.assign(refunded_at=t.ordered_at + LATER), {"refunded_at"}),
    ("a duration", "regression",
     lambda t: t.assign(delivered_at=t.ordered_at + LATER, hours=np.round(LATER.total_seconds() / 3600, 1)), {"hours"}),
    ("two later times whose order is the label", "binary", two_times, {"due_at", "arrived_at"}),
    ("a mean label by customer", "binary",
     lambda t: t.assign(leak=t.groupby("customer")["returned"].transform("mean")), {"leak"}),
    ("a mean label of the customer's other rows", "binary", lambda t: t.assign(leak=mean_of_others(t)), {"leak"}),
    ("a sum of labels by customer", "regression",
     lambda t: t.assign(leak=t.groupby("customer")["cost"].transform("sum")), {"leak"}),
    ("the number of a customer's orders in the whole file", "binary",
     lambda t: t.assign(leak=t.groupby("customer")["cost"].transform("count")), {"leak"}),
    ("the next label", "regression", lambda t: t.assign(leak=t["cost"].shift(-1)), {"leak"}),
    ("a number in the order of time", "binary", lambda t: t.assign(order_no=np.arange(ROWS) + 7), {"order_no"}),
    ("an identifier that encodes the label", "binary",
     lambda t: t.assign(leak=[f"{'R' if y else 'K'}{n}" for y, n in zip(t.returned, SHIP, strict=True)]), {"leak"}),
    ("a word at one place of an address", "binary",
     lambda t: t.assign(leak=[f"u{n}@{'no' if y else 'ok'}.org" for y, n in zip(t.returned, SHIP, strict=True)]),
     {"leak"}),
    ("the largest label by customer", "regression",
     lambda t: t.assign(leak=t.groupby("customer")["cost"].transform("max")), {"leak"}),
    ("a number whose last digit is the label", "binary", lambda t: t.assign(leak=SHIP * 10 + t.returned * 3), {"leak"}),
    ("a word in a text", "binary",
     lambda t: t.assign(note=t.note + np.where(t.returned, " complaint", " thanks")), {"note"}),
    ("copies of rows", "binary", with_copies, set()),
    ("two flags", "binary", switch, {"flag_a", "flag_b"}),
    ("parts that add up to the label", "regression",
     lambda t: t.assign(part=(t.cost * 0.3).round(2), rest=t.cost - (t.cost * 0.3).round(2)), {"part", "rest"}),
    ("the label in another unit", "regression", lambda t: t.assign(leak=t.cost * 1.0825 + 3), {"leak"}),
    ("ranges of the label", "regression",
     lambda t: t.assign(leak=pd.cut(t.cost, [-99, 5, 10, 20, 999], labels=list("ABCD"))), {"leak"}),
    ("a logarithm of the label", "regression", lambda t: t.assign(leak=np.log(t.cost + 50)), {"leak"}),
    ("filled in after weeks", "binary",
     lambda t: t.assign(leak=np.where(t.ordered_at > t.ordered_at.max() - pd.Timedelta("9D"), np.nan, t.quantity + 1)),
     {"leak"}),
]  # fmt: skip


def leaks(path: Path, label: str, time: str = "") -> list[Finding]:
    with file_source(str(path), Roles(label=label, time=time)) as source:
        return explore(source).of("leak")


@pytest.mark.parametrize(("name", "kind", "plant", "columns"), PLANTS, ids=[plant[0] for plant in PLANTS])
def test_each_planted_leak_is_named_and_nothing_else(
    name: str, kind: Kind, plant: Callable[[Any], Any], columns: set[str], tmp_path: Path
) -> None:
    path = tmp_path / "orders.csv"
    drop = "cost" if kind == "binary" else "returned"
    plant(orders()).drop(columns=drop).to_csv(path, index=False)
    found = leaks(path, "returned" if kind == "binary" else "cost", "ordered_at")
    assert found, name
    named = {column for finding in found for column in finding.columns}
    assert named >= columns
    allowed = {"delivered_at"} if name == "a duration" else set()
    assert named <= columns | allowed


def test_a_share_of_one_of_several_classes_in_a_group_is_named(tmp_path: Path) -> None:
    table = orders().drop(columns=["cost", "returned"])
    shares = (table["channel"] == "web").groupby(table["customer"]).transform("mean")
    for extra, named in (({}, set()), ({"leak": shares}, {"leak"})):
        table.assign(**extra).to_csv(tmp_path / "orders.csv", index=False)
        found = leaks(tmp_path / "orders.csv", "channel", "ordered_at")
        assert {column for finding in found for column in finding.columns} == named


def test_the_table_of_orders_has_no_suspect(tmp_path: Path) -> None:
    path = tmp_path / "orders.csv"
    for label, other in (("returned", "cost"), ("cost", "returned")):
        orders().drop(columns=other).to_csv(path, index=False)
        assert leaks(path, label, "ordered_at") == []


CLEAN = ("titanic", "penguins", "weather", "superstore", "glass", "cars", "colleges", "defaulters", "hitters", "juice")


def test_ten_public_tables_have_no_suspect() -> None:
    assert {name: [f.sentence for f in leaks(TABLES[name].path, TABLES[name].label)] for name in CLEAN} == {
        name: [] for name in CLEAN
    }


@pytest.mark.parametrize("name", ["iris", "wine", "breast_cancer", "diabetes"])
def test_tables_of_scikit_learn_have_no_suspect(name: str, tmp_path: Path) -> None:
    path = tmp_path / f"{name}.csv"
    getattr(datasets, f"load_{name}")(as_frame=True).frame.to_csv(path, index=False, quoting=csv.QUOTE_MINIMAL)
    assert leaks(path, "target") == []


@pytest.mark.parametrize(("name", "columns"), [("bikes", {"casual", "registered"}), ("wages", {"logwage"})])
def test_leaks_of_public_tables_are_named(name: str, columns: set[str]) -> None:
    found = leaks(TABLES[name].path, TABLES[name].label)
    assert {column for finding in found for column in finding.columns} == columns
