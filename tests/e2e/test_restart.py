"""A lifecycle that is killed several times has the same result as an undisturbed one."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests import simulated_deliveries
from tests.conftest import REPOSITORY, existing
from truecourse.registry import versions as registry
from truecourse.storage.delta_tables import Tables
from truecourse.storage.object_store import open_store

SCRIPT = "from flows.lifecycle import lifecycle; print(lifecycle()['register'].model_sha256)"
KILLED_AT = ("tables/deliveries/clean/", "snapshots/", "predictions/")


def start() -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT], cwd=REPOSITORY, stdout=subprocess.PIPE, start_new_session=True
    )


def kill_when(prefix: str) -> None:
    """Run the lifecycle, and kill it (SIGKILL) as soon as an object with the prefix exists."""
    process = start()
    deadline = time.monotonic() + 240
    try:
        while not any(True for _ in open_store().list(prefix)) and process.poll() is None:
            assert time.monotonic() < deadline, f"nothing under {prefix}"
            time.sleep(0.01)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        existing(process.stdout).close()


def finish() -> str:
    process = start()
    output, _ = process.communicate(timeout=400)
    assert process.returncode == 0
    return output.decode().strip().splitlines()[-1]


def rows(name: str) -> list[dict[str, Any]]:
    tables = Tables()
    table = tables.read(existing(tables.version(name)))
    order = [(column, "ascending") for column in ("_tc_row", "id") if column in table.column_names]
    kept = table.drop([c for c in ("_tc_scored_at",) if c in table.column_names])
    rows: list[dict[str, Any]] = kept.sort_by(order).to_pylist()
    return rows


@pytest.mark.timeout(1200)
def test_a_killed_lifecycle_loses_and_duplicates_no_row(
    tmp_path: Path, configure: Callable[..., None], prefect_server: str
) -> None:
    simulated_deliveries.install(tmp_path / "problems")
    compared = ("tables/deliveries/clean/deliveries", "tables/deliveries/raw/deliveries", "predictions/deliveries")
    ends = {}
    for name, kills in (("undisturbed", ()), ("killed", KILLED_AT)):
        configure(home=tmp_path / name, problems=tmp_path / "problems", problem="deliveries")
        for prefix in kills:
            kill_when(prefix)
        model = finish()
        ends[name] = (model, [rows(table) for table in compared])
        assert [version.version for version in registry.versions("deliveries")] == [1]
    assert ends["killed"][0] == ends["undisturbed"][0]
    for table, one, other in zip(compared, ends["undisturbed"][1], ends["killed"][1], strict=True):
        assert one == other, table
