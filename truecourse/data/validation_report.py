"""What validation found in the deliveries of a table: the documents, where they are kept, the page made of them."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from datetime import datetime

from truecourse.data import deliveries
from truecourse.data.deliveries import Delivery
from truecourse.data.expectations import Expectation, Tallies, Tally
from truecourse.errors import Fault, NotFound, ProblemError, ValidationFailed
from truecourse.hashing import sha256
from truecourse.html import render
from truecourse.problem import Problem
from truecourse.problem.schema import Severity, Table
from truecourse.references import Reference, TableVersion
from truecourse.storage.object_store import ObjectStore
from truecourse.storage.tables import Tables
from truecourse.wording import counted, counted_of


class Example(Reference):
    """A failing row: `row` is its `_tc_row`, the running number in the raw table."""

    row: int
    value: str | None


class Outcome(Reference):
    """One expectation over a whole delivery. `quarantines`: a row that fails it goes to quarantine."""

    column: str
    name: str
    rule: str
    severity: Severity
    quarantines: bool
    checked: int
    failed: int
    examples: tuple[Example, ...]


class Counts(Reference):
    """Every row of a delivery is in exactly one of `inserted` to `quarantined`; physical lines that are no row count as
    rows. `unchanged`: the table says the same already, or something newer. `removed`: rows of the table that the
    delivery takes away. `unreadable`: cells, and lines, that could not be read."""

    rows_in: int
    inserted: int = 0
    corrected: int = 0
    unchanged: int = 0
    quarantined: int = 0
    removed: int = 0
    unreadable: int = 0

    def document(self) -> dict[str, int]:
        accounted = self.inserted + self.corrected + self.unchanged + self.quarantined
        assert self.rows_in == accounted, f"{counted(self.rows_in, 'row')} in, {accounted} accounted for"
        return {"in": self.rows_in, **self.model_dump(exclude={"rows_in"})}


class ValidationResult(Reference):
    """What validation found in one delivery. `refused` says why nothing of it was taken."""

    problem: str
    table: str
    delivery: Delivery
    raw: TableVersion
    rows: Counts
    total: int
    """Rows held to be true after the delivery."""
    watermark: datetime | None
    validated_at: datetime
    outcomes: tuple[Outcome, ...]
    refused: tuple[str, ...] = ()
    judged_by: str = ""
    """Digest of what it was judged by: the table's declaration, the tables it refers to. When that changes, a refused
    delivery is judged again."""
    because_of_table: bool = False
    """Refused for what the table would have become: it is judged again with the next delivery."""
    warnings: tuple[str, ...] = ()
    """What a person should look at, and what refuses nothing."""

    @property
    def failing(self) -> list[Outcome]:
        return [outcome for outcome in self.outcomes if outcome.failed]

    @property
    def share(self) -> float:
        """Of the delivery's rows those that went to quarantine."""
        return self.rows.quarantined / self.rows.rows_in if self.rows.rows_in else 0.0

    def sentence(self) -> str:
        """Why it was refused, for a person."""
        return (
            f"{self.problem}.{self.table}: delivery {self.delivery.number} ({self.delivery.uri}) is refused: "
            + "; ".join(self.refused)
        )


class TableResult(Reference):
    """What a run of validation did to one table. `judged`: the deliveries judged by it; `refused`: every delivery that
    stands refused after it; `stale`: why the table is too old."""

    problem: str
    table: str
    clean: TableVersion | None
    judged: tuple[ValidationResult, ...] = ()
    refused: tuple[ValidationResult, ...] = ()
    stale: tuple[str, ...] = ()

    @property
    def faults(self) -> list[str]:
        """Why the run fails; deliveries that were refused before are no new fault."""
        return [*(result.sentence() for result in self.judged if result.refused), *self.stale]


def require_accepted(problem: str, results: Sequence[TableResult]) -> None:
    """Raises ValidationFailed for deliveries that this run refused, and for stale tables."""
    faults = [fault for result in results for fault in result.faults]
    if faults:
        hint = f"see {page_key(problem)} in storage. Correct the file and run again: what comes to the same place is "
        hint += "judged by itself; or change the declaration in problem.py, and it is judged again"
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


def reasons_by_row(tallies: Tallies) -> dict[int, list[dict[str, str | None]]]:
    """Why each bad row goes to quarantine: every expectation it fails that sends it there."""
    reasons: dict[int, list[dict[str, str | None]]] = defaultdict(list)
    for expectation, tally in tallies.items():
        for row, value in tally.failures:
            reasons[row].append({"column": expectation.column, "expectation": expectation.name, "value": value})
    return dict(sorted(reasons.items()))


def refusals(table: Table, tallies: Tallies, delivery: Delivery, quarantined: int) -> list[str]:
    """Why a delivery's own rows do not let it in."""
    if delivery.fault:
        return [delivery.fault]
    faults = [fault for expectation, tally in tallies.items() for fault in _refused_by(table, expectation, tally)]
    if quarantined > table.max_quarantined * delivery.rows:
        share = f"{quarantined / delivery.rows:.1%}"
        allowed = f"max_quarantined={table.max_quarantined:g}"
        faults.append(f"{counted_of(quarantined, delivery.rows, 'row')} are bad ({share}), more than {allowed} allows")
    return faults


def _refused_by(table: Table, expectation: Expectation, tally: Tally) -> Iterator[str]:
    """Great Expectations' own `success` knows no severity: each expectation is read."""
    if not tally.failed:
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
    """`as_of` and `watermark` naive UTC."""
    if table.freshness is None or (watermark is not None and as_of - watermark <= table.freshness):
        return []
    return [f"{table.time}: the newest is {watermark}, more than {table.freshness} before {as_of:%Y-%m-%d %H:%M} UTC"]


def in_order_of_reference(problem: Problem) -> list[Table]:
    """Tables such that each comes after those its `in_table` columns refer to. Raises ProblemError for a cycle."""
    waiting = {
        table.name: {c.in_table for c in table.columns.values() if c.in_table} - {table.name}
        for table in problem.tables
    }
    ordered: list[str] = []
    while waiting:
        ready = [name for name, needs in waiting.items() if needs <= set(ordered)]
        if not ready:
            what = f"refer to each other, or to no table: {', '.join(sorted(waiting))}"
            raise ProblemError(problem.name, [Fault("tables", what, "remove one in_table")])
        ordered += ready
        waiting = {name: needs for name, needs in waiting.items() if name not in ready}
    return [problem.table(name) for name in ordered]


def result_key(problem: str, table: str, delivery: int) -> str:
    return f"reports/{problem}/validation/{table}/{delivery}.json"


def page_key(problem: str) -> str:
    return f"reports/{problem}/validation.html"


def result_keys(problem: str, table: str, delivery: int, digest: str) -> list[str]:
    """Where the report of this SHA-256 on a delivery lies: as its newest one, or set aside by a newer one."""
    newest = result_key(problem, table, delivery)
    return [newest, f"{newest.removesuffix('.json')}-{digest[:16]}.json"]


def result_bytes(result: ValidationResult) -> bytes:
    return result.model_dump_json(indent=1).encode()


def save_result(store: ObjectStore, result: ValidationResult) -> None:
    """Keep a report as the delivery's newest. One that was there before is set aside: a commit may name it."""
    key, data = result_key(result.problem, result.table, result.delivery.number), result_bytes(result)
    if store.exists(key) and (before := store.get(key)) != data:
        store.put(result_keys(result.problem, result.table, result.delivery.number, sha256(before))[1], before)
    store.put(key, data)


def read_result(store: ObjectStore, problem: str, table: str, delivery: int) -> ValidationResult | None:
    try:
        return ValidationResult.model_validate_json(store.get(result_key(problem, table, delivery)))
    except NotFound:
        return None


def standing_refusals(tables: Tables, problem: str, table: str) -> list[ValidationResult]:
    """The newest delivery of each place, where it was refused."""
    known, _ = deliveries.read_deliveries(tables, problem, table)
    taken, _ = deliveries.accepted_deliveries(tables, problem, table)
    waiting = [d for d in deliveries.newest_by_place(known).values() if d.number not in taken]
    found = (read_result(tables.store, problem, table, d.number) for d in waiting)
    return [result for result in found if result is not None and result.refused]


def newest_results(tables: Tables, problem: Problem) -> list[ValidationResult]:
    """Of every table that was ever validated, in the problem's order: the newest accepted delivery, and each that
    stands refused."""
    found = []
    for table in problem.tables:
        taken, _ = deliveries.accepted_deliveries(tables, problem.name, table.name)
        if taken and (result := read_result(tables.store, problem.name, table.name, max(taken))) is not None:
            found.append(result)
        found += standing_refusals(tables, problem.name, table.name)
    return found


def save_page(tables: Tables, problem: Problem) -> str:
    """Write the page of all tables; its key."""
    tables.store.put(page_key(problem.name), render_page(problem.name, newest_results(tables, problem)).encode())
    return page_key(problem.name)


def render_page(problem: str, results: list[ValidationResult], root: str = "") -> str:
    """`root`: the way from the page's folder to that of the problem's reports."""
    return render("validation.html", problem=problem, results=results, root=root)
