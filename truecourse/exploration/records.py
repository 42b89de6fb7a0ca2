"""What an exploration found, as it is stored and printed."""

from collections.abc import Mapping
from datetime import datetime
from typing import Literal

from truecourse.catalogue.distributions import Distribution
from truecourse.references import Reference

Value = float | int | bool | str | datetime
Topic = Literal[
    "leak", "unreadable", "constant", "missing", "duplicate rows", "duplicate columns", "outliers", "placeholder",
    "time gap", "future times", "drift", "label",
]  # fmt: skip


class Finding(Reference):
    """One thing that a reader should know, in a sentence."""

    topic: Topic
    columns: tuple[str, ...]
    sentence: str


class Interval(Reference):
    """An estimate with its 95% interval; the ends are None where there are too few rows."""

    value: float
    low: float | None
    high: float | None


class Bin(Reference):
    """Rows of the sample from `low` to below `high`; the last bin of a histogram includes its end."""

    low: float
    high: float
    rows: int


class Outliers(Reference):
    """The rows beyond Tukey's outer fences, three interquartile ranges from the quartiles."""

    rows: int
    low: float
    high: float


class ColumnSummary(Reference):
    """One column in all rows; `quantiles` (at QUANTILES) and `histogram` are those of the sample.

    `distinct` is exact if `distinct_exact`. `minimum`, `maximum`: of texts, the lengths. `top`: the most frequent
    values with their rows; none of private columns. `relation`: the share of the label's squared error that the column
    alone explains, out of fold. `shift`: the population stability index between the first and last third of the rows
    by time."""

    name: str
    type: str
    unit: str = ""
    description: str = ""
    role: str = ""
    private: bool = False
    rows: int
    missing: int
    unreadable: int = 0
    distinct: int
    distinct_exact: bool
    minimum: Value | None = None
    maximum: Value | None = None
    mean: float | None = None
    deviation: float | None = None
    quantiles: tuple[float, ...] = ()
    histogram: tuple[Bin, ...] = ()
    top: tuple[tuple[Value, int], ...] = ()
    outliers: Outliers | None = None
    relation: Interval | None = None
    shift: float | None = None
    over_time: Distribution | None = None

    @property
    def missing_share(self) -> float:
        return self.missing / self.rows


class MissingPattern(Reference):
    """Columns that are missing together, and the rows with exactly these missing."""

    columns: tuple[str, ...]
    rows: int


class Key(Reference):
    """Columns whose values together identify each row."""

    columns: tuple[str, ...]
    reason: str = ""


class Duplicates(Reference):
    """Rows that are equal to an earlier row in all columns but `without`, which identify rows."""

    rows: int
    without: tuple[str, ...]


class Coverage(Reference):
    """A time column: its span, its rows by period, and its longest gaps without rows."""

    column: str
    first: datetime
    last: datetime
    period: str
    counts: tuple[tuple[datetime, int], ...]
    empty_periods: int
    gaps: tuple[tuple[datetime, datetime], ...]
    future: int


class Pair(Reference):
    """How strongly two columns are associated, from 0 to 1, and by which measure."""

    one: str
    other: str
    strength: float
    measure: str


class Exploration(Reference):
    """The result of an exploration. `sampled`: the rows of the sample. `left_out`: columns without readable values."""

    name: str
    title: str
    origin: str
    at: datetime
    rows: int
    sampled: int
    label: str = ""
    label_kind: str = ""
    time: str = ""
    columns: tuple[ColumnSummary, ...]
    left_out: Mapping[str, str]
    notes: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()
    patterns: tuple[MissingPattern, ...] = ()
    complete_rows: int = 0
    keys: tuple[Key, ...] = ()
    duplicates: Duplicates
    coverage: tuple[Coverage, ...] = ()
    pairs: tuple[Pair, ...] = ()
    associated: tuple[str, ...] = ()
    """The columns of which all pairs were measured."""

    def of(self, topic: Topic) -> list[Finding]:
        return [finding for finding in self.findings if finding.topic == topic]
