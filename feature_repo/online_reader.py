"""Read the bytes of Feast's online store directly, for all views of a request at once.

Feast's online_read reads one view per call, and parses every value of a key, requested or not. The layout of the store
is in feature_repo/compat/feast_online_store.py.
"""

import sqlite3
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any, Protocol

from google.protobuf.timestamp_pb2 import Timestamp

from feature_repo.compat import feast_online_store, redis_connection
from feature_repo.protos import EXACT_EVENT, LATER, STEPS, value_decoder, value_field
from truecourse.problem import Aggregations, Problem
from truecourse.problem.namespace import AnyView

Key = bytes
"""An entity key, serialized by Feast."""
Stored = tuple[int, dict[str, Any]]
"""Event time in microseconds, and the stored values, decoded by value_decoder(); of aggregations, only STEPS."""
TIMEOUT = 0.5
"""Timeout of a connection and of a response, in seconds."""
_CHUNK = 10_000
"""Keys per query; sqlite allows at most 32,766."""


class StoreReader(Protocol):
    """Reader of an online store. Thread-safe; raises the errors of the store's client library."""

    def fetch(self, wanted: Mapping[str, Sequence[Key]]) -> dict[str, dict[Key, Stored]]:
        """The stored values by view and key; unknown keys are left out."""

    def fetch_later(self, view: str, key: Key) -> bytes | None:
        """The later steps of aggregations for one key; None if the key has none."""


def store_reader(configs: Mapping[str, Any], problem: Problem) -> StoreReader:
    """The reader of a problem's views. `configs`: Feast's configuration by view."""
    kind = next(iter(configs.values())).online_store.type
    return _Redis(configs, problem) if kind == "redis" else _Sqlite(configs, problem)


class _Sqlite:
    """Reads Feast's sqlite store: one table per view, one row per value.

    Each thread has its own connections: a shared one returns wrong results."""

    def __init__(self, configs: Mapping[str, Any], problem: Problem) -> None:
        self._paths = {view: config.online_store.path for view, config in configs.items()}
        self._tables = {
            view.name: feast_online_store.sqlite_table(configs[view.name].project, view) for view in problem.views
        }
        self._readers = {view.name: _value_decoders(problem, view) for view in problem.views}
        self._conditions = {
            view.name: f" AND feature_name = '{STEPS}'" if isinstance(view, Aggregations) else ""
            for view in problem.views
        }
        self._local = threading.local()

    def fetch(self, wanted: Mapping[str, Sequence[Key]]) -> dict[str, dict[Key, Stored]]:
        return {view: self._view(view, keys) for view, keys in wanted.items()}

    def _view(self, view: str, keys: Sequence[Key]) -> dict[Key, Stored]:
        rows: dict[Key, tuple[dict[str, Any], int]] = {}
        readers = self._readers[view]
        for start in range(0, len(keys), _CHUNK):
            part = keys[start : start + _CHUNK]
            marks = ",".join("?" * len(part))
            columns = feast_online_store.SQLITE_COLUMNS
            query = f'SELECT {columns} FROM "{self._tables[view]}" WHERE entity_key IN ({marks})'  # noqa: S608
            query += self._conditions[view]
            for key, name, value, event in self._connection(view).execute(query, part):
                values, _ = rows.setdefault(key, ({}, event))
                if name in readers:  # the table may have features that are no longer declared
                    values[name] = readers[name](value)
        return {
            key: _with_exact_event(values, partial(feast_online_store.sqlite_event, event))
            for key, (values, event) in rows.items()
        }

    def fetch_later(self, view: str, key: Key) -> bytes | None:
        query = f'SELECT value FROM "{self._tables[view]}" WHERE entity_key = ? AND feature_name = ?'  # noqa: S608
        found = self._connection(view).execute(query, [key, LATER]).fetchone()
        return _decode_bytes(found[0]) if found else None

    def _connection(self, view: str) -> sqlite3.Connection:
        if not hasattr(self._local, "connections"):
            self._local.connections = {}
        connections: dict[str, sqlite3.Connection] = self._local.connections
        path = self._paths[view]
        if path not in connections:
            connections[path] = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
        return connections[path]


class _Redis:
    """Reads Feast's Redis store: one hash per key and project, with the values of all views of its entity."""

    def __init__(self, configs: Mapping[str, Any], problem: Problem) -> None:
        self._projects = {view: config.project.encode() for view, config in configs.items()}
        self._send = redis_connection.sender(_redis_client(next(iter(configs.values())).online_store))
        self._readers = {view.name: list(_value_decoders(problem, view).items()) for view in problem.views}
        self._fields = {
            view: feast_online_store.redis_fields(view, [name for name, _ in readers])
            for view, readers in self._readers.items()
        }
        self._cached_fields = lru_cache(len(problem.views) + 1)(self._field_names)

    def fetch(self, wanted: Mapping[str, Sequence[Key]]) -> dict[str, dict[Key, Stored]]:
        views_of: dict[tuple[Key, bytes], list[str]] = {}
        for view, keys in wanted.items():
            project = self._projects[view]
            for key in keys:
                views_of.setdefault((key, project), []).append(view)
        if not views_of:
            return {view: {} for view in wanted}
        responses = self._send(
            [("HMGET", key + project, *self._cached_fields(tuple(views))) for (key, project), views in views_of.items()]
        )
        stored: dict[str, dict[Key, Stored]] = {view: {} for view in wanted}
        for ((key, _), views), response in zip(views_of.items(), responses, strict=True):
            start = 0
            for view in views:
                *values, moment = response[start : start + len(self._fields[view])]
                start += len(values) + 1
                if moment is not None:
                    both = zip(self._readers[view], values, strict=True)
                    read = {name: reader(value) for (name, reader), value in both if value is not None}
                    stored[view][key] = _with_exact_event(read, partial(_parse_timestamp, moment))
        return stored

    def fetch_later(self, view: str, key: Key) -> bytes | None:
        field, _ = feast_online_store.redis_fields(view, [LATER])
        ((value,),) = self._send([("HMGET", key + self._projects[view], field)])
        return None if value is None else _decode_bytes(value)

    def _field_names(self, views: tuple[str, ...]) -> list[bytes]:
        return [field for view in views for field in self._fields[view]]


def _redis_client(store: Any) -> Any:
    """Feast's Redis client with short timeouts and one retry; its default is four attempts seconds apart."""
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    limits = f"socket_timeout={TIMEOUT},socket_connect_timeout={TIMEOUT}"
    config = store.model_copy(update={"connection_string": f"{store.connection_string},{limits}"})
    client = feast_online_store.redis_client(feast_online_store.online_store(config), config)
    client.set_retry(Retry(NoBackoff(), 1))  # one immediate retry: the connection may have been idle too long
    return client


_decode_bytes = value_decoder("bytes_val")


def _value_decoders(problem: Problem, view: AnyView) -> dict[str, Callable[[bytes], Any]]:
    """The values to read of a key, each with its decoder."""
    if isinstance(view, Aggregations):
        return {STEPS: _decode_bytes}
    readers = {name: value_decoder(value_field(column)) for name, column in problem.view_columns(view).items()}
    return readers | {EXACT_EVENT: value_decoder("int64_val")}


def _with_exact_event(values: dict[str, Any], rounded: Callable[[], int]) -> Stored:
    """The values with the exact event time that our loading writes, else with the store's, which may be rounded."""
    exact = values.pop(EXACT_EVENT, None)
    return rounded() if exact is None else exact, values


def _parse_timestamp(data: bytes) -> int:
    return int(Timestamp.FromString(data).ToMicroseconds())
