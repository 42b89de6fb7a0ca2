"""Validate new deliveries: valid rows go to the clean tables, invalid rows with their reasons to quarantine."""

from datetime import datetime

from prefect import flow

from tasks.data.validate import publish, validate_table
from tasks.naming import run_name
from tasks.open_problem import open_problem
from tasks.process import note_process
from truecourse.data.validation_report import TableResult, in_order_of_reference, require_accepted
from truecourse.errors import TruecourseError, ValidationFailed
from truecourse.references import TableVersion


@flow(name="validate", flow_run_name=run_name, on_running=[note_process])
def validate(
    problem: str | None = None, as_of: datetime | None = None, recheck: bool = False
) -> dict[str, TableVersion]:
    """Check each new delivery of every table against the declared schema; referenced tables come first.

    Args:
        problem: a folder of `problems/`; the settings' default if empty.
        as_of: the time (UTC) at which freshness is measured; now if empty.
        recheck: check stored rows by the current rules too, and quarantine those that break them.

    Returns the clean version of every table. A delivery that breaks a critical expectation or a limit is refused; the
    others are not affected. Raises ValidationFailed at the end if this run refused one, or a table is stale; it also
    lists earlier refusals. The page of results is `reports/<problem>/validation.html` in storage.
    """
    spec = open_problem(problem)
    results: list[TableResult] = []
    waiting: set[str] = set()
    try:
        for table in in_order_of_reference(spec):
            if waiting & {column.in_table for column in table.columns.values()}:
                waiting.add(table.name)  # a table that it references has no accepted rows yet
                continue
            result = validate_table(spec.name, table.name, as_of, recheck)
            results.append(result)
            waiting |= {table.name} if result.clean is None else set()
    except TruecourseError:
        publish(spec.name)
        raise
    publish(spec.name)
    require_accepted(spec.name, results)
    if waiting:
        refusals = [result.sentence() for one in results for result in one.refused]
        what = f"no delivery was ever accepted for {', '.join(sorted(waiting))}:\n  " + "\n  ".join(refusals)
        raise ValidationFailed(what, where=f"problem {spec.name}", hint="correct the files and run ingest again")
    return {result.table: result.clean for result in results if result.clean is not None}
