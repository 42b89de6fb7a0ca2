"""Reading an online store's own bytes, as Feast lays them out, for all views of a request at once.

Feast's online_read asks for one view a call, and makes a message of every value of a key, asked for or not. The
layout: https://github.com/feast-dev/feast/blob/master/docs/specs/online_store_format.md
"""

import sqlite3
import threading
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache, partial
from typing import Any, Protocol

from feast.infra.online_stores.helpers import _mmh3, compute_table_id, get_online_store_from_config
from google.protobuf.timestamp_pb2 import Timestamp

from feature_repo.protos import EXACT_EVENT, field_of, reader_of
from truecourse.problem import View

Key = bytes
"""An entity key as Feast serialises it."""
Stored = tuple[int, dict[str, Any]]
"""Event time in microseconds, and the values that are there, as reader_of() reads them."""
PATIENCE = 0.5
"""Seconds to wait for a connection, and for an answer."""
_CHUNK = 10_000
"""Keys asked for at once; sqlite takes 32,766 at most."""


class StoreReader(Protocol):
    """Safe for threads. Raises whatever its store's library raises."""

    def fetch(self, wanted: Mapping[str, Sequence[Key]]) -> dict[str, dict[Key, Stored]]:
        """By view, what is stored of each key that is known."""


def store_reader(config: Any, views: Sequence[View]) -> StoreReader:
    kind = _Redis if config.online_store.type == "redis" else _Sqlite
    return kind(config, views)


class _Sqlite:
    """One table a view, one row a value; a connection a thread, for one shared by two gives wrong answers."""

    def __init__(self, config: Any, views: Sequence[View]) -> None:
        self._path = config.online_store.path
        self._tables = {view.name: compute_table_id(config.project, view, False) for view in views}
        self._readers = {view.name: _readers(view) for view in views}
        self._local = threading.local()

    def fetch(self, wanted: Mapping[str, Sequence[Key]]) -> dict[str, dict[Key, Stored]]:
        return {view: self._view(view, keys) for view, keys in wanted.items()}

    def _view(self, view: str, keys: Sequence[Key]) -> dict[Key, Stored]:
        found: dict[Key, tuple[dict[str, Any], str]] = {}
        readers = self._readers[view]
        for start in range(0, len(keys), _CHUNK):
            part = keys[start : start + _CHUNK]
            marks = ",".join("?" * len(part))
            columns = "entity_key, feature_name, value, event_ts"
            query = f'SELECT {columns} FROM "{self._tables[view]}" WHERE entity_key IN ({marks})'  # noqa: S608
            for key, name, value, event in self._connection.execute(query, part):
                values, _ = found.setdefault(key, ({}, event))
                if name in readers:  # it may hold features that were declared once
                    values[name] = readers[name](value)
        return {key: _stored(values, partial(_parsed, event)) for key, (values, event) in found.items()}

    @property
    def _connection(self) -> sqlite3.Connection:
        if not hasattr(self._local, "connection"):
            self._local.connection = sqlite3.connect(f"file:{self._path}?mode=ro", uri=True)
        connection: sqlite3.Connection = self._local.connection
        return connection


class _Redis:
    """One hash a key, with the values of all its views: views of one entity are read by one command."""

    def __init__(self, config: Any, views: Sequence[View]) -> None:
        self._project = config.project.encode()
        self._client = _redis_client(config.online_store)
        self._readers = {view.name: list(_readers(view).items()) for view in views}
        self._fields = {
            view: [*(_mmh3(f"{view}:{name}") for name, _ in readers), f"_ts:{view}".encode()]
            for view, readers in self._readers.items()
        }
        self._together = lru_cache(len(views) + 1)(self._fields_of)

    def fetch(self, wanted: Mapping[str, Sequence[Key]]) -> dict[str, dict[Key, Stored]]:
        views_of: dict[Key, list[str]] = {}
        for view, keys in wanted.items():
            for key in keys:
                views_of.setdefault(key, []).append(view)
        if not views_of:
            return {view: {} for view in wanted}
        answers = self._asked(
            [("HMGET", key + self._project, *self._together(tuple(views))) for key, views in views_of.items()]
        )
        found: dict[str, dict[Key, Stored]] = {view: {} for view in wanted}
        for (key, views), answer in zip(views_of.items(), answers, strict=True):
            start = 0
            for view in views:
                *values, moment = answer[start : start + len(self._fields[view])]
                start += len(values) + 1
                if moment is not None:
                    both = zip(self._readers[view], values, strict=True)
                    read = {name: reader(value) for (name, reader), value in both if value is not None}
                    found[view][key] = _stored(read, partial(_moment, moment))
        return found

    def _fields_of(self, views: tuple[str, ...]) -> list[bytes]:
        return [field for view in views for field in self._fields[view]]

    def _asked(self, commands: list[tuple[Any, ...]]) -> list[Any]:
        """The answers to commands that are sent together: a pipeline of redis-py, in four fifths of its time."""
        pool = self._client.connection_pool
        connection = pool.get_connection()

        def ask() -> list[Any]:
            connection.send_packed_command(connection.pack_commands(commands))
            return [connection.read_response() for _ in commands]

        try:
            found: list[Any] = connection.retry.call_with_retry(ask, lambda error: connection.disconnect())
        except BaseException:  # half an answer may be on its way
            connection.disconnect()
            raise
        finally:
            pool.release(connection)
        return found


def _redis_client(store: Any) -> Any:
    """Feast's own, but for what a request can wait for: it would try four times, with pauses of seconds."""
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    limits = f"socket_timeout={PATIENCE},socket_connect_timeout={PATIENCE}"
    hasty = store.model_copy(update={"connection_string": f"{store.connection_string},{limits}"})
    client = get_online_store_from_config(hasty)._get_client(hasty)
    client.set_retry(Retry(NoBackoff(), 1))  # once, at once: a connection may have been idle for too long
    return client


def _readers(view: View) -> dict[str, Callable[[bytes], Any]]:
    """What is read of a key, and how."""
    readers = {name: reader_of(field_of(column)) for name, column in view.features.items()}
    return readers | {EXACT_EVENT: reader_of("int64_val")}


def _stored(values: dict[str, Any], rounded: Callable[[], int]) -> Stored:
    """With the exact event time that our loading writes; what another wrote has the store's own, which may be
    rounded."""
    exact = values.pop(EXACT_EVENT, None)
    return rounded() if exact is None else exact, values


def _moment(data: bytes) -> int:
    return int(Timestamp.FromString(data).ToMicroseconds())


def _parsed(text: str) -> int:
    moment = datetime.fromisoformat(text)
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return int(moment.timestamp() * 1_000_000)
