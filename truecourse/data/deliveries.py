"""Deliveries of a table, recorded in the raw table's commits, and the archive of their source bytes.

A delivery is one content of one place (a file, an object, a connection), read at one time.
"""

import os
from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from truecourse.data.queries import is_later
from truecourse.hashing import sha256_json
from truecourse.problem.namespace import Namespace
from truecourse.problem.schema import Files, Source, Sql, Table
from truecourse.references import Reference, UtcTime
from truecourse.storage.delta_tables import Tables, clean_table, raw_table
from truecourse.storage.object_store import ObjectStore


class Delivery(Reference):
    """One content of one place, as it was read at the time `at`."""

    number: int
    """Running number within the table, from 0."""
    uri: str
    """Where the bytes came from, without secrets."""
    place: str
    """Identifies later deliveries of the same source: a path relative to the problem's folder, an object's key or a
    connection. A file that was moved keeps its first place."""
    sha256: str
    bytes: int
    rows: int
    start: int
    """`_tc_row` of its first row. The rows are numbered without gaps."""
    group: int
    """Number of the first delivery of the same ingest run."""
    at: UtcTime
    copy_of: int | None = None
    """The delivery with the same bytes that holds the rows of this one. The rows of equal files are stored once."""
    beginning_of: int | None = None
    """The previous delivery of the same place, if its bytes start with these: this is a truncated upload."""
    fault: str = ""
    """Why its bytes could not be read. Such a delivery has no rows."""
    warnings: tuple[str, ...] = ()
    """Differences of its columns from the declared ones, for which a warning is declared."""
    query: str = ""
    """Digest of the query, if it has a cursor."""
    after: str = ""
    """For rows that a query returned after a cursor value: that value, see truecourse.data.queries. Such a delivery is
    partial: it adds to the content of its place. Others replace it."""
    reached: str = ""
    """The highest cursor value that was read."""

    @property
    def end(self) -> int:
        return self.start + self.rows


PUSHED = "push:"
"""The beginning of the place of pushed rows; the push's id follows."""


def is_push(delivery: Delivery) -> bool:
    """Whether the delivery's rows were pushed, not read from a source of the table. Each push is a place of its own."""
    return delivery.place.startswith(PUSHED)


def place_of(problem: Namespace, table: Table, uri: str) -> str:
    """The place of a source's address."""
    if uri.startswith(PUSHED):
        return uri
    return os.path.relpath(uri, problem.folder) if isinstance(table.source, Files) else uri


def shape_digest(table: Table) -> str:
    """Digest of the parts of a table's declaration on which its stored rows depend: columns and types, the source's
    format, key, time and `combine`. When it changes, the rows are read again from the archived bytes."""
    columns = [
        [name, c.source, type(c).__name__, getattr(c, "format", None), getattr(c, "symbol", None), c.nulls]
        for name, c in table.columns.items()
    ]
    source = table.source
    formats = [repr(getattr(source, name, None)) for name in ("csv", "format")]
    further = [] if table.deleted is None else [table.deleted]
    further += [] if table.updated is None else [f"updated: {table.updated}"]
    return sha256_json([columns, formats, table.key, table.time, table.combines, *further])


def query_digest(source: Source) -> str:
    """Digest of a query with a cursor; empty for other sources. When it changes, the query is read as a whole."""
    if not isinstance(source, Sql) or source.cursor is None:
        return ""
    return sha256_json([source.connection, source.query, source.cursor])


def read_deliveries(tables: Tables, problem: str, table: str) -> tuple[list[Delivery], str | None]:
    """Read all deliveries of a table in order, and the shape digest they were read with (None: never ingested)."""
    return parse_commits(tables.commits(raw_table(problem, table)))


def parse_commits(commits: Iterable[Sequence[Any]]) -> tuple[list[Delivery], str | None]:
    """The deliveries and the shape digest recorded in a raw table's (version, commit), oldest first."""
    deliveries: list[Delivery] = []
    shape = None
    for _, commit in commits:
        if "deliveries" not in commit:
            continue
        deliveries = [] if commit.get("rewritten") else deliveries
        deliveries += map(Delivery.model_validate, commit["deliveries"])
        shape = commit["shape"]
    return deliveries, shape


def newest_commit(tables: Tables, name: str) -> dict[str, Any]:
    """The newest commit of a raw or clean table that lists deliveries, with its `version`."""
    listed = [commit | {"version": version} for version, commit in tables.commits(name) if "deliveries" in commit]
    return listed[-1] if listed else {}


def is_copy(delivery: Delivery, known: Sequence[Delivery]) -> bool:
    """Whether the delivery has the bytes of another place. A file that was moved is not a copy."""
    return delivery.copy_of is not None and known[delivery.copy_of].place != delivery.place


def newest_by_place(deliveries: Iterable[Delivery]) -> dict[str, Delivery]:
    return {delivery.place: delivery for delivery in sorted(deliveries, key=lambda d: d.number)}


def newest_contents(deliveries: Iterable[Delivery]) -> list[Delivery]:
    """The deliveries that make up the newest content of each place: its newest whole one, and the partial ones after
    it."""
    contents: dict[str, list[Delivery]] = {}
    for delivery in sorted(deliveries, key=lambda d: d.number):
        contents[delivery.place] = [*contents.get(delivery.place, ()), delivery] if delivery.after else [delivery]
    return [delivery for content in contents.values() for delivery in content]


def read_so_far(table: Table, known: Iterable[Delivery], refused: Collection[int], now: datetime) -> str:
    """The cursor value up to which the accepted deliveries hold every row; empty if the query must be read as a whole.

    `refused`: numbers of refused deliveries, whose rows are read again. Later deliveries do not count if rows between
    were refused."""
    reached, whole_at, digest = "", None, query_digest(table.source)
    for delivery in known if digest else ():
        if delivery.query != digest or delivery.fault or delivery.number in refused:
            continue
        if not delivery.after:
            reached, whole_at = delivery.reached, delivery.at
        elif reached and not is_later(delivery.after, reached) and is_later(delivery.reached, reached):
            reached = delivery.reached
    every = table.source.compare_every if isinstance(table.source, Sql) else None
    due = every is not None and whole_at is not None and now - whole_at >= every
    return "" if due else reached


def accepted_deliveries(
    tables: Tables, problem: str, table: str
) -> tuple[dict[int, dict[str, Any]], dict[str, Any] | None]:
    """Read the accepted deliveries of a clean table: their records by number, and the newest commit that has some."""
    records: dict[int, dict[str, Any]] = {}
    last = None
    for version, commit in tables.commits(clean_table(problem, table)):
        if "deliveries" not in commit:
            continue
        records = {} if commit.get("rewritten") else records
        records |= {item["number"]: item for item in commit["deliveries"]}
        last = commit | {"version": version}
    return records, last


def archive_key(problem: str, table: str, sha256: str) -> str:
    return f"sources/{problem}/{table}/{sha256}"


def archive(store: ObjectStore, problem: str, table: str, sha256: str, path: Path) -> bool:
    """Store a source's bytes under their digest, before the commit that records the delivery. Return False if they are
    already stored."""
    key = archive_key(problem, table, sha256)
    if store.exists(key):
        return False
    store.upload(key, path)
    return True


def is_beginning(store: ObjectStore, problem: str, table: str, last: Delivery, path: Path, folder: Path) -> bool:
    """Whether a file's bytes are a proper prefix of the last delivery's. `folder`: for a temporary file."""
    size = path.stat().st_size
    key = archive_key(problem, table, last.sha256)
    if not 0 < size < last.bytes or not store.exists(key):
        return False
    before = folder / "before"
    store.download(key, before)
    with path.open("rb") as short, before.open("rb") as long:
        return all(part == long.read(len(part)) for part in iter(lambda: short.read(1 << 20), b""))


def unused_sources(tables: Tables, problem: str, table: str) -> dict[str, datetime | None]:
    """Since when (UTC) the archived bytes of each delivery are replaced, by their SHA-256; None: they are current.

    Current deliveries: the newest of each place, the newest accepted one of each place, and, in a table with `append`
    or `upsert`, every accepted one, because the table may hold its rows."""
    deliveries, _ = read_deliveries(tables, problem, table)
    combine = newest_commit(tables, raw_table(problem, table)).get("combine") if deliveries else None
    taken, _ = accepted_deliveries(tables, problem, table)
    current = {d.number for d in newest_contents(deliveries)}
    if combine == "replace":
        current |= {d.number for d in newest_contents(d for d in deliveries if d.number in taken)}
    else:
        current |= taken.keys()
    found: dict[str, datetime | None] = {}
    whole: dict[str, datetime] = {}
    for delivery in reversed(deliveries):
        since = None if delivery.number in current else whole[delivery.place]
        if not delivery.after:
            whole[delivery.place] = delivery.at
        before = found.get(delivery.sha256, since)
        found[delivery.sha256] = None if since is None or before is None else max(since, before)
    return found
