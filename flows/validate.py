"""Validate: new raw rows into clean tables; bad rows, with their reasons, into quarantine."""

from datetime import datetime

from prefect import flow

from tasks.validate import publish, validate_table
from truecourse.loading import load_problem
from truecourse.references import TableVersion
from truecourse.validation import in_order_of_reference


@flow(name="validate")
def validate(problem: str | None = None, as_of: datetime | None = None) -> dict[str, TableVersion]:
    """Check every table's new rows against its declared schema, referenced tables first.

    Args:
        problem: a folder of `problems/`; the settings' default if empty.
        as_of: the moment (UTC) that freshness is measured at; now if empty.

    Returns the clean version of every table. Raises ValidationFailed if a critical expectation breaks: that table
    stays as it was. The page of results is `reports/<problem>/validation.html` in storage.
    """
    spec = load_problem(problem)
    results = [validate_table(spec.name, table.name, as_of) for table in in_order_of_reference(spec)]
    publish(spec.name)
    return {result.table: result.clean for result in results if result.clean is not None}
