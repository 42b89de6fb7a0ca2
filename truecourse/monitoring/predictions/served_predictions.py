"""A model version's served predictions, from the prediction log and from batches, in one table."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from truecourse.arrays import Array
from truecourse.data.arrow_types import UTC_TIME, arrow_type
from truecourse.features.frame import sort_frame
from truecourse.modeling.encoding import Vocabulary
from truecourse.monitoring.predictions.log_sample import newest_day_end
from truecourse.problem import Problem
from truecourse.problem.definition import midnight
from truecourse.serving.batch_scoring import MODEL_VERSION, SCORE, SCORED_AT, predictions_table
from truecourse.serving.prediction_log import log_table, parse_json_column
from truecourse.storage.delta_tables import Limit, Tables

ANSWERING_ROLES = ("champion", "challenger")
_DOCUMENTS = ("request", "features")


@dataclass(frozen=True)
class ServedPredictions:
    """Rows in canonical order with `id`, `decision_time`, the features and slices, and the model's output.

    `without_id`: counts of log records without an id, by day of decision; no label can be found for them."""

    rows: pa.Table
    without_id: Mapping[date, int]


def output_of(rows: pa.Table, vocabulary: Vocabulary) -> Array:
    """Return the scores as Model.predict() does: (n,), or (n, k) by class; float64."""
    if SCORE in rows.column_names:
        return np.asarray(rows[SCORE].to_numpy(), dtype=np.float64)
    return np.column_stack([rows[f"{SCORE}_{name}"].to_numpy() for name in vocabulary.classes]).astype(np.float64)


def read_served(
    problem: Problem, tables: Tables, version: int, days: Sequence[date], at: datetime, outputs: Sequence[date] = ()
) -> ServedPredictions:
    """Read the version's predictions with decisions on these UTC `days`, made by `at`.

    Of several predictions for an id the last one counts, and the log takes precedence over batches. A batch row counts
    as made at its decision time. `outputs`: more days, of which only the outputs are read; their features are null."""
    all_days = sorted({*days, *outputs})
    batches = _batches(problem, tables, version, all_days, at)
    logged, without_id = _logged(problem, tables, version, all_days, days, at)
    parts = [part for part in (batches, logged) if part is not None and len(part)]
    if not parts:
        return ServedPredictions(_empty(), without_id)
    rows = pl.concat([pl.DataFrame(part) for part in parts], how="diagonal_relaxed")
    rows = rows.unique("id", keep="last", maintain_order=True)
    return ServedPredictions(sort_frame(rows.to_arrow(compat_level=pl.CompatLevel.oldest())), without_id)


def newest_decision_day_end(problem: Problem, tables: Tables) -> datetime | None:
    """Return the end of the UTC day of the newest decision (timezone-aware); None without predictions."""
    ends = [newest_day_end(problem, tables)]
    reference = tables.version(predictions_table(problem.name))
    if reference is not None:
        last = pc.max(tables.read(reference, ["decision_time"])["decision_time"]).as_py()
        ends.append(last and (midnight(last.date()) + timedelta(days=1)).replace(tzinfo=UTC))
    return max((end for end in ends if end), default=None)


def _empty() -> pa.Table:
    return pa.table({"id": pa.array([], pa.string()), "decision_time": pa.array([], UTC_TIME)})


def _input_names(problem: Problem) -> list[str]:
    return list(dict.fromkeys([*problem.monitoring.slices, *problem.features]))


def _decided_on(days: Sequence[date]) -> Any:
    """Build a filter on `decision_time` from runs of consecutive days (sorted), so that other files are skipped."""
    where: Any = None
    for first, last in _runs(days):
        start, end = (pa.scalar(midnight(day), UTC_TIME) for day in (first, last + timedelta(days=1)))
        run = (pc.field("decision_time") >= start) & (pc.field("decision_time") < end)
        where = run if where is None else where | run
    return where


def _limits(days: Sequence[date], at: datetime) -> list[Limit]:
    first, end = (midnight(day).replace(tzinfo=UTC) for day in (days[0], days[-1] + timedelta(days=1)))
    return [("decision_time", ">=", first), ("decision_time", "<", end), ("at", "<=", at)]


def _runs(days: Sequence[date]) -> list[tuple[date, date]]:
    runs: list[tuple[date, date]] = []
    for day in days:
        if runs and day - runs[-1][1] == timedelta(days=1):
            runs[-1] = (runs[-1][0], day)
        else:
            runs.append((day, day))
    return runs


def _batches(problem: Problem, tables: Tables, version: int, days: Sequence[date], at: datetime) -> pa.Table | None:
    reference = tables.version(predictions_table(problem.name))
    if reference is None:
        return None
    where = (pc.field(MODEL_VERSION) == version) & _decided_on(days)
    where &= pc.field("decision_time") <= pa.scalar(at, UTC_TIME)
    columns = tables.dataset(reference).schema.names
    scores = [name for name in columns if name == SCORE or name.startswith(f"{SCORE}_")]
    # Rows without an id have no label to look up.
    names = ["decision_time", *(name for name in _input_names(problem) if name in columns), *scores, SCORED_AT]
    rows = tables.read(reference, ["id", *names], where & pc.is_valid(pc.field("id")))
    return rows.sort_by([(SCORED_AT, "ascending")]).drop_columns([SCORED_AT])


def _logged(
    problem: Problem, tables: Tables, version: int, days: Sequence[date], full_days: Sequence[date], at: datetime
) -> tuple[pa.Table | None, Mapping[date, int]]:
    reference = tables.version(log_table(problem.name))
    if reference is None:
        return None, {}
    where = (pc.field("model_version") == version) & pc.field("role").isin(ANSWERING_ROLES) & _decided_on(days)
    columns = ["id", "at", "decision_time", "request", "features", "score", "scores"]
    records = tables.read(reference, columns, where, _limits(days, at)).sort_by([("at", "ascending")])
    has_id = pc.is_valid(records["id"])
    without_id = records.filter(pc.invert(has_id))["decision_time"].to_pylist()
    return _columns(problem, records.filter(has_id), full_days), Counter(moment.date() for moment in without_id)


def _columns(problem: Problem, records: pa.Table, full_days: Sequence[date]) -> pa.Table:
    """Turn log records into columns: request fields and features (null except on `full_days`), and the output."""
    columns = {"id": records["id"], "decision_time": records["decision_time"]}
    is_full = pc.is_in(
        records["decision_time"].cast(pa.timestamp("us")).cast(pa.date32()), pa.array(full_days, pa.date32())
    )
    place = pc.if_else(is_full, pc.subtract(pc.cumulative_sum(is_full.cast(pa.int64())), 1), None)
    documents_of_rows = [
        request | features
        for request, features in zip(*(parse_json_column(records[n].filter(is_full)) for n in _DOCUMENTS), strict=True)
    ]
    declared = problem.request_fields | problem.features
    for name in _input_names(problem):
        values = pa.array([row.get(name) for row in documents_of_rows], arrow_type(declared[name]), from_pandas=True)
        columns[name] = values.take(place)
    if problem.kind == "multiclass":
        scores = parse_json_column(records["scores"])
        for name in dict.fromkeys(name for row in scores for name in row):
            columns[f"{SCORE}_{name}"] = pa.array([row.get(name) for row in scores], pa.float64())
    else:
        columns[SCORE] = records["score"]
    return pa.table(columns)
