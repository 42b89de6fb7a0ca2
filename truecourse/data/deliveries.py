"""Deliveries of a table: (place, content, moment), recorded in the raw table's commits, and their source bytes."""

import os
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from truecourse.hashing import sha256_json
from truecourse.problem import Problem
from truecourse.problem.schema import Files, Table
from truecourse.references import Reference, UtcTime
from truecourse.storage.object_store import ObjectStore
from truecourse.storage.tables import Tables, clean_table, raw_table


class Delivery(Reference):
    """One content of one place, as it was read at a moment."""

    number: int
    """Running number within the table, from 0."""
    uri: str
    """Where the bytes came from, without secrets."""
    place: str
    """What a later delivery of the same place is known by: a path relative to the problem's folder, an object's key, a
    connection. A file that was moved keeps its first place."""
    sha256: str
    bytes: int
    rows: int
    start: int
    """`_tc_row` of its first row; the others follow without a gap."""
    group: int
    """Number of the first delivery that the same run of ingest brought."""
    at: UtcTime
    copy_of: int | None = None
    """The delivery with the same bytes whose rows stand for this one too: a table without key takes them once."""
    beginning_of: int | None = None
    """The delivery before, of the same place, if its bytes begin with these and go on: an upload that broke off."""
    fault: str = ""
    """Why its bytes could not be read; then it has no rows."""

    @property
    def end(self) -> int:
        return self.start + self.rows


def place_of(problem: Problem, table: Table, uri: str) -> str:
    """The place that a source's address stands for."""
    return os.path.relpath(uri, problem.folder) if isinstance(table.source, Files) else uri


def shape_digest(table: Table) -> str:
    """What the stored rows of a table depend on in its declaration: columns and their types, how the source is
    written, key, time and `combine`. Where it changes, rows are read again from the archived bytes."""
    columns = [
        [name, c.source, type(c).__name__, getattr(c, "format", None), getattr(c, "symbol", None), c.nulls]
        for name, c in table.columns.items()
    ]
    source = table.source
    written = [repr(getattr(source, name, None)) for name in ("csv", "format")]
    return sha256_json([columns, written, table.key, table.time, table.combines])


def read_deliveries(tables: Tables, problem: str, table: str) -> tuple[list[Delivery], str | None]:
    """Every delivery of a table in order, and the shape digest that they were read by (None: never ingested)."""
    name = raw_table(problem, table)
    return parse_commits(tables.commits(name)) if tables.exists(name) else ([], None)


def parse_commits(commits: Iterable[Sequence[Any]]) -> tuple[list[Delivery], str | None]:
    """recorded() of a raw table's (version, commit), oldest first."""
    found: list[Delivery] = []
    shape = None
    for _, commit in commits:
        if "deliveries" not in commit:
            continue
        found = [] if commit.get("rewritten") else found
        found += map(Delivery.model_validate, commit["deliveries"])
        shape = commit["shape"]
    return found, shape


def is_copy(delivery: Delivery, known: Sequence[Delivery]) -> bool:
    """Whether its rows are those of another place. A file that was moved is no copy."""
    return delivery.copy_of is not None and known[delivery.copy_of].place != delivery.place


def newest_by_place(deliveries: Iterable[Delivery]) -> dict[str, Delivery]:
    return {delivery.place: delivery for delivery in sorted(deliveries, key=lambda d: d.number)}


def accepted_deliveries(
    tables: Tables, problem: str, table: str
) -> tuple[dict[int, dict[str, Any]], dict[str, Any] | None]:
    """By number, what the clean table's commits say of the deliveries that it holds, and the newest such commit."""
    name = clean_table(problem, table)
    if not tables.exists(name):
        return {}, None
    found: dict[int, dict[str, Any]] = {}
    last = None
    for version, commit in tables.commits(name):
        if "deliveries" not in commit:
            continue
        found = {} if commit.get("rewritten") else found
        found |= {item["number"]: item for item in commit["deliveries"]}
        last = commit | {"version": version}
    return found, last


def archive_key(problem: str, table: str, sha256: str) -> str:
    return f"sources/{problem}/{table}/{sha256}"


def archive(store: ObjectStore, problem: str, table: str, sha256: str, path: Path) -> bool:
    """Keep a source's bytes, named by their digest; before the commit that acknowledges them. Return False if they
    were kept already."""
    key = archive_key(problem, table, sha256)
    if store.exists(key):
        return False
    store.upload(key, path)
    return True


def is_beginning(store: ObjectStore, problem: str, table: str, last: Delivery, path: Path, folder: Path) -> bool:
    """Whether a file is the beginning of what the delivery before it held. `folder`: a place for a temporary file."""
    size = path.stat().st_size
    key = archive_key(problem, table, last.sha256)
    if not 0 < size < last.bytes or not store.exists(key):
        return False
    before = folder / "before"
    store.download(key, before)
    with path.open("rb") as short, before.open("rb") as long:
        return all(part == long.read(len(part)) for part in iter(lambda: short.read(1 << 20), b""))


def delete_expired(
    tables: Tables, problem: Problem, table: Table, deliveries: list[Delivery], retention: float, now: datetime
) -> list[str]:
    """Delete archived bytes of deliveries that no longer stand, `retention` days after a newer one took their place;
    the keys. Zero keeps all for ever.

    A delivery stands as long as it is its place's newest, its place's newest accepted one, or, in a table that is
    appended or upserted, accepted at all: rows of the table may be its own."""
    if not retention:
        return []
    taken, _ = accepted_deliveries(tables, problem.name, table.name)
    standing = {d.number for d in newest_by_place(deliveries).values()}
    if table.combines == "replace":
        standing |= {d.number for d in newest_by_place(d for d in deliveries if d.number in taken).values()}
    else:
        standing |= taken.keys()
    replaced: dict[int, datetime] = {}
    last: dict[str, Delivery] = {}
    for delivery in deliveries:
        if delivery.place in last:
            replaced[last[delivery.place].number] = delivery.at
        last[delivery.place] = delivery
    limit = now.astimezone(UTC) - timedelta(days=retention)
    kept = {d.sha256 for d in deliveries if d.number in standing or replaced.get(d.number, now) > limit}
    gone = {d.sha256 for d in deliveries} - kept
    keys = [archive_key(problem.name, table.name, digest) for digest in sorted(gone)]
    keys = [key for key in keys if tables.store.exists(key)]
    for key in keys:
        tables.store.delete(key)
    return keys
