"""Write clean tables directly, by the rules of docs/explanation/time.md, for tests of the steps after validation."""

from collections.abc import Sequence

import pandas as pd
import pyarrow as pa

from truecourse.data.arrow_types import UTC_TIME, arrow_type
from truecourse.problem import Problem
from truecourse.references import TableVersion
from truecourse.storage.delta_tables import Tables, clean_table

ALWAYS = pd.Timestamp("1970-01-01", tz="UTC")


def write_clean(problem: Problem, tables: Tables, name: str, rows: pd.DataFrame) -> TableVersion:
    """Add a batch of new rows, late rows and corrections."""
    table = problem.table(name)
    version = tables.version(clean_table(problem.name, name))
    fields = [pa.field(n, arrow_type(c)) for n, c in table.columns.items()]
    schema = pa.schema([*fields, pa.field("_tc_row", pa.int64()), *(pa.field(n, UTC_TIME) for n in TIMES)])
    old = tables.read(version).to_pandas() if version else schema.empty_table().to_pandas()
    new = rows[list(table.columns)].copy()
    for field in fields:
        if field.type == UTC_TIME:
            new[field.name] = pd.to_datetime(new[field.name], utc=True).astype("datetime64[us, UTC]")
    new = pa.Table.from_pandas(new, schema=pa.schema(fields), preserve_index=False).to_pandas()
    first = (
        int(old["_tc_row"].max()) + 1 if len(old) else 0
    )  # each row has its own number, even where a batch has a key twice
    new["_tc_row"] = range(first, first + len(new))
    new = new.drop_duplicates(table.key, keep="last") if table.key else new
    new[TIMES[0]] = new[TIMES[1]] = pd.Series(pd.NaT, index=new.index, dtype="datetime64[us, UTC]")
    if len(old):
        old, new = _supersede(table.key, table.time, list(table.columns), old, new)
    parts = [pa.Table.from_pandas(part, schema=schema, preserve_index=False) for part in (old, new)]
    frame = pa.concat_tables(parts)
    return tables.replace(clean_table(problem.name, name), frame, {"flow": "validate"})


TIMES = ["_tc_recorded_at", "_tc_superseded_at"]


def _supersede(
    key: Sequence[str], time: str | None, columns: list[str], old: pd.DataFrame, new: pd.DataFrame
) -> tuple[pd.DataFrame, pd.DataFrame]:
    watermark = old[time].max() if time else None
    clock = max(watermark, new[time].max()) if time and len(new) else ALWAYS
    current = old[old[TIMES[1]].isna()].set_index(list(key))
    known = new.set_index(list(key)).index.isin(current.index)
    if time:
        new.loc[(new[time] <= watermark) | known, TIMES[0]] = clock
    matched = new.set_index(list(key))
    before = current.loc[matched.index[known]]
    after = matched.loc[before.index]
    rest = [c for c in columns if c not in key]
    same = ((before[rest] == after[rest]) | (before[rest].isna() & after[rest].isna())).all(axis=1)
    old.loc[old["_tc_row"].isin(before["_tc_row"][~same]), TIMES[1]] = clock
    return old, new[~new["_tc_row"].isin(after["_tc_row"][same])]
