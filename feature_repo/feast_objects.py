"""Feast's entities and feature views, compiled from a problem."""

from typing import Any

from feature_repo.aggregation_tags import tags_of
from truecourse.errors import Fault, ProblemError
from truecourse.features.asof import CREATED, EVENT
from truecourse.features.definition_digests import feature_table
from truecourse.problem import Aggregations, Problem
from truecourse.problem.definition import AnyView
from truecourse.problem.schema import AnyColumn, Boolean, Float, Integer, Text
from truecourse.settings import Settings


def feast_objects(problem: Problem, settings: Settings) -> dict[str, Any]:
    """Feast objects by Python name: an entity for each join key, a source and a feature view for each view."""
    entities = {key: _entity(problem, key) for view in problem.views for key in join_keys(problem, view)}
    objects = {f"entity_{key}": entity for key, entity in entities.items()}
    for view in problem.views:
        source = _source(problem, view, settings)
        objects |= {f"source_{view.name}": source, f"view_{view.name}": _view(problem, view, entities, source)}
    return objects


def join_keys(problem: Problem, view: AnyView) -> tuple[str, ...]:
    return problem.entity(view.entity).join_keys


def key_column(problem: Problem, key: str) -> AnyColumn:
    """The declared column of an entity's key. Raises ProblemError if the request has no such field."""
    column = problem.request_fields.get(key)
    if column is None:
        raise ProblemError(
            problem.name, [Fault(f"entity key {key}", "is not a request field", "declare it in `request`")]
        )
    return column


def _dtype(column: AnyColumn) -> Any:
    from feast import types

    for kind, dtype in ((Text, types.String), (Integer, types.Int64), (Float, types.Float64), (Boolean, types.Bool)):
        if isinstance(column, kind):
            return dtype
    return types.UnixTimestamp


def _entity(problem: Problem, key: str) -> Any:
    from feast import Entity

    column = key_column(problem, key)
    return Entity(
        name=key,
        join_keys=[key],
        value_type=_dtype(column).to_value_type(),
        description=column.description or key,
        owner=problem.owner,
    )


def _source(problem: Problem, view: AnyView, settings: Settings) -> Any:
    from feast import FileSource
    from feast.data_format import DeltaFormat

    return FileSource(
        name=f"{view.name}_table",
        path=f"{settings.storage_root}/{feature_table(problem, view.name)}",
        file_format=DeltaFormat(),
        s3_endpoint_override=settings.s3_endpoint or None,
        timestamp_field=EVENT,
        created_timestamp_column=CREATED,
        description=view.description,
        owner=problem.owner_of(view),
        tags=_tags(problem, view),
    )


def _tags(problem: Problem, view: AnyView) -> dict[str, str]:
    """Tags of Feast's source and view: those that are declared, each with the value "true", and Truecourse's own."""
    own = tags_of(view, problem.view_columns(view)) if isinstance(view, Aggregations) else {}
    return dict.fromkeys(view.tags, "true") | own


def _view(problem: Problem, view: AnyView, entities: dict[str, Any], source: Any) -> Any:
    from feast import FeatureView, Field

    keys = join_keys(problem, view)
    columns = {key: key_column(problem, key) for key in keys} | problem.view_columns(view)
    return FeatureView(
        name=view.name,
        entities=[entities[key] for key in keys],
        ttl=view.ttl,
        schema=[Field(name=n, dtype=_dtype(c), description=c.description) for n, c in columns.items()],
        source=source,
        online=True,
        offline=False,  # if True, materialize would write back to the source
        description=view.description,
        owner=problem.owner_of(view),
        tags=_tags(problem, view),
    )
