"""Our offline store for Feast: historical features by an as-of join or by the evaluation of aggregations.

Delta tables are read without DuckDB's extension for them, which DuckDB would fetch from the network. Other sources, and
writing, are left to Feast's DuckDB store."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import reduce
from operator import and_
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from feast import FeatureView
from feast.data_format import DeltaFormat
from feast.data_source import DataSource
from feast.infra.offline_stores.duckdb import DuckDBOfflineStore, DuckDBOfflineStoreConfig
from feast.infra.offline_stores.offline_store import RetrievalJob, RetrievalMetadata
from feast.infra.offline_stores.offline_utils import infer_event_timestamp_from_entity_df
from feast.infra.registry.base_registry import BaseRegistry
from feast.on_demand_feature_view import OnDemandFeatureView
from feast.repo_config import RepoConfig
from feast.saved_dataset import SavedDatasetStorage

from feature_repo.aggregation_tags import TaggedAggregations, tagged_aggregations
from truecourse.data.arrow_types import UTC_TIME
from truecourse.errors import FeatureError
from truecourse.features.aggregation_lookup import add_aggregates, longest_window
from truecourse.features.aggregation_rows import stored_columns
from truecourse.features.asof import CREATED, EVENT, asof_join
from truecourse.references import TableVersion
from truecourse.settings import get_settings
from truecourse.storage.delta_tables import Tables

_TIMELESS = datetime(1970, 1, 1)
"""The time of rows of views without time."""
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

    @staticmethod
    def pull_latest_from_table_or_query(
        config: RepoConfig,
        data_source: DataSource,
        join_key_columns: list[str],
        feature_name_columns: list[str],
        timestamp_field: str,
        created_timestamp_column: str | None,
        start_date: datetime,
        end_date: datetime,
    ) -> RetrievalJob:
        """A job that returns the newest values of each key. Those of aggregations are as of `end_date`, and have it as
        their time."""
        tagged = tagged_aggregations(data_source.tags)
        if tagged is not None:
            return _as_of_job(tagged, data_source, join_key_columns, feature_name_columns, end_date)
        if isinstance(data_source.file_format, DeltaFormat):
            names = [*join_key_columns, *feature_name_columns]
            times = [name for name in (timestamp_field, created_timestamp_column) if name]
            return _job(lambda: _newest(data_source, names, join_key_columns, times, start_date, end_date))
        return DuckDBOfflineStore.pull_latest_from_table_or_query(
            config, data_source, join_key_columns, feature_name_columns, timestamp_field, created_timestamp_column,
            start_date, end_date,
        )  # fmt: skip

    @staticmethod
    def pull_all_from_table_or_query(
        config: RepoConfig,
        data_source: DataSource,
        join_key_columns: list[str],
        feature_name_columns: list[str],
        timestamp_field: str,
        created_timestamp_column: str | None = None,
        start_date: datetime | None = None,
        end_date: datetime | None = None,
    ) -> RetrievalJob:
        """A job that returns all rows of the time range; of aggregations, the values of each key as of its end."""
        tagged = tagged_aggregations(data_source.tags)
        if tagged is not None:
            moment = end_date or datetime.now(UTC)
            return _as_of_job(tagged, data_source, join_key_columns, feature_name_columns, moment)
        if isinstance(data_source.file_format, DeltaFormat):
            times = [name for name in (timestamp_field, created_timestamp_column) if name]
            names = [*join_key_columns, *feature_name_columns, *times]
            within = _within(timestamp_field, start_date, end_date)
            return _job(lambda: _dataset(data_source, data_source.name, None).to_table(names, filter=within))
        return DuckDBOfflineStore.pull_all_from_table_or_query(
            config, data_source, join_key_columns, feature_name_columns, timestamp_field, created_timestamp_column,
            start_date, end_date,
        )  # fmt: skip


def _as_of_job(
    tagged: TaggedAggregations, source: DataSource, keys: list[str], features: list[str], moment: datetime
) -> RetrievalJob:
    names = {name: name for name in features}
    return _job(lambda: _as_of(tagged, source, keys, names, moment))


def _job(rows: Callable[[], pa.Table]) -> RetrievalJob:
    return AsofRetrievalJob(rows, False, [], None)


def _within(event: str, start: datetime | None, end: datetime | None) -> Any:
    """The filter of rows with times in [start, end]. Values without a time count at any time."""
    field = pc.field(event)
    limits = [
        (field >= _utc(start)) | (field == _utc(_TIMELESS)) if start is not None else None,
        (field <= _utc(end)) if end is not None else None,
    ]
    chosen = [limit for limit in limits if limit is not None]
    return reduce(and_, chosen) if chosen else None


def _utc(moment: datetime) -> pa.Scalar:
    aware = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
    return pa.scalar(aware.astimezone(UTC), UTC_TIME)


def _newest(
    source: DataSource, names: list[str], keys: list[str], times: list[str], start: datetime, end: datetime
) -> pa.Table:
    """The row of each key with the latest times in [start, end]. `times`: the columns to order by."""
    dataset = _dataset(source, source.name, None)
    rows = pl.DataFrame(dataset.to_table([*names, *times], filter=_within(times[0], start, end)))
    newest = rows.sort(times, descending=True, nulls_last=True).unique(keys, keep="first", maintain_order=True)
    return newest.to_arrow(compat_level=pl.CompatLevel.oldest())


def _as_of(
    tagged: TaggedAggregations, source: DataSource, keys: list[str], names: dict[str, str], moment: datetime
) -> pa.Table:
    """The values of every key at `moment`, with this as their event and creation time."""
    dataset = _dataset(source, tagged.view.name, None)
    columns = [*keys, EVENT, CREATED, *stored_columns(tagged.view)]
    rows = pl.DataFrame(dataset.to_table(columns=columns, filter=pc.field(EVENT) <= pa.scalar(moment)))
    spine = rows.select(keys).unique().with_columns(pl.lit(moment).alias(EVENT), pl.lit(moment).alias(CREATED))
    pairs = {key: key for key in keys}
    joined = add_aggregates(tagged.view, spine, rows, pairs, names, tagged.types, at=EVENT, known_only=True)
    return joined.to_arrow(compat_level=pl.CompatLevel.oldest())


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
    if (tagged := tagged_aggregations(source.tags)) is not None:
        columns = [*keys, EVENT, CREATED, *stored_columns(tagged.view)]
        rows = _read(config, view, columns, spine[at], longest_window(tagged.view))
        return add_aggregates(tagged.view, spine, rows, keys, names, tagged.types, at=at, known_only=filter_by_created)
    table = _read(config, view, [*keys, event, *([created] if created else []), *names], spine[at], view.ttl)
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


def _read(
    config: RepoConfig,
    view: FeatureView,
    columns: list[str],
    at: pl.Series,
    memory: timedelta,
) -> pl.DataFrame:
    """The rows of a view's source that decisions at these times can see. `memory`: how much older than its decision a
    row can be; zero is unlimited."""
    source = view.batch_source
    originals = {new: old for old, new in source.field_mapping.items()}
    dataset = _dataset(source, view.name, config.offline_store.versions.get(view.name))
    read = [originals.get(name, name) for name in columns]
    missing = [name for name in read if name not in dataset.schema.names]
    if missing:
        hint = "truecourse run materialize"
        raise FeatureError(f"has no column {', '.join(missing)}", where=f"the table of view {view.name}", hint=hint)
    table = dataset.to_table(columns=read, filter=_filter(dataset.schema.field(source.timestamp_field), memory, at))
    return pl.DataFrame(table).rename(source.field_mapping, strict=False)


def _dataset(source: DataSource, view: str, pinned: int | None) -> ds.Dataset:
    path = source.path
    if not isinstance(source.file_format, DeltaFormat):
        return ds.dataset(path)
    tables, root = Tables(), get_settings().storage_root + "/"
    name = path.removeprefix(root)
    if not path.startswith(root):
        hint = "run `feast apply` again, with these settings"
        raise FeatureError(f"its table {path} is outside the storage root {root}", where=view, hint=hint)
    version = TableVersion(name=name, version=pinned) if pinned is not None else tables.version(name)
    if version is None:
        raise FeatureError("has no feature table", where=f"view {view}", hint="truecourse run materialize")
    return tables.dataset(version)


def _filter(field: pa.Field, memory: timedelta, at: pl.Series) -> Any:
    first, last = _moment(at.min()), _moment(at.max())
    if first is None or last is None or not pa.types.is_timestamp(field.type) or field.type.tz != "UTC":
        return None
    dtype = at.dtype
    zone = dtype.time_zone if isinstance(dtype, pl.Datetime) else None
    first, last = (pc.scalar(pa.scalar(t, pa.timestamp("us", zone or "UTC")).cast(field.type)) for t in (first, last))
    newest = pc.field(field.name) <= last
    return newest & (pc.field(field.name) >= first - pc.scalar(memory)) if memory else newest


class AsofRetrievalJob(RetrievalJob):  # type: ignore[misc]
    """Runs the join when its result is read."""

    def __init__(
        self,
        join: Callable[[], pa.Table],
        full_feature_names: bool,
        on_demand_feature_views: list[OnDemandFeatureView],
        metadata: RetrievalMetadata | None,
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
    def metadata(self) -> RetrievalMetadata | None:
        return self._metadata

    def persist(self, storage: SavedDatasetStorage, allow_overwrite: bool = False, timeout: int | None = None) -> None:
        """Write the result as one Parquet file."""
        path = storage.to_data_source().path
        if not allow_overwrite and pa.fs.FileSystem.from_uri(path)[0].get_file_info(path).type:
            raise FeatureError("the data set exists already", where=path, hint="allow_overwrite=True")
        pq.write_table(self._join(), path)
