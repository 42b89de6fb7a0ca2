"""Ingest every table's new deliveries into its raw table."""

from prefect import flow

from tasks.data.ingest import ingest_table
from tasks.hooks import hooks
from tasks.naming import run_name
from tasks.open_problem import open_problem_or_area
from truecourse.data.sql import table_label
from truecourse.errors import SourceError
from truecourse.references import TableVersion


@flow(name="ingest", flow_run_name=run_name, **hooks())
def ingest(problem: str | None = None, area: str | None = None) -> dict[str, TableVersion]:
    """Read the new contents of every table's sources, first of the areas whose views the problem uses. A source whose
    content has not changed is skipped.

    Args:
        problem: a folder of `problems/`; the settings' default if empty.
        area: a folder of `feature_views/`, instead of a problem.

    Returns the raw version of every table; tables of areas as `area.table`. Raises SourceError for sources that cannot
    be read, after all others were ingested.
    """
    spec = open_problem_or_area(problem, area)
    versions: dict[str, TableVersion] = {}
    errors: list[SourceError] = []
    for namespace in spec.namespaces:
        for table in namespace.tables:
            try:
                versions[table_label(spec, namespace, table)] = ingest_table(namespace.name, table.name)
            except SourceError as error:
                errors.append(error)
    if len(errors) == 1:
        raise errors[0]
    if errors:
        raise SourceError("\n  ".join(map(str, errors)), where=f"problem {spec.name}")
    return versions
