"""The Feast feature store of a problem, configured from the settings."""

import fcntl
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from feature_repo.feast_objects import feast_objects
from feature_repo.online_location import feast_folder, feast_project, online_config
from truecourse.data.arrow_types import UTC_TIME, arrow_type
from truecourse.errors import FeatureError
from truecourse.features.asof import EVENT, NO_TIME
from truecourse.features.definition_digests import view_digest
from truecourse.hashing import sha256_json
from truecourse.problem import Problem
from truecourse.problem.namespace import Namespace
from truecourse.references import TableVersion
from truecourse.settings import get_settings
from truecourse.storage.delta_tables import Tables

_MARK = "applied"
"""The file, beside the registry, with the digest of the definitions in it."""
KEY_VERSION = 3
"""Feast's version of the serialization of entity keys."""


def repo_config(problem: Namespace, versions: Mapping[str, TableVersion] | None = None) -> Any:
    """Feast's configuration; `versions` pins feature tables by view."""
    from feast import RepoConfig

    folder, settings = feast_folder(problem), get_settings()
    folder.mkdir(parents=True, exist_ok=True)
    return RepoConfig(
        project=feast_project(problem),
        provider="local",
        registry={"registry_type": "file", "path": str(folder / "registry.db"), "cache_ttl_seconds": 0},
        offline_store={
            "type": "feature_repo.offline.AsofOfflineStore",
            "versions": {view: version.version for view, version in (versions or {}).items()},
        },
        online_store=online_config(problem, settings),
        entity_key_serialization_version=KEY_VERSION,
        coerce_tz_aware=False,
        repo_path=folder,
    )


def open_feature_store(problem: Namespace, versions: Mapping[str, TableVersion] | None = None) -> Any:
    """A feast.FeatureStore whose registry has the problem's current definitions."""
    from feast import FeatureStore

    config, folder, digest = repo_config(problem, versions), feast_folder(problem), _digest(problem)
    if not _is_applied(folder, digest):
        with (folder / "lock").open("wb") as file:
            # Feast creates and writes the registry in place, and several processes may use a view first
            fcntl.flock(file, fcntl.LOCK_EX)
            if not _is_applied(folder, digest):
                (folder / _MARK).unlink(missing_ok=True)
                _apply(problem, FeatureStore(config=config))
                (folder / _MARK).write_text(digest)
    return FeatureStore(config=config)


def apply(problem: Namespace) -> None:
    """Register the problem's entities and views, unless they are registered."""
    for owner in problem.view_owners:
        open_feature_store(owner)


def _digest(problem: Namespace) -> str:
    """The digest of what the registry depends on: the definitions, and where features are stored."""
    settings = get_settings()
    where = [settings.storage_root, settings.s3_endpoint, sha256_json(settings.online_store.get_secret_value())]
    return sha256_json([where, [[view.name, view_digest(problem, view)] for view in problem.own_views]])


def _is_applied(folder: Path, digest: str) -> bool:
    mark = folder / _MARK
    try:
        return (folder / "registry.db").is_file() and mark.read_text() == digest
    except FileNotFoundError:
        return False


def _apply(problem: Namespace, store: Any) -> None:
    objects = list(feast_objects(problem, get_settings()).values())
    names = {*(o.name for o in objects)}
    removed = [o for o in [*store.list_feature_views(), *store.list_data_sources()] if o.name not in names]
    store.apply(objects, objects_to_delete=removed, partial=False)


def historical_features(
    problem: Problem, tables: Tables, spine: pa.Table, versions: Mapping[str, TableVersion]
) -> pa.Table:
    """The spine, in its order, with every view's features as of its decision times.

    Raises FeatureError if the spine lacks a join key, or if a view has no table."""
    import pandas as pd

    keys = {key: None for view in problem.views for key in problem.join_keys(view)}
    absent = [key for key in keys if key not in spine.column_names]
    if absent:
        raise FeatureError(f"has no column {', '.join(absent)}", where="the spine", hint="these are entity keys")
    entities = spine.select(list(keys))
    times = spine["decision_time"] if "decision_time" in spine.column_names else _no_time(len(spine))
    entities = entities.append_column(EVENT, times.cast(UTC_TIME))
    entity_df = entities.to_pandas(types_mapper=pd.ArrowDtype)
    joined: dict[str, pa.ChunkedArray] = {}
    for owner in problem.view_owners:
        job = open_feature_store(owner, versions).get_historical_features(
            entity_df=entity_df,
            features=[f"{view.name}:{name}" for view in owner.own_views for name in view.features],
            filter_by_created_timestamp=True,
        )
        table = job.to_arrow()
        joined |= {name: table[name] for view in owner.own_views for name in view.features}
    features = {name: column for view in problem.views for name, column in problem.view_columns(view).items()}
    for name, column in features.items():
        spine = spine.append_column(name, joined[name].cast(arrow_type(column)))
    return spine


def _no_time(rows: int) -> pa.ChunkedArray:
    return pa.chunked_array([pa.repeat(pa.scalar(NO_TIME, pa.timestamp("us")), rows)])
