"""Ship the predictions logged on this machine, and compact the log's small files."""

import logging

from prefect import task

from tasks.retry import RETRY
from truecourse.serving import log_shipping
from truecourse.serving.prediction_log import SEARCHED, log_table
from truecourse.storage.delta_tables import Tables

log = logging.getLogger("truecourse.log")


@task(name="ship", **RETRY)
def ship_log(problem: str) -> int:
    """Ship logged predictions; returns their number, 0 also while an endpoint's own shipper is running."""
    shipment = log_shipping.ship(problem)
    log.info(shipment.sentence)
    return shipment.records


@task(name="gather files", **RETRY)
def gather_files(problem: str) -> int:
    """Merge the log's files, one per shipment; returns the number of merged files. Rows do not change."""
    tables, name = Tables(), log_table(problem)
    return tables.compact(name, SEARCHED) if tables.exists(name) else 0
