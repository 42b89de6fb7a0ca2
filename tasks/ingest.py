"""Bring a table's new sources into its raw table, in one commit."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
from prefect import task
from prefect.runtime import flow_run

from tasks.retry import RETRY
from truecourse.cells import batch_schema
from truecourse.errors import SourceError
from truecourse.loading import load_problem
from truecourse.locks import locked
from truecourse.problem import Problem
from truecourse.reading import read_batches
from truecourse.references import SourceDigest, TableVersion
from truecourse.schema import Table
from truecourse.sources import locate, scratch
from truecourse.tables import Tables, raw_table

log = logging.getLogger("truecourse.ingest")
Staged = list[tuple[SourceDigest, Path]]
PATIENCE = 600
"""Seconds to wait for another process that writes the same table."""


@task(name="ingest_table", task_run_name="ingest {table}", **RETRY)
def ingest_table(problem: str, table: str) -> TableVersion:
    """The raw table's version that holds every source of the table. Raises SourceError; then nothing was written."""
    spec = load_problem(problem)
    return ingest_sources(spec, spec.table(table), Tables())


def ingest_sources(problem: Problem, table: Table, tables: Tables) -> TableVersion:
    name = raw_table(problem.name, table.name)
    with scratch() as folder:
        staged = _stage(problem, table, tables, folder, known=_recorded(tables, name)[0])
        if not staged and (version := tables.version(name)) is not None:
            log.info("%s: nothing new", table.name)
            return version
        with locked(tables.store, name, patience=PATIENCE):
            return _append(table, tables, name, staged)


def _recorded(tables: Tables, name: str) -> tuple[set[str], int]:
    """The SHA-256 of every source that is in the table, and its number of rows."""
    commits = [commit for _, commit in tables.commits(name)] if tables.exists(name) else []
    digests = {source["sha256"] for commit in commits for source in commit.get("sources", ())}
    return digests, sum(commit.get("rows", 0) for commit in commits)


def _stage(problem: Problem, table: Table, tables: Tables, folder: Path, known: set[str]) -> Staged:
    """Parse every new source into an Arrow file, so that a source that cannot be read leaves the table as it was."""
    staged: Staged = []
    seen = set(known)
    for located in locate(problem, table, tables.store, folder):
        if located.sha256 in seen:
            continue
        seen.add(located.sha256)
        path, rows = folder / f"{len(staged)}.arrow", 0
        schema = batch_schema(table.columns)
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema, options=_PACKED) as writer:
            for batch in read_batches(located, table):
                writer.write_batch(batch)
                rows += batch.num_rows
        staged.append((located.digest(rows), path))
    return staged


_PACKED = pa.ipc.IpcWriteOptions(compression="lz4")


def _append(table: Table, tables: Tables, name: str, staged: Staged) -> TableVersion:
    """Under the table's lock: append what another run has not appended meanwhile."""
    known, start = _recorded(tables, name)
    new = [(digest, path) for digest, path in staged if digest.sha256 not in known]
    if not new and (version := tables.version(name)) is not None:
        return version
    schema = batch_schema(table.columns).append(pa.field("_tc_row", pa.int64()))
    _require_same_schema(tables, name, schema)
    commit: dict[str, Any] = {
        "flow": "ingest",
        "run": str(flow_run.get_id() or ""),
        "sources": [digest.model_dump() for digest, _ in new],
        "rows": sum(digest.rows for digest, _ in new),
        "schema": {field.name: str(field.type) for field in schema},
    }
    rows = pa.RecordBatchReader.from_batches(schema, _numbered([path for _, path in new], schema, start))
    version = tables.append(name, rows, commit)
    log.info("%s: %d rows from %d sources", table.name, commit["rows"], len(new))
    return version


def _numbered(paths: list[Path], schema: pa.Schema, start: int) -> Iterator[pa.RecordBatch]:
    for path in paths:
        with pa.memory_map(str(path)) as source, pa.ipc.open_file(source) as file:
            for number in range(file.num_record_batches):
                batch = file.get_batch(number)
                ids = pa.array(range(start, start + batch.num_rows), pa.int64())
                yield pa.record_batch([*batch.columns, ids], schema=schema)
                start += batch.num_rows


def _require_same_schema(tables: Tables, name: str, schema: pa.Schema) -> None:
    if not tables.exists(name):
        return
    there = tables.dataset(TableVersion(name=name, version=tables.open(name).version())).schema
    changed = [f.name for f in schema if f.name not in there.names or there.field(f.name).type != f.type]
    changed += [n for n in there.names if n not in schema.names]
    if changed:
        what = f"the declared columns are not those of the stored table: {', '.join(changed)}"
        raise SourceError(what, where=name, cure="a new schema is a new table: rename it, or remove the stored one")
