"""Bring Feast's registry and online store up to the feature tables."""

import logging
from datetime import datetime

from prefect import task

from tasks.retry import RETRY
from truecourse.loading import load_problem
from truecourse.tables import Tables

log = logging.getLogger("truecourse.online")


@task(name="apply definitions", **RETRY)
def apply_definitions(problem: str) -> None:
    """Register the problem's entities and views with Feast."""
    from feature_repo.store import apply

    apply(load_problem(problem))


@task(name="load view", task_run_name="load {view}", **RETRY)
def load_view(problem: str, view: str, until: datetime) -> int:
    """Write the values known at `until` (UTC) of keys that changed since the last time; the number of keys."""
    from feature_repo.loading import load_online

    rows = load_online(load_problem(problem), Tables(), view, until)
    log.info("%s: %s keys as of %s", view, f"{rows:,}", until)
    return rows
