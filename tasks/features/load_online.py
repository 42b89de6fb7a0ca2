"""Update Feast's registry and online store from the feature tables."""

import logging
from datetime import datetime

from prefect import task

from tasks.features.trained_features import (
    archived_problem_of,
    features_of_reparsed_tables,
    list_names,
    training_contract,
)
from tasks.retry import RETRY
from truecourse.errors import TruecourseError
from truecourse.features.definition_digests import redefined_features
from truecourse.features.feature_tables import compute_view
from truecourse.problem import Problem
from truecourse.problem.loader import load_namespace, load_problem
from truecourse.references import ModelVersion
from truecourse.registry import aliases
from truecourse.storage.delta_tables import Tables

log = logging.getLogger("truecourse.online")


@task(name="apply definitions", **RETRY)
def apply_definitions(problem: str) -> None:
    """Register the problem's entities and views with Feast."""
    from feature_repo.store import apply

    apply(load_namespace(problem))


@task(name="load view", task_run_name="load {view}", **RETRY)
def load_view(problem: str, view: str, until: datetime) -> int:
    """Write the values as of `until` (UTC) for keys that changed since the last load; returns the number of keys."""
    from feature_repo.online_loading import load_online

    rows = load_online(load_namespace(problem), Tables(), view, until)
    log.info("%s: %s keys as of %s", view, f"{rows:,}", until)
    return rows


@task(name="load for models in use", **RETRY)
def load_for_models(problem: str, until: datetime) -> list[int]:
    """Load the features of running versions that were trained on older view definitions; returns the version numbers.

    Running versions are the champion and a challenger with traffic. Their features are computed by the definitions they
    were trained on. Features that cannot be computed any more are logged."""
    spec, now = load_problem(problem), aliases.current(problem)
    running = [now.champion, now.challenger if now.shadow or now.share > 0 else None]
    return [one.version for one in running if one is not None and _load_trained_views(spec, one, until)]


def _load_trained_views(problem: Problem, version: ModelVersion, until: datetime) -> bool:
    """Load the views as the version was trained on them; returns False if they are the same as today's."""
    from feature_repo.online_loading import load_online

    number = version.version
    try:
        defined = training_contract(version).definitions
        if not redefined_features(problem, defined, defined):
            return False
        with archived_problem_of(version) as own:
            names = [name for view in own.views for name in view.features]
            other = redefined_features(problem, defined, names)
            if lost := features_of_reparsed_tables(problem, own, other):
                message = "version %d gets no new values of %s: their source tables are stored in another form now"
                log.warning(message, number, list_names(lost))
            views = [view for view in own.views if not set(view.features) & set(lost)] if other else []
            for view in views:
                compute_view(own, Tables(), view.name)
                load_online(own, Tables(), view.name, until)
    except TruecourseError as error:
        log.warning("version %d gets no new values of the features it was trained on: %s", number, error)
        return False
    return bool(views)
