"""The stages of a problem as plain functions: the tasks' own functions without Prefect."""

from collections.abc import Callable
from datetime import datetime
from typing import Any

from truecourse.problem import Problem, TimeSplit
from truecourse.problem.definition import midnight
from truecourse.problem.loader import load_problem
from truecourse.references import Window
from truecourse.storage.delta_tables import Tables

Stage = Callable[[Problem], Any]


def ingest(problem: Problem) -> None:
    from tasks.data.ingest import ingest_table

    for namespace in problem.namespaces:
        for table in namespace.tables:
            ingest_table.fn(namespace.name, table.name)


def validate(problem: Problem) -> None:
    from tasks.data.validate import publish, validate_table
    from truecourse.data.validation_report import in_order_of_reference

    for namespace in problem.namespaces:
        for table in in_order_of_reference(namespace):
            validate_table.fn(namespace.name, table.name, None)
        publish.fn(namespace.name)


def compute_views(problem: Problem) -> None:
    from tasks.features.compute_features import compute_view

    for view in problem.views:
        compute_view.fn(problem.namespace_of(view.name).name, view.name)


def materialize(problem: Problem) -> None:
    from tasks.features.load_online import apply_definitions, load_view
    from truecourse.features.feature_tables import newest_event

    compute_views(problem)
    if problem.views:
        apply_definitions.fn(problem.name)
        for owner in problem.view_owners:
            moment = newest_event(owner, Tables())
            for view in owner.own_views:
                load_view.fn(owner.name, view.name, moment)


def train(problem: Problem) -> None:
    from tasks.training.build_snapshot import take_snapshot
    from tasks.training.train import train_model

    train_model.fn(problem.name, take_snapshot.fn(problem.name, None), tuned=False)


def register(problem: Problem) -> None:
    from tasks.release.register import register_model
    from tasks.training.evaluate_model import evaluate_model
    from truecourse.registry.runs import trained_run

    run = trained_run(problem.name)
    register_model.fn(run, evaluate_model.fn(problem.name, run))


def package(problem: Problem) -> None:
    from tasks.release.package import package_model

    package_model.fn(problem.name, None)


def score(problem: Problem) -> None:
    from tasks.monitoring.check_drift import update_daily_histograms
    from tasks.scoring.score_decisions import score_decisions

    score_decisions.fn(problem.name, None, Window(start=first_unseen(problem)), False)
    update_daily_histograms.fn(problem.name)


def monitor(problem: Problem) -> None:
    from tasks.monitoring.check_drift import check_drift
    from tasks.monitoring.check_health import (
        check_endpoint,
        check_machine,
        check_pipelines,
        check_registry,
        publish_health,
    )
    from tasks.monitoring.check_quality import check_quality
    from tasks.monitoring.check_skew import check_skew
    from tasks.monitoring.clean_up import clean_up
    from tasks.monitoring.publish_control_page import publish_control

    checks = check_drift, check_quality, check_skew, check_pipelines, check_endpoint, check_machine, check_registry
    for step in (*checks, publish_health, publish_control, clean_up):
        step.fn(problem.name)


STAGES: dict[str, Stage] = {
    "ingest": ingest, "validate": validate, "materialize": materialize, "train": train, "register": register,
    "package": package, "score": score, "monitor": monitor,
}  # fmt: skip


def first_unseen(problem: Problem) -> datetime | None:
    """The first decision time that is used neither for training nor for model selection."""
    return midnight(problem.split.validate_until) if isinstance(problem.split, TimeSplit) else None


def run_stage(problem: str, name: str) -> Callable[[], None]:
    """A function to measure: it runs one stage of a problem, after those before it have run."""
    spec = load_problem(problem)

    def run() -> None:
        STAGES[name](spec)

    return run


def prepare(problem: str, until: str) -> None:
    """Run every stage up to and including `until`, without Prefect; stages skip what is already done."""
    spec = load_problem(problem)
    for name, stage in STAGES.items():
        stage(spec)
        if name == until:
            return
