"""Which deliveries of a table are to be judged, and what becomes of each: its rows merged, or the delivery refused."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import duckdb
import pyarrow as pa

from truecourse.data import deliveries, sql, validation_report
from truecourse.data import merge as corrections
from truecourse.data.deliveries import Delivery
from truecourse.data.expectations import Tallies
from truecourse.data.merge import Merge
from truecourse.data.pending_batch import PendingBatch, check, check_unique
from truecourse.data.sql import ROW
from truecourse.data.validation_report import Counts, ValidationResult
from truecourse.errors import NotFound
from truecourse.hashing import sha256_json
from truecourse.problem import Problem
from truecourse.problem.loader import problem_document
from truecourse.problem.schema import Table
from truecourse.references import TableVersion
from truecourse.storage.tables import Tables, clean_table, quarantine_table, raw_table
from truecourse.wording import counted, counted_of


@dataclass
class TableCheck:
    """The outcome of judging: `total` and `watermark` (naive UTC) of the table after it. `stored`: whether there is a
    clean table; `quarantined`: rows."""

    stored: bool
    total: int = 0
    watermark: datetime | None = None
    quarantined: int = 0
    results: list[ValidationResult] = field(default_factory=list)


def rules_digest(problem: Problem, table: Table, tables: Tables) -> str:
    """The digest of what a delivery is judged by: the table's declaration, and the tables that it refers to."""
    document = next(item for item in problem_document(problem)["tables"] if item["name"] == table.name)
    others = {column.in_table for column in table.columns.values() if column.in_table}
    versions = {name: str(tables.version(clean_table(problem.name, name))) for name in sorted(others)}
    return sha256_json([document, versions])


def pending_deliveries(problem: Problem, table: Table, tables: Tables) -> PendingBatch | None:
    """What is to be judged: new deliveries; refused ones that are still their place's newest and that are judged by
    something else now; all of them if the table's rows were read again. None if there is nothing.

    Raises NotFound for a table that was never ingested."""
    raw = tables.version(raw_table(problem.name, table.name))
    known, shape = deliveries.read_deliveries(tables, problem.name, table.name)
    if raw is None or not known:
        hint = f"truecourse run ingest --problem {problem.name}"
        raise NotFound("the table was never ingested", where=f"{problem.name}.{table.name}", hint=hint)
    taken, last = deliveries.accepted_deliveries(tables, problem.name, table.name)
    if last is not None and last["shape"] != shape:
        return PendingBatch(raw, tuple(known), tuple(known), frozenset(), revalidates_all=True)
    digest = rules_digest(problem, table, tables)
    newest = {d.number for d in deliveries.newest_by_place(known).values()}
    new, again, waiting = [], [], []
    for delivery in known:
        if delivery.number in taken:
            continue
        result = validation_report.read_result(tables.store, problem.name, table.name, delivery.number)
        if result is None or not result.refused:
            new.append(delivery)
        elif delivery.number not in newest:
            continue
        elif result.judged_by != digest:
            again.append(delivery)
        elif result.because_of_table:
            waiting.append(delivery)
    judged = sorted([*new, *again, *(waiting if new or again else ())], key=lambda d: d.number)
    return PendingBatch(raw, tuple(judged), tuple(known), frozenset(taken), revalidates_all=False) if judged else None


def check_deliveries(
    connection: duckdb.DuckDBPyConnection, problem: Problem, table: Table, tables: Tables, pending: PendingBatch
) -> TableCheck:
    """Judge the pending deliveries in order. What is to be written stands in corrections' relations afterwards, and the
    bad rows of accepted deliveries in the relation `quarantined_now`."""
    name = clean_table(problem.name, table.name)
    _, last = deliveries.accepted_deliveries(tables, problem.name, table.name)
    judged = TableCheck(stored=last is not None)
    clean = None
    if last is not None and not pending.revalidates_all:
        clean = TableVersion(name=name, version=last["version"])
        judged.total = last["total"]
        judged.watermark = datetime.fromisoformat(last["watermark"]) if last["watermark"] else None
    several = len(pending.deliveries) > 1
    tallies = check(problem, table, tables, pending, clean)
    corrections.create_relations(connection, table, tables.dataset(clean) if clean else None, several=several)
    _bind(connection, problem, table, tables, pending)
    digest, before, group = rules_digest(problem, table, tables), judged.watermark, -1
    taken = set(pending.accepted)
    for delivery, tally in zip(pending.deliveries, tallies, strict=True):
        if delivery.group != group:
            group, before = delivery.group, judged.watermark
        standing = _other_places(pending.known, taken, delivery)
        merge, reasons, faults, of_table = _check_delivery(
            connection, table, judged, delivery, pending.known, standing, tally
        )
        if not faults:
            corrections.apply_merge(connection, table, merge, before, several=several)
            judged.total += merge.inserted - merge.removed
            judged.watermark = merge.watermark
            judged.quarantined += len(reasons)
            taken.add(delivery.number)
            connection.execute(f"INSERT INTO quarantined_now SELECT {ROW}, {delivery.number}, _tc_reasons FROM bad")  # noqa: S608
            connection.execute(f"INSERT INTO quarantined SELECT {ROW} FROM bad")  # noqa: S608
        judged.results.append(
            ValidationResult(
                problem=problem.name,
                table=table.name,
                delivery=delivery,
                raw=pending.raw,
                rows=_counts(delivery, merge, len(reasons), tally),
                total=judged.total,
                watermark=judged.watermark,
                validated_at=datetime.now(UTC),
                outcomes=validation_report.summarize_tallies(tally),
                refused=tuple(faults),
                judged_by=digest,
                because_of_table=of_table,
            )
        )
    return _refuse_if_too_few(table, judged)


def _bind(
    connection: duckdb.DuckDBPyConnection, problem: Problem, table: Table, tables: Tables, pending: PendingBatch
) -> None:
    """Relations `raw` (all of it), `raw_rows` (the pending deliveries), `quarantined` (row numbers so far) and
    `quarantined_now`."""
    dataset = tables.dataset(pending.raw)
    connection.register("raw", dataset)
    rows = dataset.scanner(filter=pending.selected)
    connection.register("pending_rows", rows.to_reader())
    connection.execute("CREATE TEMP TABLE raw_rows AS SELECT * FROM pending_rows")
    found = connection.execute("SELECT count(*) FROM raw_rows").fetchall()
    wanted = sum(delivery.rows for delivery in pending.deliveries)
    assert found == [(wanted,)], f"{pending.raw} has {counted(found, 'row')} of deliveries that say {wanted}"
    connection.execute(f"CREATE TEMP TABLE quarantined ({ROW} BIGINT)")
    connection.execute(f"CREATE TEMP TABLE quarantined_now ({ROW} BIGINT, _tc_delivery BIGINT, _tc_reasons VARCHAR)")
    there = tables.version(quarantine_table(problem.name, table.name))
    if there is not None and not pending.revalidates_all and table.key and table.combines == "replace":
        connection.register("before", tables.dataset(there))
        connection.execute(f"INSERT INTO quarantined SELECT {ROW} FROM before")  # noqa: S608


def _other_places(known: Sequence[Delivery], taken: set[int], delivery: Delivery) -> list[Delivery]:
    """The newest accepted delivery of every other place."""
    newest = deliveries.newest_by_place(d for d in known if d.number in taken)
    return [d for place, d in newest.items() if place != delivery.place]


def _check_delivery(
    connection: duckdb.DuckDBPyConnection,
    table: Table,
    judged: TableCheck,
    delivery: Delivery,
    known: Sequence[Delivery],
    standing: Sequence[Delivery],
    tallies: Tallies,
) -> tuple[Merge, dict[int, list[dict[str, str | None]]], list[str], bool]:
    """The merge of one delivery, why rows go to quarantine, why it is refused, and whether that is for the table."""
    connection.execute(
        f"CREATE OR REPLACE TEMP VIEW batch AS SELECT * FROM raw_rows "  # noqa: S608
        f"WHERE {ROW} >= {delivery.start} AND {ROW} < {delivery.end}"
    )
    check_unique(connection, table, tallies)
    reasons = validation_report.reasons_by_row(tallies)
    _split(connection, table, reasons)
    merge = corrections.plan_merge(connection, table, delivery, known, standing, judged.watermark)
    faults = validation_report.refusals(table, tallies, delivery, len(reasons))
    if delivery.beginning_of is not None and table.max_removed < 1:
        what = (
            f"its bytes are the beginning of those of delivery {delivery.beginning_of}, which its place held before: "
        )
        faults.append(f"{what}an upload that broke off? (max_removed=1 would take it)")
    copied = deliveries.is_copy(delivery, known)
    if not copied and merge.removed > table.max_removed * merge.before:
        least = f"max_removed={table.max_removed:g}"
        faults.append(
            f"it takes away {counted_of(merge.removed, merge.before, 'row')} that its place had, "
            f"more than {least} allows"
        )
    if faults:
        return merge, reasons, faults, False
    total = judged.total + merge.inserted - merge.removed
    least_rows, most_rows = table.rows or (0, None)
    if (most_rows is not None and total > most_rows) or (total < least_rows <= judged.total):
        return merge, reasons, [_row_limit_fault(table, total)], True
    return merge, reasons, [], False


def _row_limit_fault(table: Table, total: int) -> str:
    return f"the table would have {counted(total, 'row')}, outside rows={table.rows}"


def _refuse_if_too_few(table: Table, judged: TableCheck) -> TableCheck:
    """A table that has too few rows even with all its deliveries takes none of them yet."""
    least, _ = table.rows or (0, None)
    if judged.total >= least:
        return judged
    judged.results = [
        result
        if result.refused
        else result.model_copy(update={"refused": (_row_limit_fault(table, judged.total),), "because_of_table": True})
        for result in judged.results
    ]
    return judged


def _split(
    connection: duckdb.DuckDBPyConnection, table: Table, reasons: dict[int, list[dict[str, str | None]]]
) -> None:
    """Relations `bad`, rows that go to quarantine with their reasons, and `good`, the delivery's other rows."""
    written = [json.dumps(items, ensure_ascii=False) for items in reasons.values()]
    bad = pa.table({ROW: pa.array(reasons, pa.int64()), "_tc_reasons": pa.array(written, pa.string())})
    connection.register("bad", bad)
    declared = ", ".join(map(sql.quoted, table.columns))
    kept = f"ANTI JOIN bad USING ({ROW})" if reasons else ""
    connection.execute(f"CREATE OR REPLACE TEMP VIEW good AS SELECT {declared}, {ROW} FROM batch {kept}")  # noqa: S608


def _counts(delivery: Delivery, merge: Merge, quarantined: int, tallies: Tallies) -> Counts:
    return Counts(
        rows_in=delivery.rows,
        inserted=merge.inserted,
        corrected=merge.corrected,
        unchanged=merge.unchanged,
        quarantined=quarantined,
        removed=merge.removed,
        unreadable=validation_report.count_unreadable(tallies),
    )
