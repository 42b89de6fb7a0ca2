"""Append a table's new deliveries to its raw table."""

from prefect import task
from prefect.runtime import flow_run

from tasks.retry import RETRY
from truecourse.ingestion.ingest import ingest_sources
from truecourse.problem.loader import load_namespace
from truecourse.references import TableVersion
from truecourse.storage.delta_tables import Tables


@task(name="ingest_table", task_run_name="ingest {table}", **RETRY)
def ingest_table(problem: str, table: str) -> TableVersion:
    """Ingest the table's new deliveries; returns the raw table's version.

    Raises SourceError for new sources that cannot be read, after ingesting all others. They are recorded as refused. If
    none can be read and the table does not exist yet, nothing is written."""
    spec = load_namespace(problem)
    return ingest_sources(spec, spec.table(table), Tables(), run=str(flow_run.get_id() or ""))
