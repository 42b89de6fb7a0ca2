"""Aggregations by brute force: for each decision, DuckDB lists the rows that count, and Python evaluates them."""

import math
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from fractions import Fraction
from typing import Any

import duckdb
import pandas as pd
import pyarrow as pa

from truecourse.problem import (
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
    Table,
)
from truecourse.problem.aggregations import AnyAggregate

UNITS = {"seconds": 1, "minutes": 60, "hours": 3600, "days": 86400}


def brute_force(view: Aggregations, table: Table, clean: pa.Table, decisions: pd.DataFrame) -> pd.DataFrame:
    """Every feature of n decisions with columns `key` (or the key's name) and `t` (naive UTC).

    `clean`: the clean table with its row versions (_tc_recorded_at, _tc_superseded_at)."""
    (key,) = [name for name in decisions.columns if name != "t"]
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.register("clean", clean)
        connection.register("decisions", decisions.assign(place=range(len(decisions))))
        times = ", ".join(f'CAST("{name}" AS TIMESTAMP) AS "{name}"' for name in sorted({view.time, str(table.time)}))
        connection.execute(f"CREATE TABLE stored AS SELECT * REPLACE ({times}) FROM clean WHERE {view.where or 'true'}")
        known = f'greatest("{view.time}", "{table.time}", CAST(_tc_recorded_at AS TIMESTAMP))'
        connection.execute(
            f'CREATE TABLE rows AS SELECT *, "{view.time}" AS e, {known} AS known_from, '
            "CAST(_tc_superseded_at AS TIMESTAMP) AS known_until FROM stored "
            f'WHERE "{view.time}" IS NOT NULL AND "{key}" IS NOT NULL'
        )
        return pd.DataFrame(
            {name: _feature(connection, key, function) for name, function in view.features.items()}, dtype=object
        )


def _feature(connection: duckdb.DuckDBPyConnection, key: str, function: AnyAggregate) -> list[Any]:
    value = getattr(function, "value", "1")
    conditions = ["r.e <= d.t", "r.known_from <= d.t", "(r.known_until IS NULL OR r.known_until > d.t)"]
    if function.window is not None:
        conditions.append(f"r.e > d.t - to_microseconds({function.window // timedelta(microseconds=1)})")
    order = "ORDER BY r.e, r.known_from, r._tc_row"
    query = (
        f"SELECT d.t, list(r.x {order}) FILTER (r.e IS NOT NULL), list(r.e {order}) FILTER (r.e IS NOT NULL) "
        f"FROM decisions AS d LEFT JOIN (SELECT *, {value} AS x FROM rows WHERE {function.where or 'true'}) AS r "
        f'ON r."{key}" = d."{key}" AND {" AND ".join(conditions)} GROUP BY d.place, d.t ORDER BY d.place'
    )
    return [
        _evaluate(function, t, values or [], events or []) for t, values, events in connection.execute(query).fetchall()
    ]


def _evaluate(function: AnyAggregate, t: datetime, listed: Sequence[Any], events: Sequence[datetime]) -> Any:
    if isinstance(function, Count):
        return len(listed)
    if isinstance(function, Age):
        event = None if not events else events[0] if function.of == "first" else events[-1]
        return None if event is None else ((t - event) / timedelta(microseconds=1)) / (UNITS[function.unit] * 1e6)
    values = [value for value in listed if value is not None]
    if isinstance(function, CountDistinct):
        return len(set(values))
    return _of_values(function, values) if values else None


def _of_values(function: AnyAggregate, values: list[Any]) -> Any:
    simple: dict[type, Callable[[list[Any]], Any]] = {
        Min: min, Max: max, First: lambda v: v[0], Last: lambda v: v[-1], Sum: _sum,
        Mean: lambda v: math.fsum(v) / len(v), Share: lambda v: math.fsum(v) / len(v),
    }  # fmt: skip
    if isinstance(function, StandardDeviation):
        return _deviation(values)
    return simple[type(function)](values)


def _sum(values: list[Any]) -> Any:
    return sum(values) if all(isinstance(value, int) for value in values) else math.fsum(values)


def _deviation(values: list[Any]) -> float | None:
    if len(values) < 2:
        return None
    exact = [Fraction(value) for value in values]
    mean = sum(exact, Fraction(0)) / len(exact)
    return math.sqrt(float(sum(((x - mean) ** 2 for x in exact), Fraction(0)) / (len(exact) - 1)))
