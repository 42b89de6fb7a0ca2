"""Read a raw table's deliveries again from their kept bytes, after its declaration changed."""

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
from truecourse.data.sources import Located, scratch, stored
from truecourse.errors import NotFound, SourceError
from truecourse.problem import Problem
from truecourse.problem.schema import Table
from truecourse.references import TableVersion
from truecourse.storage.tables import Tables, raw_table
from truecourse.wording import counted

log = logging.getLogger("truecourse.ingest")
_PACKED = pa.ipc.IpcWriteOptions(compression="lz4")


def raw_schema(table: Table) -> pa.Schema:
    return batch_schema(table.columns).append(pa.field("_tc_row", pa.int64()))


def write_ipc(path: Path, batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> int:
    """Write batches into an Arrow file; the number of rows."""
    rows = 0
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema, options=_PACKED) as writer:
        for batch in batches:
            writer.write_batch(batch)
            rows += batch.num_rows
    return rows


def numbered(path: Path, schema: pa.Schema, start: int) -> Iterator[pa.RecordBatch]:
    """The batches of an Arrow file with `_tc_row`, which counts from `start`."""
    with pa.memory_map(str(path)) as source, pa.ipc.open_file(source) as file:
        for number in range(file.num_record_batches):
            batch = file.get_batch(number)
            ids = pa.array(range(start, start + batch.num_rows), pa.int64())
            yield pa.record_batch([*batch.columns, ids], schema=schema)
            start += batch.num_rows


def reread(problem: Problem, table: Table, tables: Tables, known: list[Delivery]) -> list[Delivery]:
    """Under the raw table's lock: write all of it anew, as the table is declared now; its deliveries.

    A delivery keeps its number, and its rows theirs as long as there are as many. Where the bytes are no longer kept,
    the stored rows are converted. Raises SourceError, having written nothing, where a newly declared column that may
    not be null has no values in an earlier delivery."""
    name, schema = raw_table(problem.name, table.name), raw_schema(table)
    old = tables.version(name)
    assert old is not None
    made: list[Delivery] = []
    with scratch() as folder:
        paths = []
        for delivery in known:
            path = folder / f"{delivery.number}.arrow"
            rows, fault = _reread_one(problem, table, tables, old, delivery, path)
            start = made[-1].end if made else 0
            made.append(delivery.model_copy(update={"rows": rows, "start": start, "fault": fault}))
            paths.append(path)
        commit = {
            "flow": "ingest",
            "run": "",
            "rewritten": True,
            "shape": deliveries.shape_digest(table),
            "combine": table.combines,
            "deliveries": [delivery.model_dump(mode="json") for delivery in made],
            "rows": sum(delivery.rows for delivery in made),
            "schema": {field.name: str(field.type) for field in schema},
        }
        batches = (b for d, path in zip(made, paths, strict=True) if d.rows for b in numbered(path, schema, d.start))
        tables.rewrite(name, pa.RecordBatchReader.from_batches(schema, batches), commit)
    log.info("%s: the declaration changed: %d deliveries were read again", table.name, len(made))
    return made


def restore(problem: Problem, table: Table, tables: Tables, known: list[Delivery]) -> TableVersion:
    """Write a raw table that is not there from the kept bytes of its deliveries, each under its number and rows.

    Raises SourceError where they cannot be read as declared, or hold another number of rows than was recorded."""
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
        batches = (b for d in known if d.rows for b in numbered(folder / f"{d.number}.arrow", schema, d.start))
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
    located = stored(table, delivery.uri, kept)
    try:
        return write_ipc(path, read_batches(located, table), schema)
    except SourceError:  # columns that may be null were declared after it was delivered
        return write_ipc(path, _read(located, table, set()), schema)


def _reread_one(
    problem: Problem, table: Table, tables: Tables, old: TableVersion, delivery: Delivery, path: Path
) -> tuple[int, str]:
    """The number of rows that `path` now holds, and the fault of a delivery that could not be read before either."""
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
    located = stored(table, delivery.uri, kept)
    try:
        return write_ipc(path, _read(located, table, set(tables.dataset(old).schema.names)), schema), ""
    except SourceError as error:
        if delivery.fault:
            return 0, f"{error.what}, in {error.where}"
        hint = "declare new columns with nulls=True, or deliver the source again with the column"
        what = f"delivery {delivery.number}, which was accepted or judged before, cannot be read as declared now: "
        raise SourceError(what + error.what, where=error.where, hint=hint) from None


def _read(located: Located, table: Table, before: set[str]) -> Iterator[pa.RecordBatch]:
    """The source's rows; of newly declared columns that may be null, those it lacks are null."""
    new = [name for name, column in table.columns.items() if column.nulls and name not in before]
    lacks = [name for name in new if not _has(located, table, name)]
    there = {name: column for name, column in table.columns.items() if name not in lacks}
    schema = batch_schema(table.columns)
    if lacks:
        log.info("%s: %s has no column %s: null", table.name, located.uri, ", ".join(lacks))
    for batch in read_batches(located, replace(table, columns=there)):
        arrays = [
            pa.nulls(batch.num_rows, field.type) if field.name in lacks else batch.column(field.name)
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
    """The stored rows of a delivery, each cell as its text says under the new declaration."""
    rows = (pc.field("_tc_row") >= delivery.start) & (pc.field("_tc_row") < delivery.end)
    found = tables.read(old, filter=rows).sort_by("_tc_row").combine_chunks()
    for batch in found.to_batches():
        lost_texts = [json.loads(text) if text else {} for text in batch.column(UNREADABLE).to_pylist()]
        cells = {name: _texts(batch, name, lost_texts) for name in table.columns}
        made = parse_batch(cells, table.columns)
        lines = pc.if_else(pa.array([LINE in texts for texts in lost_texts]), batch.column(UNREADABLE), None)
        lost = pc.coalesce(lines, made.column(UNREADABLE))
        yield pa.record_batch([*made.columns[:-1], lost], schema=made.schema)


def _texts(batch: pa.RecordBatch, name: str, lost: list[dict[str, str]]) -> pa.Array:
    """A column's cells as text, those that could not be read among them."""
    if name not in batch.schema.names:
        return pa.array([texts.get(name) for texts in lost], pa.string())
    texts = as_text(batch.column(name))
    unread = pa.array([one.get(name) for one in lost], pa.string())
    return pc.coalesce(unread, texts)
