"""What validation found in one batch of one table: the document, where it is kept, and the page made of it."""

from collections import defaultdict
from datetime import datetime

from truecourse.errors import Fault, NotFound, ProblemError
from truecourse.expectations import Tallies
from truecourse.pages import render
from truecourse.problem import Problem
from truecourse.references import Reference, TableVersion
from truecourse.schema import Severity, Table
from truecourse.storage import ObjectStore


class Example(Reference):
    """A failing row: `row` is its `_tc_row`, the running number in the raw table."""

    row: int
    value: str | None


class Outcome(Reference):
    """One expectation over the whole batch."""

    column: str
    name: str
    rule: str
    severity: Severity
    checked: int
    failed: int
    examples: tuple[Example, ...]


class Counts(Reference):
    """Every row of a batch is in exactly one of the last four."""

    rows_in: int
    inserted: int = 0
    corrected: int = 0
    unchanged: int = 0
    quarantined: int = 0

    def document(self) -> dict[str, int]:
        accounted = self.inserted + self.corrected + self.unchanged + self.quarantined
        assert self.rows_in == accounted, f"{self.rows_in} rows in, {accounted} accounted for"
        return {"in": self.rows_in, **self.model_dump(exclude={"rows_in"})}


class ValidationResult(Reference):
    """`clean` is None, and `stopped` says why, where the flow stopped and nothing was written."""

    problem: str
    table: str
    raw: TableVersion
    clean: TableVersion | None
    rows: Counts
    total: int
    """Rows held to be true after the batch."""
    watermark: datetime | None
    validated_at: datetime
    outcomes: tuple[Outcome, ...]
    stopped: tuple[str, ...] = ()

    @property
    def failing(self) -> list[Outcome]:
        return [outcome for outcome in self.outcomes if outcome.failed]


def outcomes(tallies: Tallies) -> tuple[Outcome, ...]:
    return tuple(
        Outcome(
            column=expectation.column,
            name=expectation.name,
            rule=expectation.rule,
            severity=expectation.severity,
            checked=tally.checked,
            failed=tally.failed,
            examples=tuple(Example(row=row, value=value) for row, value in tally.examples),
        )
        for expectation, tally in tallies.items()
    )


def reasons_by_row(tallies: Tallies) -> dict[int, list[dict[str, str | None]]]:
    """Why each bad row goes to quarantine: every `warning` it fails."""
    reasons: dict[int, list[dict[str, str | None]]] = defaultdict(list)
    for expectation, tally in tallies.items():
        for row, value in tally.failures:
            reasons[row].append({"column": expectation.column, "expectation": expectation.name, "value": value})
    return dict(sorted(reasons.items()))


def critical_failures(tallies: Tallies) -> list[str]:
    """Great Expectations' own `success` knows no severity: read each expectation."""
    faults = []
    for expectation, tally in tallies.items():
        if tally.failed and expectation.severity == "critical":
            row, value = tally.examples[0]
            broken = f"{tally.failed:,} of {tally.checked:,} rows break “{expectation.rule}”"
            faults.append(f"{expectation.column}: {broken}; row {row}: {value!r}")
    return faults


def stale(table: Table, watermark: datetime | None, as_of: datetime) -> list[str]:
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


def result_key(problem: str, table: str, version: int) -> str:
    return f"reports/{problem}/validation/{table}/{version}.json"


def page_key(problem: str) -> str:
    return f"reports/{problem}/validation.html"


def save_result(store: ObjectStore, result: ValidationResult) -> None:
    key = result_key(result.problem, result.table, result.raw.version)
    store.put(key, result.model_dump_json(indent=1).encode())
    store.put(key.replace(".json", ".html"), page(result.problem, [result], root="../../").encode())


def read_result(store: ObjectStore, problem: str, table: str, version: int) -> ValidationResult | None:
    try:
        return ValidationResult.model_validate_json(store.get(result_key(problem, table, version)))
    except NotFound:
        return None


def newest_results(store: ObjectStore, problem: Problem) -> list[ValidationResult]:
    """The newest result of every table that was ever validated, in the problem's order."""
    found = []
    for table in problem.tables:
        folder = f"reports/{problem.name}/validation/{table.name}/"
        versions = [int(key.removeprefix(folder)[:-5]) for key in store.list(folder) if key.endswith(".json")]
        if versions and (result := read_result(store, problem.name, table.name, max(versions))) is not None:
            found.append(result)
    return found


def save_page(store: ObjectStore, problem: Problem) -> str:
    """Write the page of all tables; its key."""
    store.put(page_key(problem.name), page(problem.name, newest_results(store, problem)).encode())
    return page_key(problem.name)


def page(problem: str, results: list[ValidationResult], root: str = "") -> str:
    """`root`: the way from the page's folder to that of the problem's reports."""
    return render("validation.html", problem=problem, results=results, root=root)
