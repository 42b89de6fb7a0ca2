"""Aggregations of a table's rows, evaluated exactly at the moment of each decision.

A row counts for a decision at time t if its key is that of the decision, t - window < event time <= t, it was known at
t (late rows and corrections count from the time at which they were recorded), and the conditions hold. Values that are
null are ignored. Without rows, counts are 0 and all other features are missing.
"""

from collections.abc import Iterator, Mapping
from dataclasses import KW_ONLY
from datetime import timedelta
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from truecourse.problem.schema import (
    CONFIG,
    AnyColumn,
    Boolean,
    Float,
    Identifier,
    Integer,
    Privacy,
    Tags,
    Text,
    Time,
    shown_unit,
)

Window = Annotated[timedelta, Field(gt=timedelta(0))]
AgeUnit = Literal["seconds", "minutes", "hours", "days"]


@dataclass(frozen=True, config=CONFIG)
class Aggregate:
    """Options of all aggregate functions."""

    _: KW_ONLY
    window: Window | None = None
    """Rows count whose event time is later than the decision time minus this, and not later than the decision time;
    None is unlimited. Example: `window=days(90)`."""
    where: str | None = None
    """A condition in DuckDB SQL on the table's columns: only rows for which it is true count. Example:
    `where="status = 'paid'"`."""
    description: str = ""
    """What the feature holds, for people. Example: `description="paid orders of the last 90 days"`."""
    private: Privacy | None = None
    """What the prediction log stores instead of the value. `"hash"` stores a salted hash, which allows comparison;
    `"drop"` stores nothing. Example: `private="drop"`."""


@dataclass(frozen=True, config=CONFIG)
class OfValues(Aggregate):
    """Options of functions of the values of one column or expression."""

    value: str
    """A column of the table, or an expression in DuckDB SQL on its columns. Example: `value="price * pieces"`."""
    _: KW_ONLY
    column: AnyColumn | None = None
    """The type of the values, if `value` is an expression. By default, numbers are Float; Min, Max, First and Last
    need it. Example: `column=Integer()`."""
    unit: str = ""
    """The unit, shown with values on pages and in explanations; by default that of the column. Example: `unit="km"`."""


@dataclass(frozen=True, config=CONFIG)
class Count(Aggregate):
    """The number of rows. The feature is an Integer, and 0 without rows."""


@dataclass(frozen=True, config=CONFIG)
class Sum(OfValues):
    """The exact sum of the values, rounded once. It is an Integer for Integer and Boolean columns, else a Float."""


@dataclass(frozen=True, config=CONFIG)
class Mean(OfValues):
    """The exact sum of the values, rounded once, divided by their number. The feature is a Float."""


@dataclass(frozen=True, config=CONFIG)
class StandardDeviation(OfValues):
    """The square root of the exact sample variance (of n - 1 degrees of freedom), rounded once. It is missing for fewer
    than two values. The feature is a Float."""


@dataclass(frozen=True, config=CONFIG)
class Min(OfValues):
    """The smallest value. The feature has the column's type; text is compared by code points."""


@dataclass(frozen=True, config=CONFIG)
class Max(OfValues):
    """The largest value. The feature has the column's type; text is compared by code points."""


@dataclass(frozen=True, config=CONFIG)
class First(OfValues):
    """The value of the earliest event that has one; of several, that which was known first. The feature has the
    column's type."""


@dataclass(frozen=True, config=CONFIG)
class Last(OfValues):
    """The value of the latest event that has one; of several, that which was known last. The feature has the column's
    type."""


@dataclass(frozen=True, config=CONFIG)
class CountDistinct(Aggregate):
    """The number of distinct values. The feature is an Integer, and 0 without values."""

    value: str
    """A column of the table, or an expression in DuckDB SQL on its columns. Example: `value="category"`."""


@dataclass(frozen=True, config=CONFIG)
class Share(Aggregate):
    """The share of rows for which a condition is true, among those for which it is true or false. The feature is a
    Float between 0 and 1."""

    value: str
    """The condition, in DuckDB SQL on the table's columns. Example: `value="amount > 100"`."""


@dataclass(frozen=True, config=CONFIG)
class Age(Aggregate):
    """The time between an event and the decision. The feature is a Float."""

    _: KW_ONLY
    of: Literal["last", "first"] = "last"
    """Which event of the window: the latest or the earliest. Example: `of="first"`."""
    unit: AgeUnit = "days"
    """The unit of time. Example: `unit="hours"`."""


AnyAggregate = Count | Sum | Mean | StandardDeviation | Min | Max | First | Last | CountDistinct | Share | Age
PICKS = (Min, Max, First, Last)
"""Functions whose result is one of the values."""


@dataclass(frozen=True, config=CONFIG)
class Aggregations:
    """Features of one entity that aggregate the rows of one table, exact at the moment of each decision."""

    name: Identifier
    """The name, distinct from those of the views. Example: `name="orders"`."""
    _: KW_ONLY
    table: str
    """The table whose rows are aggregated. It has the entity's keys as columns. Example: `table="orders"`."""
    entity: str
    """The name of the entity. Example: `entity="customer"`."""
    time: str
    """The Time column of the table with the event time, from which a row counts. Example: `time="ordered_at"`."""
    features: Mapping[Identifier, AnyAggregate]
    """The features by name. Example: `features={"orders_90d": Count(window=days(90)), "last_order_age": Age()}`."""
    where: str | None = None
    """A condition in DuckDB SQL on the table's columns: only rows for which it is true count, in all features. Example:
    `where="status <> 'cancelled'"`."""
    when_unavailable: Literal["fail", "missing"] = "fail"
    """What the endpoint does if the online store does not answer. `"fail"` responds 503. `"missing"` predicts with
    missing values and says so in the response. Example: `when_unavailable="missing"`."""
    description: str = ""
    """What the features describe, for people. Example: `description="a customer's orders"`."""
    owner: str = ""
    """Who answers for the features: a person or a team; by default the problem's owner. Example: `owner="logistics"`.
    """
    tags: Tags = ()
    """Words by which they are found in the catalogue. Feast has them as tags. Example: `tags=["history", "late"]`."""

    ttl: ClassVar[timedelta] = timedelta(0)
    """As of a View: the values do not expire as a whole, because events leave each window by themselves."""
    lookback: ClassVar[timedelta] = timedelta(0)
    """As of a View: each stored row depends on one source row, of the same event time."""
    timeless: ClassVar[bool] = False

    @property
    def inputs(self) -> dict[str, "Input"]:
        """The columns that the stored rows need, by name (`v0`, `v1`, ...), in order of the features."""
        distinct = dict.fromkeys(found for each in self.features.values() if (found := _input(each)) is not None)
        return {f"v{number}": each for number, each in enumerate(distinct)}

    def input_of(self, feature: str) -> str | None:
        """The name of a feature's column in the stored rows; None if it counts all of them."""
        wanted = _input(self.features[feature])
        return next((name for name, each in self.inputs.items() if each == wanted), None)

    def columns(self, types: Mapping[str, AnyColumn]) -> dict[str, AnyColumn]:
        """The columns of the features by name, as a View declares them. `types`: the columns of the source table.

        A feature of unknown type (see `untyped`) is a Float."""
        return {name: _feature_column(function, types) for name, function in self.features.items()}

    def input_columns(self, types: Mapping[str, AnyColumn]) -> dict[str, AnyColumn]:
        """The types of the stored rows' columns by name. An expression of unknown type, of which distinct values are
        counted, is Text. `types`: the columns of the source table."""
        return {name: each.type(types) or Text() for name, each in self.inputs.items()}

    def untyped(self, types: Mapping[str, AnyColumn]) -> Iterator[str]:
        """The features whose type cannot be derived: they need `column`. `types`: the columns of the source table."""
        for name, function in self.features.items():
            if isinstance(function, PICKS) and function.column is None and function.value not in types:
                yield name


@dataclass(frozen=True, config=CONFIG)
class Input:
    """A column of the stored rows: the values of an expression, null where a condition is not true.

    Without an expression, it is whether the condition is true."""

    expression: str | None
    where: str | None
    column: AnyColumn | None = None
    """The type of the expression's values, if the user declared it."""
    numeric: bool = False
    """Whether the function needs numbers. Without a declared type, they are then Float."""
    condition: bool = False
    """Whether the expression is a condition."""

    @property
    def sql(self) -> str:
        """The SQL expression of the column on the source table's columns."""
        condition = f"({self.where}\n)"
        if self.expression is None:
            return f"coalesce({condition}, false)"
        value = f"({self.expression}\n)"
        return f"CASE WHEN {condition} THEN {value} END" if self.where else value

    def type(self, types: Mapping[str, AnyColumn]) -> AnyColumn | None:
        """The type of the column's values; None if it is neither declared nor that of a column of the table, given the
        table's columns."""
        if self.expression is None or self.condition:
            return Boolean()
        declared = self.column or types.get(self.expression)
        return declared or (Float() if self.numeric else None)


def _input(function: AnyAggregate) -> Input | None:
    if isinstance(function, Count | Age):
        return Input(None, function.where) if function.where else None
    if isinstance(function, OfValues):
        numeric = not isinstance(function, PICKS)
        return Input(function.value, function.where, function.column, numeric)
    return Input(function.value, function.where, condition=isinstance(function, Share))


def _feature_column(function: AnyAggregate, types: Mapping[str, AnyColumn]) -> AnyColumn:
    texts: dict[str, Any] = {"description": function.description, "private": function.private}
    if isinstance(function, Count | CountDistinct):
        return Integer(**texts)
    if isinstance(function, Share):
        return Float(**texts)
    if isinstance(function, Age):
        return Float(**texts, unit=function.unit)
    column = function.column or types.get(function.value) or Float()
    unit = function.unit or shown_unit(column)
    if isinstance(function, PICKS):
        return _picked(column, unit, function)
    if isinstance(function, Sum) and isinstance(column, Integer | Boolean):
        return Integer(**texts, unit=unit)
    return Float(**texts, unit=unit)


def _picked(column: AnyColumn, unit: str, function: OfValues) -> AnyColumn:
    """The column of a feature that is one of a column's values."""
    description = function.description or column.description
    private = function.private or column.private
    if isinstance(column, Text):
        return Text(description, private=private, one_of=column.one_of)
    if isinstance(column, Integer):
        return Integer(description, private=private, unit=unit)
    if isinstance(column, Float):
        return Float(description, private=private, unit=unit)
    return (Boolean if isinstance(column, Boolean) else Time)(description, private=private)
