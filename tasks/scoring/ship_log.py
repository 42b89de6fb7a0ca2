"""Ship what endpoints logged on this machine, and gather the log's many small files."""

import logging

from prefect import task

from tasks.retry import RETRY
from truecourse.serving import log_shipping
from truecourse.serving.prediction_log import log_table
from truecourse.storage.tables import Tables

log = logging.getLogger("truecourse.log")


@task(name="ship", **RETRY)
def ship_log(problem: str) -> int:
    """The number of predictions shipped; 0 as well while a shipper beside an endpoint is at it."""
    shipment = log_shipping.ship(problem)
    log.info("%s predictions shipped", f"{shipment.records:,}")
    return shipment.records


@task(name="gather files", **RETRY)
def gather_files(problem: str) -> int:
    """Every shipment is a file of its own; the number of those that were put together. The rows stay as they are."""
    tables, name = Tables(), log_table(problem)
    return tables.compact(name) if tables.exists(name) else 0
