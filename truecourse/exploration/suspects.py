"""Leak suspects of an exploration: those of the labelled rows, and those that only times, groups or copies show."""

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from truecourse.authoring.leakage.search import find_leak_suspects
from truecourse.authoring.leakage.suspects import MAX_ROWS
from truecourse.exploration import group_suspects, time_suspects
from truecourse.exploration.records import ColumnSummary, Finding
from truecourse.exploration.source import Column, Source
from truecourse.html import share
from truecourse.wording import counted

_STRONG, _OTHERS = 0.9, 0.5
"""A column that explains at least the first share of the label's error, while no other explains more than the second
share of that."""
_COPIES = 0.9
"""Of rows that agree in all columns but one, the least share that must agree in that one too to be copies."""
_LEAST_COPIES, _LEAST_SHARE = 5, 0.005
"""Rows with copies, and their share, from which on they make a random split unfair."""
Found = Iterator[tuple[tuple[str, ...], str]]


def find_suspects(source: Source, summaries: Sequence[ColumnSummary]) -> list[Finding]:
    """Find leak suspects of every kind; each column is named once, with its strongest evidence."""
    found: list[Finding] = []
    named: set[str] = set()
    for search in (
        _label_suspects, _outstanding_suspects, time_suspects.later_times, time_suspects.durations,
        time_suspects.time_codes, time_suspects.late_values, group_suspects.group_figures,
        group_suspects.shifted_labels,
    ):  # fmt: skip
        for columns, sentence in search(source, summaries):
            if not named & set(columns):
                named |= set(columns)
                found.append(Finding(topic="leak", columns=columns, sentence=sentence))
    return found


def _label_suspects(source: Source, summaries: Sequence[ColumnSummary]) -> Found:
    """Columns that predict the label too well, in a sample of the labelled rows."""
    roles = source.roles
    if not roles.label or roles.kind is None:
        return
    label = source.values(source.column(roles.label))
    known = np.flatnonzero(pc.is_valid(label).to_numpy(zero_copy_only=False))
    rows = pa.array(known[:: max(1, -(-len(known) // MAX_ROWS))])
    features = {column.name: source.values(column).take(rows) for column in source.inputs}
    for suspect in find_leak_suspects(roles.label, roles.kind, label.take(rows), features):
        if any(source.column(name).private for name in suspect.columns):
            yield suspect.columns, f"{' and '.join(suspect.columns)} gives {roles.label} away; its values are private"
        else:
            yield suspect.columns, str(suspect)


def _outstanding_suspects(source: Source, summaries: Sequence[ColumnSummary]) -> Found:
    """One column that explains nearly all of the label, far more than any other."""
    inputs = {column.name for column in source.inputs}
    found = sorted(
        ((s.relation.value, s) for s in summaries if s.relation is not None and s.name in inputs),
        key=lambda each: -each[0],
    )
    if len(found) < 2:
        return
    (best, column), (second, _) = found[:2]
    low = column.relation.low if column.relation and column.relation.low is not None else best
    if low >= _STRONG and second <= _OTHERS * best:
        what = f"{column.name} alone explains {share(best)} of the squared error of {source.roles.label}"
        yield (column.name,), f"{what}; no other column explains more than {share(max(second, 0.0))}"


def copy_suspects(source: Source, compared: list[Column]) -> list[Finding]:
    """Copies of rows, in all columns that do not identify rows: a split can put them on both sides.

    Equal rows of a table with few different values are no copies. Rows that agree in all but one column with many
    values must nearly always agree in that one too."""
    many = [column for column in compared if column.type != "Boolean" and _has_many_values(source, column)]
    if len(many) < 2 or len(compared) < 3:
        return []
    for column in many[:4]:
        others = ", ".join(other.sql for other in compared if other is not column)
        rows = f"SELECT hash({others}) AS others, hash({column.sql}) AS own FROM data"  # noqa: S608
        groups = f"SELECT count(*) AS n, count(DISTINCT own) AS k FROM ({rows}) GROUP BY others HAVING n > 1"  # noqa: S608
        totals = f"SELECT coalesce(sum(n - 1), 0), coalesce(sum(k - 1), 0) FROM ({groups})"  # noqa: S608
        repeated, different = source.fetch(totals)[0]
        if not repeated or different > (1 - _COPIES) * repeated:
            return []
    return list(_copies(source, compared))


def _has_many_values(source: Source, column: Column) -> bool:
    values = source.values(column)
    return bool(pc.count_distinct(values).as_py() >= max(20, np.sqrt(len(values)) / 2))


def _copies(source: Source, compared: list[Column]) -> Iterator[Finding]:
    row = f"hash({', '.join(column.sql for column in compared)})"
    if split := source.roles.split:
        side = source.column(split).sql
        inside = f"SELECT {row} FROM data WHERE {side} = 'train'"  # noqa: S608
        query = f"SELECT count_if({row} IN ({inside})), count(*) FROM data WHERE {side} = 'test'"  # noqa: S608
        both, tests = source.fetch(query)[0]
        if both:
            what = f"{both:,} of {counted(tests, 'test row')} are copies of rows in training"
            yield Finding(topic="leak", columns=(split,), sentence=what)
        return
    groups = f"SELECT count(*) AS n FROM data GROUP BY {row}"  # noqa: S608
    rows = int(source.fetch(f"SELECT coalesce(sum(n), 0) FROM ({groups}) WHERE n > 1")[0][0])  # noqa: S608
    if rows >= max(_LEAST_COPIES, _LEAST_SHARE * source.rows):
        what = f"{counted(rows, 'row')} have copies: a random split puts copies of test rows into training"
        yield Finding(topic="leak", columns=(), sentence=f"{what}; remove copies, or split by what they share")
