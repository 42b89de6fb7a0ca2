"""Values and keys of recorded predictions, compared with computed ones."""

from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from truecourse.data.arrow_types import arrow_type
from truecourse.data.former_columns import altered_columns, former_values, stored_names
from truecourse.data.sql import ROW
from truecourse.features.view_sql import key_columns
from truecourse.problem import Problem
from truecourse.problem.namespace import AnyView
from truecourse.problem.schema import RESERVED_PREFIX, Table
from truecourse.references import TableVersion
from truecourse.serving.privacy import HASHED
from truecourse.storage.delta_tables import Tables

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


def as_declared(tables: Tables, version: TableVersion, table: Table, rows: pa.Table, read: Collection[str]) -> pa.Table:
    """Rows of a version of a clean table with the columns that `table` declares, after edits of it. Those in `read`
    have the values of their declared form; rows that it cannot read are left out. Other removed columns are null."""
    altered = altered_columns(tables, version, table, sorted(read))
    values = former_values(tables, version, table, altered) if altered else None
    places = None if values is None else pc.index_in(rows[ROW], values[ROW].combine_chunks())
    columns = {name: rows[name] for name in rows.column_names if name.startswith(RESERVED_PREFIX)}
    for name, stored in stored_names(tables, version, table.columns).items():
        if values is not None and name in altered:
            columns[name] = values[name].take(places)
        else:
            columns[name] = rows[stored] if stored else pa.nulls(len(rows), arrow_type(table.columns[name]))
    declared = pa.table(columns)
    return declared if places is None else declared.filter(pc.is_valid(places))


def literal(value: Any) -> str:
    """A value as a DuckDB literal."""
    if isinstance(value, datetime):
        return f"TIMESTAMPTZ '{value.isoformat()}'"
    return str(value).lower() if isinstance(value, bool | int | float) else "'" + str(value).replace("'", "''") + "'"
