"""Publish the feature catalogue among the reports, after feature tables or model versions changed."""

from prefect import task

from tasks.retry import RETRY
from truecourse.catalogue import page
from truecourse.monitoring.dashboard import index
from truecourse.problem.loader import load_problem
from truecourse.storage.delta_tables import Tables


@task(name="feature catalogue", **RETRY)
def publish_features(problem: str) -> str:
    """Write the catalogue of the problem, the page of all problems, and the index; returns the page's key."""
    tables = Tables()
    key = page.publish(tables, load_problem(problem))
    index.publish(tables.store)
    return key
