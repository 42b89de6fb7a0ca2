"""Update Feast's registry and online store from the feature tables."""

import logging
from datetime import datetime

from prefect import task

from tasks.features.trained_features import (
    archived_problem_of,
    training_contract,
)
from tasks.retry import RETRY
from truecourse.errors import FeatureError, TruecourseError
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
    were trained on. Features whose values are unknown after an edit of the tables are logged."""
    spec, now = load_problem(problem), aliases.current(problem)
    running = [now.champion, now.challenger if now.shadow or now.share > 0 else None]
    return [one.version for one in running if one is not None and _load_trained_views(spec, one, until)]


def _load_trained_views(problem: Problem, version: ModelVersion, until: datetime) -> bool:
    """Load the views as the version was trained on them; returns False if they are the same as today's."""
    number = version.version
    try:
        defined = training_contract(version).definitions
        if not redefined_features(problem, defined, defined):
            return False
        with archived_problem_of(version) as own:
            names = [name for view in own.views for name in view.features]
            other = redefined_features(problem, defined, names)
            loaded = [_load_trained_view(own, view.name, number, until) for view in own.views if other]
            return any(loaded)
    except TruecourseError as error:
        log.warning("version %d gets no new values of the features it was trained on: %s", number, error)
        return False


def _load_trained_view(own: Problem, view: str, number: int, until: datetime) -> bool:
    """Load a view as a version was trained on it; returns False, and logs why, if its values are unknown."""
    from feature_repo.online_loading import load_online

    try:
        compute_view(own, Tables(), view)
    except FeatureError as error:
        log.warning("version %d gets no new values of view %s: %s", number, view, error)
        return False
    load_online(own, Tables(), view, until)
    return True
