"""The source data of a replay: all rows of the problem's sources, read once and delivered in order of time."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from truecourse.arrays import Array, columns_of
from truecourse.data import sql
from truecourse.data.arrow_types import UTC_TIME, arrow_type
from truecourse.data.parsing import UNREADABLE
from truecourse.data.readers import read_batches
from truecourse.data.sources import locate, scratch
from truecourse.monitoring.drift.unit_changes import parse_change
from truecourse.problem import Problem
from truecourse.problem.schema import Table, Text
from truecourse.replay.faults import PlantedFault
from truecourse.storage.object_store import ObjectStore


@dataclass(frozen=True)
class SourceData:
    """Tables by name (those of areas as `area.table`), with rows in the order of the sources, as read_batches() returns
    them.

    `arrivals`: for tables without time, rows that exist only from a given time on."""

    problem: Problem
    tables: Mapping[str, pa.Table]
    arrivals: Mapping[str, tuple[tuple[datetime, pa.Table], ...]]

    def rows(self, name: str, start: datetime | None, end: datetime) -> pa.Table:
        """Return the rows with times in [start, end); without `start`, all before `end` and those without a time.

        For a table without time: everything without `start`, later only new arrivals."""
        (_, table), rows = sql.labelled_tables(self.problem)[name], self.tables[name]
        if table.time is None:
            arrived = [new for at, new in self.arrivals.get(name, ()) if (start is None or start <= at) and at < end]
            parts = [*([rows] if start is None else []), *arrived]
            return pa.concat_tables(parts) if parts else rows[:0]
        times = row_times(rows, table.time)
        mask = np.isnat(times) if start is None else times >= naive(start)
        before = times < naive(end)
        return rows.filter(pa.array((mask | before) if start is None else (mask & before)))

    def complete(self, name: str) -> pa.Table:
        """Return all rows of a table, including later arrivals."""
        return pa.concat_tables([self.tables[name], *(new for _, new in self.arrivals.get(name, ()))])


def row_times(rows: pa.Table, name: str) -> Array:
    """Return a time column as (n,) datetime64[us], NaT where missing."""
    return columns_of(rows, [name])[name]


def naive(moment: datetime) -> np.datetime64:
    return np.datetime64(moment.astimezone(UTC).replace(tzinfo=None), "us")


def read_source_data(problem: Problem, store: ObjectStore, faults: tuple[PlantedFault, ...]) -> SourceData:
    """Read all sources and plant the faults. Raises SourceError for a source that cannot be read."""
    tables: dict[str, pa.Table] = {}
    known = sql.labelled_tables(problem)
    for name, (owner, table) in known.items():
        with scratch() as folder:
            located = locate(owner, table, store, folder)
            batches = [batch for source in located for batch in read_batches(source, table)]
        tables[name] = pa.Table.from_batches(batches).combine_chunks()
    arrivals: dict[str, tuple[tuple[datetime, pa.Table], ...]] = {}
    for fault in faults:
        if fault.table:
            tables[fault.table] = _apply_fault(known[fault.table][1], tables[fault.table], fault)
        if fault.kind == "category":
            arrivals |= _new_category_arrival(problem, tables, arrivals, fault)
    return SourceData(problem, tables, arrivals)


def _apply_fault(table: Table, rows: pa.Table, fault: PlantedFault) -> pa.Table:
    """Return the rows as a source with the fault would deliver them."""
    times = row_times(rows, str(table.time))
    mask = times >= naive(fault.start)
    if fault.end is not None:
        mask &= times < naive(fault.end)
    if fault.kind == "dead":
        return rows.filter(pa.array(~mask))
    values = rows[fault.column]
    if fault.kind == "category":
        old, new = fault.swapped
        mask &= np.asarray(pc.fill_null(pc.equal(values, old), False))
        values = pc.if_else(pa.array(mask), new, values)
    else:
        convert = parse_change(fault.how)
        assert convert is not None
        changed = pc.if_else(
            pc.is_null(values), None, pa.array(convert(columns_of(rows, [fault.column])[fault.column]))
        )
        kind = arrow_type(table.columns[fault.column])
        changed = pc.round(changed) if pa.types.is_integer(kind) else changed
        values = pc.if_else(pa.array(mask), changed.cast(kind), values)
    return rows.set_column(rows.schema.get_field_index(fault.column), rows.schema.field(fault.column), values)


def _new_category_arrival(
    problem: Problem, tables: Mapping[str, pa.Table], arrivals: Mapping[str, Any], fault: PlantedFault
) -> dict[str, tuple[tuple[datetime, pa.Table], ...]]:
    """Add the new value of a reference column to the referenced table, as a copy of the replaced value's row."""
    owner, table = sql.labelled_tables(problem)[fault.table]
    name = table.columns[fault.column].in_table
    if name is None or owner.table(name).time is not None:
        return {}
    referenced, (old, new) = owner.table(name), fault.swapped
    key, other = referenced.key_column, sql.table_label(problem, owner, referenced)
    assert key is not None
    rows = tables[other].filter(pc.equal(tables[other][key], old))[:1]
    if not len(rows) or not isinstance(referenced.columns[key], Text):
        return {}
    row = rows.set_column(rows.schema.get_field_index(key), rows.schema.field(key), pa.array([new], pa.string()))
    return {other: (*arrivals.get(other, ()), (fault.start, row))}


def as_delivered(rows: pa.Table) -> pa.Table:
    """Return the rows as in a file: a column with unreadable cells becomes text again."""
    lost = rows[UNREADABLE]
    plain = rows.drop_columns([UNREADABLE])
    if lost.null_count == len(rows):
        return plain
    texts = [json.loads(text) if text else {} for text in lost.to_pylist()]
    for place, name in enumerate(plain.column_names):
        if any(name in text for text in texts):
            cells = plain[name].cast(pa.string()).to_pylist()
            original = [text.get(name, cell) for text, cell in zip(texts, cells, strict=True)]
            plain = plain.set_column(place, name, pa.array(original, pa.string()))
    return plain


def as_clean(table: Table, rows: pa.Table) -> pa.Table:
    """Convert the rows, the last of each key, to the schema of a clean table, for deriving decisions from them."""
    rows = rows.append_column("_tc_row", pa.array(range(len(rows)), pa.int64()))
    keys = ", ".join(f'"{key}"' for key in table.key)
    last = f"QUALIFY row_number() OVER (PARTITION BY {keys} ORDER BY _tc_row DESC) = 1" if keys else ""
    with sql.connect() as connection:
        connection.execute("SET threads = 1")
        connection.execute("SET preserve_insertion_order = true")
        connection.register("rows", rows)
        query = f"SELECT * FROM rows WHERE {UNREADABLE} IS NULL {last} ORDER BY _tc_row"  # noqa: S608
        kept = connection.sql(query).to_arrow_table()
    kept = kept.drop_columns([UNREADABLE])
    for name in ("_tc_recorded_at", "_tc_superseded_at"):
        kept = kept.append_column(name, pa.nulls(len(kept), UTC_TIME))
    schema = [(n, arrow_type(c)) for n, c in table.columns.items()]
    return kept.cast(
        pa.schema([*schema, ("_tc_row", pa.int64()), ("_tc_recorded_at", UTC_TIME), ("_tc_superseded_at", UTC_TIME)])
    )
