"""The record of forgotten subjects: a ledger of keyed hashes, by which a later delivery of a subject is recognised.

`forgotten/entries/` is the ledger, `forgotten/salt` the secret of its hashes. A plain hash of a short key could be
reversed by hashing all likely keys; without the salt this cannot be done.
"""

import hashlib
import hmac
import secrets
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import pyarrow as pa
from pydantic import Field

from truecourse.erasure.subject import declared_keys, tables_of, texts_of
from truecourse.errors import AlreadyExists, NotFound
from truecourse.hashing import canonical_json
from truecourse.problem.namespace import Namespace
from truecourse.problem.schema import Table
from truecourse.references import Entry
from truecourse.storage.ledger import Ledger
from truecourse.storage.object_store import ObjectStore

PLACE = "forgotten"
FORGET, ALLOW = "forget", "allow return"


class Forgotten(Entry):
    """A forgotten subject, or with the action ALLOW one that may return.

    `entity`: as the subject was named, or an area's entity that is the same subject, as `area.entity`. `key_hash`:
    HMAC-SHA-256 of entity and key. `problems`: the problems and feature areas with the subject. `removed`: by kind of
    data, the numbers of `objects`, `rows` and replaced `texts`. `versions`: model versions that learned from it, each
    with `problem`, `version`, `rows` and `snapshot`. `remains`: places where its key was found afterwards."""

    entity: str
    key_hash: str
    problems: tuple[str, ...] = ()
    removed: Mapping[str, Mapping[str, int]] = Field(default_factory=dict)
    versions: tuple[Mapping[str, Any], ...] = ()
    remains: tuple[str, ...] = ()


def ledger(store: ObjectStore) -> Ledger[Forgotten]:
    return Ledger(store, f"{PLACE}/entries", Forgotten)


def key_hash(store: ObjectStore, entity: str, key: Sequence[str]) -> str:
    """The keyed hash of a subject; the storage's salt is created if it has none."""
    place = f"{PLACE}/salt"
    try:
        salt = store.get(place)
    except NotFound:
        with suppress(AlreadyExists):  # another process was first
            store.put_new(place, secrets.token_hex(32).encode())
        salt = store.get(place)
    return _hash(salt, entity, key)


def _hash(salt: bytes, entity: str, key: Sequence[str]) -> str:
    return hmac.new(salt, canonical_json([entity, list(key)]), hashlib.sha256).hexdigest()


class Remembered:
    """The forgotten subjects that may not return, to be looked up by key."""

    def __init__(self, store: ObjectStore) -> None:
        refused: dict[tuple[str, str], bool] = {}
        for entry in ledger(store).entries():
            refused[entry.entity, entry.key_hash] = entry.action == FORGET
        self._refused = {one for one, holds in refused.items() if holds}
        self._salt = store.get(f"{PLACE}/salt") if self._refused else b""
        self._entities = {entity for entity, _ in self._refused}

    def __bool__(self) -> bool:
        return bool(self._refused)

    def refused_keys(self, problem: Namespace, table: Table, rows: pa.RecordBatch) -> set[tuple[str, tuple[str, ...]]]:
        """(entity, key) of each forgotten subject that rows of a table name. Keys are texts, as stored."""
        found: set[tuple[str, tuple[str, ...]]] = set()
        for entity, names in self._columns(problem, table):
            texts = [texts_of(pa.chunked_array([rows.column(name)])) for name in names]
            if any(column is None for column in texts):
                continue
            keys = pa.table(texts, names=[str(n) for n in range(len(names))])
            keys = keys.group_by(keys.column_names).aggregate([]).drop_null()
            for key in zip(*(column.to_pylist() for column in keys.columns), strict=True):
                if (entity, _hash(self._salt, entity, key)) in self._refused:
                    found.add((entity, key))
        return found

    def _columns(self, namespace: Namespace, table: Table) -> Iterable[tuple[str, tuple[str, ...]]]:
        """The names under which subjects of a table's rows may have been forgotten, with the columns of their keys."""
        for entity, names in declared_keys(namespace).items():
            has_key = all(name in table.columns for name in names)
            if entity in self._entities and has_key and table in tables_of(namespace, entity):
                yield entity, names
