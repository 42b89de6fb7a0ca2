"""Calls that were sent again: the prediction log keeps one record of each prediction.

The ids of a repeated call are equal (truecourse.unique_ids). A record that repeats a stored one is dropped. Of two
records with different answers the later one is kept, since its answer is the one that reached the client: the stored
one is deleted before the later one is appended.

Shippers of several machines may each have a record of one call. A shipment with such ids is therefore committed only if
no other one was since the table was read: all of them write the Delta transaction number of one application.
"""

import logging
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from truecourse.errors import ConflictError
from truecourse.references import TableVersion
from truecourse.serving.prediction_log import PARTITION, SEARCHED, feature_event_times
from truecourse.storage.delta_tables import Limit, Tables
from truecourse.unique_ids import NO_MOMENT, is_derived

log = logging.getLogger("truecourse.log")
APPLICATION = "truecourse.calls"
"""The Delta application whose number changes with each shipment of ids that may repeat."""
MEMORY = timedelta(days=1)
"""Where a call's key names no moment, only records up to so long before the shipment's first one are searched."""
TRIES = 20
_CONTENT = (
    "model_version", "model_sha256", "role", "decision_time", "request", "features", "score", "scores",
    "prediction", "base", "contributions", "error",
)  # fmt: skip
_SHOWN = 5
Record = Mapping[str, Any]
Key = tuple[str, bool]
"""The id of a record, and whether it is a shadow's: an answer and its shadow share an id."""


@dataclass(frozen=True)
class Appended:
    """`records`: appended ones. `repeated`: records of calls that were sent again, dropped or replaced. `different`:
    those of them whose answer was another one."""

    records: int = 0
    repeated: int = 0
    different: int = 0


def append_once(tables: Tables, name: str, rows: pa.Table, about: Record, transactions: Mapping[str, int]) -> Appended:
    """Append records to the log, one of each id that may repeat. Raises StorageError, and has appended nothing then.

    about: the commit's metadata; the numbers of appended and repeated records are added."""
    if not any(map(is_derived, rows["prediction_id"].to_pylist())):
        _append(tables, name, rows, {**about, "rows": len(rows)}, transactions)
        return Appended(len(rows))
    given, (rows, different) = len(rows), _last_of_each(rows)
    removed: set[str] = set()
    for attempt in range(TRIES):
        try:
            before = tables.version(name)
            dropped, replaced, others = _compare(rows, _stored(tables, before, rows) if before is not None else [])
            if replaced:
                tables.delete(name, _predicate(replaced), {"flow": "ship", "replaced": len(replaced)})
                removed |= {record["prediction_id"] for record in replaced}
                continue  # the table has a new version
            kept = rows.filter(pc.invert(pc.is_in(pa.array(range(len(rows))), pa.array(dropped, pa.int64()))))
            repeated = given - len(kept) + len(removed)
            if len(kept):
                numbered = {**transactions, APPLICATION: before.version + 1 if before is not None else 0}
                _append(tables, name, kept, {**about, "rows": len(kept), "repeated": repeated}, numbered, before)
            _warn(different | removed | others)
            return Appended(len(kept), repeated, len(different | removed | others))
        except ConflictError:
            if attempt == TRIES - 1:
                raise
            time.sleep(random.uniform(0, 0.05 * (attempt + 1)))  # noqa: S311
    raise ConflictError(f"the log changed {TRIES} times meanwhile", where=name, hint="ship again")


def _append(
    tables: Tables,
    name: str,
    rows: pa.Table,
    about: Record,
    transactions: Mapping[str, int],
    after: TableVersion | None = None,
) -> None:
    tables.append(
        name,
        rows,
        dict(about),
        partition_by=PARTITION,
        stats_columns=SEARCHED,
        transactions=transactions,
        merge=True,
        keep_log=False,
        after=after,
    )


def _key(record: Record) -> Key:
    return record["prediction_id"], record["role"] == "shadow"


def _keys(rows: pa.Table) -> list[Key]:
    return list(zip(rows["prediction_id"].to_pylist(), pc.equal(rows["role"], "shadow").to_pylist(), strict=True))


def _content(record: Record) -> list[Any]:
    return [feature_event_times(record), *(record.get(name) for name in _CONTENT)]


def _last_of_each(rows: pa.Table) -> tuple[pa.Table, set[str]]:
    """The last record of each id that may repeat, and all others; the ids of records whose answers differed."""
    keys, times = _keys(rows), rows["at"].to_pylist()
    last: dict[Key, int] = {}
    repeated: list[tuple[int, int]] = []
    for place, key in enumerate(keys):
        known = last.get(key)
        if known is None or not is_derived(key[0]):
            last[key] = place
            continue
        first, second = sorted((known, place), key=lambda i: (times[i], i))
        last[key] = second
        repeated.append((first, second))
    if not repeated:
        return rows, set()
    pairs = [[rows.slice(i, 1).to_pylist()[0] for i in pair] for pair in repeated]
    different = {one["prediction_id"] for one, other in pairs if _content(one) != _content(other)}
    gone = {first for first, _ in repeated}
    return rows.take(pa.array([i for i in range(len(rows)) if i not in gone])), different


def _stored(tables: Tables, before: TableVersion, rows: pa.Table) -> list[dict[str, Any]]:
    """The stored records of these calls."""
    ids = sorted({id for id in rows["prediction_id"].to_pylist() if is_derived(id)})
    since: list[Limit] = [("at", ">=", pc.min(rows["at"]).as_py() - MEMORY)]
    found = []
    for some, limits in (
        ([id for id in ids if id.startswith(NO_MOMENT)], since),
        ([id for id in ids if not id.startswith(NO_MOMENT)], []),
    ):
        if some:
            where = [("prediction_id", ">=", some[0]), ("prediction_id", "<=", some[-1]), *limits]
            found += tables.find_rows(before, pc.field("prediction_id").isin(some), where)
    return found


def _compare(rows: pa.Table, stored: Sequence[Record]) -> tuple[list[int], list[Record], set[str]]:
    """Compare records with those stored of the same calls: the positions of rows to drop, the stored records to
    replace, and the ids of dropped rows whose answers differ."""
    if not stored:
        return [], [], set()
    places = {key: place for place, key in enumerate(_keys(rows))}
    latest = {_key(record): record for record in sorted(stored, key=lambda record: record["at"])}
    dropped: list[int] = []
    outdated: set[Key] = set()
    different: set[str] = set()
    for key, record in latest.items():
        if key not in places:  # a shadow's, or an answer's
            continue
        row = rows.slice(places[key], 1).to_pylist()[0]
        if _content(row) != _content(record):
            if row["at"] > record["at"]:
                outdated.add(key)
                continue
            different.add(key[0])
        dropped.append(places[key])
    return dropped, [record for record in stored if _key(record) in outdated], different


def _predicate(records: Sequence[Record]) -> str:
    """The Delta predicate of stored records; their ids are hexadecimal digits."""
    parts = [
        f"({PARTITION} = '{record[PARTITION]}' AND prediction_id = '{record['prediction_id']}' "
        f"AND role {'=' if record['role'] == 'shadow' else '<>'} 'shadow')"
        for record in records
    ]
    return " OR ".join(parts)


def _warn(ids: set[str]) -> None:
    if ids:
        shown = ", ".join(sorted(ids)[:_SHOWN])
        log.warning(
            "calls were sent again and answered differently; %d predictions keep the last answer: %s", len(ids), shown
        )
