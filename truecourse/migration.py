"""Rewrite stored objects of format 1 in today's format: `truecourse migrate`.

Rewritten: the state of alerts, quality baselines with their cohorts and label models, and daily histograms. Everything
else is read in both formats and stays as it is, since digests or chains of hashes cover its bytes: ledgers, records of
runs and packages, validation results, manifests, models and Delta tables.

An object is rewritten in three steps: its bytes are copied to `backup/format-1/`, the new object is written, and the
old one is deleted if the key has changed. A step that was done before a process was killed is skipped or repeated with
the same result. The storage is marked at the end.
"""

import json
import logging
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from truecourse.errors import AlreadyExists
from truecourse.monitoring.alerts.alert_record import Record
from truecourse.monitoring.quality.baseline import rewrite_baseline
from truecourse.monitoring.quality.cohorts import COHORTS
from truecourse.storage.format import mark_migrated, read_format
from truecourse.storage.locks import locked
from truecourse.storage.object_store import ObjectStore
from truecourse.stored_format import FORMER_HISTOGRAMS, HISTOGRAMS, current_key, numbered

log = logging.getLogger("truecourse.migration")
BACKUP = "backup/format-1"
Transform = Callable[[bytes], bytes]


@dataclass(frozen=True)
class Rewrite:
    """An object of format 1, and where its rewritten form is stored. `fault`: why it cannot be rewritten."""

    key: str
    becomes: str
    fault: str = ""

    @property
    def backup(self) -> str:
        return f"{BACKUP}/{self.key}"


@dataclass(frozen=True)
class Migration:
    """What a migration rewrites. `oldest`: the oldest format of the storage before it."""

    oldest: int
    rewrites: tuple[Rewrite, ...]


def plan(store: ObjectStore) -> Migration:
    """List the objects that migrate() rewrites; nothing is written. Raises FormatError for a newer storage."""
    found = read_format(store)
    return Migration(found.oldest, () if found.is_migrated else tuple(_rewrites(store)))


def migrate(store: ObjectStore) -> Migration:
    """Rewrite the objects of plan(), and mark the storage as migrated. Objects that cannot be read stay as they are."""
    with locked(store, "migrate"):
        planned = plan(store)
        for one in planned.rewrites:
            if one.fault:
                log.warning("%s is left as it is: %s", one.key, one.fault)
            else:
                _rewrite(store, one)
        mark_migrated(store)
    return planned


def _rewrites(store: ObjectStore) -> Iterator[Rewrite]:
    for key, transform in _objects(store):
        data = store.get(key)
        try:
            if current_key(key) == key and (not key.endswith(".json") or _is_numbered(data)):
                continue
            transform(data)
        except (ValidationError, ValueError, KeyError, TypeError) as error:
            yield Rewrite(key, key, f"{type(error).__name__} when it is read")
            continue
        yield Rewrite(key, current_key(key))


def _rewrite(store: ObjectStore, one: Rewrite) -> None:
    transform, data = _transform_of(one.key), store.get(one.key)
    assert transform is not None
    with suppress(AlreadyExists):  # an interrupted migration has kept the first bytes
        store.put_new(one.backup, data)
    if one.becomes == one.key:
        store.put(one.key, transform(data))
        return
    with suppress(AlreadyExists):  # a check of this release, or an interrupted migration, has written it
        store.put_new(one.becomes, transform(data))
    store.delete(one.key)


def _objects(store: ObjectStore) -> Iterator[tuple[str, Transform]]:
    for prefix in ("alarms/", "quality/", f"{FORMER_HISTOGRAMS}/"):
        for key in list(store.list(prefix)):
            transform = _transform_of(key)
            if transform is not None:
                yield key, transform


def _transform_of(key: str) -> Transform | None:
    """Return the function that rewrites an object's bytes; None if the object is not rewritten."""
    found = current_key(key)
    return next((transform for pattern, transform in _TRANSFORMS if re.fullmatch(pattern, found)), None)


def _is_numbered(data: bytes) -> bool:
    document: Any = json.loads(data)
    parts = document if isinstance(document, list) else [document]
    return all(isinstance(part, dict) and "format" in part for part in parts)


def _numbered_document(data: bytes) -> bytes:
    return json.dumps(numbered(json.loads(data)), separators=(",", ":")).encode()


_TRANSFORMS: tuple[tuple[str, Transform], ...] = (
    (r"alarms/[^/]+\.json", lambda data: Record.model_validate_json(data).model_dump_json().encode()),
    (r"quality/[^/]+/[^/]+/days\.json", lambda data: COHORTS.dump_json(COHORTS.validate_json(data))),
    (r"quality/[^/]+/[^/]+/baseline\.json", rewrite_baseline),
    (r"quality/[^/]+/[^/]+/label_model\.ubj", bytes),
    (rf"{HISTOGRAMS}/.+\.json", _numbered_document),
)
"""How objects are rewritten, by their key in today's format."""
