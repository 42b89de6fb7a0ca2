"""Columns of a clean table as another declaration has them: the declaration that a model was trained on, for example.

After edits of the table, a column may be stored under another name, with another type or format, or no longer. The
values of its former form are read again from the kept bytes of each delivery, or from an earlier version of the raw
table.
"""

import json
import logging
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NoReturn

import pyarrow as pa
import pyarrow.compute as pc

from truecourse.data import deliveries
from truecourse.data.deliveries import Delivery, archive_key
from truecourse.data.parsing import LINE, UNREADABLE, batch_schema
from truecourse.data.quarantine import quarantine_of, quarantined_rows
from truecourse.data.readers import open_rows, parse_batches
from truecourse.data.reread import fillable
from truecourse.data.sources import locate_archived, scratch
from truecourse.data.sql import ROW, connect, quote
from truecourse.data.table_edits import declared_document, stored_document
from truecourse.errors import FeatureError, NotFound, SourceError, StorageError
from truecourse.hashing import sha256_json
from truecourse.problem.schema import Columns, Table
from truecourse.references import TableVersion
from truecourse.storage.delta_tables import Tables, raw_table
from truecourse.wording import counted

log = logging.getLogger("truecourse.data")
_SHOWN = 3
Document = Mapping[str, Any]


def stored_names(
    tables: Tables, version: TableVersion, declared: Iterable[str], required: Collection[str] | None = None
) -> dict[str, str]:
    """The name under which a version of a clean table stores each column of another declaration, after edits; empty if
    it was removed, or declared after the version was written. `declared`: all columns of that declaration.

    Raises FeatureError for one of `required`, by default all, that was declared after the version was written."""
    present, found = tables.dataset(version).schema.names, {name: name for name in declared}
    if found.keys() <= set(present):
        return found
    edits, since = _edits_since(tables, version, found)
    found = {name: name if not since and name in present else _names(name, edits)[-1] for name in found}
    unknown = [name for name, stored in found.items() if stored not in ("", *present)]
    if late := [name for name in unknown if required is None or name in required]:
        hint = "run `truecourse run ingest` and `validate`: the declaration changed since"
        raise FeatureError(f"the stored table has no column {', '.join(late)}", where=str(version), hint=hint)
    return found | dict.fromkeys(unknown, "")


def _edits_since(
    tables: Tables, version: TableVersion, declared: Iterable[str]
) -> tuple[list[Mapping[str, str]], bool]:
    """The edits of a clean table up to a version, oldest first, since the last commit that declared these columns; and
    whether there is one."""
    edits: list[Mapping[str, str]] = []
    since = False
    for number, commit in tables.commits(version.name):
        if number <= version.version:
            edits += commit.get("edits", ())
            if {*declared} <= commit.get("declared", {}).get("columns", {}).keys():
                edits, since = [], True
    return edits, since


def _names(name: str, edits: Iterable[Mapping[str, str]]) -> list[str]:
    """The names that a column had in turn; the last one is empty if it was removed."""
    names = [name]
    for edit in edits:
        if edit["kind"] == "renamed" and edit["before"] == names[-1]:
            names.append(edit["column"])
        elif edit["kind"] == "removed" and edit["column"] == names[-1]:
            names.append("")
    return names


def altered_columns(tables: Tables, version: TableVersion, table: Table, names: Iterable[str]) -> list[str]:
    """The columns, of `names`, whose values a version of the clean table does not store as `table` declares them: they
    were removed, or their type, format or source differs."""
    stored = _stored_declaration(tables, version)
    if stored is None:
        return []
    names = list(names)
    current, declared = stored_names(tables, version, table.columns, names), declared_document(table)
    return [name for name in names if not _same_form(name, declared, current[name], stored)]


def _stored_declaration(tables: Tables, version: TableVersion) -> Document | None:
    """The declaration that a version of a clean table was written with; None if it is unknown."""
    last: Document | None = tables.commit(version)
    if last is None:
        return None
    if "declared" not in last:  # a commit that lists no deliveries, or one of an earlier release
        listed = [c for number, c in tables.commits(version.name) if number <= version.version and "deliveries" in c]
        last = listed[-1] if listed else last
    return stored_document(last, tables.dataset(version).schema)


def _same_form(name: str, declared: Document, current: str, stored: Document) -> bool:
    """Whether a stored column has the values that the declaration of another name and form has."""
    if not current:
        return False
    own, now = declared["columns"][name], stored["columns"].get(current, {})
    if own["is"] != now.get("is"):
        return False
    if stored["layout"] is None:  # of an earlier release: only the types are known
        return True
    same_source = current != name or own.get("source", name) == now.get("source", name)
    same_format = all(own.get(part, "") == now.get(part, "") for part in ("format", "symbol"))
    return bool(same_source and same_format and declared["layout"]["source"] == stored["layout"]["source"])


def former_values(tables: Tables, version: TableVersion, table: Table, columns: Sequence[str]) -> pa.Table:
    """The values of columns in the form that `table` declares, by `_tc_row`, for rows of a version of its clean table.

    Rows with a value that this form cannot read are left out: the version of the table that was written by this
    declaration has none of them. The values are kept in a temporary file while they are used, not in memory.
    Raises FeatureError if values are unknown: the bytes of a delivery are gone or lack a column, or rows were merged
    that differ in the columns."""
    document = declared_document(table)
    wanted = {name: document["columns"][name] for name in columns}
    key = sha256_json([tables.store.root, version.model_dump(), table.name, wanted, document["layout"]["source"]])
    return _read(_Reading(key, tables, version, table, tuple(columns)))


@dataclass(frozen=True)
class _Reading:
    """Columns to read in the form that a table declares. Equal if their `key` is equal."""

    key: str
    tables: Tables = field(compare=False)
    version: TableVersion = field(compare=False)
    table: Table = field(compare=False)
    names: tuple[str, ...] = field(compare=False)

    @property
    def columns(self) -> Columns:
        return {name: self.table.columns[name] for name in self.names}


@dataclass(frozen=True)
class _Source:
    """What a version of a clean table was written from. `raw`: the version of the raw table, with all `commits` up to
    it; `accepted`: the deliveries that hold its rows, in order; `edits`: of the table since its earlier declaration."""

    owner: str
    raw: TableVersion
    commits: Sequence[tuple[int, Document]]
    accepted: Sequence[Delivery]
    edits: Sequence[Mapping[str, str]]


@lru_cache(maxsize=4)  # a batch binds the same tables many times
def _read(reading: _Reading) -> pa.Table:
    where = f"{reading.version}, columns {', '.join(reading.names)}"
    source = _source_of(reading, where)
    schema = pa.schema([(ROW, pa.int64()), *list(batch_schema(reading.columns))[:-1]])
    faults: list[str] = []
    with scratch() as folder:
        path = folder / "former.arrow"
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
            for delivery in source.accepted:
                try:
                    for batch in _rows_of(reading, source, delivery, folder / "bytes"):
                        writer.write_batch(batch.cast(schema))
                except SourceError as error:
                    rows = counted(delivery.rows, "row")
                    faults.append(f"delivery {delivery.number} ({delivery.uri}, {rows}): {error.what}")
        if faults:
            more = f"; and {counted(len(faults) - _SHOWN, 'other delivery')}" if len(faults) > _SHOWN else ""
            _raise_unknown("; ".join(faults[:_SHOWN]) + more, where)
        with pa.memory_map(str(path)) as mapped, pa.ipc.open_file(mapped) as file:
            values = file.read_all()  # the mapping outlives the file's name
    if apart := _count_apart(reading, source, values):
        what = f"{counted(apart, 'row')} of later deliveries differ from the stored rows in these columns only"
        _raise_unknown(what, where)
    if left := sum(delivery.rows for delivery in source.accepted) - len(values):
        log.warning("%s: %s cannot be read as declared formerly, and are left out", where, counted(left, "row"))
    return values


def _raise_unknown(what: str, where: str) -> NoReturn:
    hint = "score files that have the columns (`run score --source FILE`), or train and promote a version on the "
    hint += "current problem"
    raise FeatureError(f"the columns were edited, and their former values are unknown: {what}", where=where, hint=hint)


def _source_of(reading: _Reading, where: str) -> _Source:
    tables, version = reading.tables, reading.version
    owner, name = version.name.split("/")[1::2]
    accepted, last = set[int](), dict[str, Any]()
    for number, commit in tables.commits(version.name):
        if number <= version.version and "deliveries" in commit:
            accepted = set() if commit.get("rewritten") else accepted
            accepted |= {item["number"] for item in commit["deliveries"]}
            last = commit
    if not last.get("inputs") or not tables.exists(raw_table(owner, name)):
        _raise_unknown("no deliveries of the table are recorded", where)
    raw = TableVersion.model_validate(last["inputs"][0])
    commits = [item for item in tables.commits(raw.name) if item[0] <= raw.version]
    known, _ = deliveries.parse_commits(commits)
    edits, _ = _edits_since(tables, version, reading.table.columns)
    return _Source(owner, raw, commits, [d for d in known if d.number in accepted and d.rows], edits)


def _rows_of(reading: _Reading, source: _Source, delivery: Delivery, path: Path) -> Iterator[pa.RecordBatch]:
    """The readable rows of a delivery: `_tc_row` and the columns. Raises SourceError if the values are unknown."""
    table, start = reading.table, delivery.start
    try:
        reading.tables.store.download(archive_key(source.owner, table.name, delivery.sha256), path)
    except NotFound:
        yield from _stored_earlier(reading, source, delivery)
        return
    located = locate_archived(table, delivery.uri, path)
    with open_rows(located) as rows:
        columns = {
            name: replace(column, source=_present(column.source or name, _names(name, source.edits), rows.names))
            for name, column in reading.columns.items()
        }
        for batch in parse_batches(located, rows, columns, table.name, fillable(table)):
            yield _numbered(batch, start)
            start += batch.num_rows
    if start != delivery.end:
        raise SourceError(f"it has {counted(start - delivery.start, 'row')} as declared formerly", where=delivery.uri)


def _present(own: str, later: Sequence[str], present: Sequence[str]) -> str:
    """The name of a column in a source: its own, or one that it was renamed to."""
    return next((name for name in (own, *later) if name in present), own)


def _numbered(batch: pa.RecordBatch, start: int) -> pa.RecordBatch:
    """The readable rows of a batch of batch_schema(), with `_tc_row` counted from `start`."""
    numbers = pa.array(range(start, start + batch.num_rows), pa.int64())
    named = pa.record_batch([numbers, *batch.columns[:-1]], names=[ROW, *batch.schema.names[:-1]])
    return named.filter(pc.is_null(batch.column(UNREADABLE)))


def _stored_earlier(reading: _Reading, source: _Source, delivery: Delivery) -> Iterator[pa.RecordBatch]:
    """The rows of a delivery whose bytes are gone: from the newest version of the raw table that stores the columns as
    declared, and whose files are still there."""
    declared = declared_document(reading.table)
    for until in range(len(source.commits) - 1, 0, -1):
        if not source.commits[until][1].get("rewritten"):
            continue
        before = source.commits[:until]
        version = TableVersion(name=source.raw.name, version=before[-1][0])
        found = next((d for d in deliveries.parse_commits(before)[0] if d.number == delivery.number), None)
        if found is None or found.rows != delivery.rows:
            continue
        with suppress(StorageError):  # its files are gone
            stored = stored_document(before[-1][1], reading.tables.dataset(version).schema)
            names = [name for name in reading.names if name in stored["columns"]]
            if all(name in names and _same_form(name, declared, name, stored) for name in reading.names):
                yield from _stored_rows(reading, version, found, delivery.start)
                return
    raise SourceError("its bytes have expired", where=delivery.uri)


def _stored_rows(reading: _Reading, version: TableVersion, stored: Delivery, start: int) -> Iterator[pa.RecordBatch]:
    """The rows of a delivery in a version of the raw table, numbered from `start`."""
    rows = (pc.field(ROW) >= stored.start) & (pc.field(ROW) < stored.end)
    part = reading.tables.read(version, [ROW, *reading.names, UNREADABLE], rows).sort_by(ROW).drop_columns([ROW])
    for batch in part.to_batches():
        faults = [{} if text is None else json.loads(text) for text in batch.column(UNREADABLE).to_pylist()]
        mine = ["{}" if not {LINE, *reading.names}.isdisjoint(one) else None for one in faults]
        columns = [*batch.columns[:-1], pa.array(mine, pa.string())]
        yield _numbered(pa.record_batch(columns, names=batch.schema.names), start)
        start += batch.num_rows


def _count_apart(reading: _Reading, source: _Source, values: pa.Table) -> int:
    """The number of rows that equal stored rows as the table is declared now, so that they are not stored themselves,
    and differ from all of these in the columns."""
    tables, version = reading.tables, reading.version
    commit = {"version": version.version, "inputs": [source.raw.model_dump()]}
    found = quarantined_rows(tables, quarantine_of(tables, source.owner, reading.table.name, commit))
    quarantined = pa.table({ROW: pa.array([row for rows in found.values() for row in rows], pa.int64())})
    clean, raw = tables.dataset(version), tables.dataset(source.raw)
    names = [name for name in clean.schema.names if not name.startswith("_tc_")]
    deletes = "false"
    if reading.table.deleted is not None:
        deleted = reading.table.deleted
        stored = stored_names(tables, version, reading.table.columns, [deleted])[deleted]
        deletes = f"{quote(stored)} IS TRUE" if stored else deletes
    same, former = (f"hash({', '.join(map(quote, each))})" for each in (names, reading.names))
    with connect() as connection:
        for name, relation in (("clean", clean), ("raw", raw), ("quarantined", quarantined), ("held", values)):
            connection.register(name, relation)
        connection.execute(f"CREATE TEMP VIEW former AS SELECT {ROW}, {former} AS digest FROM held")  # noqa: S608
        merged = f"(FROM raw ANTI JOIN clean USING ({ROW}) ANTI JOIN quarantined USING ({ROW}) WHERE NOT ({deletes}))"
        sides = [f"SELECT {same} AS same, digest FROM {of} JOIN former USING ({ROW})" for of in (merged, "clean")]  # noqa: S608
        query = f"SELECT count(*) FROM ({sides[0]}) ANTI JOIN ({sides[1]}) USING (same, digest)"  # noqa: S608
        ((count,),) = connection.execute(query).fetchall()
        return int(count)
