"""The labels of some decisions, as they were known at a moment."""

from datetime import UTC, datetime, timedelta

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from truecourse.data import sql
from truecourse.data.arrow_types import UTC_TIME
from truecourse.features import frame as frames
from truecourse.problem import Problem
from truecourse.references import Window
from truecourse.storage.tables import Tables

NAMES = ("id", "label", "known_at")


def known_labels(problem: Problem, tables: Tables, ids: pa.ChunkedArray, decided: Window, at: datetime) -> pa.Table:
    """`id`, `label`, `corrected` and, where the problem has it, `known_at` of those of the decisions whose labels were
    known by `at` (UTC), one row each. `decided`: when the decisions fell (naive UTC).

    Of a label that came again the latest counts, known since the first came; `corrected` says whether it changed.

    Rows are read as they were recorded by then. A problem with no `known_at` counts every label that is there."""
    if not problem.has_spine:
        found = frames.spine(problem, tables, sql.clean_versions(problem, tables), decided)
        found = found.select([name for name in NAMES if name in found.column_names])
        found = found.filter(pc.is_in(found["id"], ids.combine_chunks()))
    else:
        found = _asked(problem, tables, ids, decided, at)
    known = pc.is_valid(found["label"])
    if "known_at" in found.column_names:
        known = pc.and_(known, pc.fill_null(pc.less_equal(found["known_at"], pa.scalar(at, UTC_TIME)), False))
    return _once(found.filter(known))


def _once(found: pa.Table) -> pa.Table:
    """One row for each id, in the order of the first of them."""
    rows = pl.DataFrame(found)
    order = ["known_at", "label"] if "known_at" in rows.columns else []
    kept = [pl.col("label").last(), (pl.col("label").n_unique() > 1).alias("corrected")]
    kept += [pl.col("known_at").first()] if order else []
    places = rows.select("id").unique(maintain_order=True)
    one = (rows.sort(order) if order else rows).group_by("id").agg(kept)
    return places.join(one, on="id", how="left", maintain_order="left").to_arrow(compat_level=pl.CompatLevel.oldest())


def _asked(problem: Problem, tables: Tables, ids: pa.ChunkedArray, decided: Window, at: datetime) -> pa.Table:
    label = problem.label
    near = None
    if label.lookback is not None and decided.start is not None and decided.end is not None:
        # SQL windows take both ends in, and a label may need what comes after its decision.
        near = Window(start=decided.start - label.lookback, end=decided.end + max(label.lookback, label.closes_after))
    with sql.connect() as connection:
        moment = at.astimezone(UTC).replace(tzinfo=None)
        versions = sql.clean_versions(problem, tables)
        sql.bind(connection, problem, tables, versions, rows=sql.as_of(moment), window=near)
        connection.register("asked__ids", pa.table({"id": ids}))
        labels = sql.statement(problem, str(label.sql))
        query = (
            "SELECT asked__ids.id, labels.label, labels.known_at "  # noqa: S608
            f"FROM ({labels}) AS labels JOIN asked__ids ON CAST(labels.id AS VARCHAR) = asked__ids.id"
        )
        return sql.fetch(connection, query, where=str(label.sql))


def label_delay_hours(rows: pa.Table) -> pa.ChunkedArray:
    """Hours from each row's decision to its label; null where it has none."""
    lag = pc.subtract(rows["known_at"].cast(pa.timestamp("us")), rows["decision_time"].cast(pa.timestamp("us")))
    return pc.divide(lag.cast(pa.int64()).cast(pa.float64()), timedelta(hours=1) / timedelta(microseconds=1))
