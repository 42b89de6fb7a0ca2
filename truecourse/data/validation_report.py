"""Validation results of a table's deliveries: documents, their storage, and the HTML page."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Annotated

from truecourse.data import deliveries
from truecourse.data.deliveries import Delivery
from truecourse.data.expectations import Expectation, Tallies, Tally
from truecourse.errors import Fault, NotFound, ProblemError, ValidationFailed
from truecourse.hashing import sha256
from truecourse.html import render
from truecourse.problem.namespace import Namespace
from truecourse.problem.schema import Severity, Table
from truecourse.references import Reference, StoredRecord, TableVersion
from truecourse.storage.delta_tables import Tables
from truecourse.storage.object_store import ObjectStore
from truecourse.stored_format import renamed
from truecourse.wording import counted, counted_of


class Example(Reference):
    """A failing row. `row`: its `_tc_row`, the row number in the raw table."""

    row: int
    value: str | None


class Outcome(Reference):
    """The result of one expectation over a delivery. `quarantines`: rows that fail it are quarantined."""

    column: str
    name: str
    rule: str
    severity: Severity
    quarantines: bool
    checked: int
    failed: int
    examples: tuple[Example, ...]


class Counts(Reference):
    """Row counts of a delivery. Every row, malformed lines included, is in exactly one of `inserted` to `quarantined`.

    `unchanged`: the table already holds the same or a newer row. `deleted`: the row deletes the row of its key
    (`Table.deleted`). `removed`: rows that the delivery removes from the table. `unreadable`: cells and lines that
    could not be read."""

    rows_in: int
    inserted: int = 0
    corrected: int = 0
    unchanged: int = 0
    deleted: int = 0
    quarantined: int = 0
    removed: int = 0
    unreadable: int = 0

    def document(self) -> dict[str, int]:
        accounted = self.inserted + self.corrected + self.unchanged + self.deleted + self.quarantined
        assert self.rows_in == accounted, f"{counted(self.rows_in, 'row')} in, {accounted} accounted for"
        return {"in": self.rows_in, **self.model_dump(exclude={"rows_in"})}


class ValidationResult(StoredRecord):
    """The validation result of one delivery. `refused`: why the delivery was rejected; empty if it was accepted."""

    problem: str
    table: str
    delivery: Delivery
    raw: TableVersion
    rows: Counts
    total: int
    """Current rows of the table after the delivery."""
    watermark: datetime | None
    validated_at: datetime
    outcomes: tuple[Outcome, ...]
    refused: tuple[str, ...] = ()
    rules_sha256: Annotated[str, renamed("rules_sha256")] = ""
    """Digest of the rules: the table's declaration and the tables it refers to. When it changes, a refused delivery is
    validated again."""
    because_of_table: bool = False
    """Whether it was refused for its effect on the table; then it is validated again with the next delivery."""
    warnings: tuple[str, ...] = ()
    """Findings that do not reject the delivery."""

    @property
    def failing(self) -> list[Outcome]:
        return [outcome for outcome in self.outcomes if outcome.failed]

    @property
    def share(self) -> float:
        """Share of the delivery's rows that were quarantined."""
        return self.rows.quarantined / self.rows.rows_in if self.rows.rows_in else 0.0

    def sentence(self) -> str:
        """The reasons for the refusal, as a sentence."""
        return (
            f"{self.problem}.{self.table}: delivery {self.delivery.number} ({self.delivery.uri}) is refused: "
            + "; ".join(self.refused)
        )


class TableResult(Reference):
    """The result of a validation run for one table. `validated`: deliveries validated in this run. `refused`: all
    deliveries that are refused after it. `stale`: why the table is too old."""

    problem: str
    table: str
    clean: TableVersion | None
    validated: tuple[ValidationResult, ...] = ()
    refused: tuple[ValidationResult, ...] = ()
    stale: tuple[str, ...] = ()

    @property
    def faults(self) -> list[str]:
        """Why the run fails. Deliveries refused in earlier runs do not count."""
        return [*(result.sentence() for result in self.validated if result.refused), *self.stale]


def require_accepted(problem: str, results: Sequence[TableResult]) -> None:
    """Raise ValidationFailed for deliveries that this run refused, and for stale tables."""
    faults = [fault for result in results for fault in result.faults]
    if faults:
        hint = f"see {page_key(problem)} in storage. Correct the file in the same place and run again; or change the "
        hint += "declaration in problem.py, and the delivery is validated again"
        raise ValidationFailed("\n  ".join(faults), where=f"problem {problem}", hint=hint)


def summarize_tallies(tallies: Tallies) -> tuple[Outcome, ...]:
    return tuple(
        Outcome(
            column=expectation.column,
            name=expectation.name,
            rule=expectation.rule,
            severity=expectation.severity,
            quarantines=expectation.quarantines,
            checked=tally.checked,
            failed=tally.failed,
            examples=tuple(Example(row=row, value=value) for row, value in tally.examples),
        )
        for expectation, tally in tallies.items()
    )


def kept_rows(tallies: Tallies) -> tuple[str, ...]:
    """A warning for each rule that rows break which were accepted before it was declared."""
    hint = "they stay, unless `truecourse run validate --recheck` quarantines them"
    return tuple(
        f"{expectation.column}: {counted(tally.kept, 'stored row')} "
        f"{'breaks' if tally.kept == 1 else 'break'} “{expectation.rule}”; {hint}"
        for expectation, tally in tallies.items()
        if tally.kept
    )


def reasons_by_row(tallies: Tallies) -> dict[int, list[dict[str, str | None]]]:
    """The quarantining expectations that each invalid row fails, by row number."""
    reasons: dict[int, list[dict[str, str | None]]] = defaultdict(list)
    for expectation, tally in tallies.items():
        for row, value in tally.failures:
            reasons[row].append({"column": expectation.column, "expectation": expectation.name, "value": value})
    return dict(sorted(reasons.items()))


def refusals(table: Table, tallies: Tallies, delivery: Delivery, quarantined: int) -> list[str]:
    """Why a delivery is refused for its own rows; empty if it is not."""
    if delivery.fault:
        return [delivery.fault]
    faults = [fault for expectation, tally in tallies.items() for fault in _faults_of(table, expectation, tally)]
    if quarantined > table.max_quarantined * delivery.rows:
        share = f"{quarantined / delivery.rows:.1%}"
        allowed = f"max_quarantined={table.max_quarantined:g}"
        faults.append(
            f"{counted_of(quarantined, delivery.rows, 'row')} are invalid ({share}), more than {allowed} allows"
        )
    return faults


def _faults_of(table: Table, expectation: Expectation, tally: Tally) -> Iterator[str]:
    """Why one expectation refuses the delivery. Great Expectations' `success` ignores severity."""
    if tally.failed <= tally.failed_before:
        return
    row, value = tally.examples[0]
    if expectation.severity == "critical":
        broken = f"{counted_of(tally.failed, tally.checked, 'row')} break “{expectation.rule}”"
        yield f"{expectation.column}: {broken}; row {row}: {value!r}"
    elif expectation.name == "type":
        own = table.columns[expectation.column].max_unreadable
        limit = table.max_unreadable if own is None else own
        if tally.failed > limit * tally.checked:
            lost = f"{tally.failed:,} of {tally.checked:,} cells cannot be read as a {expectation.rule}"
            yield f"{expectation.column}: {lost}, more than max_unreadable={limit:g} allows; row {row}: {value!r}"


def count_unreadable(tallies: Tallies) -> int:
    return sum(tally.failed for expectation, tally in tallies.items() if expectation.name in ("type", "line"))


def freshness_faults(table: Table, watermark: datetime | None, as_of: datetime) -> list[str]:
    """Why the table is too old at `as_of`; empty if it is not. Times are naive UTC."""
    if table.freshness is None or (watermark is not None and as_of - watermark <= table.freshness):
        return []
    return [f"{table.time}: the newest is {watermark}, more than {table.freshness} before {as_of:%Y-%m-%d %H:%M} UTC"]


def in_order_of_reference(problem: Namespace) -> list[Table]:
    """Sort tables so that each follows those that its `in_table` columns refer to. Raises ProblemError for a cycle."""
    remaining = {
        table.name: {c.in_table for c in table.columns.values() if c.in_table} - {table.name}
        for table in problem.tables
    }
    ordered: list[str] = []
    while remaining:
        ready = [name for name, needs in remaining.items() if needs <= set(ordered)]
        if not ready:
            what = f"cyclic references, or references to a missing table: {', '.join(sorted(remaining))}"
            raise ProblemError(problem.name, [Fault("tables", what, "remove one in_table")])
        ordered += ready
        remaining = {name: needs for name, needs in remaining.items() if name not in ready}
    return [problem.table(name) for name in ordered]


def result_key(problem: str, table: str, delivery: int) -> str:
    return f"reports/{problem}/validation/{table}/{delivery}.json"


def page_key(problem: str) -> str:
    return f"reports/{problem}/validation.html"


def result_keys(problem: str, table: str, delivery: int, digest: str) -> list[str]:
    """The possible keys of a delivery's result with this SHA-256: as the newest one, and as a replaced one."""
    newest = result_key(problem, table, delivery)
    return [newest, f"{newest.removesuffix('.json')}-{digest[:16]}.json"]


def result_bytes(result: ValidationResult) -> bytes:
    return result.model_dump_json(indent=1).encode()


def save_result(store: ObjectStore, result: ValidationResult) -> None:
    """Store a result as the delivery's newest. Keep the previous one under another key: a commit may refer to it."""
    key, data = result_key(result.problem, result.table, result.delivery.number), result_bytes(result)
    if store.exists(key) and (before := store.get(key)) != data:
        store.put(result_keys(result.problem, result.table, result.delivery.number, sha256(before))[1], before)
    store.put(key, data)


def read_result(store: ObjectStore, problem: str, table: str, delivery: int) -> ValidationResult | None:
    try:
        return ValidationResult.model_validate_json(store.get(result_key(problem, table, delivery)))
    except NotFound:
        return None


def refused_numbers(tables: Tables, problem: Namespace, table: Table, known: Sequence[Delivery]) -> set[int]:
    """The numbers of the refused deliveries of a table."""
    taken, _ = deliveries.accepted_deliveries(tables, problem.name, table.name)
    newest = max(taken, default=-1)
    refused = {d.number for d in known if d.number < newest} - taken.keys()
    for delivery in known:
        if delivery.number > newest:  # validated and refused, or not validated yet
            result = read_result(tables.store, problem.name, table.name, delivery.number)
            refused |= {delivery.number} if result is not None and result.refused else set()
    return refused


def standing_refusals(tables: Tables, problem: str, table: str) -> list[ValidationResult]:
    """Results of the refused deliveries that are the newest of their place. The sender of pushed rows has the answer:
    they are left out."""
    known, _ = deliveries.read_deliveries(tables, problem, table)
    taken, _ = deliveries.accepted_deliveries(tables, problem, table)
    newest = [d for d in deliveries.newest_by_place(known).values() if not deliveries.is_push(d)]
    refused = [d for d in newest if d.number not in taken]
    results = (read_result(tables.store, problem, table, d.number) for d in refused)
    return [result for result in results if result is not None and result.refused]


def newest_results(tables: Tables, problem: Namespace) -> list[ValidationResult]:
    """For every validated table, in the problem's order: the result of the newest accepted delivery, and those of its
    refused ones."""
    results = []
    for table in problem.tables:
        taken, _ = deliveries.accepted_deliveries(tables, problem.name, table.name)
        if taken and (result := read_result(tables.store, problem.name, table.name, max(taken))) is not None:
            results.append(result)
        results += standing_refusals(tables, problem.name, table.name)
    return results


def save_page(tables: Tables, problem: Namespace) -> str:
    """Write the page of all tables to storage. Return its key."""
    tables.store.put(page_key(problem.name), render_page(problem.name, newest_results(tables, problem)).encode())
    return page_key(problem.name)


def render_page(problem: str, results: list[ValidationResult], root: str = "") -> str:
    """Render the page. `root`: the relative path from the page's folder to the problem's reports."""
    return render("validation.html", problem=problem, results=results, root=root)
