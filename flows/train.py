"""Take a training snapshot and train a model on it."""

from datetime import datetime

from prefect import flow

from tasks.hooks import hooks
from tasks.naming import run_name
from tasks.open_problem import open_problem
from tasks.training.build_snapshot import take_snapshot
from tasks.training.train import train_model
from tasks.training.tune import search_parameters
from truecourse.authoring.checks.run_checks import require_valid
from truecourse.references import TrainedRun


@flow(name="train", flow_run_name=run_name, **hooks())
def train(
    problem: str | None = None,
    until: datetime | None = None,
    tune: bool = False,
    trials: int | None = None,
    moved: datetime | None = None,
) -> TrainedRun:
    """Join features to labels point in time, store the frame as a snapshot, and train on it.

    Args:
        problem: a folder of `problems/`; the settings' default if empty.
        until: the time (UTC) up to which labels count; if empty the newest label, or the data's end
            with `clock="data"`.
        tune: search the declared parameter space first.
        trials: how many parameter sets to try; the problem's own number if empty.
        moved: the time (UTC) that a split by time moves to (see `Retraining`); the problem's own dates if empty.

    The same snapshot and parameters are not trained twice. Raises FeatureError if a feature table is older than its
    source tables, LookAheadError if SQL reads data that was not known yet. Raises ModelError for labels that cannot be
    learned.
    """
    spec = open_problem(problem)
    require_valid(spec)
    name = spec.name
    snapshot = take_snapshot(name, until, moved)
    if tune:
        search_parameters(name, snapshot, trials)
    return train_model(name, snapshot, tuned=tune)
