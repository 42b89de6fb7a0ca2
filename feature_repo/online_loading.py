"""Load the online store: for each key that changed since the last load, the newest known value."""

import json
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds

from feature_repo.aggregation_steps import StoredKey, encoded_keys
from feature_repo.compat import feast_online_store
from feature_repo.online_location import mark_name
from feature_repo.protos import EXACT_EVENT, LATER, STEPS, entity_keys, to_value, value_field
from feature_repo.store import open_feature_store
from truecourse.data import sql
from truecourse.errors import NotFound, StorageError
from truecourse.features.aggregates.stored_rows import UNTIL
from truecourse.features.asof import CREATED, EVENT
from truecourse.features.definition_digests import feature_table, view_digest
from truecourse.features.feature_tables import PATIENCE
from truecourse.features.view_sql import key_columns
from truecourse.problem import Aggregations, View
from truecourse.problem.namespace import AnyView, Namespace
from truecourse.references import TableVersion, aware_utc
from truecourse.storage.compaction import after_compactions
from truecourse.storage.delta_tables import Tables
from truecourse.storage.locks import locked

_CHUNK = 4096
_MICROSECOND = timedelta(microseconds=1)
_PRECISION = timedelta(milliseconds=1)
_TIME = pa.timestamp("us", tz="UTC")


def load_online(problem: Namespace, tables: Tables, view: str, until: datetime | None = None) -> int:
    """Write a view's values as of `until` (UTC) to the online store; returns the number of keys written. With the
    values of aggregations, it writes how they change afterwards as events leave their windows.

    `until`: by default the newest time of the view's rows, or that of the last load if it is later.

    A key is written if one of its rows was added, superseded, or became known since the last load, however old the
    row's event is. An earlier `until` than the last load's rewrites all keys. Raises NotFound for a view that was never
    computed, StorageError for a store that cannot be written."""
    version = tables.version(feature_table(problem, view))
    if version is None:
        hint = f"truecourse run materialize --problem {problem.name}"
        raise NotFound("the view was never computed", where=f"{problem.name}.{view}", hint=hint)
    owner = problem.namespace_of(view)
    with locked(tables.store, f"online/{owner.name}/{view}", patience=PATIENCE):  # others may load it
        return _load(owner, tables, version, view, until and aware_utc(until))


def _load(problem: Namespace, tables: Tables, version: TableVersion, view: str, until: datetime | None) -> int:
    spec = problem.view(view)
    target = Target(problem, spec)
    last, times = target.read_mark(), (CREATED, UNTIL) if isinstance(spec, Aggregations) else (EVENT, CREATED)
    until = until or _newest_time(tables, version, (EVENT, *times), last)
    now = {"version": version.version, "until": until.isoformat(), "digest": view_digest(problem, spec)}
    if last == now:
        return 0
    changed = _changed_rows(tables, version, times, last, now)
    if changed is None:
        target.wipe()
    written, rows = 0, tables.dataset(version)
    if isinstance(spec, Aggregations):
        for keys in encoded_keys(problem, spec, rows, changed, until):
            written += target.write_keys(keys, until)
    else:
        for batch in _newest_rows(problem, spec, rows, changed, until):
            written += target.write(batch, until)
    target.write_mark(now)
    return written


def _newest_time(
    tables: Tables, version: TableVersion, columns: Sequence[str], last: dict[str, Any] | None
) -> datetime:
    """The newest of the times in these columns and of the last load (UTC); 1970 if there is none."""
    found = [datetime.fromisoformat(last["until"])] if last is not None else [datetime(1970, 1, 1, tzinfo=UTC)]
    for column in dict.fromkeys(columns):
        bound = tables.newest(version.name, column)  # of file statistics, which have milliseconds
        if bound is not None and aware_utc(bound) + _PRECISION > max(found):
            rows = tables.read(version, [column], ds.field(column) >= pa.scalar(aware_utc(bound), _TIME))
            found += [aware_utc(moment) for moment in rows[column].to_pylist()]
    return max(found)


def _changed_rows(
    tables: Tables, version: TableVersion, times: Sequence[str], last: dict[str, Any] | None, now: dict[str, Any]
) -> list[ds.Dataset | pa.Table] | None:
    """Rows, from either version, of every key that may have changed since the last load; None if all may have. `times`:
    the columns with the times at which a row changes a key."""
    if last is None or last["digest"] != now["digest"] or last["until"] > now["until"]:
        return None
    dataset = tables.dataset(version)
    since, until = (pa.scalar(datetime.fromisoformat(m["until"]), _TIME) for m in (last, now))
    between = [(ds.field(name) > since) & (ds.field(name) <= until) for name in times]
    changed: list[ds.Dataset | pa.Table] = [dataset.filter(between[0] | between[1])]
    if last["version"] == version.version:
        return changed
    try:
        before = after_compactions(tables, TableVersion(name=version.name, version=last["version"]))
        old, new = set(tables.files(before)), set(tables.files(version))
        if not all(tables.store.exists(key) for key in old - new):
            return None
        return [*changed, *_select_files(tables, before, old - new), *_select_files(tables, version, new - old)]
    except StorageError:  # the version of the last load was deleted
        return None


def _select_files(tables: Tables, version: TableVersion, keys: set[str]) -> list[ds.Dataset]:
    """The part of a version that lies in the files with these storage keys."""
    dataset = tables.dataset(version)
    names = {key.removeprefix(version.name).lstrip("/") for key in keys}
    chosen = [f for f in dataset.get_fragments() if f.path.lstrip("/") in names]
    if len(chosen) != len(names):
        raise StorageError("a file of the version is missing", where=str(version))
    return [ds.FileSystemDataset(chosen, dataset.schema, chosen[0].format, chosen[0].filesystem)] if chosen else []


def _newest_rows(problem: Namespace, view: View, rows: ds.Dataset, changed: list[Any] | None, until: datetime) -> Any:
    """Batches with one row per key: the newest row known at `until`; nulls for a changed key without one."""
    keys = ", ".join(sql.quote(key) for key in key_columns(problem, view))
    features = ", ".join(sql.quote(name) for name in view.features)
    moment = f"TIMESTAMPTZ '{until.isoformat(sep=' ')}'"
    with sql.connect() as connection:
        connection.register("__rows", rows)
        query = (
            f"SELECT {keys}, {EVENT}, {features} FROM __rows WHERE {EVENT} <= {moment} AND {CREATED} <= {moment} "  # noqa: S608
            f"QUALIFY row_number() OVER (PARTITION BY {keys} ORDER BY {EVENT} DESC, {CREATED} DESC) = 1"
        )
        if changed is not None:
            for number, part in enumerate(changed):
                connection.register(f"__changed{number}", part)
            parts = " UNION ".join(f"SELECT DISTINCT {keys} FROM __changed{n}" for n in range(len(changed)))  # noqa: S608
            query = f"SELECT * FROM ({parts}) LEFT JOIN ({query}) USING ({keys})"  # noqa: S608
        yield from connection.sql(query).to_arrow_reader(_CHUNK)


class Target:
    """One view in the online store, with the mark of its last load.

    The mark is stored in the online store itself, so emptying the store removes both."""

    def __init__(self, problem: Namespace, view: AnyView) -> None:
        store = open_feature_store(problem)
        self._config = store.config
        self._feast_view = store.get_feature_view(view.name)
        self._store: Any = feast_online_store.online_store(store.config.online_store)
        self._keys = {name: value_field(column) for name, column in key_columns(problem, view).items()}
        self._features = {name: value_field(column) for name, column in problem.view_columns(view).items()}
        self._name = mark_name(problem, view.name)
        self._redis = store.config.online_store.type == "redis"

    def write(self, rows: pa.RecordBatch, until: datetime) -> int:
        """Write one row per key; returns their number. A key without event gets the time `until`."""
        columns = rows.to_pydict()
        keys = zip(*(columns[name] for name in self._keys), strict=True)
        events = [event or until for event in columns[EVENT]]
        values = [{name: columns[name][place] for name in self._features} for place in range(len(rows))]
        return self._write(list(keys), values, [{} for _ in events], events)

    def write_keys(self, keys: Sequence[StoredKey], until: datetime) -> int:
        """Write the aggregations of keys as of `until`; returns their number."""
        extra = [{STEPS: to_value("bytes_val", one.steps), LATER: to_value("bytes_val", one.later)} for one in keys]
        return self._write([one.key for one in keys], [one.values for one in keys], extra, [until] * len(keys))

    def _write(
        self,
        keys: Sequence[tuple[Any, ...]],
        values: Sequence[Mapping[str, Any]],
        extra: Sequence[Mapping[str, Any]],
        events: Sequence[datetime],
    ) -> int:
        data = []
        serialized = entity_keys(list(self._keys), list(self._keys.values()), keys)
        for key, own, more, event in zip(serialized, values, extra, events, strict=True):
            written = {name: to_value(field, own[name]) for name, field in self._features.items()} | dict(more)
            written[EXACT_EVENT] = to_value("int64_val", _microseconds(event))
            data.append((key, written, event, None))
        self._store.online_write_batch(self._config, self._feast_view, data, None)
        return len(data)

    def wipe(self) -> None:
        self._write_text(None)
        feast_online_store.clear_view(self._store, self._config, self._feast_view)

    def read_mark(self) -> dict[str, Any] | None:
        if self._redis:
            text = self._redis_client().get(self._name)
        else:
            with closing(self._database()) as database:
                row = database.execute("SELECT mark FROM truecourse_loaded WHERE name = ?", [self._name]).fetchone()
            text = row[0] if row else None
        mark: dict[str, Any] | None = json.loads(text) if text else None
        return mark

    def write_mark(self, mark: dict[str, Any]) -> None:
        self._write_text(json.dumps(mark, sort_keys=True))

    def _write_text(self, text: str | None) -> None:
        if self._redis:
            client = self._redis_client()
            client.set(self._name, text) if text else client.delete(self._name)
            return
        with closing(self._database()) as database, database:
            database.execute("INSERT OR REPLACE INTO truecourse_loaded VALUES (?, ?)", [self._name, text])

    def _redis_client(self) -> Any:
        return feast_online_store.redis_client(self._store, self._config.online_store)

    def _database(self) -> sqlite3.Connection:
        database = sqlite3.connect(self._config.online_store.path)
        database.execute("CREATE TABLE IF NOT EXISTS truecourse_loaded (name TEXT PRIMARY KEY, mark TEXT)")
        return database


def _microseconds(moment: datetime) -> int:
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // _MICROSECOND
