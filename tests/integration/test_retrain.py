"""A finding triggers a retraining, Prefect's automation starts it, and its outcome is recorded with the finding."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from prefect import flow

from flows.register import register
from flows.retrain import retrain
from flows.train import train
from tasks.monitoring.alerts import notify, record_findings
from tests.conftest import REPOSITORY, wait_until
from tests.frames import store_diabetes
from truecourse.errors import TruecourseError
from truecourse.monitoring.alerts import alert_record as record
from truecourse.monitoring.findings import Finding, Report
from truecourse.registry import versions as registry
from truecourse.storage.object_store import open_store

CONCEPT = Finding(check="quality", subject="log_loss", cause="concept drift", page=True, sentence="It lost quality.")


@pytest.fixture
def problems(tmp_path: Path, home: Path, configure: Callable[..., None], prefect_server: str) -> Path:
    configure(problems=tmp_path, problem="diabetes")
    store_diabetes(tmp_path)
    train()
    register()
    return tmp_path


@flow(name="look")
def look(hours: float) -> dict[str, object]:
    """Record a finding and notify, as the monitor flow does."""
    at = datetime.now(UTC) + timedelta(hours=hours)
    report = Report(check="quality", problem="diabetes", at=at, sentence="", findings=(CONCEPT,))
    recorded = record_findings("diabetes", [report], at)
    return recorded | {"notified": notify("diabetes", at)}


def test_a_finding_triggers_one_retraining_whose_outcome_is_recorded(problems: Path) -> None:
    assert retrain()["because"] == "no open finding triggers it"
    recorded = look(0)
    assert recorded["retraining"]["retrain"]  # type: ignore[index]
    file = problems / "diabetes" / "problem.py"
    file.write_text(file.read_text().replace("rounds=", "rounds=9, seed=", 1))
    done = retrain()
    assert done["retrained"]
    champion = registry.champion("diabetes")
    assert (done["outcome"] == "champion") == (champion == done["version"])
    current = record.load_record(open_store(), "diabetes")
    assert current is not None
    (attempt,) = current.attempts
    assert (attempt.alarms, attempt.version) == (tuple(recorded["opened"]), done["version"].version)  # type: ignore[arg-type]
    assert "cool-down" in retrain()["because"]
    kinds = [event.kind for event in record.history(open_store(), "diabetes")]
    assert kinds.count("retraining") == kinds.count("retrained") == 1


def test_an_error_ends_the_attempt_and_is_recorded(problems: Path, home: Path) -> None:
    look(0)
    shutil.rmtree(home / "storage" / "tables")
    with pytest.raises(TruecourseError) as caught:
        retrain()
    current = record.load_record(open_store(), "diabetes")
    assert current is not None
    (attempt,) = current.attempts
    assert (attempt.outcome, attempt.detail) == ("failed", caught.value.what)
    assert "cool-down" in retrain()["because"], "a failed retraining is not repeated at once"


def test_the_automation_of_prefect_yaml_starts_one_retraining(problems: Path, prefect_server: str) -> None:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowFilter, FlowFilterName

    environment = os.environ | {"PREFECT_API_URL": prefect_server}
    for words in (
        ["work-pool", "create", "truecourse", "--type", "process", "--overwrite"],
        ["deploy", "--name", "retrain"],
    ):
        command = [sys.executable, "-m", "prefect", "--no-prompt", *words]
        done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    named = FlowFilter(name=FlowFilterName(any_=["retrain"]))

    def started() -> list[dict[str, object]]:
        with get_client(sync_client=True) as client:
            runs = client.read_flow_runs(flow_filter=named)
        return [run.parameters for run in runs if run.deployment_id is not None]

    assert not started()
    look(0)
    wait_until(lambda: bool(started()), 60, "a run of the automation")
    assert started() == [{"problem": "diabetes"}]
