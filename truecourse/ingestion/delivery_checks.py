"""Select the pending deliveries of a table, check each one, and merge its rows or refuse it."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import duckdb
import pyarrow as pa

from truecourse.data import deliveries, quarantine, sql, validation_report
from truecourse.data import merge as corrections
from truecourse.data.deliveries import Delivery
from truecourse.data.expectations import Tallies
from truecourse.data.merge import Merge
from truecourse.data.pending_batch import PendingBatch, check, check_unique
from truecourse.data.sql import ROW
from truecourse.data.table_edits import Edit, find_edits, stored_document
from truecourse.data.validation_report import Counts, ValidationResult
from truecourse.errors import NotFound
from truecourse.hashing import sha256_json
from truecourse.problem.loader import declaration_document
from truecourse.problem.namespace import Namespace
from truecourse.problem.schema import Table
from truecourse.references import TableVersion
from truecourse.storage.delta_tables import Tables, clean_table, quarantine_table, raw_table
from truecourse.wording import counted, counted_of


@dataclass
class TableCheck:
    """Outcome of checking a table's pending deliveries.

    `stored`: whether a clean table exists. `total` and `watermark` (naive UTC): rows and newest time of the table after
    the accepted deliveries. `quarantined`: number of rows."""

    stored: bool
    total: int = 0
    watermark: datetime | None = None
    quarantined: int = 0
    results: list[ValidationResult] = field(default_factory=list)


def rules_digest(problem: Namespace, table: Table, tables: Tables) -> str:
    """The digest of the rules for a delivery: the table's declaration, and the versions of the tables it references."""
    document = declaration_document(table)
    others = {column.in_table for column in table.columns.values() if column.in_table}
    versions = {name: str(tables.version(clean_table(problem.name, name))) for name in sorted(others)}
    return sha256_json([document, versions])


def pending_deliveries(
    problem: Namespace, table: Table, tables: Tables, *, recheck: bool = False
) -> PendingBatch | None:
    """The deliveries to check, or None if there are none.

    These are new deliveries, and refused ones that are still the newest of their place if the rules changed since. If
    the table was edited, all deliveries are checked; those accepted before stay accepted. Pushed rows that were refused
    are not checked again. `recheck`: check all deliveries as if they were new. Raises NotFound for a table that was
    never ingested."""
    raw = tables.version(raw_table(problem.name, table.name))
    # Others may append meanwhile: only commits up to this version count.
    commits = [] if raw is None else [item for item in tables.commits(raw.name) if item[0] <= raw.version]
    known, shape = deliveries.parse_commits(commits)
    if raw is None or not known:
        hint = f"truecourse run ingest --problem {problem.name}"
        raise NotFound("the table was never ingested", where=f"{problem.name}.{table.name}", hint=hint)
    accepted, last = deliveries.accepted_deliveries(tables, problem.name, table.name)
    if last is not None:
        # An edit that was not ingested yet waits: the raw table has the former columns.
        edits = clean_edits(problem, table, tables, last) if shape == deliveries.shape_digest(table) else ()
        if recheck or edits or last["shape"] != shape:
            kept = {} if recheck else quarantine.kept_deliveries(problem.name, table.name, tables, known, last)
            stored = tuple(d for d in known if d.number in accepted)
            return PendingBatch(raw, stored, tuple(known), frozenset(), True, kept, edits)
    digest = rules_digest(problem, table, tables)
    newest = {d.number for d in deliveries.newest_by_place(known).values() if not deliveries.is_push(d)}
    new, again, waiting = [], [], []
    for delivery in known:
        if delivery.number in accepted:
            continue
        result = validation_report.read_result(tables.store, problem.name, table.name, delivery.number)
        if result is None or not result.refused:
            new.append(delivery)
        elif delivery.number not in newest:
            continue
        elif result.rules_sha256 != digest:
            again.append(delivery)
        elif result.because_of_table:
            waiting.append(delivery)
    pending = sorted([*new, *again, *(waiting if new or again else ())], key=lambda d: d.number)
    return (
        PendingBatch(raw, tuple(pending), tuple(known), frozenset(accepted), revalidates_all=False) if pending else None
    )


def clean_edits(problem: Namespace, table: Table, tables: Tables, last: dict[str, Any]) -> tuple[Edit, ...]:
    """The edits of a table since its newest clean commit with deliveries, `last`."""
    if "declared" not in last and last["shape"] == deliveries.shape_digest(table):
        return ()
    written = TableVersion(name=clean_table(problem.name, table.name), version=last["version"])
    return tuple(find_edits(stored_document(last, tables.dataset(written).schema), table))


def check_deliveries(
    connection: duckdb.DuckDBPyConnection, problem: Namespace, table: Table, tables: Tables, pending: PendingBatch
) -> TableCheck:
    """Check the pending deliveries in order.

    Afterwards the relations of truecourse.data.merge hold the rows to write, and the relation `quarantined_now` holds
    the invalid rows of accepted deliveries."""
    name = clean_table(problem.name, table.name)
    _, last = deliveries.accepted_deliveries(tables, problem.name, table.name)
    outcome = TableCheck(stored=last is not None)
    clean = None
    if last is not None and not pending.revalidates_all:
        clean = TableVersion(name=name, version=last["version"])
        outcome.total = last["total"]
        outcome.watermark = datetime.fromisoformat(last["watermark"]) if last["watermark"] else None
    several = len(pending.deliveries) > 1
    tallies = check(problem, table, tables, pending, clean)
    corrections.create_relations(connection, table, tables.dataset(clean) if clean else None, several=several)
    _bind(connection, problem, table, tables, pending)
    digest, before, group = rules_digest(problem, table, tables), outcome.watermark, -1
    accepted = set(pending.accepted)
    for delivery, tally in zip(pending.deliveries, tallies, strict=True):
        if delivery.group != group:
            group, before = delivery.group, outcome.watermark
        standing = _other_places(pending.known, accepted, delivery)
        merge, reasons, faults, of_table = _check_delivery(
            connection, table, outcome, delivery, pending, standing, tally
        )
        if not faults:
            corrections.apply_merge(connection, table, merge, before, several=several)
            outcome.total += merge.inserted - merge.removed
            outcome.watermark = merge.watermark
            outcome.quarantined += len(reasons)
            accepted.add(delivery.number)
            connection.execute(f"INSERT INTO quarantined_now SELECT {ROW}, {delivery.number}, _tc_reasons FROM bad")  # noqa: S608
            connection.execute(f"INSERT INTO quarantined SELECT {ROW} FROM bad")  # noqa: S608
        outcome.results.append(
            ValidationResult(
                problem=problem.name,
                table=table.name,
                delivery=delivery,
                raw=pending.raw,
                rows=_counts(delivery, merge, len(reasons), tally),
                total=outcome.total,
                watermark=outcome.watermark,
                validated_at=datetime.now(UTC),
                outcomes=validation_report.summarize_tallies(tally),
                refused=tuple(faults),
                rules_sha256=digest,
                because_of_table=of_table,
                warnings=(*delivery.warnings, *validation_report.kept_rows(tally)),
            )
        )
    return _refuse_if_too_few(table, outcome)


def _bind(
    connection: duckdb.DuckDBPyConnection, problem: Namespace, table: Table, tables: Tables, pending: PendingBatch
) -> None:
    """Create the relations `raw` (the whole table), `raw_rows` (the pending deliveries), `quarantined` (row numbers so
    far) and `quarantined_now` (empty)."""
    dataset = tables.dataset(pending.raw)
    connection.register("raw", dataset)
    rows = dataset.scanner(filter=pending.selected)
    connection.register("pending_rows", rows.to_reader())
    connection.execute("CREATE TEMP TABLE raw_rows AS SELECT * FROM pending_rows")
    ((count,),) = connection.execute("SELECT count(*) FROM raw_rows").fetchall()
    expected = sum(delivery.rows for delivery in pending.deliveries)
    assert count == expected, f"{pending.raw} has {counted(count, 'row')}, its deliveries list {expected}"
    connection.execute(f"CREATE TEMP TABLE quarantined ({ROW} BIGINT)")
    connection.execute(f"CREATE TEMP TABLE quarantined_now ({ROW} BIGINT, _tc_delivery BIGINT, _tc_reasons VARCHAR)")
    before = tables.version(quarantine_table(problem.name, table.name))
    if before is not None and not pending.revalidates_all and table.key and table.combines == "replace":
        connection.register("before", tables.dataset(before))
        connection.execute(f"INSERT INTO quarantined SELECT {ROW} FROM before")  # noqa: S608


def _other_places(known: Sequence[Delivery], accepted: set[int], delivery: Delivery) -> list[Delivery]:
    """The accepted deliveries of the newest content of every other place."""
    newest = deliveries.newest_contents(d for d in known if d.number in accepted)
    return [d for d in newest if d.place != delivery.place]


def _check_delivery(
    connection: duckdb.DuckDBPyConnection,
    table: Table,
    outcome: TableCheck,
    delivery: Delivery,
    pending: PendingBatch,
    standing: Sequence[Delivery],
    tallies: Tallies,
) -> tuple[Merge, dict[int, list[dict[str, str | None]]], list[str], bool]:
    """Check one delivery: its merge, the quarantine reasons by row, the reasons to refuse it, and whether those concern
    the table's row limits rather than the delivery."""
    connection.execute(
        f"CREATE OR REPLACE TEMP VIEW batch AS SELECT * FROM raw_rows "  # noqa: S608
        f"WHERE {ROW} >= {delivery.start} AND {ROW} < {delivery.end}"
    )
    check_unique(connection, table, tallies)
    reasons = validation_report.reasons_by_row(tallies)
    _split(connection, table, reasons)
    merge = corrections.plan_merge(connection, table, delivery, pending.known, standing, outcome.watermark)
    faults = validation_report.refusals(table, tallies, delivery, len(reasons))
    if delivery.number in pending.kept:  # limits of the table applied when it was accepted
        return merge, reasons, faults, False
    if delivery.beginning_of is not None and table.max_removed < 1:
        faults.append(
            f"it is cut short: its bytes are the first part of delivery {delivery.beginning_of} from the same place; "
            "upload it again, or accept it with max_removed=1"
        )
    copied = deliveries.is_copy(delivery, pending.known)
    if not copied and merge.vanished > table.max_removed * merge.before:
        faults.append(
            f"it removes {counted_of(merge.vanished, merge.before, 'row')} of its place, "
            f"more than max_removed={table.max_removed:g} allows"
        )
    if faults:
        return merge, reasons, faults, False
    total = outcome.total + merge.inserted - merge.removed
    least_rows, most_rows = table.rows or (0, None)
    if (most_rows is not None and total > most_rows) or (total < least_rows <= outcome.total):
        return merge, reasons, [_row_limit_fault(table, total)], True
    return merge, reasons, [], False


def _row_limit_fault(table: Table, total: int) -> str:
    return f"the table would have {counted(total, 'row')}, outside rows={table.rows}"


def _refuse_if_too_few(table: Table, outcome: TableCheck) -> TableCheck:
    """Refuse all deliveries if the table would have too few rows even with all of them."""
    least, _ = table.rows or (0, None)
    if outcome.total >= least:
        return outcome
    outcome.results = [
        result
        if result.refused
        else result.model_copy(update={"refused": (_row_limit_fault(table, outcome.total),), "because_of_table": True})
        for result in outcome.results
    ]
    return outcome


def _split(
    connection: duckdb.DuckDBPyConnection, table: Table, reasons: dict[int, list[dict[str, str | None]]]
) -> None:
    """Create the relations `bad`, rows for quarantine with reasons, and `valid_rows`, the delivery's other rows."""
    documents = [json.dumps(items, ensure_ascii=False) for items in reasons.values()]
    bad = pa.table({ROW: pa.array(reasons, pa.int64()), "_tc_reasons": pa.array(documents, pa.string())})
    connection.register("bad", bad)
    declared = ", ".join(map(sql.quote, table.columns))
    without_bad = f"ANTI JOIN bad USING ({ROW})" if reasons else ""
    connection.execute(f"CREATE OR REPLACE TEMP VIEW valid_rows AS SELECT {declared}, {ROW} FROM batch {without_bad}")  # noqa: S608


def _counts(delivery: Delivery, merge: Merge, quarantined: int, tallies: Tallies) -> Counts:
    return Counts(
        rows_in=delivery.rows,
        inserted=merge.inserted,
        corrected=merge.corrected,
        unchanged=merge.unchanged,
        deleted=merge.deleted,
        quarantined=quarantined,
        removed=merge.removed,
        unreadable=validation_report.count_unreadable(tallies),
    )
