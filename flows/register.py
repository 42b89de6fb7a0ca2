"""Evaluate the newest model, register it, and promote it if its gates pass."""

from prefect import flow

from tasks.hooks import hooks
from tasks.monitoring.publish_control_page import publish_control
from tasks.monitoring.publish_features import publish_features
from tasks.naming import run_name
from tasks.open_problem import open_problem
from tasks.release.register import find_registered, register_model
from tasks.training.evaluate_model import evaluate_model
from truecourse.references import ModelVersion
from truecourse.registry.runs import trained_run


@flow(name="register", flow_run_name=run_name, **hooks())
def register(problem: str | None = None, run_id: str | None = None) -> ModelVersion:
    """Evaluate a trained model on test rows and by the problem's gates, and register it as a version.

    Args:
        problem: a folder of `problems/`; the settings' default if empty.
        run_id: the MLflow run of the training; the newest finished one if empty.

    The version becomes challenger, and champion if every gate passes. The champion stays if a gate fails, or if the
    problem requires approval: `promote` asks for it. A run that was registered before is evaluated again only if the
    gates have changed since. Raises ModelError if nothing was trained.
    """
    name = open_problem(problem).name
    run = trained_run(name, run_id)
    version = find_registered(run)
    if version is None:
        version = register_model(run, evaluate_model(name, run))
        publish_features(name)
        publish_control(name)
    return version
