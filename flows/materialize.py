"""Compute feature tables from clean tables, and load them into the online store."""

from datetime import datetime

from prefect import flow

from tasks.features.compute_features import compute_view
from tasks.features.load_online import apply_definitions, load_for_models, load_view
from tasks.hooks import hooks
from tasks.monitoring.publish_features import publish_features
from tasks.naming import run_name
from tasks.open_problem import open_problem_or_area
from truecourse.features.clock import data_end
from truecourse.features.feature_tables import newest_event
from truecourse.problem import Problem
from truecourse.references import TableVersion
from truecourse.storage.delta_tables import Tables


@flow(name="materialize", flow_run_name=run_name, **hooks())
def materialize(
    problem: str | None = None, until: datetime | None = None, online: bool = True, area: str | None = None
) -> dict[str, TableVersion]:
    """Update each feature view for new, late and corrected rows, and load the newest values online.

    Args:
        problem: a folder of `problems/`; the settings' default if empty.
        until: the online store gets the values known at this time (UTC); if empty the newest event of the feature
            tables, or the data's end with `clock="data"`.
        online: whether to load the online store.
        area: a folder of `feature_views/`, instead of a problem: all its views.

    Of shared views, the problem's own flow updates those that it uses, if they are out of date: each is computed and
    loaded once, whichever problem's flow comes first. Their values are loaded up to their own newest event.

    A running version that was trained on older view definitions keeps getting features by those definitions, until it
    is replaced. Returns the feature table version of each view. Raises FeatureError, which names the file, for SQL that
    does not return the columns that its view declares.
    """
    spec = open_problem_or_area(problem, area)
    versions = {view.name: compute_view(spec.namespace_of(view.name).name, view.name) for view in spec.views}
    if online and spec.views:
        apply_definitions(spec.name)
        for owner in spec.view_owners:
            moment = until or data_end(owner, Tables()) or newest_event(owner, Tables())
            for view in owner.own_views:
                load_view(owner.name, view.name, moment)
        if isinstance(spec, Problem):
            load_for_models(spec.name, until or data_end(spec, Tables()) or newest_event(spec, Tables()))
    if isinstance(spec, Problem):
        publish_features(spec.name)
    return versions
