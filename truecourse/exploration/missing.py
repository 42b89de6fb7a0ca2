"""Patterns of missing values: which columns are missing together, in how many rows."""

from truecourse.exploration.records import ColumnSummary, MissingPattern
from truecourse.exploration.source import Source

MOST_PATTERNS = 12
_BITS = 63
"""Columns with missing values that patterns tell apart: those with the most."""


def missing_patterns(source: Source, summaries: list[ColumnSummary]) -> tuple[tuple[MissingPattern, ...], int]:
    """The most frequent patterns over all rows, and the number of rows without any missing or unreadable value."""
    gone = [
        (column, summary)
        for column, summary in zip(source.columns, summaries, strict=True)
        if summary.missing + summary.unreadable
    ]
    if not gone:
        return (), source.rows
    complete = " AND ".join(f"{column.sql} IS NOT NULL" for column, _ in gone)
    rows = source.fetch(f"SELECT count_if({complete}) FROM data")[0][0]  # noqa: S608
    chosen = [column for column, _ in sorted(gone, key=lambda each: -each[1].missing)[:_BITS]]
    bits = " + ".join(f"({column.sql} IS NULL)::UBIGINT * {1 << i}" for i, column in enumerate(chosen))
    query = f"SELECT {bits} AS bits, count(*) FROM data GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT {MOST_PATTERNS + 1}"  # noqa: S608
    patterns = [
        MissingPattern(columns=tuple(c.name for i, c in enumerate(chosen) if int(found) >> i & 1), rows=count)
        for found, count in source.fetch(query)
        if found
    ]
    return tuple(patterns[:MOST_PATTERNS]), rows
