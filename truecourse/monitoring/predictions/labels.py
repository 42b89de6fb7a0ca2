"""Labels of decisions as of a reference time."""

from datetime import UTC, datetime, timedelta

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from truecourse.data import sql, table_views
from truecourse.data.arrow_types import UTC_TIME
from truecourse.features import frame as frames
from truecourse.features.label_window import label_window
from truecourse.problem import Problem
from truecourse.references import Window
from truecourse.storage.delta_tables import Tables

NAMES = ("id", "label", "known_at")


def read_known_labels(
    problem: Problem, tables: Tables, ids: pa.ChunkedArray, decided: Window, at: datetime
) -> pa.Table:
    """Return `id`, `label`, `corrected` and, where the problem has it, `known_at`: one row for each of the decisions
    `ids` whose label was known by `at` (UTC). `decided`: the range of their decision times (naive UTC).

    Where a label was recorded more than once, the latest value counts, and `known_at` is that of the first;
    `corrected`: whether the values differ. Only rows recorded by `at` are read. Without `known_at`, every label
    counts."""
    if not problem.has_spine:
        rows = frames.read_spine(problem, tables, sql.clean_versions(problem, tables), decided)
        rows = rows.select([name for name in NAMES if name in rows.column_names])
        rows = rows.filter(pc.is_in(rows["id"], ids.combine_chunks()))
    else:
        rows = _query_labels(problem, tables, ids, decided, at)
    is_known = pc.is_valid(rows["label"])
    if "known_at" in rows.column_names:
        is_known = pc.and_(is_known, pc.fill_null(pc.less_equal(rows["known_at"], pa.scalar(at, UTC_TIME)), False))
    return _latest_values(rows.filter(is_known))


def _latest_values(labels: pa.Table) -> pa.Table:
    """Return latest row for each id, in order of first appearance."""
    rows = pl.DataFrame(labels)
    order = ["known_at", "label"] if "known_at" in rows.columns else []
    kept = [pl.col("label").last(), (pl.col("label").n_unique() > 1).alias("corrected")]
    kept += [pl.col("known_at").first()] if order else []
    ids = rows.select("id").unique(maintain_order=True)
    latest = (rows.sort(order) if order else rows).group_by("id").agg(kept)
    return ids.join(latest, on="id", how="left", maintain_order="left").to_arrow(compat_level=pl.CompatLevel.oldest())


def _query_labels(problem: Problem, tables: Tables, ids: pa.ChunkedArray, decided: Window, at: datetime) -> pa.Table:
    with sql.connect() as connection:
        as_of = at.astimezone(UTC).replace(tzinfo=None)
        versions = sql.clean_versions(problem, tables)
        table_views.bind(
            connection, problem, tables, versions, rows=sql.as_of(as_of), window=label_window(problem, decided)
        )
        connection.register("asked__ids", pa.table({"id": ids}))
        labels = sql.statement(problem, str(problem.label.sql))
        query = (
            "SELECT asked__ids.id, labels.label, labels.known_at "  # noqa: S608
            f"FROM ({labels}) AS labels JOIN asked__ids ON CAST(labels.id AS VARCHAR) = asked__ids.id"
        )
        return sql.fetch(connection, query, where=str(problem.label.sql))


def label_delay_hours(rows: pa.Table) -> pa.ChunkedArray:
    """Return the hours from each row's decision to its label; null without a label."""
    lag = pc.subtract(rows["known_at"].cast(pa.timestamp("us")), rows["decision_time"].cast(pa.timestamp("us")))
    return pc.divide(lag.cast(pa.int64()).cast(pa.float64()), timedelta(hours=1) / timedelta(microseconds=1))
