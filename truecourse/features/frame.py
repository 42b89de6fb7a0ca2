"""The frame: one row a decision, with its request fields, features, label and split, in one canonical order."""

import dataclasses
from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from truecourse.arrays import columns_of
from truecourse.data import sql
from truecourse.data.arrow_types import UTC_TIME, arrow_type
from truecourse.errors import FeatureError
from truecourse.features.decisions import decisions_query
from truecourse.modeling.splitting import random_split
from truecourse.problem import Problem, RandomSplit
from truecourse.problem.definition import midnight
from truecourse.references import TableVersion, Window
from truecourse.storage.tables import Tables
from truecourse.wording import counted


def spine(
    problem: Problem,
    tables: Tables,
    versions: Mapping[str, TableVersion],
    window: Window | None = None,
    cut: sql.Cut | None = None,
) -> pa.Table:
    """Every decision (of the window, by decision time, naive UTC) with `id`, `decision_time`, the request fields and,
    where it is known, `label` and `known_at`; sorted by (decision_time, id). Request fields are as they were known at
    the decision, labels as they are known now. `cut`: from sources cut at a moment.

    Raises FeatureError for an id that is null or not unique, or a column that the SQL does not return."""
    with sql.connect() as connection:
        query = decisions_query(connection, problem, tables, versions, window, cut)
        if window is not None and problem.has_time:
            bounds = ((">=", window.start), ("<", window.end))
            limits = [f"decision_time {sign} TIMESTAMP '{moment}'" for sign, moment in bounds if moment is not None]
            query = f"SELECT * FROM ({query}) WHERE {' AND '.join(limits) or 'true'}"  # noqa: S608
        rows = sql.fetch(connection, query, where=problem.spine or problem.label_table.name)
    return in_order(_checked(problem, rows))


def unlabelled(problem: Problem) -> Problem:
    """The problem whose spine looks no labels up."""
    return dataclasses.replace(problem, label=dataclasses.replace(problem.label, sql=None))


def _checked(problem: Problem, rows: pa.Table) -> pa.Table:
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
            f"{counted(repeated, 'row')} with another's id",
            where=where,
            hint="an id names one decision; check the joins",
        )
    return rows


def in_order(frame: pa.Table) -> pa.Table:
    """Sorted by (decision_time, id): the canonical order."""
    keys = [name for name in ("decision_time", "id") if name in frame.column_names]
    return frame.sort_by([(name, "ascending") for name in keys]).combine_chunks()


def with_request_features(problem: Problem, frame: pa.Table) -> pa.Table:
    """The frame and the problem's request features, by the very function that the endpoint calls.

    Raises FeatureError when the function returns other columns, or another number of rows, than declared."""
    if problem.request_features is None:
        return frame
    computed = request_features(problem, columns_of(frame, problem.request_features.inputs), len(frame))
    for name, column in problem.request_features.features.items():
        values = pa.array(computed[name], from_pandas=True)
        frame = frame.append_column(name, values.cast(arrow_type(column)))
    return frame


def request_features(problem: Problem, columns: Mapping[str, np.ndarray], rows: int) -> Mapping[str, np.ndarray]:
    """Call the problem's request-time function on n-value arrays, and check what it returns."""
    declared = problem.request_features
    assert declared is not None
    where = f"problem {problem.name}: {declared.function.__name__}"
    computed = declared.function(columns)
    if set(computed) != set(declared.features):
        raise FeatureError(f"returned {sorted(computed)}, declared are {sorted(declared.features)}", where=where)
    lengths = {name: len(values) for name, values in computed.items() if len(values) != rows}
    if lengths:
        raise FeatureError(f"{counted(rows, 'row')} went in, and came out {lengths}", where=where)
    return computed


def with_split(problem: Problem, frame: pa.Table) -> pa.Table:
    """The frame and its `split`: train, validate or test. Rows before `train_from` and after `test_until` are left
    out."""
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
