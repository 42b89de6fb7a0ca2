"""Check a table's new rows; good ones to the clean table, bad ones to quarantine with their reasons, none lost."""

import json
import logging
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import duckdb
import pyarrow as pa
from prefect import task
from prefect.runtime import flow_run

from tasks.artifacts import show_page
from tasks.retry import RETRY
from truecourse import corrections, sql, validation
from truecourse.batches import Batch, check, check_unique, pending
from truecourse.corrections import Merge
from truecourse.errors import ValidationFailed
from truecourse.expectations import Tallies
from truecourse.loading import load_problem
from truecourse.locks import locked
from truecourse.monitoring import control
from truecourse.problem import Problem
from truecourse.references import TableVersion
from truecourse.schema import Table
from truecourse.tables import Tables, clean_table, quarantine_table
from truecourse.validation import Counts, ValidationResult

log = logging.getLogger("truecourse.validate")
PATIENCE = 600
"""Seconds to wait for another process that checks the same table."""
Last = tuple[int, dict[str, Any]] | None


@task(name="validate_table", task_run_name="validate {table}", **RETRY)
def validate_table(problem: str, table: str, as_of: datetime | None = None) -> ValidationResult:
    """Validate every raw row that was not yet, as one batch; what was found the last time if there is none.

    as_of: the moment freshness is measured at (UTC if it has no zone); now if None.
    Raises ValidationFailed, having written only its report, if a critical expectation breaks, too many rows are bad,
    the table has too few or too many rows, or is stale.
    """
    spec, tables = load_problem(problem), Tables()
    moment = as_of or datetime.now(UTC)
    moment = moment.astimezone(UTC).replace(tzinfo=None) if moment.tzinfo else moment
    try:
        return validate_new(spec, spec.table(table), tables, moment)
    except ValidationFailed:
        publish_page(problem)
        raise


@task(name="publish_validation", **RETRY)
def publish(problem: str) -> str:
    return publish_page(problem)


def publish_page(problem: str) -> str:
    """The page of every table's newest result: its key. Inside a flow run it is also shown there as an artifact."""
    store = Tables().store
    key = validation.save_page(store, load_problem(problem))
    control.require_page(store, load_problem(problem))
    show_page(key, "validation", problem, "What validation found")
    return key


def validate_new(problem: Problem, table: Table, tables: Tables, as_of: datetime) -> ValidationResult:
    batch, last = pending(problem, table, tables)
    if batch is None and last is not None:
        return _nothing_new(problem, table, tables, last, as_of)
    name = clean_table(problem.name, table.name)
    with locked(tables.store, name, patience=PATIENCE):
        batch, last = pending(problem, table, tables)  # another run may have done it while we waited
        if batch is None:
            assert last is not None
            return _nothing_new(problem, table, tables, last, as_of)
        return _validate(problem, table, tables, batch, last, as_of)


def _nothing_new(
    problem: Problem, table: Table, tables: Tables, last: tuple[int, dict[str, Any]], as_of: datetime
) -> ValidationResult:
    version, commit = last
    raw = TableVersion.model_validate(commit["inputs"][0])
    watermark = datetime.fromisoformat(commit["watermark"]) if commit["watermark"] else None
    _stop(problem, table, validation.stale(table, watermark, as_of))
    log.info("%s: nothing new", table.name)
    stored = validation.read_result(tables.store, problem.name, table.name, raw.version)
    clean = TableVersion(name=clean_table(problem.name, table.name), version=version)
    if stored is not None and stored.clean == clean:
        return stored
    counts = {("rows_in" if name == "in" else name): count for name, count in commit["rows"].items()}
    result = ValidationResult(
        problem=problem.name,
        table=table.name,
        raw=raw,
        clean=clean,
        rows=Counts(**counts),
        total=commit["total"],
        watermark=watermark,
        validated_at=datetime.now(UTC),
        outcomes=tuple(validation.Outcome.model_validate(item) for item in commit["outcomes"]),
    )
    validation.save_result(tables.store, result)
    return result


def _validate(
    problem: Problem, table: Table, tables: Tables, batch: Batch, last: Last, as_of: datetime
) -> ValidationResult:
    clean = TableVersion(name=clean_table(problem.name, table.name), version=last[0]) if last else None
    before = datetime.fromisoformat(last[1]["watermark"]) if last and last[1]["watermark"] else None
    tallies = check(problem, table, tables, batch, clean)
    with sql.connect() as connection:
        _bind(connection, tables, batch, clean)
        check_unique(connection, table, batch, tallies, first=clean is None)
        reasons = validation.reasons_by_row(tallies)
        _split(connection, table, reasons)
        merge = corrections.plan_merge(connection, table, first=clean is None)
        counts = Counts(
            rows_in=batch.rows,
            inserted=merge.inserted,
            corrected=merge.corrected,
            unchanged=merge.unchanged,
            quarantined=len(reasons),
        )
        result = ValidationResult(
            problem=problem.name,
            table=table.name,
            raw=batch.raw,
            clean=None,
            rows=counts,
            total=merge.total,
            watermark=merge.watermark,
            validated_at=datetime.now(UTC),
            outcomes=validation.outcomes(tallies),
            stopped=tuple(_stops(table, batch, tallies, merge, len(reasons), as_of)),
        )
        if result.stopped:
            validation.save_result(tables.store, result)
            _stop(problem, table, list(result.stopped))
        _quarantine(connection, problem, table, tables, batch, bool(reasons), after=_validated(last))
        written = _write(connection, table, tables, merge, before, clean_table(problem.name, table.name), result)
    result = result.model_copy(update={"clean": written})
    validation.save_result(tables.store, result)
    log.info("%s: %s", table.name, counts.document())
    return result


def _validated(last: Last) -> int:
    return int(last[1]["inputs"][0]["version"]) if last else -1


def _stops(
    table: Table, batch: Batch, tallies: Tallies, merge: Merge, quarantined: int, as_of: datetime
) -> Iterator[str]:
    yield from validation.critical_failures(tallies)
    if quarantined > table.max_quarantined * batch.rows:
        allowed = f"max_quarantined={table.max_quarantined:g}"
        yield f"{quarantined:,} of {batch.rows:,} rows are bad, more than {allowed} allows"
    least, most = table.rows or (0, None)
    if merge.total < least or (most is not None and merge.total > most):
        yield f"the table would have {merge.total:,} rows, outside rows=({least}, {most})"
    yield from validation.stale(table, merge.watermark, as_of)


def _stop(problem: Problem, table: Table, faults: list[str]) -> None:
    if faults:
        cure = (
            f"see {validation.page_key(problem.name)} in storage; correct the source, or the expectation in problem.py"
        )
        raise ValidationFailed("\n  ".join(faults), where=f"{problem.name}.{table.name}", cure=cure)


def _bind(connection: duckdb.DuckDBPyConnection, tables: Tables, batch: Batch, clean: TableVersion | None) -> None:
    connection.register("raw", tables.dataset(batch.raw))
    connection.execute(f"CREATE TEMP TABLE batch AS SELECT * FROM raw WHERE _tc_row >= {batch.start}")  # noqa: S608
    found = connection.execute("SELECT count(*) FROM batch").fetchall()
    assert found == [(batch.rows,)], f"{batch.raw} has {found} new rows, its commits say {batch.rows}"
    if clean is not None:
        connection.register("clean", tables.dataset(clean))


def _split(
    connection: duckdb.DuckDBPyConnection, table: Table, reasons: dict[int, list[dict[str, str | None]]]
) -> None:
    written = [json.dumps(items, ensure_ascii=False) for items in reasons.values()]
    bad = pa.table({"_tc_row": pa.array(reasons, pa.int64()), "_tc_reasons": pa.array(written, pa.string())})
    connection.register("bad", bad)
    declared = ", ".join(map(sql.quoted, table.columns))
    connection.execute(f"CREATE TEMP VIEW good AS SELECT {declared}, _tc_row FROM batch ANTI JOIN bad USING (_tc_row)")  # noqa: S608


def _quarantine(
    connection: duckdb.DuckDBPyConnection,
    problem: Problem,
    table: Table,
    tables: Tables,
    batch: Batch,
    any_bad: bool,
    after: int,
) -> None:
    """Before the clean table, whose commit acknowledges the batch: what an attempt that died left is replaced."""
    name = quarantine_table(problem.name, table.name)
    there = tables.exists(name)
    if not any_bad and not there:
        return
    declared = ", ".join(map(sql.quoted, table.columns))
    query = (
        f"SELECT {declared}, _tc_row, _tc_unreadable, CAST({batch.raw.version} AS BIGINT) AS _tc_batch, _tc_reasons "  # noqa: S608
        "FROM batch JOIN bad USING (_tc_row) ORDER BY _tc_row"
    )
    clean = corrections.clean_schema(table)
    extra = [("_tc_unreadable", pa.string()), ("_tc_batch", pa.int64()), ("_tc_reasons", pa.string())]
    rows = _stream(connection, query, pa.schema([*list(clean)[:-2], *map(pa.field, *zip(*extra, strict=True))]))
    commit = {"flow": "validate", "run": str(flow_run.get_id() or ""), "inputs": [batch.raw.model_dump()]}
    if there:
        tables.replace(name, rows, commit, where=f"_tc_batch > {after}")
    else:
        tables.append(name, rows, commit)


def _write(
    connection: duckdb.DuckDBPyConnection,
    table: Table,
    tables: Tables,
    merge: Merge,
    before: datetime | None,
    name: str,
    result: ValidationResult,
) -> TableVersion:
    """One commit: the new rows appended, or, where stored rows are superseded, the whole table."""
    commit = {
        "flow": "validate",
        "run": str(flow_run.get_id() or ""),
        "inputs": [result.raw.model_dump()],
        "rows": result.rows.document(),
        "total": merge.total,
        "watermark": merge.watermark.isoformat() if merge.watermark else None,
        "outcomes": [outcome.model_dump() for outcome in result.outcomes],
    }
    schema = corrections.clean_schema(table)
    if merge.replaces:
        query = corrections.all_rows(table, merge, before)
        return tables.replace(name, _stream(connection, corrections.in_order(table, query), schema), commit)
    query = corrections.new_rows(table, merge, before)
    return tables.append(name, _stream(connection, corrections.in_order(table, query), schema), commit)


def _stream(connection: duckdb.DuckDBPyConnection, query: str, schema: pa.Schema) -> pa.RecordBatchReader:
    batches = connection.sql(query).to_arrow_reader(100_000)
    return pa.RecordBatchReader.from_batches(schema, (batch.cast(schema) for batch in batches))
