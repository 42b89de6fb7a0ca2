"""Which columns a view may read, and which edits lead from one declaration of a table to another."""

import json
from pathlib import Path
from typing import Any

import pytest

from truecourse.authoring.checks.columns import edit_faults
from truecourse.data.table_edits import declared_document, find_edits
from truecourse.features.columns_read import columns_read
from truecourse.problem import Boolean, Files, Float, Integer, Label, Problem, Table, Text, Time

ORDERS = {"number": Integer(), "at": Time(), "amount": Float(), "note": Text(nulls=True), "Fee": Float()}
EVERY = frozenset(ORDERS)
STATEMENTS = {
    "SELECT number, amount FROM orders": {"number", "at", "amount"},
    "SELECT count(*) FROM orders": {"at"},
    "SELECT number FROM orders WHERE FEE > 0": {"number", "at", "Fee"},
    'SELECT "number" FROM orders AS o ORDER BY o.note': {"number", "at", "note"},
    "SELECT * FROM orders": EVERY,
    "SELECT o.* FROM orders AS o": EVERY,
    "SELECT c.*, number FROM orders JOIN customers AS c ON true": {"number", "at"},
    "SELECT o.*, c.id FROM customers AS c JOIN orders AS o ON true": EVERY,
    "SELECT * EXCLUDE (note) FROM orders": EVERY,
    "FROM orders": EVERY,
    "SELECT * FROM (SELECT number FROM orders)": {"number", "at"},
    "WITH some AS (SELECT number FROM orders) SELECT * FROM some": {"number", "at"},
    "WITH orders AS (SELECT * FROM orders) SELECT number FROM orders": EVERY,
    "SELECT number FROM relation": {"number", "at", "amount"},
    "SELECT o FROM orders AS o": EVERY,
    "SELECT hash(orders) FROM orders": EVERY,
    "SELECT number FROM orders NATURAL JOIN customers": EVERY,
    "SELECT COLUMNS('a.*') FROM orders": EVERY,
    "SELECT #1 FROM orders": EVERY,
    "SELECT a FROM orders AS t(a, b)": EVERY,
    "SELECT DISTINCT ON (number) * FROM orders": EVERY,
    "SELECT number FROM orders WHERE number IN (SELECT * FROM customers)": {"number", "at"},
}


@pytest.mark.parametrize("statement", list(STATEMENTS))
def test_the_columns_that_a_statement_may_read(statement: str, tmp_path: Path) -> None:
    (tmp_path / "view.sql").write_text(statement)
    (tmp_path / "relation.sql").write_text("SELECT number, amount AS sum FROM orders")
    tables = [
        Table("orders", source=Files("o.csv"), columns=ORDERS, time="at"),
        Table("customers", source=Files("c.csv"), columns={"id": Integer()}),
    ]
    problem = Problem(
        "small", kind="binary", tables=tables, label=Label(column="note"), relations={"relation": "relation.sql"},
        folder=tmp_path,
    )  # fmt: skip
    assert columns_read(problem, "view.sql")["orders"] == STATEMENTS[statement]


def table(**columns: Any) -> Table:
    return Table("orders", source=Files("o.csv"), columns={"number": Integer(), **columns}, key=["number"])


@pytest.mark.parametrize(
    ("before", "now", "kinds"),
    [
        ({}, {}, []),
        ({}, {"fee": Float()}, ["added"]),
        ({"fee": Float()}, {}, ["removed"]),
        ({"fee": Float()}, {"charge": Float(renamed_from="fee")}, ["renamed"]),
        ({"fee": Float()}, {"charge": Float()}, ["removed", "added"]),
        ({"charge": Float()}, {"charge": Float(renamed_from="fee")}, []),
        ({"fee": Integer()}, {"fee": Float()}, ["widened"]),
        ({"fee": Boolean()}, {"fee": Text()}, ["widened"]),
        ({"fee": Float()}, {"fee": Integer()}, ["retyped"]),
        ({"fee": Integer()}, {"charge": Text(renamed_from="fee")}, ["renamed", "widened"]),
        ({"fee": Float(ge=0)}, {"fee": Float(ge=1)}, ["tightened"]),
        ({"fee": Float(ge=0)}, {"fee": Float(ge=-1)}, ["loosened"]),
        ({"fee": Float(le=0)}, {"fee": Float()}, ["loosened"]),
        ({"fee": Float()}, {"fee": Float(nulls=True)}, ["loosened"]),
        ({"fee": Float(nulls=True)}, {"fee": Float()}, ["tightened"]),
        ({"fee": Text(one_of=["a"])}, {"fee": Text(one_of=["a", "b"])}, ["loosened"]),
        ({"fee": Text(one_of=["a"])}, {"fee": Text(one_of=["b"])}, ["tightened"]),
        ({"fee": Text()}, {"fee": Text(severity="critical")}, ["tightened"]),
        ({"fee": Text()}, {"fee": Text(pattern="a")}, ["tightened"]),
        ({"fee": Float(symbol="$")}, {"fee": Float()}, ["reparsed"]),
        ({"fee": Float(source="Fee")}, {"fee": Float()}, ["reparsed"]),
        ({"fee": Float()}, {"charge": Float(source="fee", renamed_from="fee")}, ["renamed"]),
        ({"fee": Float("a fee")}, {"fee": Float("the fee", unit="$")}, []),
    ],
)
def test_the_edits_between_two_declarations(before: dict[str, Any], now: dict[str, Any], kinds: list[str]) -> None:
    stored = json.loads(json.dumps(declared_document(table(**before))))
    assert [edit.kind for edit in find_edits(stored, table(**now))] == kinds


def test_another_key_is_an_edit_of_the_whole_table() -> None:
    stored = declared_document(table())
    other = Table("orders", source=Files("o.csv"), columns={"number": Integer()})
    assert [(edit.kind, edit.column, edit.after) for edit in find_edits(stored, other)] == [
        ("reparsed", "", "key and combine")
    ]
    renamed = Table("orders", source=Files("o.csv"), columns={"id": Integer(renamed_from="number")}, key=["id"])
    assert [edit.kind for edit in find_edits(stored, renamed)] == ["renamed"]


@pytest.mark.parametrize(
    ("columns", "what"),
    [
        ({"fee": Float(), "charge": Float(renamed_from="fee")}, "'fee' is still declared"),
        ({"a": Float(renamed_from="fee"), "b": Float(renamed_from="fee")}, "a is renamed from 'fee' too"),
        ({"fee": Float(default="1")}, "'1' is no Float"),
        ({"fee": Integer(default=True)}, "True is no Integer"),
        ({"fee": Boolean(default=1)}, "1 is no Boolean"),
        ({"fee": Time(default="yesterday")}, "'yesterday' is no Time"),
    ],
)
def test_a_wrong_rename_or_default_is_a_fault(columns: dict[str, Any], what: str) -> None:
    assert [fault.what for fault in edit_faults(columns, "tables", "orders", "columns")] == [what]


def test_right_defaults_are_no_faults() -> None:
    columns = {
        "a": Float(default=1),
        "b": Time(default="2026-01-01"),
        "c": Text(default="x"),
        "d": Boolean(default=True),
    }
    assert not list(edit_faults(columns, "tables", "orders", "columns"))
