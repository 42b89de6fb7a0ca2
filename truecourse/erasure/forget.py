"""Forget a subject: `truecourse forget ENTITY KEY`.

A removal that is killed leaves its journal, `forgotten/open/<hash>.json`, and the same command takes it up again. The
subject counts as forgotten once the ledger of truecourse/erasure/remembered.py has its entry.
"""

import json
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from truecourse.erasure.remembered import ALLOW, FORGET, Forgotten, key_hash, ledger
from truecourse.erasure.removal import RemovedData, SubjectRemoval, Target, counts_by_kind
from truecourse.erasure.search import find_everywhere
from truecourse.erasure.subject import subject_of
from truecourse.errors import IntegrityError, NotFound, SettingsError, TruecourseError
from truecourse.problem import Problem
from truecourse.problem.loader import load_problem, problem_names
from truecourse.registry import run_archive, runs
from truecourse.registry import versions as registry
from truecourse.registry.aliases import signature
from truecourse.serving.log_shipping import ship
from truecourse.settings import get_settings
from truecourse.storage.area_marks import marked_areas
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

    `unread`: problems with stored data whose definition cannot be read, each with the reason. `remains`: where the key
    is still found. `resumed`: whether an interrupted removal was taken up."""

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


def find_targets(entity: str, key: Sequence[str]) -> tuple[list[Target], dict[str, str]]:
    """The problems that declare the entity, or a table of this name with a key; and those that cannot be read.

    A problem whose folder is gone is read from the archive of its newest run. Raises SettingsError if no problem
    declares it, or if the key does not fit."""
    store, secret = Tables().store, get_settings().log_secret.get_secret_value().encode()
    targets, unread = [], dict[str, str]()
    stored = {name.split("/")[1] for name in store.list("tables/")}
    for name in sorted({*problem_names(), *stored}):
        try:
            problem = _load(store, name)
            subject = subject_of(problem, entity, key, secret)
        except ValueError as error:
            where, hint = f"{entity} of problem {name}", "quote a key with spaces"
            raise SettingsError(str(error), where=where, hint=hint) from None
        except TruecourseError as error:
            unread[name] = error.what
            continue
        if subject is not None:
            targets.append(Target(problem, subject))
    if not targets:
        known = sorted({one for name in problem_names() for one in _entities(name)})
        listed = f"entities and tables with a key: {', '.join(known)}"
        hint = listed if known else "declare an entity, or the key of a table"
        raise SettingsError("no problem declares this entity", where=entity, hint=hint)
    return targets, unread


def _entities(name: str) -> Iterator[str]:
    with suppress(TruecourseError):
        problem = load_problem(name)
        yield from (entity.name for entity in problem.entities)
        yield from (table.name for table in problem.tables if table.key)


def _load(store: ObjectStore, name: str) -> Problem:
    if name in problem_names():
        return load_problem(name)
    if name in marked_areas(store):
        hint = "leave the subject out of the area's sources, delete the area's stored data, and run its flows anew"
        raise IntegrityError("it is a feature area, from which nothing is removed yet", where=name, hint=hint)
    try:
        packed = runs.artifact(runs.trained_run(name).run_id, run_archive.FOLDER)
    except (NotFound, TruecourseError):
        hint = "restore its folder, or delete its data"
        raise IntegrityError("its folder is gone, and no run has an archive of it", where=name, hint=hint) from None
    temporary = get_settings().temporary
    temporary.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=temporary, prefix="forget-") as folder:
        run_archive.unpack_folder(packed, Path(folder) / name)
        return load_problem(name, Path(folder))


def forget(entity: str, key: Sequence[str], online_stores: OnlineStores, *, dry_run: bool = False) -> Outcome:
    """Remove a subject everywhere, and record it. With `dry_run`, find what would be removed and change nothing.

    Raises StorageError if a writer holds a lock for longer than PATIENCE; the command may then be repeated."""
    tables = Tables()
    targets, unread = find_targets(entity, key)
    store, texts = tables.store, [part.text for part in targets[0].subject.parts]
    if dry_run:
        removal = SubjectRemoval(targets, tables, datetime.now(UTC), dry_run=True)
        found = (*online_stores(targets, True), *_spooled(targets), *removal.run())
        return Outcome(tuple(targets), found, _learned(found), "", unread)
    hashed = key_hash(store, entity, texts)
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
        outcome = Outcome(tuple(targets), removed_data, versions, hashed, unread, remains, bool(known))
        number = _record(store, entity, outcome)
        store.delete(_journal_key(hashed))
    return Outcome(tuple(targets), removed_data, versions, hashed, unread, remains, bool(known), number)


def allow_return(entity: str, key: Sequence[str]) -> str:
    """Record that rows of a forgotten subject are accepted again; returns the hash of its key.

    Raises SettingsError if the subject was not forgotten."""
    store = Tables().store
    targets, _ = find_targets(entity, key)
    hashed = key_hash(store, entity, [part.text for part in targets[0].subject.parts])
    entries = [entry for entry in ledger(store).entries() if entry.key_hash == hashed]
    if not entries or entries[-1].action != FORGET:
        raise SettingsError("this subject was not forgotten", where=entity, hint="truecourse forget --list")
    book = ledger(store)
    book.append(_entry(store, ALLOW, entity, hashed, "rows of the subject are accepted again"))
    return hashed


def unfinished(store: ObjectStore) -> list[dict[str, Any]]:
    """The removals that were interrupted: entity, hash of the key, author and time."""
    documents = (json.loads(store.get(key)) for key in store.list("forgotten/open/"))
    return [{name: one[name] for name in ("entity", "key_hash", "author", "at")} for one in documents]


@contextmanager
def _locks(store: ObjectStore, targets: Sequence[Target]) -> Iterator[None]:
    """Keep ingest and validation of the problems from writing, and other removals from running."""
    with ExitStack() as stack:
        stack.enter_context(locked(store, "forget", patience=PATIENCE))
        for target in targets:
            for table in target.problem.tables:
                for name in (raw_table(target.problem.name, table.name), clean_table(target.problem.name, table.name)):
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
    folder, deadline = get_settings().home / "spool" / target.problem.name, time.monotonic() + SPOOL_PATIENCE
    while True:
        ship(target.problem.name, tables)
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
        segments = _segments(get_settings().home / "spool" / target.problem.name)
        count = sum(target.subject.finds_key(data) for data in segments)
        if count:
            yield RemovedData(f"spool/{target.problem.name}/", "prediction log", texts=count)


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


def _record(store: ObjectStore, entity: str, outcome: Outcome) -> int:
    counts = counts_by_kind(outcome.removed_data)
    rows, objects = sum(one["rows"] for one in counts.values()), len(outcome.removed_data)
    reason = f"{counted(rows, 'row')} in {counted(objects, 'object')} removed"
    entry = _entry(store, FORGET, entity, outcome.key_hash, reason)
    problems = tuple(target.problem.name for target in outcome.targets)
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
