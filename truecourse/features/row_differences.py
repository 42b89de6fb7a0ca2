"""Differences between rows computed from all sources and from sources cut at a time, for the look-ahead proof."""

import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from truecourse.arrays import Array
from truecourse.data import sql
from truecourse.data.arrow_types import UTC_TIME
from truecourse.errors import FeatureError
from truecourse.features.label_cells import OutcomeColumns

MOMENTS = 4
"""Sampled times for each view, and for spine and labels."""


class LookAheadError(FeatureError):
    """A SQL file reads data that was not known yet."""


@dataclass(frozen=True)
class Difference:
    """A row that differs: its identity, its time, the column (None if only one side has the row) and both values."""

    row: dict[str, Any]
    at: datetime
    column: str | None
    full: Any
    cut: Any

    def describe(self, subject: str, moment: datetime) -> str:
        name = ", ".join(f"{key}={value}" for key, value in self.row.items())
        sides = f"from all sources, and {{}} from the sources up to {text(moment)}"
        if self.column is None:
            full, cut = ("present", "absent") if self.full else ("absent", "present")
            return f"{subject} looks ahead: the row of {name} at {text(self.at)} is {full} {sides.format(cut)}"
        values = f"is {_value(self.full)} {sides.format(_value(self.cut))}"
        return f"{subject} looks ahead: {self.column} of {name} at {text(self.at)} {values}"


def cut_at(cells: OutcomeColumns | None, moment: datetime) -> sql.Cut:
    """The cut of the sources at a moment (naive UTC)."""
    return sql.Cut(moment, cells.table, cells.columns, cells.known) if cells else sql.Cut(moment)


def last_difference(
    connection: duckdb.DuckDBPyConnection,
    full: str,
    cut: str,
    identity: list[str],
    columns: list[str],
    floats: Iterable[str],
    clock: str,
) -> Difference | None:
    """The last row in time that only one side has, or whose values differ. It is the nearest to the cut. Floats may
    differ by a relative 1e-9, because the order of addition may differ."""
    on = " AND ".join(f"f.{sql.quote(name)} IS NOT DISTINCT FROM c.{sql.quote(name)}" for name in identity)
    same = {name: f"f.{sql.quote(name)} IS NOT DISTINCT FROM c.{sql.quote(name)}" for name in columns}
    for name in floats:
        one, other = f"f.{sql.quote(name)}", f"c.{sql.quote(name)}"
        same[name] = f"({same[name]} OR abs({one} - {other}) <= 1e-9 * greatest(abs({one}), abs({other})))"
    names = list(dict.fromkeys([*identity, clock, *columns]))
    both = ", ".join(f"f.{sql.quote(n)}, c.{sql.quote(n)}" for n in names)
    equal = ", ".join(f"coalesce({condition}, false)" for condition in same.values()) or "true"
    all_equal = " AND ".join(f"coalesce({condition}, false)" for condition in same.values()) or "true"
    rows = connection.execute(
        f"SELECT f._tc_present, c._tc_present, {both}, {equal} FROM (SELECT true AS _tc_present, * FROM {full}) AS f "  # noqa: S608
        f"FULL OUTER JOIN (SELECT true AS _tc_present, * FROM {cut}) AS c ON {on} "
        f"WHERE f._tc_present IS NULL OR c._tc_present IS NULL OR NOT ({all_equal}) "
        f"ORDER BY coalesce(f.{sql.quote(clock)}, c.{sql.quote(clock)}) DESC, "
        f"{', '.join(f'coalesce(f.{sql.quote(n)}, c.{sql.quote(n)})' for n in identity)} LIMIT 1"
    ).fetchall()
    if not rows:
        return None
    in_full, in_cut, *rest = rows[0]
    values = {name: (rest[2 * i], rest[2 * i + 1]) for i, name in enumerate(names)}
    side = 0 if in_full else 1
    row = {name: values[name][side] for name in identity}
    moment = values[clock][side]
    if not (in_full and in_cut):
        return Difference(row, moment, None, in_full, in_cut)
    unequal = next(name for name, equal in zip(columns, rest[2 * len(names) :], strict=True) if not equal)
    return Difference(row, moment, unequal, *values[unequal])


def first_use(decisions: pa.Table, key: Mapping[str, Any], event: datetime) -> str:
    """The first decision that used a value of this key and event time (naive UTC), for the message; empty if none."""
    mine = pc.greater_equal(decisions["decision_time"], pa.scalar(event.replace(tzinfo=UTC), UTC_TIME))
    for name, value in key.items():
        column = decisions[name]
        mine = pc.and_(mine, pc.equal(column, pa.scalar(value).cast(column.type)))
    affected = decisions.filter(mine)
    if not len(affected):
        return ""
    time = text(affected["decision_time"][0].as_py())
    return f"; decision {affected['id'][0].as_py()} of {time} used this value"


def sorted_times(column: pa.ChunkedArray) -> Array:
    """Distinct times (datetime64[us]), sorted."""
    return np.sort(pc.unique(pc.drop_null(column)).cast(pa.timestamp("us")).to_numpy())


def sample_times(times: Array, count: int, seed: str) -> list[datetime]:
    """Sample one time from each of `count` equal parts of the times, except the last time, which nothing follows."""
    times = times[:-1] if len(times) > 1 else times
    parts = [part for part in np.array_split(times, count) if len(part)]
    generator = random.Random(seed)  # noqa: S311  # the same for the same inputs
    return sorted({part[generator.randrange(len(part))].item() for part in parts})


def literal(moment: datetime) -> str:
    """A time (naive UTC) as a DuckDB literal."""
    return f"TIMESTAMPTZ '{moment.isoformat(sep=' ')}+00'"


def text(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S}"


def _value(value: Any) -> str:
    return "missing" if value is None else f"{value:.6g}" if isinstance(value, float) else repr(value)
