"""Columns, sources and tables: the part of a problem that describes data."""

import codecs
import re
from collections.abc import Mapping
from dataclasses import KW_ONLY
from datetime import timedelta
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import AfterValidator, ConfigDict, Field, Strict, model_validator
from pydantic.dataclasses import dataclass

CONFIG = ConfigDict(strict=True, extra="forbid", arbitrary_types_allowed=True)

RESERVED_PREFIX = "_tc_"
"""Our own columns in stored tables start with it, and no column of a user's does: any other name is theirs."""

Severity = Literal["critical", "warning", "info"]
"""critical: the flow stops, nothing is written; warning: the row is quarantined; info: the row stays, reported."""

Privacy = Literal["hash", "drop"]
"""How a private value is kept in the prediction log: as a salted hash, by which equals can be told, or not at all."""

T = TypeVar("T")
Many = Annotated[tuple[T, ...], Strict(False)]
"""A tuple that may be written as a list."""

Identifier = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=60)]

EPOCHS: Mapping[str, int] = {"epoch_s": 1_000_000, "epoch_ms": 1_000, "epoch_us": 1}
"""Microseconds in one unit of a time that is written as a number since 1970-01-01T00:00:00Z."""
DIRECTIVES = "YymdbBjHIMSfpzaA%"
"""What may follow % in the format of a Time column, as in Python's strptime."""


def _known_symbol(symbol: str) -> str:
    if symbol != symbol.strip() or re.search(r"[0-9.,+\-]", symbol):
        raise ValueError("a symbol is a sign or letters, without digits, points, commas or space around it")
    return symbol


def _known_format(written: str | None) -> str | None:
    if written is None or written in EPOCHS:
        return written
    found = re.findall(r"%(.?)", written)
    if unknown := [name for name in found if not name or name not in DIRECTIVES]:
        raise ValueError(f"unknown directive %{unknown[0]}: known are {', '.join('%' + d for d in DIRECTIVES)}")
    if not {"Y", "y"} & {*found} or not {"j", "m", "b", "B"} & {*found}:
        known = ", ".join(EPOCHS)
        raise ValueError(f"a time format names year and month, as in %d/%m/%Y %H:%M, or is one of {known}")
    return written


Symbol = Annotated[str, Field(max_length=8), AfterValidator(_known_symbol)]
"""A currency or per cent sign that is written with a number, before or after it."""


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
    max_unreadable: Annotated[float | None, Field(ge=0, le=1)] = None
    """Share of a delivery's cells that may be unreadable in this column; as the table says unless given."""
    private: Privacy | None = None
    """As a request field or a feature: what the prediction log holds in place of the value."""
    known_ahead: timedelta | None = None
    """In a table with a time: how long before the row's time the value may be known at the earliest (negative: after
    it); as the table's rows unless given. See docs/time.md, "The look-ahead proof"."""
    source: str = ""
    """In a table: the name of the column in the source, if it differs from the name in the table."""


@dataclass(frozen=True, config=CONFIG)
class Text(Column):
    """A string. As a feature it is categorical."""

    _: KW_ONLY
    one_of: Many[str] | None = None
    pattern: str | None = None
    max_length: int | None = None


@dataclass(frozen=True, config=CONFIG)
class Integer(Column):
    """A 64-bit integer. `symbol`, as in "$5", is removed; nothing is scaled. `unit`, as in "miles", is shown with the
    values."""

    _: KW_ONLY
    symbol: Symbol = ""
    unit: str = ""
    ge: int | None = None
    le: int | None = None
    one_of: Many[int] | None = None


@dataclass(frozen=True, config=CONFIG)
class Float(Column):
    """A finite 64-bit float. `symbol`, as in "12.5 %", is removed; nothing is scaled. `unit`, as in "km", is shown with
    the values."""

    _: KW_ONLY
    symbol: Symbol = ""
    unit: str = ""
    ge: float | None = None
    le: float | None = None


@dataclass(frozen=True, config=CONFIG)
class Boolean(Column):
    """True or false."""


@dataclass(frozen=True, config=CONFIG)
class Time(Column):
    """A moment, UTC, microseconds, of the years 1678 to 2261; a time with no zone is taken as UTC.

    `format` says how a source writes it: as Python's strptime ("%d/%m/%Y %H:%M"; without a day, the first of the
    month), or as a number since 1970 ("epoch_s", "epoch_ms", "epoch_us"). None is ISO 8601, a date being its
    midnight."""

    _: KW_ONLY
    format: Annotated[str | None, AfterValidator(_known_format)] = None


AnyColumn = Text | Integer | Float | Boolean | Time
Columns = Mapping[str, AnyColumn]


def shown_unit(column: AnyColumn | None) -> str:
    """The unit that is shown with a column's values: what it declares, or the sign that its cells carry."""
    return (column.unit or column.symbol) if isinstance(column, Integer | Float) else ""


def source_names(columns: Columns) -> dict[str, str]:
    """The name in the source of each column, by its name in the table."""
    return {name: column.source or name for name, column in columns.items()}


def _known_encoding(name: str) -> str:
    try:
        codecs.lookup(name)
    except LookupError:
        raise ValueError(f"unknown encoding {name!r}: utf-8, utf-16, cp1252 and latin-1 are known") from None
    return name


@dataclass(frozen=True, config=CONFIG)
class Csv:
    """How a CSV file is written. A byte order mark tells UTF-8 and UTF-16 even if `encoding` says utf-8."""

    _: KW_ONLY
    delimiter: Annotated[str, Field(min_length=1, max_length=1)] = ","
    names: Many[str] | None = None
    """Column names, for a file with no header line."""
    null_values: Many[str] = ("", "NA")
    encoding: Annotated[str, AfterValidator(_known_encoding)] = "utf-8"
    decimal: Literal[".", ","] = "."
    thousands: Literal["", ",", ".", " ", "'"] = ""
    """The sign between groups of digits; " " stands for every kind of space, "'" for both apostrophes."""
    skip_lines: Annotated[int, Field(ge=0)] = 0
    """Title lines above the header."""
    quote: Annotated[str, Field(max_length=1)] = '"'
    """The sign around a cell that holds delimiters or line ends; "" if there is none."""
    trim: bool = True
    """White space around a cell is no part of it."""

    @model_validator(mode="after")
    def _told_apart(self) -> Self:
        if self.decimal == self.thousands:
            raise ValueError(f"decimal and thousands are both {self.decimal!r}")
        if self.quote == self.delimiter:
            raise ValueError(f"delimiter and quote are both {self.quote!r}")
        for name in ("delimiter", "quote"):
            if (sign := getattr(self, name)) and (ord(sign) > 127 or sign in "\r\n"):
                raise ValueError(f"{name} must be one ASCII character that ends no line, not {sign!r}")
        return self


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


Combine = Literal["append", "replace", "upsert"]
"""append: each delivery's rows are added. replace: the newest accepted content of a place stands for it. upsert: by
key, the latest delivery's row wins, and no row goes."""

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
    combine: Combine | None = None
    """How deliveries combine (docs/data.md); `upsert` for a table with key and `replace` for one without, unless given.
    """
    known_ahead: timedelta = timedelta(0)
    """How long before its `time` a row may be known at the earliest, as a timetable is; negative: how long after it."""
    description: str = ""
    rows: tuple[int, int | None] | None = None
    """Least and most rows of the whole table; outside, the flow stops."""
    freshness: timedelta | None = None
    """The newest `time` may be at most this old, measured at the flow's `as_of`."""
    max_quarantined: Annotated[float, Field(ge=0, le=1)] = 0.05
    """Share of a delivery's rows that may be quarantined; beyond it the delivery is refused."""
    max_unreadable: Annotated[float, Field(ge=0, le=1)] = 0.05
    """Share of a delivery's cells in any one column that may be unreadable; a column may say another."""
    max_removed: Annotated[float, Field(ge=0, le=1)] = 0.5
    """With `replace`: share of a place's rows that a new content may take away; beyond it the delivery is refused."""

    @property
    def combines(self) -> Combine:
        return self.combine or ("upsert" if self.key else "replace")

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
