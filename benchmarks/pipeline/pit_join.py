"""The point-in-time join of every decision with every view: ours, a bare Polars join_asof, and Feast's stock store.

All three read the same Delta feature tables. The bare join ignores corrections, created timestamps and null keys: it is
a lower bound of the cost, not an alternative."""

import shutil
import tempfile
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from benchmarks.harness import Row, measure
from benchmarks.home import ensure_steps
from truecourse.data.arrow_types import UTC_TIME
from truecourse.features.asof import CREATED, EVENT
from truecourse.features.definition_digests import feature_table
from truecourse.problem import Problem
from truecourse.problem.loader import load_problem
from truecourse.references import TableVersion
from truecourse.settings import get_settings
from truecourse.storage.delta_tables import Tables

TIMES = 10
Versions = dict[str, TableVersion]


def rows(quick: bool) -> list[Row]:
    problem = ensure_steps("materialize")
    every: Any = 10 if quick else 1
    ours, bare, stock = (
        measure(f"benchmarks.pipeline.pit_join:{name}", problem=problem.name, every=every)
        for name in ("ours", "bare", "stock")
    )
    count, features = ours.result
    place = Path(tempfile.mkdtemp(prefix="truecourse-bench-"))
    try:
        prepared = measure(
            "benchmarks.pipeline.pit_join:replicate", problem=problem.name, place=str(place), times=TIMES
        )
        large = measure("benchmarks.pipeline.pit_join:ours_replicated", home=place, problem=problem.name)
    finally:
        shutil.rmtree(place, ignore_errors=True)
    what = f"point-in-time join of {count:,} decisions and {features} features"
    return [
        Row(what=what, value=ours.cpu, unit="CPU s", reference=bare.cpu, reference_is="Polars join_asof", limit=2.5),
        Row(what=f"{what}, CPU of Feast's stock store over ours", value=ours.cpu, unit="CPU s",
            reference=stock.cpu, reference_is="Feast duckdb store", inverse=True, limit=50, sense="at least"),
        Row(what="its wall time", value=ours.seconds, unit="s", reference=stock.seconds,
            reference_is="Feast duckdb store"),
        Row(what=f"peak memory of the join of {prepared.result:,} decisions", value=large.peak_bytes / 1e9, unit="GB",
            limit=4),
        Row(what=f"time of the join of {prepared.result:,} decisions", value=large.cpu, unit="CPU s",
            reference=ours.cpu * prepared.result / count, reference_is="ours, scaled linearly"),
    ]  # fmt: skip


def spine_of(problem: Problem, tables: Tables) -> pa.Table:
    """Every decision's id, time and entity keys."""
    import dataclasses

    from truecourse.data.sql import clean_versions
    from truecourse.features import frame

    bare = dataclasses.replace(problem, label=dataclasses.replace(problem.label, sql=None))
    found = frame.read_spine(bare, tables, clean_versions(problem, tables))
    return found.select(["id", "decision_time", *_keys(problem)])


def _keys(problem: Problem) -> list[str]:
    return list(dict.fromkeys(key for view in problem.views for key in problem.join_keys(view)))


def feature_versions(problem: Problem, tables: Tables) -> Versions:
    found = {view.name: tables.version(feature_table(problem, view.name)) for view in problem.views}
    return {name: version for name, version in found.items() if version is not None}


def _every_nth(frame: pa.Table, every: int) -> pa.Table:
    return frame if every == 1 else frame.take(pa.array(range(0, len(frame), every)))


def ours(problem: str, every: int) -> Callable[[], list[int]]:
    from feature_repo.store import historical_features, open_feature_store

    spec, tables = load_problem(problem), Tables()
    spine, versions = _every_nth(spine_of(spec, tables), every), feature_versions(spec, tables)
    open_feature_store(spec, versions)
    historical_features(spec, tables, spine.slice(0, 100), versions)  # warm-up: imports

    def run() -> list[int]:
        return [len(spine), historical_features(spec, tables, spine, versions).num_columns - spine.num_columns]

    return run


def bare(problem: str, every: int) -> Callable[[], list[int]]:
    import polars as pl

    spec, tables = load_problem(problem), Tables()
    spine, versions = _every_nth(spine_of(spec, tables), every), feature_versions(spec, tables)

    def run() -> list[int]:
        left: Any = pl.from_arrow(spine)
        for view in spec.views:
            keys = list(spec.join_keys(view))
            table = tables.read(versions[view.name], [*keys, EVENT, *view.features])
            right: Any = pl.from_arrow(table)
            ttl: timedelta | None = view.ttl or None
            moment = f"{EVENT}_{view.name}"
            left = left.join_asof(
                right.rename({EVENT: moment}).sort(moment), left_on="decision_time", right_on=moment, by=keys,
                tolerance=ttl, coalesce=False, check_sortedness=False,
            )  # fmt: skip
        return [len(left), left.width - spine.num_columns - len(spec.views)]

    return run


def stock(problem: str, every: int) -> Callable[[], int]:
    """Feast's stock duckdb store on the same views, with their tables as Parquet files."""
    import pandas as pd
    from feast import FeatureStore, RepoConfig

    from feature_repo.feast_objects import feast_objects

    spec, tables = load_problem(problem), Tables()
    spine = _every_nth(spine_of(spec, tables), every).drop_columns("id")
    get_settings().temporary.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="stock-feast-", dir=get_settings().temporary))
    config = RepoConfig(
        project="stock", provider="local", registry=str(folder / "registry.db"),
        offline_store={"type": "duckdb"}, online_store={"type": "sqlite", "path": str(folder / "online.db")},
        entity_key_serialization_version=3,
    )  # fmt: skip
    store = FeatureStore(config=config)
    store.apply(list(_on_parquet(spec, tables, folder, feast_objects(spec, get_settings())).values()))
    entities = spine.to_pandas(types_mapper={pa.string(): pd.StringDtype("pyarrow")}.get)
    entities = entities.rename(columns={"decision_time": "event_timestamp"})
    names = [f"{view.name}:{name}" for view in spec.views for name in view.features]

    def run() -> int:
        found = len(store.get_historical_features(entity_df=entities, features=names).to_arrow())
        shutil.rmtree(folder, ignore_errors=True)
        return found

    return run


def _on_parquet(problem: Problem, tables: Tables, folder: Path, objects: Mapping[str, Any]) -> dict[str, Any]:
    """Our definitions with Parquet sources, the fastest sources of the stock store."""
    import pyarrow.parquet as pq
    from feast import FeatureView, FileSource

    compiled_objects = {name: item for name, item in objects.items() if name.startswith("entity_")}
    for view in problem.views:
        compiled, path = objects[f"view_{view.name}"], folder / f"{view.name}.parquet"
        pq.write_table(tables.read(feature_versions(problem, tables)[view.name]), path)
        source = FileSource(path=str(path), timestamp_field=EVENT, created_timestamp_column=CREATED)
        entities = [compiled_objects[f"entity_{key}"] for key in problem.join_keys(view)]
        compiled_objects[view.name] = FeatureView(
            name=view.name, entities=entities, ttl=view.ttl, schema=compiled.schema, source=source
        )
    return compiled_objects


def replicate(problem: str, place: str, times: int) -> Callable[[], int]:
    """Write `times` copies of the spine and the feature tables to another home.

    Each copy is later than the one before, and has its own keys."""
    spec, tables = load_problem(problem), Tables()
    spine = spine_of(spec, tables)
    limits = pc.min_max(spine["decision_time"]).as_py()
    step = timedelta(days=(limits["max"] - limits["min"]).days // 7 * 7 + 7)

    def run() -> int:
        other = Tables(get_settings().model_copy(update={"home": Path(place), "storage": ""}))
        keys = set(_keys(spec))
        for name, version in feature_versions(spec, tables).items():
            rows = tables.read(version)
            timeless = spec.view(name).timeless
            for copy in range(times):
                shifted = _shift_copy(rows, keys, copy, step * (0 if timeless else copy))
                other.append(feature_table(spec, name), shifted, {"flow": "benchmark"})
        for copy in range(times):
            other.append(f"spine/{spec.name}", _shift_copy(spine, keys, copy, step * copy), {"flow": "benchmark"})
        return len(spine) * times

    return run


def _shift_copy(rows: pa.Table, keys: set[str], copy: int, by: timedelta) -> pa.Table:
    for position, field in enumerate(rows.schema):
        values = rows[field.name]
        if pa.types.is_timestamp(field.type):
            values = pc.add(values.cast(UTC_TIME), pa.scalar(by, pa.duration("us")))
        elif field.name in keys and copy and pa.types.is_string(field.type):
            values = pc.binary_join_element_wise(values, str(copy), "#")
        rows = rows.set_column(position, field.name, values)
    return rows


def ours_replicated(problem: str) -> Callable[[], int]:
    from feature_repo.store import historical_features, open_feature_store

    spec, tables = load_problem(problem), Tables()
    version = tables.version(f"spine/{spec.name}")
    assert version is not None
    spine, versions = tables.read(version), feature_versions(spec, tables)
    open_feature_store(spec, versions)
    return lambda: len(historical_features(spec, tables, spine, versions))
