"""Ingest: every table's new sources into its raw table."""

from prefect import flow

from tasks.ingest import ingest_table
from truecourse.loading import load_problem
from truecourse.references import TableVersion


@flow(name="ingest")
def ingest(problem: str | None = None) -> dict[str, TableVersion]:
    """Read what is new of every table's sources; sources read before, byte for byte, are passed over.

    Args:
        problem: a folder of `problems/`; the settings' default if empty.

    Returns the raw version of every table. Raises SourceError for a source that cannot be read: its table stays as
    it was.
    """
    spec = load_problem(problem)
    return {table.name: ingest_table(spec.name, table.name) for table in spec.tables}
