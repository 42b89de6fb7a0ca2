"""Search the declared parameter space."""

from datetime import datetime
from typing import Any

from prefect import flow

from tasks.hooks import hooks
from tasks.naming import run_name
from tasks.open_problem import open_problem
from tasks.training.build_snapshot import take_snapshot
from tasks.training.tune import search_parameters


@flow(name="tune", flow_run_name=run_name, **hooks())
def tune(
    problem: str | None = None,
    trials: int | None = None,
    until: datetime | None = None,
    minutes: float | None = None,
    workers: int = 1,
    feature_groups: bool = False,
) -> dict[str, Any]:
    """Search the problem's parameter space on training rows only, and store the best set for `train` with tune=True.

    Args:
        problem: a folder of `problems/`; the settings' default if empty.
        trials: how many parameter sets to try in all; the problem's own number if this and `minutes` are empty.
        until: the time (UTC) up to which labels count; if empty the newest label, or the data's end
            with `clock="data"`.
        minutes: begin no further trial after this time.
        workers: how many processes make trials; with one, the same trials are made each time.
        feature_groups: also search which groups of features to use: each view, the request, computed fields.

    Every trial is an MLflow run. An interrupted search continues where it stopped. Raises ModelError if the problem
    declares no search space.
    """
    name = open_problem(problem).name
    return search_parameters(name, take_snapshot(name, until), trials, minutes, workers, feature_groups)
