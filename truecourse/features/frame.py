"""Build frames: one row per decision, with request fields, features, label and split, in canonical order."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from truecourse.arrays import columns_of
from truecourse.data import sql
from truecourse.data.arrow_types import UTC_TIME, arrow_type
from truecourse.errors import FeatureError
from truecourse.features.decisions import decisions_query
from truecourse.modeling.splitting import random_split
from truecourse.problem import Problem, RandomSplit, RequestFeatures
from truecourse.problem.definition import midnight
from truecourse.references import TableVersion, Window
from truecourse.storage.delta_tables import Tables
from truecourse.wording import counted


def read_spine(
    problem: Problem,
    tables: Tables,
    versions: Mapping[str, TableVersion],
    window: Window | None = None,
    cut: sql.Cut | None = None,
) -> pa.Table:
    """Read the decisions with `id`, `decision_time`, the request fields and, if known, `label` and `known_at`, sorted
    by (decision_time, id). Request fields are as known at the decision, labels as known now.

    `window`: a range of decision times (naive UTC). `cut`: use sources cut at a time. Raises FeatureError if an id is
    null or not unique, or the SQL lacks a column."""
    with sql.connect() as connection:
        query = decisions_query(connection, problem, tables, versions, window, cut)
        if window is not None and problem.has_time:
            bounds = ((">=", window.start), ("<", window.end))
            limits = [f"decision_time {sign} TIMESTAMP '{moment}'" for sign, moment in bounds if moment is not None]
            query = f"SELECT * FROM ({query}) WHERE {' AND '.join(limits) or 'true'}"  # noqa: S608
        rows = sql.fetch(connection, query, where=problem.spine or problem.label_table.name)
    return sort_frame(_check(problem, rows))


def without_labels(problem: Problem) -> Problem:
    """The problem without its label SQL, so that its spine is read without labels."""
    return dataclasses.replace(problem, label=dataclasses.replace(problem.label, sql=None))


def _check(problem: Problem, rows: pa.Table) -> pa.Table:
    where = problem.spine or problem.label_table.name
    wanted = {"id": pa.string()} | ({"decision_time": UTC_TIME} if problem.has_time else {})
    wanted |= {name: arrow_type(column) for name, column in problem.request_fields.items()}
    wanted |= {name: rows.schema.field(name).type for name in ("label", "known_at") if name in rows.column_names}
    absent = [name for name in wanted if name not in rows.column_names]
    if absent:
        raise FeatureError(f"returns no column {', '.join(absent)}", where=where, hint="add it to the SELECT")
    try:
        rows = rows.select(list(wanted)).cast(pa.schema(list(wanted.items())))
    except pa.ArrowInvalid as error:
        raise FeatureError(f"a column is not of its declared type: {error}", where=where) from None
    required = ["id", "decision_time"] if problem.has_time else ["id"]
    for name in required:
        if rows[name].null_count:
            raise FeatureError(f"{counted(rows[name].null_count, 'row')} without {name}", where=where)
    repeated = len(rows) - pc.count_distinct(rows["id"]).as_py()
    if repeated:
        raise FeatureError(
            f"{counted(repeated, 'row')} with a duplicate id",
            where=where,
            hint="an id must identify one decision; check the joins",
        )
    return rows


def sort_frame(frame: pa.Table) -> pa.Table:
    """Sort a frame by (decision_time, id), the canonical order. A sorted frame is returned as it is."""
    keys = [name for name in ("decision_time", "id") if name in frame.column_names]
    if _is_sorted([frame[name] for name in keys]):
        return frame.combine_chunks()
    return frame.sort_by([(name, "ascending") for name in keys]).combine_chunks()


def _is_sorted(keys: Sequence[pa.ChunkedArray]) -> bool:
    """Whether no row's keys are less than those of the row before it. False if a key is missing."""
    if any(key.null_count for key in keys):
        return False
    places = pa.array(np.arange(1, len(keys[0])))
    for key in keys:  # only rows that are equal in all earlier keys are compared
        before, here = key.take(pc.subtract(places, 1)), key.take(places)
        if pc.any(pc.less(here, before)).as_py():
            return False
        places = places.filter(pc.equal(here, before).combine_chunks())
    return True


def add_request_features(problem: Problem, frame: pa.Table) -> pa.Table:
    """Add the problem's request features to a frame, computed by the function that the endpoint calls.

    Raises FeatureError if the function returns other columns than declared, or another number of rows."""
    if problem.computed_features is None:
        return frame
    computed = compute_request_features(problem, columns_of(frame, problem.computed_features.inputs), len(frame))
    for name, column in problem.computed_features.features.items():
        values = pa.array(computed[name], from_pandas=True)
        frame = frame.append_column(name, values.cast(arrow_type(column)))
    return frame


def compute_request_features(
    problem: Problem, columns: Mapping[str, np.ndarray], rows: int, declared: RequestFeatures | None = None
) -> Mapping[str, np.ndarray]:
    """Compute the problem's features of the request from arrays of n values, and check the function's result.

    `declared`: those of a model, which may be fewer than the problem's."""
    declared = declared or problem.computed_features
    assert declared is not None
    where = f"problem {problem.name}: {declared.function.__name__}"
    computed = declared.function(columns)
    if set(computed) != set(declared.features):
        raise FeatureError(f"returned {sorted(computed)}, expected {sorted(declared.features)}", where=where)
    lengths = {name: len(values) for name, values in computed.items() if len(values) != rows}
    if lengths:
        raise FeatureError(f"it got {counted(rows, 'row')} and returned {lengths}", where=where)
    return computed


def add_split(problem: Problem, frame: pa.Table) -> pa.Table:
    """Add the column `split` (train, validate or test) to a frame. Rows before `train_from` and from `test_until` on
    are removed."""
    if isinstance(problem.split, RandomSplit):
        return frame.append_column("split", random_split(problem.split, problem.kind, frame["id"], frame["label"]))
    split, times = problem.split, frame["decision_time"].cast(pa.timestamp("us")).to_numpy()
    ends = [np.datetime64(midnight(day), "us") for day in (split.train_until, split.validate_until)]
    side = np.array(["train", "validate", "test"])[np.searchsorted(ends, times, side="right")]
    frame = frame.append_column("split", pa.array(side, pa.string()))
    inside = np.ones(len(times), dtype=bool)
    if split.train_from is not None:
        inside &= times >= np.datetime64(midnight(split.train_from), "us")
    if split.test_until is not None:
        inside &= times < np.datetime64(midnight(split.test_until), "us")
    return frame.filter(pa.array(inside))
