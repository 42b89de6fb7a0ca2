"""The shape of MLflow, XGBoost, Evidently, DuckDB, Feast, redis-py and Prefect, as the `compat`
packages take it for granted. A test that fails after an upgrade names what has changed."""

import atexit
import inspect
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from feature_repo.compat import feast_online_store, redis_connection, typeguard_decorator
from tasks.compat import prefect_deploy, prefect_logging, prefect_schedules, prefect_tables
from tests.conftest import REPOSITORY
from truecourse.compat import (
    bento_image,
    evidently_results,
    mlflow_tables,
    prefect_variables,
    xgboost_library,
)
from truecourse.compat.library_database import create_database
from truecourse.settings import child_environment, get_settings

Configure = Callable[..., None]
WRITTEN = datetime(2024, 5, 6, 7, 8, 9, tzinfo=UTC)


def parameters(function: Any) -> tuple[str, ...]:
    return tuple(inspect.signature(function).parameters)


def test_the_image_of_a_bento() -> None:
    from bentoml._internal.container import generate

    assert bento_image.USER == generate.BENTO_UID_GID
    assert (generate.BENTO_HOME.rstrip("/"), generate.BENTO_PATH) == (bento_image.HOME, bento_image.BENTO)


@pytest.mark.parametrize("skipped", ["", "duckdb_exit"])
def test_a_command_ends_after_its_exit_handlers(skipped: str) -> None:
    assert callable(atexit._run_exitfuncs)
    code = "import atexit, duckdb; from truecourse.compat.duckdb_exit import exit_process\n"
    code += "held = duckdb.connect().sql('SELECT 1'); atexit.register(print, 'handled'); print('result', end=' ')\n"
    environment = child_environment(TRUECOURSE_SKIPPED_PATCHES=skipped)
    command = [sys.executable, "-c", f"{code}exit_process(3)"]
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (3, "result handled\n")
    assert skipped or not done.stderr


def test_another_version_of_a_library_makes_its_tables_itself(
    home: Path, monkeypatch: pytest.MonkeyPatch, configure: Configure
) -> None:
    home.mkdir()
    other = replace(mlflow_tables.PATCH, checked={"mlflow": ("3.16.0",)})
    assert not create_database(home / "mlflow.db", other)
    assert not (home / "mlflow.db").exists()
    monkeypatch.setattr(mlflow_tables, "PATCH", other)
    mlflow_tables.create(home / "mlflow.db")
    assert {path.name for path in home.iterdir()} == {"mlflow.db"}


def test_a_database_that_exists_stays(home: Path) -> None:
    (home / "prefect").mkdir(parents=True)
    (home / "prefect" / "prefect.db").write_bytes(b"of another process")
    assert create_database(home / "prefect" / "prefect.db", prefect_tables.PATCH)
    assert (home / "prefect" / "prefect.db").read_bytes() == b"of another process"


@pytest.mark.parametrize(
    ("variable", "created"),
    [
        ("PREFECT_SERVER_SERVICES_SCHEDULER_ENABLED", True),
        ("PREFECT_API_DATABASE_CONNECTION_URL", False),
        ("PREFECT_SERVER_DATABASE_DRIVER", False),
        ("TRUECOURSE_SKIPPED_PATCHES", False),
    ],
)
def test_prefects_tables_are_created_in_our_database_only(
    variable: str, created: bool, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_HOME", str(home / "prefect"))
    monkeypatch.setenv(variable, "prefect_tables")
    get_settings.cache_clear()
    prefect_tables.create()
    assert (home / "prefect" / "prefect.db").exists() == created


def test_mlflows_tables_and_their_columns_of_paths(home: Path, configure: Configure) -> None:
    from mlflow import MlflowClient
    from mlflow.store.db.utils import _initialize_tables

    assert parameters(_initialize_tables) == ("engine",)
    mlflow_tables.create(file := home / "mlflow.db")
    with closing(sqlite3.connect(file)) as database:
        tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        columns = {(table, row[1]) for table in tables for row in database.execute(f"PRAGMA table_info({table})")}
        assert database.execute(f"SELECT count(*) FROM {mlflow_tables.REVISION_TABLE}").fetchone() == (1,)
    of_paths = {"artifact_location", "artifact_uri", "storage_location", "source"}
    others = {("mcp_server_versions", "source"), ("evaluation_dataset_records", "source")}
    assert {one for one in columns if one[1] in of_paths} - others == set(mlflow_tables.ARTIFACT_COLUMNS)
    assert [one.name for one in MlflowClient(f"sqlite:///{file}").search_experiments()] == ["Default"]
    configure(skipped_patches="mlflow_tables")
    mlflow_tables.create(home / "other.db")
    assert not (home / "other.db").exists()


def test_xgboosts_library_has_the_functions_that_are_called() -> None:
    import xgboost

    library = xgboost_library.library()
    assert [name for name in xgboost_library.FUNCTIONS if not hasattr(library, name)] == []
    assert xgboost.Booster().handle.value


def test_evidentlys_results_have_a_column_a_method_and_a_threshold() -> None:
    import pandas as pd
    from evidently import Report
    from evidently.presets import DataDriftPreset

    random = np.random.default_rng(0)
    before = pd.DataFrame({"shifted": random.normal(size=300), "same": random.normal(size=300)})
    after = before.assign(shifted=before["shifted"] + 5)
    report = Report([DataDriftPreset()]).run(after, before).dict()
    found = {one.column: one for one in evidently_results.column_drifts(report)}
    assert set(found) == {"shifted", "same"}
    assert all(one.method.endswith("p_value") for one in found.values()), "small samples are tested"
    assert found["shifted"].score < found["shifted"].threshold <= 0.1 < found["same"].score


def test_feast_decorates_its_classes_with_our_decorator() -> None:
    import feast.entity
    import feast.feature_view

    assert feast.entity.typechecked is feast.feature_view.typechecked is typeguard_decorator.typechecked


def feast_repository(folder: Path, online: dict[str, Any]) -> tuple[Any, Any]:
    """Feast's configuration and a view of one feature, without a registry."""
    from feast import Entity, FeatureView, Field, FileSource, RepoConfig
    from feast.types import Float64, String
    from feast.value_type import ValueType

    config = RepoConfig(
        project="shape", provider="local", registry=str(folder / "registry.db"), online_store=online,
        entity_key_serialization_version=3, repo_path=folder,
    )  # fmt: skip
    courier = Entity(name="courier", join_keys=["courier"], value_type=ValueType.STRING)
    schema = [Field(name="courier", dtype=String), Field(name="rate", dtype=Float64)]
    source = FileSource(path=str(folder / "rates.parquet"), timestamp_field="at")
    return config, FeatureView(name="rates", entities=[courier], ttl=timedelta(days=1), schema=schema, source=source)


def write_one(config: Any, view: Any) -> tuple[Any, bytes, bytes]:
    """Write one value with Feast; its store, the key and the value as bytes."""
    from feast.protos.feast.types.EntityKey_pb2 import EntityKey
    from feast.protos.feast.types.Value_pb2 import Value

    key = EntityKey(join_keys=["courier"], entity_values=[Value(string_val="c1")])
    value, store = Value(double_val=0.5), feast_online_store.online_store(config.online_store)
    if config.online_store.type == "sqlite":
        store.update(config, [], [view], [], [], partial=True)
    store.online_write_batch(config, view, [(key, {"rate": value}, WRITTEN, None)], None)
    return store, feast_online_store.key_bytes(key, 3), value.SerializeToString()


def test_feasts_sqlite_store_has_the_layout_that_is_read(tmp_path: Path) -> None:
    config, view = feast_repository(tmp_path, {"type": "sqlite", "path": str(tmp_path / "online.db")})
    store, key, value = write_one(config, view)
    query = f'SELECT {feast_online_store.SQLITE_COLUMNS} FROM "{feast_online_store.sqlite_table("shape", view)}"'
    with closing(sqlite3.connect(tmp_path / "online.db")) as database:
        *stored, event = database.execute(query).fetchall()[0]
        assert stored == [key, "rate", value]
        assert feast_online_store.sqlite_event(event) == WRITTEN.timestamp() * 1_000_000
        feast_online_store.clear_view(store, config, view)
        assert database.execute(query).fetchall() == []


def test_feasts_redis_store_has_the_layout_that_is_read(tmp_path: Path, valkey: str) -> None:
    place = valkey.removeprefix("redis://")
    config, view = feast_repository(tmp_path, {"type": "redis", "connection_string": place})
    store, key, value = write_one(config, view)
    client = feast_online_store.redis_client(store, config.online_store)
    field, moment = feast_online_store.redis_fields("rates", ["rate"])
    hash = client.hgetall(key + b"shape")
    assert set(hash) == {field, moment}
    assert hash[field] == value
    feast_online_store.clear_view(store, config, view)
    assert not client.exists(key + b"shape")


@pytest.mark.parametrize("zone", ["UTC", "America/New_York"])
def test_feasts_sqlite_store_keeps_times_of_the_machines_zone(zone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from feast.infra.online_stores.sqlite import adapt_datetime_epoch

    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        stored = adapt_datetime_epoch(WRITTEN.replace(tzinfo=None))
        assert (stored == WRITTEN.timestamp()) == (zone == "UTC")
        assert feast_online_store.sqlite_event(stored) == WRITTEN.timestamp() * 1_000_000
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize("skipped", [False, True])
def test_commands_are_sent_together(skipped: bool, valkey: str, configure: Configure) -> None:
    import redis

    configure(skipped_patches="redis_connection" if skipped else "")
    with redis.Redis.from_url(valkey) as client:
        send = redis_connection.sender(client)
        client.hset("together", "field", b"\xff")
        found = send([("HMGET", b"together", b"field", b"none"), ("GET", "nothing"), ("HLEN", "together")])
        assert found == [[b"\xff", None], None, 1]
        with pytest.raises(redis.ResponseError):
            send([("GET", "together")])
        assert send([("HLEN", "together")]) == [1], "the connection is used again"
        client.delete("together")


def test_prefect_gives_a_runs_process_its_id(monkeypatch: pytest.MonkeyPatch) -> None:
    from prefect import flow_engine
    from prefect.runtime import flow_run
    from prefect.workers.base import BaseJobConfiguration

    monkeypatch.setenv(prefect_variables.RUN_ID, "0f9e")
    assert flow_run.get_id() == "0f9e"
    assert prefect_variables.RUN_ID.startswith(prefect_variables.PREFIX)

    class Run:
        id: ClassVar[str] = "0f9e"

    environment = BaseJobConfiguration._base_flow_run_environment(Run())  # type: ignore[arg-type]
    assert environment[prefect_variables.RUN_ID] == "0f9e"
    assert f'event="{prefect_variables.HEARTBEAT}"' in inspect.getsource(flow_engine)


def test_prefect_describes_parameters_and_triggers() -> None:
    def flow(problem: str, version: int | None = None) -> None: ...

    schema = prefect_deploy.parameter_schema(flow)
    assert list(schema["properties"]) == ["problem", "version"]
    assert schema["required"] == ["problem"]
    trigger = {"type": "event", "name": "after", "enabled": False, "expect": ["shipped"], "parameters": {"a": 1}}
    made = prefect_deploy.automation(trigger, "0f9e0000-0000-4000-8000-000000000000")
    assert (made["name"], made["enabled"], made["trigger"]["expect"]) == ("after", False, ["shipped"])
    (action,) = made["actions"]
    assert action["deployment_id"] == "0f9e0000-0000-4000-8000-000000000000"
    assert action["parameters"] == {"a": 1}


def test_prefects_console_handlers_take_a_filter(configure: Configure) -> None:
    config = prefect_logging.configuration({"repeats": {"()": "truecourse.repeats.Repeats"}})
    assert config is not None
    to_console = {name for name, handler in config["handlers"].items() if "stream" in handler}
    assert to_console == set(prefect_logging.CONSOLE)
    assert all(config["handlers"][name]["filters"] == ["repeats"] for name in to_console)
    prefect_logging.flush()
    configure(skipped_patches="prefect_logging")
    assert prefect_logging.configuration({}) is None


def test_prefects_server_computes_the_times_of_a_clients_schedule() -> None:
    from prefect.client.schemas.schedules import CronSchedule, IntervalSchedule, RRuleSchedule

    start = datetime(2024, 5, 6, tzinfo=UTC)
    for schedule in (
        CronSchedule(cron="0 */6 * * *", timezone="UTC"),
        IntervalSchedule(interval=timedelta(hours=6), anchor_date=start, timezone="UTC"),
        RRuleSchedule(rrule="DTSTART:20240506T000000\nRRULE:FREQ=HOURLY;INTERVAL=6", timezone="UTC"),
    ):
        times = prefect_schedules.scheduled_times(schedule, start, start + timedelta(hours=13))
        assert [one.timestamp() - start.timestamp() for one in times] == [0, 6 * 3600, 12 * 3600]
