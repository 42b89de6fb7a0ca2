"""Compute feature tables from the clean tables."""

import logging

from prefect import task
from prefect.runtime import flow_run

from tasks.retry import RETRY
from truecourse.features.feature_tables import compute_view as compute
from truecourse.problem.loader import load_namespace
from truecourse.references import TableVersion
from truecourse.storage.delta_tables import Tables

log = logging.getLogger("truecourse.features.feature_tables")


@task(name="compute view", task_run_name="compute {view}", **RETRY)
def compute_view(problem: str, view: str) -> TableVersion:
    """Update a view's feature table from the newest clean tables."""
    version = compute(load_namespace(problem), Tables(), view, run=flow_run.get_id() or "")
    log.info("%s", version)
    return version
