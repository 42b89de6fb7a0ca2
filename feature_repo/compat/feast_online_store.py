"""The layout of Feast's online stores, which the endpoint reads, and the parts of Feast that write it.

What: keys and names of stored values are computed with Feast's own functions; its sqlite tables and Redis hashes are
read directly, with the client that its store opens.
Why: Feast's `online_read` reads one view per call, and parses every value of a key, requested or not.
Without it: features could only be read at several times the cost. So no setting leaves it out.

The layout is specified, for every language that reads it:
https://github.com/feast-dev/feast/blob/HEAD/docs/specs/online_store_format.md
"""

import struct
from datetime import UTC, datetime
from typing import Any

from feast.infra.key_encoding_utils import deserialize_entity_key, serialize_entity_key
from feast.infra.online_stores.helpers import _mmh3, compute_table_id, get_online_store_from_config

from truecourse.compat.patch import Patch

__all__ = [
    "PATCH",
    "SQLITE_COLUMNS",
    "clear_view",
    "key_bytes",
    "key_values",
    "online_store",
    "redis_client",
    "redis_fields",
    "sqlite_event",
    "sqlite_table",
]

PATCH = Patch(
    module=__name__,
    checked={"feast": ("0.67.0",)},
    changes="reads and clears the tables and hashes of Feast's online stores directly",
    reason="Feast reads one view per call, and parses values that were not requested",
    upstream="https://github.com/feast-dev/feast/issues/3259",
    without="reading features takes several times as long",
)
SQLITE_COLUMNS = "entity_key, feature_name, value, event_ts"
"""Columns of a view's table in the sqlite store: a row for each value of a key."""


def sqlite_table(project: str, view: Any) -> str:
    """The table of a view in the sqlite store. `view`: an object with the view's `name`."""
    return str(compute_table_id(project, view, False))


def sqlite_event(stored: int) -> int:
    """The event time in microseconds (UTC) of a row of the sqlite store.

    Feast converts a naive UTC time to seconds since 1970 as if it were in the machine's zone."""
    local = datetime.fromtimestamp(stored)  # noqa: DTZ006
    return int(local.replace(tzinfo=UTC).timestamp()) * 1_000_000


def redis_fields(view: str, features: list[str]) -> list[bytes]:
    """The fields of a view in a key's Redis hash: of its features, then of its event time."""
    return [*(_mmh3(f"{view}:{name}") for name in features), f"_ts:{view}".encode()]


def key_bytes(key: Any, version: int) -> bytes:
    """The bytes of an EntityKey in the store, in this version of the serialization."""
    return bytes(serialize_entity_key(key, version))


def key_values(key: bytes) -> dict[str, Any]:
    """The values of a stored key by column; empty for bytes that are no key."""
    try:
        read = deserialize_entity_key(key, 3)
    except (ValueError, struct.error):
        return {}
    pairs = zip(read.join_keys, read.entity_values, strict=False)
    return {name: getattr(value, value.WhichOneof("val") or "null_val") for name, value in pairs}


def online_store(config: Any) -> Any:
    """The Feast object that reads and writes the configured store. `config`: the online store's configuration."""
    return get_online_store_from_config(config)


def redis_client(store: Any, config: Any) -> Any:
    """The redis-py client of Feast's Redis store. `config`: the online store's configuration."""
    return store._get_client(config)


def clear_view(store: Any, config: Any, view: Any) -> None:
    """Remove all stored values of a view. `config`: Feast's configuration of the repository."""
    if config.online_store.type == "redis":
        store.delete_table(config, view)
        return
    store.update(config, [view], [], [], [], partial=True)  # drops its table
    store.update(config, [], [view], [], [], partial=True)  # creates an empty one
