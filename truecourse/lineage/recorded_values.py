"""Values and keys of recorded predictions, compared with computed ones."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa

from truecourse.data.arrow_types import arrow_type
from truecourse.features.view_sql import key_columns
from truecourse.problem import Problem
from truecourse.problem.namespace import AnyView
from truecourse.problem.schema import Table
from truecourse.serving.privacy import HASHED

SUFFICIENT = "computed again from these rows alone: equal"
DIFFERENT = "candidates: computed again from these rows alone, the values differ"


def key_of(problem: Problem, view: AnyView, record: Mapping[str, Any]) -> dict[str, Any] | str:
    """The key that a recorded prediction looked up in a view; the reason if it is not known."""
    given = record["values"] if "values" in record else record["request"]
    key = {name: given.get(name) for name in key_columns(problem, view)}
    if any(isinstance(value, str) and value.startswith(HASHED) for value in key.values()):
        return "its key is hidden in the log"
    if any(value is None for value in key.values()):
        return "its key is missing"
    return key


def same_value(a: Any, b: Any) -> bool:
    """Whether a computed value equals a recorded one; times may be recorded as text."""
    if isinstance(a, datetime) and isinstance(b, str):
        b = datetime.fromisoformat(b)
    if isinstance(a, float) and isinstance(b, int | float):
        return bool(np.isclose(a, b, rtol=1e-9, atol=0, equal_nan=True))
    return bool(a == b) or (a is None and b is None)


def under_declared_names(rows: pa.Table, table: Table, stored: Mapping[str, str]) -> pa.Table:
    """Rows of an earlier version with the columns that `table` declares, a removed one as nulls. `stored`: the names
    under which the version stores them; empty if one was removed."""
    for name, of in stored.items():
        if name not in rows.column_names:
            rows = rows.append_column(name, rows[of] if of else pa.nulls(len(rows), arrow_type(table.columns[name])))
    return rows


def literal(value: Any) -> str:
    """A value as a DuckDB literal."""
    if isinstance(value, datetime):
        return f"TIMESTAMPTZ '{value.isoformat()}'"
    return str(value).lower() if isinstance(value, bool | int | float) else "'" + str(value).replace("'", "''") + "'"
