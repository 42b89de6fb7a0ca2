"""Validate new deliveries: valid rows go to the clean tables, invalid rows with their reasons to quarantine."""

from datetime import datetime

from prefect import flow

from tasks.data.validate import publish, validate_table
from tasks.hooks import hooks
from tasks.naming import run_name
from tasks.open_problem import open_problem_or_area
from truecourse.data.sql import table_label
from truecourse.data.validation_report import TableResult, in_order_of_reference, require_accepted
from truecourse.errors import TruecourseError, ValidationFailed
from truecourse.problem.namespace import Namespace
from truecourse.references import TableVersion


@flow(name="validate", flow_run_name=run_name, **hooks())
def validate(
    problem: str | None = None, as_of: datetime | None = None, recheck: bool = False, area: str | None = None
) -> dict[str, TableVersion]:
    """Check each new delivery of every table against the declared schema; referenced tables come first. The tables of
    areas whose views the problem uses are checked before its own.

    Args:
        problem: a folder of `problems/`; the settings' default if empty.
        as_of: the time (UTC) at which freshness is measured; now if empty.
        recheck: check stored rows by the current rules too, and quarantine those that break them.
        area: a folder of `feature_views/`, instead of a problem.

    Returns the clean version of every table; tables of areas as `area.table`. A delivery that breaks a critical
    expectation or a limit is refused; the others are not affected. Raises ValidationFailed at the end if this run
    refused one, or a table is stale; it also lists earlier refusals. The page of results is
    `reports/<problem>/validation.html` in storage.
    """
    spec = open_problem_or_area(problem, area)
    versions: dict[str, TableVersion] = {}
    failed: list[ValidationFailed] = []
    for namespace in spec.namespaces:
        try:
            validated = _validate_tables(namespace, as_of, recheck)
        except ValidationFailed as error:
            failed.append(error)
            continue
        versions |= {table_label(spec, namespace, namespace.table(name)): one for name, one in validated.items()}
    if len(failed) > 1:
        raise ValidationFailed("\n".join(map(str, failed)), where=f"problem {spec.name}")
    if failed:
        raise failed[0]
    return versions


def _validate_tables(namespace: Namespace, as_of: datetime | None, recheck: bool) -> dict[str, TableVersion]:
    """Validate the tables of a problem or area; returns their clean versions by name."""
    results: list[TableResult] = []
    waiting: set[str] = set()
    try:
        for table in in_order_of_reference(namespace):
            if waiting & {column.in_table for column in table.columns.values()}:
                waiting.add(table.name)  # a table that it references has no accepted rows yet
                continue
            result = validate_table(namespace.name, table.name, as_of, recheck)
            results.append(result)
            waiting |= {table.name} if result.clean is None else set()
    except TruecourseError:
        publish(namespace.name)
        raise
    publish(namespace.name)
    require_accepted(namespace.name, results)
    if waiting:
        refusals = [result.sentence() for one in results for result in one.refused]
        what = f"no delivery was ever accepted for {', '.join(sorted(waiting))}:\n  " + "\n  ".join(refusals)
        raise ValidationFailed(what, where=f"problem {namespace.name}", hint="correct the files and run ingest again")
    return {result.table: result.clean for result in results if result.clean is not None}
