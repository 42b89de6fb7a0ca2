"""Ship the prediction log to object storage, without waiting for the endpoint's own log shipper."""

from prefect import flow

from tasks.hooks import hooks
from tasks.monitoring.check_drift import update_daily_histograms
from tasks.naming import run_name
from tasks.open_problem import open_problem
from tasks.scoring.ship_log import gather_files, ship_log


@flow(name="ship", flow_run_name=run_name, **hooks())
def ship(problem: str | None = None) -> dict[str, int]:
    """Ship the predictions logged on this machine, each exactly once.

    It also compacts the log's small files, and updates the daily histograms of the drift check.

    Args:
        problem: a folder of `problems/`; the settings' default if empty.

    Each endpoint has a process that ships continuously. This flow ships what that process left, and keeps the table
    fast to read.
    """
    name = open_problem(problem).name
    shipped = ship_log(name)
    gathered = gather_files(name)
    update_daily_histograms(name)
    return {"shipped": shipped, "files_gathered": gathered}
