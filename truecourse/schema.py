"""Columns, sources and tables: the part of a problem that describes data."""

from collections.abc import Mapping
from dataclasses import KW_ONLY
from datetime import timedelta
from typing import Annotated, Any, Literal, TypeVar

from pydantic import ConfigDict, Field, Strict
from pydantic.dataclasses import dataclass

CONFIG = ConfigDict(strict=True, extra="forbid", arbitrary_types_allowed=True)

Severity = Literal["critical", "warning", "info"]
"""critical: the flow stops, nothing is written; warning: the row is quarantined; info: the row stays, reported."""

Privacy = Literal["hash", "drop"]
"""How a private value is kept in the prediction log: as a salted hash, by which equals can be told, or not at all."""

T = TypeVar("T")
Many = Annotated[tuple[T, ...], Strict(False)]
"""A tuple that may be written as a list."""

Identifier = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=60)]


@dataclass(frozen=True, config=CONFIG)
class Column:
    """What every column can say. Columns of tables are required unless `nulls`; features may always be missing."""

    description: str = ""
    _: KW_ONLY
    nulls: bool = False
    unique: bool = False
    severity: Severity = "warning"
    feature: bool = True
    """As a request field: whether the model sees the value itself (a key that is only looked up does not need to)."""
    in_table: str | None = None
    """The value must be the key of a row of this table."""
    private: Privacy | None = None
    """As a request field or a feature: what the prediction log holds in place of the value."""


@dataclass(frozen=True, config=CONFIG)
class Text(Column):
    """A string. As a feature it is categorical."""

    _: KW_ONLY
    one_of: Many[str] | None = None
    pattern: str | None = None
    max_length: int | None = None


@dataclass(frozen=True, config=CONFIG)
class Integer(Column):
    """A 64-bit integer."""

    _: KW_ONLY
    ge: int | None = None
    le: int | None = None
    one_of: Many[int] | None = None


@dataclass(frozen=True, config=CONFIG)
class Float(Column):
    """A 64-bit float."""

    _: KW_ONLY
    ge: float | None = None
    le: float | None = None


@dataclass(frozen=True, config=CONFIG)
class Boolean(Column):
    """True or false."""


@dataclass(frozen=True, config=CONFIG)
class Time(Column):
    """A moment, UTC, microseconds. Text is read as ISO 8601; a time with no zone is taken as UTC."""


AnyColumn = Text | Integer | Float | Boolean | Time
Columns = Mapping[str, AnyColumn]


@dataclass(frozen=True, config=CONFIG)
class Csv:
    """How a CSV file is written."""

    _: KW_ONLY
    delimiter: str = ","
    names: Many[str] | None = None
    """Column names, for a file with no header line."""
    null_values: Many[str] = ("", "NA")
    encoding: str = "utf-8"


Format = Literal["csv", "parquet", "jsonl"]


@dataclass(frozen=True, config=CONFIG)
class Files:
    """Local files by path or glob, relative to the problem's folder.

    The format follows the name unless given; `.zip` and `.gz` are opened."""

    path: str
    _: KW_ONLY
    format: Format | None = None
    csv: Csv = Csv()


@dataclass(frozen=True, config=CONFIG)
class PackageData:
    """A data file inside an installed package, found without importing it."""

    package: str
    path: str
    _: KW_ONLY
    format: Format | None = None
    csv: Csv = Csv()


@dataclass(frozen=True, config=CONFIG)
class Objects:
    """Objects under the storage root, by key or glob."""

    key: str
    _: KW_ONLY
    format: Format | None = None
    csv: Csv = Csv()


@dataclass(frozen=True, config=CONFIG)
class Sql:
    """A query against a connection that the settings name (TRUECOURSE_CONNECTIONS__<NAME>): no URL or secret here."""

    connection: str
    query: str


Source = Files | PackageData | Objects | Sql


@dataclass(frozen=True, config=CONFIG)
class Table:
    """One table: where its rows come from and what is expected of them.

    `key` columns identify a row: a later row with the same key is a correction. `time` is when the row's fact
    happened; rows that come in behind the table's newest time are late, and known only from then on (see
    docs/time.md). A table with no time has no history: a correction holds everywhere.
    """

    name: Identifier
    _: KW_ONLY
    source: Source
    columns: Columns
    key: Many[str] = ()
    time: str | None = None
    description: str = ""
    rows: tuple[int, int | None] | None = None
    """Least and most rows of the whole table; outside, the flow stops."""
    freshness: timedelta | None = None
    """The newest `time` may be at most this old, measured at the flow's `as_of`."""
    max_quarantined: Annotated[float, Field(ge=0, le=1)] = 0.05
    """Share of a batch's rows that may be quarantined before the flow stops."""

    @property
    def key_column(self) -> str | None:
        """The one column that other tables can refer to."""
        return self.key[0] if len(self.key) == 1 else None


def days(count: float) -> timedelta:
    return timedelta(days=count)


def hours(count: float) -> timedelta:
    return timedelta(hours=count)


def minutes(count: float) -> timedelta:
    return timedelta(minutes=count)


def seconds(count: float) -> timedelta:
    return timedelta(seconds=count)


def constraints(column: AnyColumn) -> dict[str, Any]:
    """The limits a value of this column must keep, by name, absent ones left out."""
    names = ("ge", "le", "one_of", "pattern", "max_length", "in_table")
    return {name: value for name in names if (value := getattr(column, name, None)) is not None}
