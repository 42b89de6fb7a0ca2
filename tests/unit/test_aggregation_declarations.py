"""The declarations of aggregations: the types of their features, and the columns of their stored rows."""

from datetime import timedelta
from typing import Any

import duckdb
import pytest
from pydantic import ValidationError

from truecourse.problem.aggregations import (
    Age,
    Aggregations,
    Count,
    CountDistinct,
    First,
    Last,
    Max,
    Mean,
    Min,
    Share,
    StandardDeviation,
    Sum,
)
from truecourse.problem.durations import days
from truecourse.problem.schema import Boolean, Float, Integer, Text, Time

TYPES: dict[str, Any] = {
    "amount": Float("price", unit="EUR", private="drop"),
    "pieces": Integer(symbol="x", in_table="others", nulls=True),
    "category": Text("kind", one_of=["a", "b"], pattern="."),
    "paid": Boolean(),
    "at": Time("when", format="%d/%m/%Y"),
}


def declared(**features: Any) -> Aggregations:
    return Aggregations("orders", table="orders", entity="customer", time="at", features=features)


@pytest.mark.parametrize(
    ("function", "column"),
    [
        (Count(description="how many"), Integer("how many")),
        (CountDistinct("category", private="hash"), Integer(private="hash")),
        (Sum("amount"), Float(unit="EUR")),
        (Sum("pieces"), Integer(unit="x")),
        (Sum("paid"), Integer()),
        (Sum("amount * pieces", unit="EUR"), Float(unit="EUR")),
        (Sum("pieces * pieces", column=Integer()), Integer()),
        (Mean("pieces", unit="pieces"), Float(unit="pieces")),
        (StandardDeviation("amount"), Float(unit="EUR")),
        (Share("paid"), Float()),
        (Age(), Float(unit="days")),
        (Age(unit="hours", of="first"), Float(unit="hours")),
        (Min("amount"), Float("price", unit="EUR", private="drop")),
        (Max("pieces"), Integer(unit="x")),
        (First("category"), Text("kind", one_of=["a", "b"])),
        (Last("category", description="newest"), Text("newest", one_of=["a", "b"])),
        (Last("paid"), Boolean()),
        (Last("at"), Time("when")),
        (Last("upper(category)", column=Text()), Text()),
        (Last("upper(category)"), Float()),
    ],
)
def test_a_feature_has_the_type_that_follows_from_function_and_column(function: Any, column: Any) -> None:
    aggregations = declared(feature=function)
    assert aggregations.columns(TYPES) == {"feature": column}
    is_unknown = function == Last("upper(category)")
    assert list(aggregations.untyped(TYPES)) == (["feature"] if is_unknown else [])


def test_features_share_the_columns_of_the_stored_rows() -> None:
    aggregations = declared(
        all=Count(), age=Age(), paid=Count(where="paid"), paid_age=Age(where="paid", window=days(1)),
        total=Sum("amount"), week=Mean("amount", window=days(7)), paid_total=Sum("amount", where="paid"),
        kinds=CountDistinct("category"), share=Share("amount > 9"), least=Min("amount"),
    )  # fmt: skip
    used = {name: aggregations.input_of(name) for name in aggregations.features}
    assert used["all"] is used["age"] is None
    assert used["paid"] == used["paid_age"] == "v0"
    assert used["total"] == used["week"] == "v1"
    assert [*aggregations.inputs] == [f"v{number}" for number in range(len({*used.values()} - {None}))]
    types = aggregations.input_columns(TYPES)
    assert {name: type(types[column]) for name, column in used.items() if column} == {
        "paid": Boolean, "paid_age": Boolean, "total": Float, "week": Float, "paid_total": Float, "kinds": Text,
        "share": Boolean, "least": Float,
    }  # fmt: skip


def test_the_sql_of_the_stored_columns_folds_in_the_conditions() -> None:
    rows = "(VALUES (1, true, 5), (2, false, 6), (3, NULL, 7)) AS rows(id, paid, amount)"
    aggregations = declared(
        paid=Count(where="paid -- a comment"), total=Sum("amount + 1 -- a comment", where="paid -- a comment"),
        share=Share("amount > 5", where="paid OR id = 2"), distinct=CountDistinct("amount"),
    )  # fmt: skip
    columns = ", ".join(each.sql for each in aggregations.inputs.values())
    with duckdb.connect() as connection:
        found = connection.execute(f"SELECT {columns} FROM {rows} ORDER BY id").fetchall()
    assert found == [(True, 6, False, 5), (False, None, True, 6), (False, None, None, 7)]


def test_aggregations_look_like_a_view_without_ttl() -> None:
    aggregations = declared(all=Count())
    assert (aggregations.ttl, aggregations.lookback, aggregations.timeless) == (timedelta(0), timedelta(0), False)


@pytest.mark.parametrize("arguments", [{"window": timedelta(0)}, {"window": timedelta(days=-1)}, {"windows": days(1)}])
def test_a_wrong_window_is_refused(arguments: Any) -> None:
    with pytest.raises(ValidationError):
        Count(**arguments)
