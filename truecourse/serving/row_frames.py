"""Frames of validated rows, from which features are computed."""

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from truecourse.data.arrow_types import UTC_TIME, arrow_type
from truecourse.problem import Problem
from truecourse.serving.contract import DECISION_TIME
from truecourse.serving.rows import Rows


def frame_of_rows(problem: Problem, rows: Rows, ids: Sequence[str]) -> pa.Table:
    """Return the n accepted rows as columns of the declared types: `id`, `decision_time` if the problem has one, and
    the request fields. `ids`: (n,)."""
    columns: dict[str, Any] = {"id": pa.array(ids, pa.string())}
    if rows.decision_times is not None:
        columns[DECISION_TIME] = pa.array(rows.decision_times).cast(UTC_TIME)
    for name, column in problem.request_fields.items():
        columns[name] = pa.array(rows.values[name], from_pandas=True).cast(arrow_type(column))
    return pa.table(columns)
