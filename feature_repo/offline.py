"""Our offline store for Feast: historical features by an as-of join; the rest is Feast's DuckDB store."""

from collections.abc import Callable
from datetime import datetime
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from feast import FeatureView
from feast.data_format import DeltaFormat
from feast.infra.offline_stores.duckdb import DuckDBOfflineStore, DuckDBOfflineStoreConfig
from feast.infra.offline_stores.offline_store import RetrievalJob, RetrievalMetadata
from feast.infra.offline_stores.offline_utils import infer_event_timestamp_from_entity_df
from feast.infra.registry.base_registry import BaseRegistry
from feast.on_demand_feature_view import OnDemandFeatureView
from feast.repo_config import RepoConfig
from feast.saved_dataset import SavedDatasetStorage

from truecourse.errors import FeatureError
from truecourse.features.asof import asof_join
from truecourse.references import TableVersion
from truecourse.settings import get_settings
from truecourse.storage.delta_tables import Tables

BLOCK = 500_000
"""Decisions per join, in order of time; each block reads only the feature rows that its times can see."""


class AsofOfflineStoreConfig(DuckDBOfflineStoreConfig):  # type: ignore[misc]
    type: str = "feature_repo.offline.AsofOfflineStore"
    versions: dict[str, int] = {}  # noqa: RUF012  # pydantic copies it
    """Delta version of the feature table by view; the newest version for other views."""


class AsofOfflineStore(DuckDBOfflineStore):  # type: ignore[misc]
    supports_filter_by_created_timestamp = True

    @staticmethod
    def get_historical_features(
        config: RepoConfig,
        feature_views: list[FeatureView],
        feature_refs: list[str],
        entity_df: pd.DataFrame | str,
        registry: BaseRegistry,
        project: str,
        full_feature_names: bool = False,
        filter_by_created_timestamp: bool = False,
    ) -> RetrievalJob:
        """A job that returns `entity_df`, in its order, with the features of `feature_refs`."""
        if not isinstance(entity_df, pd.DataFrame):
            raise FeatureError("the entity rows are not a DataFrame", where="get_historical_features")
        at = infer_event_timestamp_from_entity_df(dict(entity_df.dtypes.items()))
        spine = _spine(entity_df, at)

        def join() -> pa.Table:
            order = None if spine[at].is_sorted() else spine[at].arg_sort()
            parts = []
            for part in (spine if order is None else spine[order]).iter_slices(BLOCK) if len(spine) else [spine]:
                for view in feature_views:
                    names = _names(view, feature_refs, full_feature_names)
                    part = _join(config, view, part, names, at, filter_by_created_timestamp)
                parts.append(part.to_arrow(compat_level=pl.CompatLevel.oldest()))
            return _concatenated(parts, None if order is None else order.arg_sort().to_arrow())

        metadata = RetrievalMetadata(
            features=feature_refs,
            keys=[name for name in entity_df.columns if name != at],
            min_event_timestamp=_moment(spine[at].min()),
            max_event_timestamp=_moment(spine[at].max()),
        )
        on_demand = OnDemandFeatureView.get_requested_odfvs(feature_refs, project, registry)
        return AsofRetrievalJob(join, full_feature_names, on_demand, metadata)


def _spine(entity_df: pd.DataFrame, at: str) -> pl.DataFrame:
    frame = pl.DataFrame(pa.Table.from_pandas(entity_df, preserve_index=False))
    if frame[at].dtype == pl.String:
        frame = frame.with_columns(pl.col(at).str.to_datetime(time_unit="us", time_zone="UTC"))
    return frame


def _concatenated(parts: list[pa.Table], order: pa.Array | None) -> pa.Table:
    """Concatenate the parts and reorder the rows column by column, which keeps memory low; clears `parts`."""
    names, columns = parts[0].column_names, pa.concat_tables(parts).columns
    parts.clear()
    for i in range(len(columns) if order is not None else 0):
        columns[i] = columns[i].take(order)
    return pa.table(columns, names)


def _moment(value: Any) -> datetime | None:
    return value if isinstance(value, datetime) else None


def _names(view: FeatureView, feature_refs: list[str], full: bool) -> dict[str, str]:
    """The requested features of a view, and their names in the result."""
    prefix = f"{view.projection.name_to_use()}:"
    requested = [ref.removeprefix(prefix) for ref in feature_refs if ref.startswith(prefix)]
    base = view.projection.name_alias or view.name
    return {name: f"{base}__{name}" if full else name for name in requested}


def _join(
    config: RepoConfig, view: FeatureView, spine: pl.DataFrame, names: dict[str, str], at: str, filter_by_created: bool
) -> pl.DataFrame:
    source = view.batch_source
    keys = view.projection.join_key_map or {column.name: column.name for column in view.entity_columns}
    event, created = source.timestamp_field, source.created_timestamp_column or None
    table = _read(config, view, [*keys, event, *([created] if created else []), *names], spine[at])
    return asof_join(
        spine,
        table.rename(names),
        keys,
        ttl=view.ttl,
        at=at,
        event=event,
        created=created,
        filter_by_created=filter_by_created,
    )


def _read(config: RepoConfig, view: FeatureView, columns: list[str], at: pl.Series) -> pl.DataFrame:
    """The rows of a view's source that decisions at these times can see."""
    source = view.batch_source
    originals = {new: old for old, new in source.field_mapping.items()}
    dataset = _dataset(config, view)
    read = [originals.get(name, name) for name in columns]
    missing = [name for name in read if name not in dataset.schema.names]
    if missing:
        hint = "truecourse run materialize"
        raise FeatureError(f"has no column {', '.join(missing)}", where=f"the table of view {view.name}", hint=hint)
    table = dataset.to_table(columns=read, filter=_filter(dataset.schema.field(source.timestamp_field), view, at))
    return pl.DataFrame(table).rename(source.field_mapping, strict=False)


def _dataset(config: RepoConfig, view: FeatureView) -> ds.Dataset:
    path = view.batch_source.path
    if not isinstance(view.batch_source.file_format, DeltaFormat):
        return ds.dataset(path)
    tables, root = Tables(), get_settings().storage_root + "/"
    name = path.removeprefix(root)
    if not path.startswith(root):
        hint = "run `feast apply` again, with these settings"
        raise FeatureError(f"its table {path} is outside the storage root {root}", where=view.name, hint=hint)
    pinned = config.offline_store.versions.get(view.name)
    version = TableVersion(name=name, version=pinned) if pinned is not None else tables.version(name)
    if version is None:
        raise FeatureError("has no feature table", where=f"view {view.name}", hint="truecourse run materialize")
    return tables.dataset(version)


def _filter(field: pa.Field, view: FeatureView, at: pl.Series) -> Any:
    first, last = _moment(at.min()), _moment(at.max())
    if first is None or last is None or not pa.types.is_timestamp(field.type) or field.type.tz != "UTC":
        return None
    dtype = at.dtype
    zone = dtype.time_zone if isinstance(dtype, pl.Datetime) else None
    first, last = (pc.scalar(pa.scalar(t, pa.timestamp("us", zone or "UTC")).cast(field.type)) for t in (first, last))
    newest = pc.field(field.name) <= last
    return newest & (pc.field(field.name) >= first - pc.scalar(view.ttl)) if view.ttl else newest


class AsofRetrievalJob(RetrievalJob):  # type: ignore[misc]
    """Runs the join when its result is read."""

    def __init__(
        self,
        join: Callable[[], pa.Table],
        full_feature_names: bool,
        on_demand_feature_views: list[OnDemandFeatureView],
        metadata: RetrievalMetadata,
    ) -> None:
        super().__init__()
        self._join = join
        self._full_feature_names = full_feature_names
        self._on_demand_feature_views = on_demand_feature_views
        self._metadata = metadata

    def _to_arrow_internal(self, timeout: int | None = None) -> pa.Table:
        return self._join()

    def _to_df_internal(self, timeout: int | None = None) -> pd.DataFrame:
        frame: pd.DataFrame = self._join().to_pandas()
        return frame

    @property
    def full_feature_names(self) -> bool:
        return self._full_feature_names

    @property
    def on_demand_feature_views(self) -> list[OnDemandFeatureView]:
        return self._on_demand_feature_views

    @property
    def metadata(self) -> RetrievalMetadata:
        return self._metadata

    def persist(self, storage: SavedDatasetStorage, allow_overwrite: bool = False, timeout: int | None = None) -> None:
        """Write the result as one Parquet file."""
        path = storage.to_data_source().path
        if not allow_overwrite and pa.fs.FileSystem.from_uri(path)[0].get_file_info(path).type:
            raise FeatureError("the data set exists already", where=path, hint="allow_overwrite=True")
        pq.write_table(self._join(), path)
