"""Aggregations as of many decisions, from the rows of their feature table."""

from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from truecourse.arrays import Array
from truecourse.features.aggregates.evaluation import evaluate
from truecourse.features.aggregates.stored_rows import UNTIL
from truecourse.features.asof import AT, CREATED, EVENT, typed_decisions
from truecourse.problem import Aggregations

if TYPE_CHECKING:
    import polars as pl


def longest_window(view: Aggregations) -> timedelta:
    """How much older than a decision a row can be that counts for it; zero is unlimited, as of a ttl."""
    windows = [function.window for function in view.features.values()]
    known = [window for window in windows if window is not None]
    return max(known) if known and len(known) == len(windows) else timedelta(0)


def as_known_now(rows: pa.Table) -> pa.Table:
    """The rows without their history: what is known now counts from its event time, and what was superseded never."""
    rows = rows.filter(pc.is_null(rows[UNTIL]))
    return rows.set_column(rows.column_names.index(CREATED), CREATED, rows[EVENT])


def as_known_at(rows: pa.Table, moment: pa.Scalar) -> pa.Table:
    """The rows that were known at `moment` (timestamp[us, UTC]), as if nothing changed afterwards."""
    kept = pc.less_equal(rows[CREATED], moment)
    kept = pc.and_(kept, pc.or_(pc.is_null(rows[UNTIL]), pc.greater(pc.fill_null(rows[UNTIL], moment), moment)))
    rows = rows.filter(kept)
    return rows.set_column(rows.column_names.index(UNTIL), UNTIL, pa.nulls(len(rows), rows.schema.field(UNTIL).type))


def add_aggregates(
    view: Aggregations,
    spine: "pl.DataFrame",
    rows: "pl.DataFrame",
    keys: Mapping[str, str],
    names: Mapping[str, str],
    types: Mapping[str, pa.DataType],
    *,
    at: str,
    known_only: bool,
) -> "pl.DataFrame":
    """Add features to the spine, in the order of its rows.

    `rows`: of the feature table. `keys`: {key column of the rows: column of the spine}. `names`: {feature: column of
    the result}, with their `types` by feature. `at`: the spine's decision time. `known_only`: count only what was known
    at the decision, instead of what is known now."""
    import polars as pl

    decisions = typed_decisions(spine, rows, keys, at)
    stored = rows.to_arrow(compat_level=pl.CompatLevel.oldest())
    stored = stored if known_only else as_known_now(stored)
    times = decisions[AT].to_numpy().astype("datetime64[us]")
    values = evaluate(view, stored, decisions.select(list(keys)), times, features=list(names))
    added = [pl.Series(names[name], typed_array(values[name], types[name])) for name in names]
    return spine.hstack(added)


def typed_array(values: Array, kind: pa.DataType) -> pa.Array:
    """Values in the form of columns_of() as an Arrow array of this type, null where one is missing."""
    if values.dtype.kind == "M":
        return pa.array(values.astype("datetime64[us]")).cast(kind)
    missing = np.array([value is None for value in values]) if values.dtype == object else np.isnan(values)
    return pa.array(values, mask=missing).cast(kind)
