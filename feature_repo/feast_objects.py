"""Feast's entities and feature views, compiled from a problem."""

from typing import Any

from feature_repo.aggregation_tags import tags_of
from truecourse.errors import Fault, ProblemError
from truecourse.features.asof import CREATED, EVENT
from truecourse.features.definition_digests import feature_table
from truecourse.problem import Aggregations
from truecourse.problem.namespace import AnyView, FeatureArea, Namespace
from truecourse.problem.schema import AnyColumn, Boolean, Float, Integer, Text
from truecourse.settings import Settings


def feast_objects(problem: Namespace, settings: Settings) -> dict[str, Any]:
    """Feast objects by Python name: an entity for each join key, a source and a feature view for each view."""
    entities = {key: _entity(problem, key) for view in problem.own_views for key in problem.join_keys(view)}
    objects = {f"entity_{key}": entity for key, entity in entities.items()}
    for view in problem.own_views:
        source = _source(problem, view, settings)
        objects |= {f"source_{view.name}": source, f"view_{view.name}": _view(problem, view, entities, source)}
    return objects


def feast_area(area: FeatureArea) -> Any:
    """A feature area as Feast's project."""
    from feast import Project

    return Project(name=area.name, description=area.description, tags=_area_tags(area), owner=area.owner)


def key_column(problem: Namespace, key: str) -> AnyColumn:
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


def _entity(problem: Namespace, key: str) -> Any:
    from feast import Entity

    column = key_column(problem, key)
    return Entity(
        name=key,
        join_keys=[key],
        value_type=_dtype(column).to_value_type(),
        description=column.description or key,
        owner=problem.owner,
        tags=_area_tags(problem),
    )


def _source(problem: Namespace, view: AnyView, settings: Settings) -> Any:
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


def _tags(problem: Namespace, view: AnyView) -> dict[str, str]:
    """Tags of Feast's source and view: those that are declared, each with the value "true", and Truecourse's own."""
    own = tags_of(view, problem.view_columns(view)) if isinstance(view, Aggregations) else {}
    return _area_tags(problem) | dict.fromkeys(view.tags, "true") | own


def _area_tags(problem: Namespace) -> dict[str, str]:
    return dict.fromkeys(problem.tags, "true") if isinstance(problem, FeatureArea) else {}


def _view(problem: Namespace, view: AnyView, entities: dict[str, Any], source: Any) -> Any:
    from feast import FeatureView, Field

    keys = problem.join_keys(view)
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
