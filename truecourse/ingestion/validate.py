"""Validate a table's new deliveries one by one: valid rows go to the clean table, invalid rows to quarantine."""

import logging
from datetime import datetime
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from truecourse.data import deliveries, merge, overlap, sql, validation_report
from truecourse.data.pending_batch import PendingBatch
from truecourse.data.sql import ROW
from truecourse.data.table_edits import RULES, declared_document
from truecourse.data.validation_report import TableResult, ValidationResult
from truecourse.errors import ValidationFailed
from truecourse.hashing import sha256
from truecourse.ingestion.delivery_checks import TableCheck, check_deliveries, pending_deliveries
from truecourse.problem.namespace import Namespace
from truecourse.problem.schema import Table
from truecourse.references import TableVersion
from truecourse.storage.compaction import compact_small_files
from truecourse.storage.delta_tables import Tables, clean_table, quarantine_table
from truecourse.storage.locks import locked

log = logging.getLogger("truecourse.validate")
PATIENCE = 600
"""Seconds to wait for another process that checks the same table."""


def validate_new(
    problem: Namespace, table: Table, tables: Tables, as_of: datetime, *, recheck: bool = False, run: str = ""
) -> TableResult:
    """Check every pending delivery on its own, in order, and write the accepted ones in one commit. If the table was
    edited, the stored rows are edited first, in a commit of their own.

    as_of: the time at which freshness is measured, naive UTC.
    recheck: whether stored rows are checked by the current rules too, and quarantined.
    run: the flow run's id, for the commits.

    A delivery is refused if a critical expectation fails, too many of its rows are invalid or values unreadable, it
    removes too many rows, or the table would have too few or too many rows. A refusal raises nothing here: see
    validation_report.require_accepted(). Raises NotFound for a table that was never ingested."""
    name = clean_table(problem.name, table.name)
    results: list[ValidationResult] = []
    if pending_deliveries(problem, table, tables, recheck=recheck) is not None:
        with locked(tables.store, name, patience=PATIENCE):
            for again in (recheck, False):  # first the edit, if there is one, then new deliveries
                pending = pending_deliveries(problem, table, tables, recheck=again)
                # Another run may have validated them meanwhile.
                results += check_and_write(problem, table, tables, pending, run) if pending is not None else []
    else:
        log.info("%s: nothing new", table.name)
    refused = validation_report.standing_refusals(tables, problem.name, table.name)
    fresh = {result.delivery.number for result in results}
    for result in refused:
        log.warning("%s%s", "" if result.delivery.number in fresh else "still refused: ", result.sentence())
    _, last = deliveries.accepted_deliveries(tables, problem.name, table.name)
    watermark = datetime.fromisoformat(last["watermark"]) if last and last["watermark"] else None
    return TableResult(
        problem=problem.name,
        table=table.name,
        clean=TableVersion(name=name, version=last["version"]) if last else None,
        validated=tuple(results),
        refused=tuple(refused),
        stale=tuple(validation_report.freshness_faults(table, watermark, as_of)) if last else (),
    )


def check_and_write(
    problem: Namespace, table: Table, tables: Tables, pending: PendingBatch, run: str = ""
) -> list[ValidationResult]:
    """Check the pending deliveries, save the results, then commit the accepted rows.

    A run that stops before its commit checks the deliveries again."""
    name = clean_table(problem.name, table.name)
    for edit in pending.edits:
        log.info("%s: %s", table.name, edit.sentence)
    with sql.connect() as connection:
        outcome = check_deliveries(connection, problem, table, tables, pending)
        if pending.revalidates_all:
            _require_kept(problem, table, tables, pending, outcome)
        _warn_of_overlaps(connection, table, pending, outcome)
        for result in outcome.results:
            validation_report.save_result(tables.store, result)
        if any(not result.refused for result in outcome.results):
            if not _only_rules_change(connection, pending):
                _quarantine(connection, problem, table, tables, pending, outcome, run)
            _write(connection, table, tables, pending, outcome, name, run)
    for result in outcome.results:
        if not result.refused:
            log.info("%s: delivery %d: %s", table.name, result.delivery.number, result.rows.document())
        for warning in result.warnings:
            log.warning("%s: %s", table.name, warning)
    return outcome.results


def _warn_of_overlaps(
    connection: duckdb.DuckDBPyConnection, table: Table, pending: PendingBatch, outcome: TableCheck
) -> None:
    fresh = {result.delivery.number for result in outcome.results if not result.refused}
    accepted = [
        d for d in pending.known if d.number in fresh | (set() if pending.revalidates_all else pending.accepted)
    ]
    standing = accepted if table.combines == "append" else deliveries.newest_contents(accepted)
    overlapping = overlap.find_overlaps(connection, table, standing, fresh)
    outcome.results = [
        result.model_copy(update={"warnings": (*result.warnings, overlapping[number])})
        if (number := result.delivery.number) in overlapping
        else result
        for result in outcome.results
    ]


def _require_kept(problem: Namespace, table: Table, tables: Tables, pending: PendingBatch, outcome: TableCheck) -> None:
    """Require that deliveries accepted before pass the table's changed declaration.

    Raises ValidationFailed otherwise; nothing is written then."""
    before, _ = deliveries.accepted_deliveries(tables, problem.name, table.name)
    newest = deliveries.newest_contents(d for d in pending.known if d.number in before)
    standing = {d.number for d in newest} if table.combines == "replace" else set(before)
    faults = [r.sentence() for r in outcome.results if r.refused and r.delivery.number in standing]
    if faults:
        what = "as the table is declared now, deliveries that were accepted before would be refused:\n  "
        hint = "correct the table's columns, key or limits in problem.py; stored data was not changed"
        raise ValidationFailed(what + "\n  ".join(faults), where=f"{problem.name}.{table.name}", hint=hint)


def _only_rules_change(connection: duckdb.DuckDBPyConnection, pending: PendingBatch) -> bool:
    """Whether an edit changes rules on values only, and every row stays where it is."""
    if not pending.edits or any(edit.kind not in RULES for edit in pending.edits):
        return False
    before = set().union(*pending.kept.values())
    now = {row for (row,) in connection.execute(f"SELECT {ROW} FROM quarantined_now").fetchall()}  # noqa: S608
    return before == now and pending.kept.keys() == {d.number for d in pending.deliveries}


def _quarantine(
    connection: duckdb.DuckDBPyConnection,
    problem: Namespace,
    table: Table,
    tables: Tables,
    pending: PendingBatch,
    outcome: TableCheck,
    run: str,
) -> None:
    """Write the invalid rows to the quarantine table, and replace those that a stopped run left.

    This comes before the clean table's commit, which marks the deliveries as accepted."""
    name = quarantine_table(problem.name, table.name)
    numbers = [result.delivery.number for result in outcome.results]
    before = tables.version(name)
    left = before is not None and tables.dataset(before).count_rows(filter=pc.field("_tc_delivery").isin(numbers))
    if not outcome.quarantined and not left and not (pending.revalidates_all and before):
        return
    declared = ", ".join(map(sql.quote, table.columns))
    query = (
        f"SELECT {declared}, {ROW}, _tc_unreadable, _tc_delivery, _tc_reasons "  # noqa: S608
        f"FROM raw_rows JOIN quarantined_now USING ({ROW}) ORDER BY {ROW}"
    )
    added = [
        (ROW, pa.int64()),
        ("_tc_unreadable", pa.string()),
        ("_tc_delivery", pa.int64()),
        ("_tc_reasons", pa.string()),
    ]
    schema = pa.schema([*list(merge.clean_schema(table))[:-3], *(pa.field(n, kind) for n, kind in added)])
    rows = _stream(connection, query, schema)
    clean = tables.version(clean_table(problem.name, table.name))
    commit = {
        "flow": "validate",
        "run": run,
        "inputs": [pending.raw.model_dump()],
        "clean": 0 if clean is None else clean.version + 1,
    }
    if pending.revalidates_all and before:
        tables.rewrite(name, rows, commit)
    elif before:
        compact_small_files(tables, name)
        where = f"_tc_delivery IN ({', '.join(map(str, numbers))})"
        tables.replace(name, rows, commit, where=where)
    else:
        tables.append(name, rows, commit)


def _write(
    connection: duckdb.DuckDBPyConnection,
    table: Table,
    tables: Tables,
    pending: PendingBatch,
    outcome: TableCheck,
    name: str,
    run: str,
) -> TableVersion:
    """Write the clean table in one commit that lists the accepted deliveries.

    The new rows are appended; if stored rows are superseded or edited, the whole table is replaced."""
    accepted = [result for result in outcome.results if not result.refused]
    counts = [result.rows.document() for result in accepted]
    commit = {
        "flow": "validate",
        "run": run,
        "inputs": [pending.raw.model_dump()],
        "shape": deliveries.shape_digest(table),
        "declared": declared_document(table),
        "edits": [edit.document() for edit in pending.edits],
        "deliveries": [_delivery_entry(result) for result in accepted],
        "rows": {name: sum(count[name] for count in counts) for name in validation_report.Counts(rows_in=0).document()},
        "total": outcome.total,
        "watermark": outcome.watermark.isoformat() if outcome.watermark else None,
    }
    schema = merge.clean_schema(table)
    if _only_rules_change(connection, pending):
        return tables.append(name, schema.empty_table(), commit)
    if pending.revalidates_all and outcome.stored:
        reader = _stream(connection, merge.new_rows_sql(table), schema)
        return tables.rewrite(name, reader, commit | {"rewritten": True})
    if merge.supersedes_rows(connection):
        return tables.replace(name, _stream(connection, merge.all_rows_sql(table), schema), commit)
    compact_small_files(tables, name)
    return tables.append(name, _stream(connection, merge.new_rows_sql(table), schema), commit)


def _delivery_entry(result: ValidationResult) -> dict[str, Any]:
    return {
        "number": result.delivery.number,
        "place": result.delivery.place,
        "rows": result.rows.document(),
        "watermark": result.watermark.isoformat() if result.watermark else None,
        "result_sha256": sha256(validation_report.result_bytes(result)),
    }


def _stream(connection: duckdb.DuckDBPyConnection, query: str, schema: pa.Schema) -> pa.RecordBatchReader:
    batches = connection.sql(query).to_arrow_reader(100_000)
    return pa.RecordBatchReader.from_batches(schema, (batch.cast(schema) for batch in batches))
