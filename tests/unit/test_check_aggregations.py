"""`truecourse check` reports faults of aggregations with their place in problem.py."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.planted_errors import PROBLEM, faults_after
from tests.simulated_orders import install, orders, reviews
from truecourse.authoring.checks.run_checks import check_problem
from truecourse.problem.loader import load_problem

CASES: dict[str, tuple[str, str, str, str, str]] = {
    "unknown table": ('table="orders",\n            entity', 'table="order",\n            entity',
                      "views.orders.table", "no table 'order'", "orders"),
    "unknown entity": ('entity="customer",\n            time="ordered_at"',
                       'entity="client",\n            time="ordered_at"',
                       "views.orders.entity", "no entity 'client'", "customer"),
    "unknown time": ('time="shipped_at",\n            features', 'time="shipped",\n            features',
                     "views.shipments.time", "no column 'shipped'", "shipped_at"),
    "time of another type": ('time="shipped_at",\n            features', 'time="items",\n            features',
                             "views.shipments.time", "items is Integer, and should be Time", "time of the event"),
    "table without time": ('key=["order"],\n            time="ordered_at",', 'key=["order"],',
                           "views.orders.table", "table orders has no time", "time="),
    "key that the table lacks": ('"customer": Text(),\n                "ordered_at"',
                                 '"client": Text(),\n                "ordered_at"',
                                 "views.orders.entity", "table orders has no column customer", "client"),
    "key of another type": ('"customer": Text(),\n                "ordered_at"',
                            '"customer": Integer(),\n                "ordered_at"',
                            "views.orders.entity", "customer is Text, but Integer in table orders", "one type"),
    "unknown column": ('Sum("amount", window=days(30))', 'Sum("amounts", window=days(30))',
                       "views.orders.features.spend_30d", "unknown column amounts", "amount"),
    "a sum of texts": ('Sum("amount", window=days(30))', 'Sum("category", window=days(30))',
                       "views.orders.features.spend_30d", "is VARCHAR, and should be DOUBLE", "CAST"),
    "a filter that is no condition": ('where="paid"),', 'where="items"),',
                                      "views.orders.features.paid_30d.where", "is BIGINT, and should be BOOLEAN",
                                      "condition"),
    "a broken filter of all features": ("category IS NULL OR", "category IS NULL OR OR",
                                        "views.orders.where", "syntax error", "correct the SQL"),
    "an untyped expression": ('Max("items")', 'Max("items + 1")',
                              "views.orders.features.largest", "type of an expression is not known", "column="),
    "a window function": ('Mean("amount / nullif(items, 0)"', 'Mean("amount - lag(amount) OVER (ORDER BY ordered_at)"',
                          "views.orders.features.per_item_90d", "reads other rows than its own", "view in SQL"),
    "an aggregate": ('Mean("amount / nullif(items, 0)"', 'Mean("max(amount)"',
                     "views.orders.features.per_item_90d", "", ""),
    "the clock": ('where="paid"),', 'where="ordered_at > now()"),',
                  "views.orders.features.paid_30d.where", "system clock", "event_timestamp"),
    "chance": ('Mean("amount / nullif(items, 0)"', 'Mean("amount * random()"',
               "views.orders.features.per_item_90d", "another value on each run", "hash"),
    "a feature that is a time": ('Last("items")', 'Last("shipped_at")',
                                 "views.shipments.features.last_shipped_items", "cannot be a Time", "number"),
    "a name declared twice": ('"shipped_30d": Count', '"orders_90d": Count',
                              "views.shipments.features.orders_90d", "views.orders.features.orders_90d", "rename"),
    "the label": ('table="orders",\n            entity="customer",\n            time="shipped_at"',
                  'table="reviews", where=\'"left"\', entity="customer", time="reviewed_at"',
                  "views.shipments.where", "computed from reviews.left, like the label", "known"),
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path, configure: Callable[..., None]) -> Path:
    configure(home=tmp_path / "home", problems=tmp_path / "problems", problem="churn")
    return install(tmp_path / "problems", orders(20), reviews(2, 3))


def test_the_problem_is_valid(folder: Path) -> None:
    assert check_problem(load_problem()) == []


@pytest.mark.parametrize("name", list(CASES))
def test_each_fault_is_found(name: str, folder: Path) -> None:
    old, new, where, what, hint = CASES[name]
    faults = faults_after(folder, (PROBLEM, old, new))
    assert any(f.where.endswith(where) and what in f.what and hint in f.hint for f in faults), "\n".join(
        map(str, faults)
    )


def test_a_keyword_as_column_name_is_no_fault(folder: Path) -> None:
    assert faults_after(folder, (PROBLEM, 'CountDistinct("category"', 'CountDistinct("order"')) == []
