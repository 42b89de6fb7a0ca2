"""Aggregations in the online store: for each key, how its values change from the load on, as bytes.

Events leave their windows by themselves: a request evaluates the steps at its decision time, without another load.
"""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from truecourse.data import sql
from truecourse.features.aggregates.step_functions import encode_keys
from truecourse.features.aggregates.stored_rows import UNTIL
from truecourse.features.aggregation_rows import stored_columns
from truecourse.features.asof import CREATED, EVENT
from truecourse.features.view_sql import key_columns
from truecourse.problem import Aggregations
from truecourse.problem.namespace import Namespace

_HEAD = struct.Struct("<qq")
"""Before the steps: the time from which they hold, and that of the load, in microseconds since 1970 UTC."""
_SINCE = "__since"
_BATCH = 1 << 16
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True)
class StoredKey:
    """A key's values at the load, its steps from then on, and `later`: the steps after those, if there are many."""

    key: tuple[Any, ...]
    values: dict[str, Any]
    steps: bytes
    later: bytes | None


def split_head(stored: bytes) -> tuple[int, int, memoryview]:
    """The time from which stored steps hold, that of their load (both in microseconds), and the steps."""
    since, loaded = _HEAD.unpack_from(stored)
    return since, loaded, memoryview(stored)[_HEAD.size :]


def encoded_keys(
    problem: Namespace, view: Aggregations, rows: ds.Dataset, changed: Sequence[Any] | None, until: datetime
) -> Iterator[list[StoredKey]]:
    """The keys as of `until` (UTC), in parts. `rows`: the feature table. `changed`: datasets with the keys to encode;
    None for all keys. A changed key without rows is encoded without events."""
    names = list(key_columns(problem, view))
    with sql.connect() as connection:
        connection.register("__rows", rows)
        for number, part in enumerate(changed or ()):
            connection.register(f"__changed{number}", part)
        reader = connection.sql(_query(view, names, len(changed) if changed is not None else None, until))
        for part in _whole_keys(reader.to_arrow_reader(_BATCH), names):
            yield _encode(view, part, names, until)


def _query(view: Aggregations, names: Sequence[str], changed: int | None, until: datetime) -> str:
    """SQL of the row versions known at `until`, by key, with the time since which nothing changed for their key."""
    moment = f"TIMESTAMPTZ '{until.isoformat(sep=' ')}'"
    keys = ", ".join(map(sql.quote, names))
    columns = ", ".join(name for name in (EVENT, CREATED, *stored_columns(view)) if name != UNTIL)
    windows = dict.fromkeys(function.window for function in view.features.values() if function.window)
    changes = [CREATED, UNTIL, *(f"{EVENT} + to_microseconds({window // _MICROSECOND})" for window in windows)]
    newest = ", ".join(f"max({change}) FILTER ({change} <= {moment})" for change in changes)
    parts = " UNION ".join(f"SELECT DISTINCT {keys} FROM __changed{number}" for number in range(changed or 0))  # noqa: S608
    rows = "__rows" if changed is None else f"__rows SEMI JOIN ({parts}) USING ({keys})"
    since = f"SELECT {keys}, greatest({newest}) AS {_SINCE} FROM {rows} GROUP BY {keys}"  # noqa: S608
    known = f"{CREATED} <= {moment} AND ({UNTIL} IS NULL OR {UNTIL} > {moment})"
    query = (
        f"SELECT * FROM ({since}) LEFT JOIN (SELECT {keys}, {columns}, CAST(NULL AS TIMESTAMPTZ) AS {UNTIL} "  # noqa: S608
        f"FROM {rows} WHERE {known}) USING ({keys})"
    )
    if changed is None:
        query += f" WHERE {EVENT} IS NOT NULL"
    else:
        query = f"SELECT * FROM ({parts}) LEFT JOIN ({query}) USING ({keys})"  # noqa: S608
    return f"{query} ORDER BY {keys}"


def _whole_keys(reader: pa.RecordBatchReader, names: Sequence[str]) -> Iterator[pa.Table]:
    """The reader's rows, which are ordered by key, in parts that do not split a key."""
    rest: pa.Table | None = None
    for batch in reader:
        rows = pa.Table.from_batches([batch])
        rows = rows if rest is None else pa.concat_tables([rest, rows]).combine_chunks()
        last = len(rows) - 1
        same = pa.array(np.ones(len(rows), bool))
        for name in names:
            same = pc.and_(same, pc.equal(rows[name], rows[name][last]))
        start = pc.index(same, True).as_py()
        if start:
            yield rows.slice(0, start)
        rest = rows.slice(start)
    if rest is not None and len(rest):
        yield rest


def _encode(view: Aggregations, part: pa.Table, names: Sequence[str], until: datetime) -> list[StoredKey]:
    keys = part.select([*names, _SINCE]).group_by(list(names), use_threads=False).aggregate([(_SINCE, "max")])
    rows = part.filter(pc.is_valid(part[EVENT])).drop_columns([_SINCE])
    loaded = (until - datetime(1970, 1, 1, tzinfo=UTC)) // _MICROSECOND
    times = keys[f"{_SINCE}_max"].cast(pa.timestamp("us")).cast(pa.int64()).to_pylist()
    moment = np.datetime64(loaded, "us")
    encoded = encode_keys(view, rows, keys.select(list(names)), moment)
    tuples = zip(*(keys[name].to_pylist() for name in names), strict=True)
    return [
        StoredKey(key, values, _HEAD.pack(loaded if since is None else since, loaded) + record, later)
        for key, since, (record, later, values) in zip(tuples, times, encoded, strict=True)
    ]
