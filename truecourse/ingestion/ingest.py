"""Append a table's new deliveries to its raw table in one commit, after archiving their bytes."""

import logging
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa

from truecourse.data import deliveries
from truecourse.data.deliveries import Delivery
from truecourse.data.parsing import batch_schema
from truecourse.data.readers import absent_columns, new_columns, read_batches
from truecourse.data.reread import edit_raw, raw_commit, raw_schema, read_numbered, write_ipc
from truecourse.data.sources import Located, locate, scratch
from truecourse.data.validation_report import refused_numbers
from truecourse.erasure.refusal import RefusedRows
from truecourse.errors import SourceError
from truecourse.hashing import sha256_file
from truecourse.problem.namespace import FeatureArea, Namespace
from truecourse.problem.schema import Sql, Table
from truecourse.references import TableVersion
from truecourse.storage.area_marks import mark_area
from truecourse.storage.compaction import compact_small_files
from truecourse.storage.delta_tables import Tables, raw_table
from truecourse.storage.locks import locked
from truecourse.wording import counted, counted_of, plural

log = logging.getLogger("truecourse.ingest")
PATIENCE = 600
"""Seconds to wait for another process that writes the same table."""


@dataclass(frozen=True)
class Staged:
    """New content of a source.

    `place`: the source's identity, see Delivery. `path`: an Arrow file of its rows; None for a copy, or if it cannot be
    read. `beginning_of`: number of the delivery that its bytes are the first part of. `warnings`: of its columns."""

    located: Located
    place: str
    path: Path | None = None
    rows: int = 0
    beginning_of: int | None = None
    error: SourceError | None = None
    warnings: tuple[str, ...] = ()


def ingest_sources(problem: Namespace, table: Table, tables: Tables, *, run: str = "") -> TableVersion:
    """Ingest the table's new deliveries; returns the raw table's version. `run`: the flow run's id, for the commit.

    Raises SourceError for new sources that cannot be read, after ingesting all others. They are recorded as refused. If
    none can be read and the table does not exist yet, nothing is written."""
    name = raw_table(problem.name, table.name)
    if isinstance(problem, FeatureArea):
        mark_area(tables.store, problem.name)
    known = _read_deliveries(problem, table, tables, run)
    with scratch() as folder:
        after = deliveries.read_so_far(table, known, refused_numbers(tables, problem, table, known), datetime.now(UTC))
        located = list(locate(problem, table, tables.store, folder, after))
        staged = _stage(problem, table, tables, folder, located, known)
        errors = [item.error for item in staged if item.error is not None]
        version = tables.version(name)
        if version is None and len(errors) == len(staged) and errors:
            raise errors[0]
        if staged:
            with locked(tables.store, name, patience=PATIENCE):
                version = append_staged(problem, table, tables, staged, run)
        else:
            log.info("%s: nothing new", table.name)
    assert version is not None
    if len(errors) == 1:
        raise errors[0]
    if errors:
        what = f"{len(errors)} of {len(staged)} new sources cannot be read:\n  "
        raise SourceError(what + "\n  ".join(map(str, errors)), where=f"{problem.name}.{table.name}")
    return version


def _read_deliveries(problem: Namespace, table: Table, tables: Tables, run: str) -> list[Delivery]:
    """The deliveries so far; edits the stored table if its declaration changed."""
    name, declared_shape = raw_table(problem.name, table.name), deliveries.shape_digest(table)
    known, shape = deliveries.read_deliveries(tables, problem.name, table.name)
    if not known and tables.exists(name):
        hint = "an earlier version wrote it: choose another TRUECOURSE_HOME, or another storage root"
        raise SourceError("the stored table has no record of its deliveries", where=name, hint=hint)
    if known and shape != declared_shape:
        with locked(tables.store, name, patience=PATIENCE):
            known, shape = deliveries.read_deliveries(tables, problem.name, table.name)
            if shape != declared_shape:
                known = edit_raw(problem, table, tables, known, run=run)
    return known


def _stage(
    problem: Namespace, table: Table, tables: Tables, folder: Path, located: list[Located], known: list[Delivery]
) -> list[Staged]:
    """Parse every new content of a place into an Arrow file, so that nothing is written before all were read."""
    newest = deliveries.newest_by_place(known)
    alias = {deliveries.place_of(problem, table, d.uri): d.place for d in known}
    places = [alias.get(place, place) for place in (deliveries.place_of(problem, table, one.uri) for one in located)]
    now = {place: one.sha256 for place, one in zip(places, located, strict=True)}
    owners = {
        d.sha256: d.place
        for d in newest.values()
        if not deliveries.is_copy(d, known) and not d.fault and now.get(d.place, d.sha256) == d.sha256
    }
    staged: list[Staged] = []
    for place, one in zip(places, located, strict=True):
        last, owner = newest.get(place), None if table.key else owners.get(one.sha256)
        copied = last is not None and deliveries.is_copy(last, known)
        if last is not None and last.sha256 == one.sha256 and (owner is not None or table.key or not copied):
            if last.fault:  # the declared answer to other columns may have changed
                again = _parse(problem, table, tables, one, place, last, folder / f"{len(staged)}.arrow")
                staged += [again] if again.error is None else []
            continue
        if owner is not None and owner != place:
            owner_is_gone = owner not in now
            log.warning(
                "%s: %s holds the same bytes as %s%s: its rows are ingested once",
                table.name, one.uri, owner, ", which is gone" if owner_is_gone else "",
            )  # fmt: skip
            staged.append(Staged(one, owner if owner_is_gone and last is None else place))
            continue
        item = _parse(problem, table, tables, one, place, last, folder / f"{len(staged)}.arrow")
        if one.after and item.error is None and not item.rows:
            continue
        staged.append(item)
        owners[one.sha256] = place
    return staged


def _parse(
    problem: Namespace, table: Table, tables: Tables, one: Located, place: str, last: Delivery | None, path: Path
) -> Staged:
    newly_archived = deliveries.archive(tables.store, problem.name, table.name, one.sha256, one.path)
    try:
        staged, refused = read_source(problem, table, tables, one, place, path)
    except SourceError as error:
        return Staged(one, place, error=error)
    refused.clean_archive(one)
    if sha256_file(one.path) != one.sha256:
        if newly_archived:  # the archived bytes may mix both contents
            tables.store.delete(deliveries.archive_key(problem.name, table.name, one.sha256))
        raise SourceError("it changed while it was read", where=one.uri, hint="run ingest again when it is complete")
    begins = (
        last is not None
        and not one.after
        and deliveries.is_beginning(tables.store, problem.name, table.name, last, one.path, path.parent)
    )
    return replace(staged, beginning_of=last.number if last is not None and begins else None)


def read_source(
    problem: Namespace, table: Table, tables: Tables, one: Located, place: str, path: Path
) -> tuple[Staged, RefusedRows]:
    """Parse a source into an Arrow file at `path`. Return it with its refused rows, which belong to forgotten subjects.

    Raises SourceError if it cannot be read, or has other columns than the table allows."""
    optional = () if table.on_missing_column == "fail" else table.columns
    refused = RefusedRows(problem, table, tables.store)
    rows = write_ipc(path, refused.without(read_batches(one, table, optional)), batch_schema(table.columns))
    warnings = (*refused.warnings(one.uri), *_column_warnings(table, one, rows))
    return Staged(one, place, path, rows, warnings=warnings), refused


def _column_warnings(table: Table, one: Located, rows: int) -> Iterator[str]:
    """Warnings of columns that the source has more or less than declared, as the table declares them. Raises
    SourceError for columns that are not allowed."""
    if table.on_new_column != "ignore":
        added = new_columns(one, table.columns)
        added.pop(table.source.cursor or "" if isinstance(table.source, Sql) else "", None)
        texts = [f"{name!r} (filled in {counted_of(count, rows, 'row')})" for name, count in added.items()]
        if texts:
            what = f"has undeclared {plural(len(texts), 'column')}: {', '.join(texts)}"
            if table.on_new_column == "fail":
                hint = f'declare it in table {table.name}, or write on_new_column="warn"'
                raise SourceError(what, where=one.uri, hint=hint)
            yield f"{one.uri}: {what}"
    if table.on_missing_column == "warn":
        for name in absent_columns(one, table.columns):
            if one.format == "jsonl" and table.columns[name].nulls:  # JSON objects omit nulls
                continue
            default = table.columns[name].default
            value = "null" if default is None else f"its default {default!r}"
            yield f"{one.uri}: has no column {name!r}: {value} in {counted(rows, 'row')}"


def append_staged(
    problem: Namespace, table: Table, tables: Tables, staged: list[Staged], run: str = "", again: Collection[str] = ()
) -> TableVersion:
    """Append the staged contents in one commit, except those that another run appended meanwhile. Needs the table's
    lock. `again`: places whose content is appended even if it is the same."""
    name = raw_table(problem.name, table.name)
    known, _ = deliveries.read_deliveries(tables, problem.name, table.name)
    staged = [item for item in staged if item.place in again or _is_new(known, item)]
    if not staged:
        version = tables.version(name)
        assert version is not None
        return version
    new = _new_deliveries(table, known, staged)
    schema = raw_schema(table)
    commit = raw_commit(table) | {
        "run": run,
        "deliveries": [delivery.model_dump(mode="json") for delivery in new],
        "rows": sum(delivery.rows for delivery in new),
    }
    rows = pa.RecordBatchReader.from_batches(schema, _rows(staged, schema, new[0].start))
    compact_small_files(tables, name)
    version = tables.append(name, rows, commit)
    log.info("%s: %d rows in %d deliveries", table.name, commit["rows"], len(new))
    for warning in (line for item in staged for line in item.warnings):
        log.warning("%s: %s", table.name, warning)
    return version


def _is_new(known: list[Delivery], staged: Staged) -> bool:
    last = deliveries.newest_by_place(known).get(staged.place)
    if last is None or last.sha256 != staged.located.sha256 or (last.fault and staged.error is None):
        return True
    if staged.path is not None:
        return deliveries.is_copy(last, known)  # the original place now has other content
    return staged.error is None and last.uri != staged.located.uri


def _new_deliveries(table: Table, known: list[Delivery], staged: list[Staged]) -> list[Delivery]:
    new: list[Delivery] = []
    group, start, now = len(known), known[-1].end if known else 0, datetime.now(UTC)
    for item in staged:
        same = [d for d in (*known, *new) if d.sha256 == item.located.sha256 and d.copy_of is None and not d.fault]
        copy = item.path is None and item.error is None
        new.append(
            Delivery(
                number=group + len(new),
                uri=item.located.uri,
                place=item.place,
                sha256=item.located.sha256,
                bytes=item.located.bytes,
                rows=item.rows,
                start=start,
                group=group,
                at=now,
                beginning_of=item.beginning_of,
                copy_of=same[-1].number if copy else None,
                fault="" if item.error is None else f"{item.error.what}, in {item.error.where}",
                warnings=item.warnings,
                query="" if item.place.startswith(deliveries.PUSHED) else deliveries.query_digest(table.source),
                after=item.located.after,
                reached=item.located.reached,
            )
        )
        start += item.rows
    return new


def _rows(staged: list[Staged], schema: pa.Schema, start: int) -> Iterator[pa.RecordBatch]:
    for item in staged:
        if item.path is not None:
            yield from read_numbered(item.path, schema, start)
            start += item.rows
