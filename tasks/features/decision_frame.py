"""Decisions with their features as of each decision time (point in time)."""

from collections.abc import Mapping

import pyarrow as pa

from feature_repo.store import historical_features
from truecourse.errors import FeatureError, NotFound
from truecourse.features import frame as frames
from truecourse.features.definition_digests import feature_table
from truecourse.problem import Problem
from truecourse.references import TableVersion, Window
from truecourse.storage.delta_tables import Tables

Versions = Mapping[str, TableVersion]


def feature_versions(problem: Problem, tables: Tables, clean: Versions) -> dict[str, TableVersion]:
    """The newest version of every feature table. Raises NotFound for a view that was never computed,
    FeatureError for one that is older than its source tables."""
    versions: dict[str, TableVersion] = {}
    hint = f"truecourse run materialize --problem {problem.name}"
    for view in problem.views:
        version = tables.version(feature_table(problem, view.name))
        if version is None:
            raise NotFound("the view was never computed", where=f"{problem.name}.{view.name}", hint=hint)
        _, commit = tables.commits(version.name)[-1]
        current = {reference.name: reference for reference in clean.values()}
        for item in map(TableVersion.model_validate, commit.get("inputs", ())):
            if item.name in current and item != current[item.name]:
                what = f"was computed from {item}, but the table is at version {current[item.name].version}"
                raise FeatureError(what, where=f"{problem.name}.{view.name}", hint=hint)
        versions[view.name] = version
    return versions


def decision_frame(
    problem: Problem, tables: Tables, clean: Versions, features: Versions, window: Window | None = None
) -> pa.Table:
    """Every decision of the window with its request fields, and its features as of the decision time."""
    spine = frames.add_request_features(problem, frames.read_spine(problem, tables, clean, window))
    return with_view_features(problem, tables, spine, features)


def with_view_features(problem: Problem, tables: Tables, spine: pa.Table, features: Versions) -> pa.Table:
    if not problem.views:
        return spine
    return frames.sort_frame(historical_features(problem, tables, spine, features))
