"""The predictions that a model made and that counted: of the prediction log and of batches, in one form."""

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
from truecourse.features.frame import in_order
from truecourse.modeling.encoding import Vocabulary
from truecourse.monitoring.predictions.log_sample import newest_day_end
from truecourse.problem import Problem
from truecourse.problem.definition import midnight
from truecourse.serving.batch_scoring import MODEL_VERSION, SCORE, SCORED_AT, predictions_table
from truecourse.serving.prediction_log import log_table, parse_json_column
from truecourse.storage.tables import Limit, Tables

ANSWERS = ("champion", "challenger")
_TOLD = ("request", "features")


@dataclass(frozen=True)
class ServedPredictions:
    """Rows in canonical order: `id`, `decision_time`, the features and slices, and the model's output.
    `nameless`: log records with no id, which no label can be found for, by day of decision."""

    rows: pa.Table
    without_id: Mapping[date, int]


def output_of(rows: pa.Table, vocabulary: Vocabulary) -> Array:
    """(n,), or (n, k) by class, as Model.predict() gives it; float64."""
    if SCORE in rows.column_names:
        return np.asarray(rows[SCORE].to_numpy(), dtype=np.float64)
    return np.column_stack([rows[f"{SCORE}_{name}"].to_numpy() for name in vocabulary.classes]).astype(np.float64)


def read_served(
    problem: Problem, tables: Tables, version: int, days: Sequence[date], at: datetime, outputs: Sequence[date] = ()
) -> ServedPredictions:
    """The version's predictions decided on these UTC days and made by `at`: the last one of each id, the log's rather
    than a batch's. A batch counts as made when its rows were decided. `outputs`: other days of which only the outputs
    are wanted; the log's documents are not read for them, and their features are null."""
    every = sorted({*days, *outputs})
    batches = _batches(problem, tables, version, every, at)
    logged, nameless = _logged(problem, tables, version, every, days, at)
    parts = [part for part in (batches, logged) if part is not None and len(part)]
    if not parts:
        return ServedPredictions(_empty(), nameless)
    rows = pl.concat([pl.DataFrame(part) for part in parts], how="diagonal_relaxed")
    rows = rows.unique("id", keep="last", maintain_order=True)
    return ServedPredictions(in_order(rows.to_arrow(compat_level=pl.CompatLevel.oldest())), nameless)


def newest_decision_day_end(problem: Problem, tables: Tables) -> datetime | None:
    """The end of the UTC day of the newest prediction, aware; None where there is none."""
    ends = [newest_day_end(problem, tables)]
    reference = tables.version(predictions_table(problem.name))
    if reference is not None:
        last = pc.max(tables.read(reference, ["decision_time"])["decision_time"]).as_py()
        ends.append(last and (midnight(last.date()) + timedelta(days=1)).replace(tzinfo=UTC))
    return max((end for end in ends if end), default=None)


def _empty() -> pa.Table:
    return pa.table({"id": pa.array([], pa.string()), "decision_time": pa.array([], UTC_TIME)})


def _inputs(problem: Problem) -> list[str]:
    return list(dict.fromkeys([*problem.monitoring.slices, *problem.features]))


def _decided(days: Sequence[date]) -> Any:
    """A filter on `decision_time`, of runs of days (rising), so that what lies elsewhere is not read."""
    chosen: Any = None
    for first, last in _runs(days):
        start, end = (pa.scalar(midnight(day), UTC_TIME) for day in (first, last + timedelta(days=1)))
        run = (pc.field("decision_time") >= start) & (pc.field("decision_time") < end)
        chosen = run if chosen is None else chosen | run
    return chosen


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
    chosen = (pc.field(MODEL_VERSION) == version) & _decided(days)
    chosen &= pc.field("decision_time") <= pa.scalar(at, UTC_TIME)
    there = tables.dataset(reference).schema.names
    scores = [name for name in there if name == SCORE or name.startswith(f"{SCORE}_")]
    # A row with no id of its own is its place in its file: nothing names it, and no label is looked for.
    names = ["decision_time", *(name for name in _inputs(problem) if name in there), *scores, SCORED_AT]
    found = tables.read(reference, ["id", *names], chosen & pc.is_valid(pc.field("id")))
    return found.sort_by([(SCORED_AT, "ascending")]).drop_columns([SCORED_AT])


def _logged(
    problem: Problem, tables: Tables, version: int, days: Sequence[date], whole: Sequence[date], at: datetime
) -> tuple[pa.Table | None, Mapping[date, int]]:
    reference = tables.version(log_table(problem.name))
    if reference is None:
        return None, {}
    chosen = (pc.field("model_version") == version) & pc.field("role").isin(ANSWERS) & _decided(days)
    columns = ["id", "at", "decision_time", "request", "features", "score", "scores"]
    found = tables.read(reference, columns, chosen, _limits(days, at)).sort_by([("at", "ascending")])
    named = pc.is_valid(found["id"])
    nameless = found.filter(pc.invert(named))["decision_time"].to_pylist()
    return _columns(problem, found.filter(named), whole), Counter(moment.date() for moment in nameless)


def _columns(problem: Problem, found: pa.Table, whole: Sequence[date]) -> pa.Table:
    """Log records as columns: what was asked and seen, on the days `whole`, and the output."""
    columns = {"id": found["id"], "decision_time": found["decision_time"]}
    mine = pc.is_in(found["decision_time"].cast(pa.timestamp("us")).cast(pa.date32()), pa.array(whole, pa.date32()))
    place = pc.if_else(mine, pc.subtract(pc.cumulative_sum(mine.cast(pa.int64())), 1), None)
    told = [
        asked | seen for asked, seen in zip(*(parse_json_column(found[n].filter(mine)) for n in _TOLD), strict=True)
    ]
    declared = problem.request_fields | problem.features
    for name in _inputs(problem):
        values = pa.array([row.get(name) for row in told], arrow_type(declared[name]), from_pandas=True)
        columns[name] = values.take(place)
    if problem.kind == "multiclass":
        scores = parse_json_column(found["scores"])
        for name in dict.fromkeys(name for row in scores for name in row):
            columns[f"{SCORE}_{name}"] = pa.array([row.get(name) for row in scores], pa.float64())
    else:
        columns[SCORE] = found["score"]
    return pa.table(columns)
