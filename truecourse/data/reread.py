"""Edit a raw table after its declaration changed: read its deliveries again from their archived bytes."""

import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from truecourse.data import deliveries
from truecourse.data.deliveries import Delivery, archive_key
from truecourse.data.parsing import LINE, UNREADABLE, as_text, batch_schema, parse_batch
from truecourse.data.readers import absent_columns, default_cells, read_batches
from truecourse.data.sources import Located, locate_archived, scratch
from truecourse.data.table_edits import RULES, declared_document, find_edits, former_names, stored_document
from truecourse.errors import NotFound, SourceError
from truecourse.problem.namespace import Namespace
from truecourse.problem.schema import Columns, Table
from truecourse.references import TableVersion
from truecourse.storage.delta_tables import Tables, raw_table
from truecourse.wording import counted

log = logging.getLogger("truecourse.ingest")
_PACKED = pa.ipc.IpcWriteOptions(compression="lz4")


def raw_schema(table: Table) -> pa.Schema:
    return batch_schema(table.columns).append(pa.field("_tc_row", pa.int64()))


def write_ipc(path: Path, batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> int:
    """Write batches to an Arrow file. Return the number of rows."""
    rows = 0
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema, options=_PACKED) as writer:
        for batch in batches:
            writer.write_batch(batch)
            rows += batch.num_rows
    return rows


def read_numbered(path: Path, schema: pa.Schema, start: int) -> Iterator[pa.RecordBatch]:
    """Read the batches of an Arrow file, with `_tc_row` counted from `start`."""
    with pa.memory_map(str(path)) as source, pa.ipc.open_file(source) as file:
        for number in range(file.num_record_batches):
            batch = file.get_batch(number)
            ids = pa.array(range(start, start + batch.num_rows), pa.int64())
            yield pa.record_batch([*batch.columns, ids], schema=schema)
            start += batch.num_rows


def edit_raw(
    problem: Namespace, table: Table, tables: Tables, known: list[Delivery], *, run: str = ""
) -> list[Delivery]:
    """Edit a raw table to its current declaration in one commit, with the table's lock held. Return its deliveries.

    Edits of rules change no rows. For other edits the rows are read again: a delivery keeps its number, and its rows
    keep theirs if their count is unchanged. If the bytes are no longer archived, or lack a stored column, the stored
    values are kept. Raises SourceError, before anything is written, if an earlier delivery has no values for a newly
    declared column that may not be null and has no default."""
    name, schema = raw_table(problem.name, table.name), raw_schema(table)
    old = tables.version(name)
    assert old is not None
    stored = stored_document(deliveries.newest_commit(tables, name), tables.dataset(old).schema)
    edits = find_edits(stored, table)
    commit = raw_commit(table) | {"run": run, "edits": [edit.document() for edit in edits]}
    if edits and all(edit.kind in RULES for edit in edits):
        tables.append(name, schema.empty_table(), commit)
        return known
    reread_deliveries: list[Delivery] = []
    with scratch() as folder:
        paths = []
        for delivery in known:
            path = folder / f"{delivery.number}.arrow"
            rows, fault = _reread_one(problem, table, tables, old, delivery, path)
            start = reread_deliveries[-1].end if reread_deliveries else 0
            reread_deliveries.append(delivery.model_copy(update={"rows": rows, "start": start, "fault": fault}))
            paths.append(path)
        commit |= {
            "rewritten": True,
            "deliveries": [delivery.model_dump(mode="json") for delivery in reread_deliveries],
            "rows": sum(delivery.rows for delivery in reread_deliveries),
        }
        pairs = zip(reread_deliveries, paths, strict=True)
        batches = (b for d, path in pairs if d.rows for b in read_numbered(path, schema, d.start))
        tables.rewrite(name, pa.RecordBatchReader.from_batches(schema, batches), commit)
    log.info("%s: the declaration changed: %d deliveries were read again", table.name, len(reread_deliveries))
    return reread_deliveries


def raw_commit(table: Table) -> dict[str, Any]:
    """The parts of a raw table's commit that describe its declaration; it lists no deliveries yet."""
    return {
        "flow": "ingest",
        "run": "",
        "shape": deliveries.shape_digest(table),
        "declared": declared_document(table),
        "combine": table.combines,
        "deliveries": [],
        "rows": 0,
        "schema": {field.name: str(field.type) for field in raw_schema(table)},
    }


def restore(problem: Namespace, table: Table, tables: Tables, known: list[Delivery]) -> TableVersion:
    """Write a missing raw table from the archived bytes of its deliveries, with their numbers and row numbers.

    Raises SourceError if they cannot be read as declared, or hold another number of rows than recorded."""
    name, schema = raw_table(problem.name, table.name), raw_schema(table)
    with scratch() as folder:
        for delivery in known:
            path = folder / f"{delivery.number}.arrow"
            rows = (
                0
                if delivery.copy_of is not None or delivery.fault
                else _restore_one(problem, table, tables, delivery, path)
            )
            if rows != delivery.rows:
                what = f"delivery {delivery.number} holds {counted(rows, 'row')}, recorded are {delivery.rows:,}"
                raise SourceError(what, where=delivery.uri)
        batches = (b for d in known if d.rows for b in read_numbered(folder / f"{d.number}.arrow", schema, d.start))
        commit = raw_commit(table) | {"flow": "rebuild"}
        commit["deliveries"] = [delivery.model_dump(mode="json") for delivery in known]
        return tables.append(name, pa.RecordBatchReader.from_batches(schema, batches), commit)


def _restore_one(problem: Namespace, table: Table, tables: Tables, delivery: Delivery, path: Path) -> int:
    kept, schema = path.with_suffix(".bytes"), batch_schema(table.columns)
    tables.store.download(archive_key(problem.name, table.name, delivery.sha256), kept)
    located = locate_archived(table, delivery.uri, kept)
    return write_ipc(path, read_batches(located, table, fillable(table)), schema)


def _reread_one(
    problem: Namespace, table: Table, tables: Tables, old: TableVersion, delivery: Delivery, path: Path
) -> tuple[int, str]:
    """Write a delivery's rows to `path`. Return their number, and the fault of a delivery that still cannot be read."""
    if delivery.copy_of is not None:
        return 0, ""
    schema = batch_schema(table.columns)
    kept = path.with_suffix(".bytes")
    try:
        tables.store.download(archive_key(problem.name, table.name, delivery.sha256), kept)
    except NotFound:
        return (
            (0, delivery.fault)
            if delivery.fault
            else (write_ipc(path, _converted(table, tables, old, delivery), schema), "")
        )
    located = locate_archived(table, delivery.uri, kept)
    try:
        return write_ipc(path, _read(located, table, tables, old, delivery), schema), ""
    except SourceError as error:
        if delivery.fault:
            return 0, f"{error.what}, in {error.where}"
        hint = "declare new columns with nulls=True or a default, or deliver the source again with the column"
        what = f"delivery {delivery.number}, which was read before, cannot be read under the new declaration: "
        raise SourceError(what + error.what, where=error.where, hint=hint) from None


def fillable(table: Table) -> set[str]:
    """The columns that an earlier source may lack: those that may be null or have a default, or all, if the table
    declares so."""
    if table.on_missing_column != "fail":
        return {*table.columns}
    return {name for name, column in table.columns.items() if column.nulls or column.default is not None}


def _read(
    located: Located, table: Table, tables: Tables, old: TableVersion, delivery: Delivery
) -> Iterator[pa.RecordBatch]:
    """Read the source's rows. Columns that the source lacks have their stored values; new ones their default, or
    null."""
    stored, schema = former_names(tables.dataset(old).schema.names, table), batch_schema(table.columns)
    lacking = absent_columns(located, table.columns)
    kept = {name: column for name, column in table.columns.items() if name in lacking and name in stored}
    kept = kept if delivery.rows and len(kept) < len(table.columns) else {}
    present = {name: column for name, column in table.columns.items() if name not in kept}
    if added := [name for name in lacking if name not in kept]:
        log.info("%s: %s has no column %s: default or null", table.name, located.uri, ", ".join(added))
    rows = _stored_rows(tables, old, delivery, kept, stored) if kept else None
    start = 0
    for batch in read_batches(located, replace(table, columns=present), fillable(table) - stored.keys()):
        if rows is not None:
            batch = _joined(batch, rows.slice(start, batch.num_rows), schema)
            start += batch.num_rows
        yield batch
    if rows is not None and start != delivery.rows:
        what = f"it has {counted(start, 'row')} now and had {delivery.rows:,}: stored values cannot be kept"
        raise SourceError(what, where=located.uri, hint="change the table's format and its columns one after another")


def _stored_rows(
    tables: Tables, old: TableVersion, delivery: Delivery, columns: Columns, stored: Mapping[str, str]
) -> pa.RecordBatch:
    """The stored values of some columns of a delivery, with batch_schema()."""
    rows = (pc.field("_tc_row") >= delivery.start) & (pc.field("_tc_row") < delivery.end)
    wanted = ["_tc_row", UNREADABLE, *(stored[name] for name in columns)]
    batch = tables.read(old, wanted, rows).sort_by("_tc_row").combine_chunks().to_batches()[0]
    return _converted_batch(batch, columns, stored)


def _joined(one: pa.RecordBatch, other: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """Join the columns of two batches of the same rows, with the texts of their unreadable cells."""
    if len(other) < len(one):  # reported afterwards
        other = pa.RecordBatch.from_arrays([pa.nulls(len(one), f.type) for f in other.schema], schema=other.schema)
    pairs = zip(one.column(UNREADABLE).to_pylist(), other.column(UNREADABLE).to_pylist(), strict=True)
    texts = [a if b is None or (a and LINE in json.loads(a)) else _merged(a, b) for a, b in pairs]
    arrays = [
        pa.array(texts, pa.string())
        if field.name == UNREADABLE
        else (one if field.name in one.schema.names else other).column(field.name)
        for field in schema
    ]
    return pa.record_batch(arrays, schema=schema)


def _merged(one: str | None, other: str) -> str:
    return json.dumps((json.loads(one) if one else {}) | json.loads(other), ensure_ascii=False)


def _converted(table: Table, tables: Tables, old: TableVersion, delivery: Delivery) -> Iterator[pa.RecordBatch]:
    """Convert the stored rows of a delivery: parse each cell's text under the new declaration."""
    rows = (pc.field("_tc_row") >= delivery.start) & (pc.field("_tc_row") < delivery.end)
    stored = former_names(tables.dataset(old).schema.names, table)
    if lost := [name for name in table.columns if name not in stored and name not in fillable(table)]:
        raise SourceError(f"its bytes have expired, and it has no values for {', '.join(lost)}", where=delivery.uri)
    for batch in tables.read(old, filter=rows).sort_by("_tc_row").combine_chunks().to_batches():
        yield _converted_batch(batch, table.columns, stored)


def _converted_batch(batch: pa.RecordBatch, columns: Columns, stored: Mapping[str, str]) -> pa.RecordBatch:
    lost_texts = [json.loads(text) if text else {} for text in batch.column(UNREADABLE).to_pylist()]
    cells = {
        name: _texts(batch, stored[name], lost_texts) if name in stored else default_cells(column, batch.num_rows)
        for name, column in columns.items()
    }
    converted = parse_batch(cells, columns)
    lines = pc.if_else(pa.array([LINE in texts for texts in lost_texts]), batch.column(UNREADABLE), None)
    unreadable = pc.coalesce(lines, converted.column(UNREADABLE))
    return pa.record_batch([*converted.columns[:-1], unreadable], schema=converted.schema)


def _texts(batch: pa.RecordBatch, name: str, lost: list[dict[str, str]]) -> pa.Array:
    """A column's cells as text, including those that could not be parsed."""
    texts = as_text(batch.column(name))
    unread = pa.array([one.get(name) for one in lost], pa.string())
    return pc.coalesce(unread, texts)
