"""Schedules start runs: a dependency of Prefect once stopped them silently."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import simulated_deliveries
from tests.conftest import REPOSITORY, stop, wait_until
from truecourse.storage.delta_tables import Tables, raw_table

SERVE = "from flows.ingest import ingest; ingest.serve(name='soon', interval=5, limit=1)"


@pytest.mark.timeout(240)
def test_a_scheduled_run_starts_and_completes(
    tmp_path: Path, home: Path, configure: Callable[..., None], prefect_server: str
) -> None:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterName

    soon = DeploymentFilter(name=DeploymentFilterName(any_=["soon"]))
    simulated_deliveries.install(tmp_path)
    configure(problems=tmp_path, problem="deliveries")
    process = subprocess.Popen([sys.executable, "-c", SERVE], cwd=REPOSITORY)

    def completed() -> bool:
        assert process.poll() is None
        with get_client(sync_client=True) as client:
            runs = client.read_flow_runs(deployment_filter=soon)
        return any(run.auto_scheduled and run.state is not None and run.state.is_completed() for run in runs)

    try:
        wait_until(completed, 180, "a scheduled run")
    finally:
        stop(process)
    assert Tables().exists(raw_table("deliveries", "deliveries"))
