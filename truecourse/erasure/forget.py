"""Forget a subject: `truecourse forget ENTITY KEY`.

A removal that is killed leaves its journal, `forgotten/open/<hash>.json`, and the same command takes it up again. The
subject counts as forgotten once the ledger of truecourse/erasure/remembered.py has its entry.
"""

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from truecourse.erasure.remembered import ALLOW, FORGET, Forgotten, key_hash, ledger
from truecourse.erasure.removal import RemovedData, SubjectRemoval, Target, counts_by_kind
from truecourse.erasure.search import find_everywhere
from truecourse.erasure.targets import Targets, find_targets
from truecourse.errors import NotFound, SettingsError, TruecourseError
from truecourse.problem.namespace import FeatureArea
from truecourse.registry import runs
from truecourse.registry import versions as registry
from truecourse.registry.aliases import signature
from truecourse.serving.log_shipping import ship
from truecourse.settings import get_settings
from truecourse.storage.delta_tables import Tables, clean_table, raw_table
from truecourse.storage.locks import locked
from truecourse.storage.object_store import ObjectStore
from truecourse.wording import counted

OnlineStores = Callable[[Sequence[Target], bool], Iterable[RemovedData]]
"""Finds the subject in the online stores, and removes it there unless it is a dry run (the second argument)."""
PATIENCE = 600
"""Seconds to wait for processes that write the problems' tables."""
SPOOL_PATIENCE = 30
"""Seconds to wait for endpoints to close the segments of their log."""


@dataclass(frozen=True)
class Outcome:
    """What was removed, or with a dry run would be.

    `entity`: as the subject was named. `unread`: problems and areas with stored data whose definition cannot be read,
    each with the reason. `remains`: where the key is still found. `resumed`: whether an interrupted removal was taken
    up."""

    entity: str
    targets: tuple[Target, ...]
    removed_data: tuple[RemovedData, ...]
    versions: tuple[Mapping[str, Any], ...]
    key_hash: str
    unread: Mapping[str, str]
    remains: tuple[str, ...] = ()
    resumed: bool = False
    number: int | None = None

    @property
    def is_complete(self) -> bool:
        return not self.remains and not self.unread


def forget(entity: str, key: Sequence[str], online_stores: OnlineStores, *, dry_run: bool = False) -> Outcome:
    """Remove a subject everywhere, and record it. With `dry_run`, find what would be removed and change nothing.

    Raises StorageError if a writer holds a lock for longer than PATIENCE; the command may then be repeated."""
    tables, sought = Tables(), find_targets(entity, key)
    store, targets, unread = tables.store, sought.found, sought.unread
    if dry_run:
        removal = SubjectRemoval(targets, tables, datetime.now(UTC), dry_run=True)
        found = (*online_stores(targets, True), *_spooled(targets), *removal.run())
        return Outcome(entity, targets, found, _learned(found), "", unread)
    hashed = key_hash(store, entity, sought.keys[entity])
    with _locks(store, targets):
        known = _journaled(store, hashed)
        for target in targets:
            _ship(target, tables)
        planned = {one.key: one for one in SubjectRemoval(targets, tables, datetime.now(UTC), dry_run=True).run()}
        planned |= known
        _write_journal(store, hashed, entity, planned.values())
        online = tuple(online_stores(targets, False))
        removal = SubjectRemoval(targets, tables, datetime.now(UTC), dry_run=False, known=planned)
        done = {one.key: one for one in removal.run()} | planned
        removed_data = (*online, *done.values())
        versions = _learned(removed_data)
        remains = tuple(find_everywhere(store, get_settings(), [target.subject for target in targets]))
        outcome = Outcome(entity, targets, removed_data, versions, hashed, unread, remains, bool(known))
        number = _record(store, sought, outcome)
        store.delete(_journal_key(hashed))
    return replace(outcome, number=number)


def allow_return(entity: str, key: Sequence[str]) -> str:
    """Record that rows of a forgotten subject are accepted again; returns the hash of its key.

    Raises SettingsError if the subject was not forgotten."""
    store, sought = Tables().store, find_targets(entity, key)
    hashes = {name: key_hash(store, name, texts) for name, texts in sought.keys.items()}
    entries = {entry.key_hash: entry.action for entry in ledger(store).entries()}
    if entries.get(hashes[entity]) != FORGET:
        raise SettingsError("this subject was not forgotten", where=entity, hint="truecourse forget --list")
    for name, hashed in hashes.items():
        if entries.get(hashed) == FORGET:
            ledger(store).append(_entry(store, ALLOW, name, hashed, "rows of the subject are accepted again"))
    return hashes[entity]


def unfinished(store: ObjectStore) -> list[dict[str, Any]]:
    """The removals that were interrupted: entity, hash of the key, author and time."""
    documents = (json.loads(store.get(key)) for key in store.list("forgotten/open/"))
    return [{name: one[name] for name in ("entity", "key_hash", "author", "at")} for one in documents]


@contextmanager
def _locks(store: ObjectStore, targets: Sequence[Target]) -> Iterator[None]:
    """Keep ingest and validation from writing, computation and loading of areas' views too, and other removals from
    running."""
    names = ["forget"]
    for space in (target.namespace for target in targets):
        for table in space.tables:
            names += [raw_table(space.name, table.name), clean_table(space.name, table.name)]
        for view in space.own_views if isinstance(space, FeatureArea) else ():
            names += [f"{step}/{space.name}/{view.name}" for step in ("features", "online")]
    with ExitStack() as stack:
        for name in names:
            stack.enter_context(locked(store, name, patience=PATIENCE))
        yield


def _journal_key(hashed: str) -> str:
    return f"forgotten/open/{hashed}.json"


def _journaled(store: ObjectStore, hashed: str) -> dict[str, RemovedData]:
    try:
        document = json.loads(store.get(_journal_key(hashed)))
    except NotFound:
        return {}
    return {one["key"]: RemovedData(**one) for one in document["removed_data"]}


def _write_journal(store: ObjectStore, hashed: str, entity: str, removed_data: Iterable[RemovedData]) -> None:
    document = {
        "entity": entity,
        "key_hash": hashed,
        **signature(),
        "removed_data": [one.document() for one in removed_data],
    }
    store.put(_journal_key(hashed), json.dumps(document, default=str).encode())


def _ship(target: Target, tables: Tables) -> None:
    """Ship the spool, until no segment names the subject: a running endpoint closes its segment after seconds."""
    folder, deadline = get_settings().home / "spool" / target.namespace.name, time.monotonic() + SPOOL_PATIENCE
    while True:
        ship(target.namespace.name, tables)
        if not any(target.subject.finds_key(data) for data in _segments(folder)) or time.monotonic() > deadline:
            return  # the search at the end reports what is left
        time.sleep(0.2)


def _segments(folder: Path) -> Iterator[bytes]:
    for path in (*folder.glob("*.open"), *folder.glob("*.sealed")):
        with suppress(FileNotFoundError):  # shipped meanwhile
            yield path.read_bytes()


def _spooled(targets: Sequence[Target]) -> Iterator[RemovedData]:
    """A dry run ships nothing: it counts the spooled segments that name the subject."""
    for target in targets:
        segments = _segments(get_settings().home / "spool" / target.namespace.name)
        count = sum(target.subject.finds_key(data) for data in segments)
        if count:
            yield RemovedData(f"spool/{target.namespace.name}/", "prediction log", texts=count)


def _learned(removed_data: Iterable[RemovedData]) -> tuple[Mapping[str, Any], ...]:
    """The versions whose training frame held rows of the subject."""
    rows = {tuple(one.key.split("/")[1:3]): one.rows for one in removed_data if _is_frame(one)}
    found: list[Mapping[str, Any]] = []
    for problem in sorted({problem for problem, _ in rows}):
        for entry in registry.ledger(problem).entries():
            version = entry.of(problem)
            try:
                sha = runs.trained_run(problem, version.run_id).snapshot.sha256
            except TruecourseError:
                continue
            if count := rows.get((problem, sha)):
                found.append({"problem": problem, "version": version.version, "rows": count, "snapshot": sha})
    return tuple(found)


def _is_frame(one: RemovedData) -> bool:
    return one.kind == "snapshots" and one.rows > 0 and one.key.endswith("/frame.parquet")


def _record(store: ObjectStore, sought: Targets, outcome: Outcome) -> int:
    """Record the removal under the name that was given, after an entry for each entity of an area that is the same
    subject. Returns the last one's number."""
    counts = counts_by_kind(outcome.removed_data)
    rows, objects = sum(one["rows"] for one in counts.values()), len(outcome.removed_data)
    reason = f"{counted(rows, 'row')} in {counted(objects, 'object')} removed"
    problems = tuple(target.namespace.name for target in outcome.targets)
    for name, texts in sought.keys.items():
        if name != outcome.entity:
            entry = _entry(store, FORGET, name, key_hash(store, name, texts), f"the same subject as {outcome.entity}")
            ledger(store).append(entry.model_copy(update={"problems": problems}))
    entry = _entry(store, FORGET, outcome.entity, outcome.key_hash, reason)
    changes = {"problems": problems, "removed": counts, "versions": outcome.versions, "remains": outcome.remains}
    return ledger(store).append(entry.model_copy(update=changes)).number


def _entry(store: ObjectStore, action: str, entity: str, hashed: str, reason: str) -> Forgotten:
    newest = ledger(store).newest()
    return Forgotten(
        number=newest.number + 1 if newest else 1,
        action=action,
        reason=reason,
        **signature(),
        entity=entity,
        key_hash=hashed,
    )
