"""Publish the control page among the reports, after each run of checks."""

from prefect import task

from tasks.retry import RETRY
from truecourse.monitoring.dashboard import control_page
from truecourse.problem.loader import load_problem
from truecourse.storage.object_store import open_store


@task(name="control page", **RETRY)
def publish_control(problem: str) -> str:
    """Write the control page from the newest reports; returns its key in storage."""
    return control_page.publish(open_store(), load_problem(problem))
