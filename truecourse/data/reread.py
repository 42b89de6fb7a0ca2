"""Read a raw table's deliveries again from their archived bytes, after its declaration changed."""

import json
import logging
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from truecourse.data import deliveries
from truecourse.data.deliveries import Delivery, archive_key
from truecourse.data.parsing import LINE, UNREADABLE, as_text, batch_schema, parse_batch
from truecourse.data.readers import read_batches
from truecourse.data.sources import Located, locate_archived, scratch
from truecourse.errors import NotFound, SourceError
from truecourse.problem import Problem
from truecourse.problem.schema import Table
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


def reread(problem: Problem, table: Table, tables: Tables, known: list[Delivery]) -> list[Delivery]:
    """Rewrite a raw table under its current declaration, with the table's lock held. Return its deliveries.

    A delivery keeps its number, and its rows keep theirs if their count is unchanged. If the bytes are no longer
    archived, the stored rows are converted. Raises SourceError, before anything is written, if an earlier delivery has
    no values for a newly declared column that may not be null."""
    name, schema = raw_table(problem.name, table.name), raw_schema(table)
    old = tables.version(name)
    assert old is not None
    reread_deliveries: list[Delivery] = []
    with scratch() as folder:
        paths = []
        for delivery in known:
            path = folder / f"{delivery.number}.arrow"
            rows, fault = _reread_one(problem, table, tables, old, delivery, path)
            start = reread_deliveries[-1].end if reread_deliveries else 0
            reread_deliveries.append(delivery.model_copy(update={"rows": rows, "start": start, "fault": fault}))
            paths.append(path)
        commit = {
            "flow": "ingest",
            "run": "",
            "rewritten": True,
            "shape": deliveries.shape_digest(table),
            "combine": table.combines,
            "deliveries": [delivery.model_dump(mode="json") for delivery in reread_deliveries],
            "rows": sum(delivery.rows for delivery in reread_deliveries),
            "schema": {field.name: str(field.type) for field in schema},
        }
        pairs = zip(reread_deliveries, paths, strict=True)
        batches = (b for d, path in pairs if d.rows for b in read_numbered(path, schema, d.start))
        tables.rewrite(name, pa.RecordBatchReader.from_batches(schema, batches), commit)
    log.info("%s: the declaration changed: %d deliveries were read again", table.name, len(reread_deliveries))
    return reread_deliveries


def restore(problem: Problem, table: Table, tables: Tables, known: list[Delivery]) -> TableVersion:
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
        commit = {
            "flow": "rebuild",
            "shape": deliveries.shape_digest(table),
            "combine": table.combines,
            "deliveries": [delivery.model_dump(mode="json") for delivery in known],
        }
        return tables.append(name, pa.RecordBatchReader.from_batches(schema, batches), commit)


def _restore_one(problem: Problem, table: Table, tables: Tables, delivery: Delivery, path: Path) -> int:
    kept, schema = path.with_suffix(".bytes"), batch_schema(table.columns)
    tables.store.download(archive_key(problem.name, table.name, delivery.sha256), kept)
    located = locate_archived(table, delivery.uri, kept)
    try:
        return write_ipc(path, read_batches(located, table), schema)
    except SourceError:  # nullable columns were declared after the delivery
        return write_ipc(path, _read(located, table, set()), schema)


def _reread_one(
    problem: Problem, table: Table, tables: Tables, old: TableVersion, delivery: Delivery, path: Path
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
        return write_ipc(path, _read(located, table, set(tables.dataset(old).schema.names)), schema), ""
    except SourceError as error:
        if delivery.fault:
            return 0, f"{error.what}, in {error.where}"
        hint = "declare new columns with nulls=True, or deliver the source again with the column"
        what = f"delivery {delivery.number}, which was read before, cannot be read under the new declaration: "
        raise SourceError(what + error.what, where=error.where, hint=hint) from None


def _read(located: Located, table: Table, before: set[str]) -> Iterator[pa.RecordBatch]:
    """Read the source's rows. Newly declared nullable columns that the source lacks are null."""
    new = [name for name, column in table.columns.items() if column.nulls and name not in before]
    lacking = [name for name in new if not _has(located, table, name)]
    present = {name: column for name, column in table.columns.items() if name not in lacking}
    schema = batch_schema(table.columns)
    if lacking:
        log.info("%s: %s has no column %s: null", table.name, located.uri, ", ".join(lacking))
    for batch in read_batches(located, replace(table, columns=present)):
        arrays = [
            pa.nulls(batch.num_rows, field.type) if field.name in lacking else batch.column(field.name)
            for field in schema
        ]
        yield pa.record_batch(arrays, schema=schema)


def _has(located: Located, table: Table, name: str) -> bool:
    try:
        next(read_batches(located, replace(table, columns={name: table.columns[name]}, key=(), time=None)), None)
    except SourceError:
        return False
    return True


def _converted(table: Table, tables: Tables, old: TableVersion, delivery: Delivery) -> Iterator[pa.RecordBatch]:
    """Convert the stored rows of a delivery: parse each cell's text under the new declaration."""
    rows = (pc.field("_tc_row") >= delivery.start) & (pc.field("_tc_row") < delivery.end)
    stored_rows = tables.read(old, filter=rows).sort_by("_tc_row").combine_chunks()
    for batch in stored_rows.to_batches():
        lost_texts = [json.loads(text) if text else {} for text in batch.column(UNREADABLE).to_pylist()]
        cells = {name: _texts(batch, name, lost_texts) for name in table.columns}
        converted = parse_batch(cells, table.columns)
        lines = pc.if_else(pa.array([LINE in texts for texts in lost_texts]), batch.column(UNREADABLE), None)
        unreadable = pc.coalesce(lines, converted.column(UNREADABLE))
        yield pa.record_batch([*converted.columns[:-1], unreadable], schema=converted.schema)


def _texts(batch: pa.RecordBatch, name: str, lost: list[dict[str, str]]) -> pa.Array:
    """A column's cells as text, including those that could not be parsed."""
    if name not in batch.schema.names:
        return pa.array([texts.get(name) for texts in lost], pa.string())
    texts = as_text(batch.column(name))
    unread = pa.array([one.get(name) for one in lost], pa.string())
    return pc.coalesce(unread, texts)
