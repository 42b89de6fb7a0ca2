"""Promotion with the real flows: approved and refused on a real Prefect server."""

import contextvars
import re
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from prefect.input.actions import read_flow_run_input

from flows.promote import promote
from flows.register import register
from flows.train import train
from tasks.release.promote import make_champion
from tests.conftest import existing, wait_until
from tests.frames import store_diabetes
from tests.unevaluated_versions import set_champion
from truecourse.errors import GateFailed, ModelError
from truecourse.references import Aliases, ModelVersion
from truecourse.registry import aliases, mlflow_runs
from truecourse.registry import versions as registry

Configure = Callable[..., None]


@pytest.fixture
def problems(tmp_path: Path, home: Path, configure: Configure, prefect_server: str) -> Path:
    configure(problems=tmp_path, problem="diabetes", author="ann")
    store_diabetes(tmp_path)
    return tmp_path


def edit(problems: Path, rounds: int, *, approval: str = "", seed: int = 0) -> None:
    """Edit the diabetes problem: this number of boosting rounds without linear model, and BeatsChampion as its gate."""
    file = problems / "diabetes" / "problem.py"
    text = re.sub(r"    (gates|promotion)=.*\n", "", file.read_text())
    model = f"rounds={rounds}, seed={seed}, linear=False"
    text = re.sub(r"rounds=\d+, seed=\d+, linear=False|rounds=\d+", model, text, count=1)
    gates = f"    gates=[BeatsChampion()],\n    promotion=Promotion({approval}),\n)"
    text = text.rstrip().removesuffix(")") + gates
    names = "    BeatsChampion,\n    Promotion,\n    days,\n    minutes,\n    BeatsBaseline,\n"
    file.write_text(text if "BeatsChampion,\n" in text else text.replace("    BeatsBaseline,\n", names))


def train_and_register(problems: Path, rounds: int, *, approval: str = "", seed: int = 0) -> ModelVersion:
    edit(problems, rounds, approval=approval, seed=seed)
    train()
    return register()


def test_a_better_version_is_promoted_and_a_worse_one_refused_with_the_reason(problems: Path) -> None:
    with pytest.raises(ModelError, match="no challenger"):
        promote("now")
    weak = train_and_register(problems, 1)
    strong = train_and_register(problems, 200)
    assert registry.champion("diabetes") == strong
    with pytest.raises(ModelError, match="version 2 is already champion"):
        promote("again")
    before = aliases.current("diabetes")
    with pytest.raises(
        GateFailed, match=r"1 of 2 gates failed\n  rmse below the champion's: version 2: diff"
    ) as failure:
        promote("it is smaller", version=weak.version)
    assert [gate["passed"] for gate in failure.value.gates] == [False, True]
    assert registry.gates(weak) == list(failure.value.gates)
    assert aliases.current("diabetes") == before

    set_champion(weak)
    entry = promote("it is better")
    assert (entry.champion, entry.action, entry.reason, entry.author) == (strong, "promote", "it is better", "ann")
    assert aliases.current("diabetes") == entry
    loss, calibration = registry.gates(strong)
    assert re.search(r"version 1: difference -\d+\.\d+ \(-\d+\.\d+ to -\d+\.\d+\) on \d+ rows", loss["detail"])
    assert calibration["passed"]


def test_rows_that_the_champion_learned_from_are_not_compared(problems: Path) -> None:
    """The champion was trained on half of the challenger's test rows: the comparison uses the other half."""
    file = problems / "diabetes" / "problem.py"
    mine = file.read_text()
    file.write_text(mine.replace("validate=0.2, test=0.25", "validate=0.2, test=0.12"))
    train_and_register(problems, 1)
    file.write_text(file.read_text().replace("validate=0.2, test=0.12", "validate=0.2, test=0.25"))
    challenger = train_and_register(problems, 200)
    report = registry.gates(challenger)[0]["detail"]
    rows = int(existing(re.search(r"on (\d+) rows", report))[1])
    assert 30 < rows < 0.14 * 442


def test_registration_waits_for_approval_where_the_problem_requires_it(problems: Path) -> None:
    version = train_and_register(problems, 200, approval="approval=True")
    now = aliases.current("diabetes")
    assert (now.champion, now.challenger) == (None, version)
    assert now.reason == "its gate passed, and `truecourse promote` awaits approval"


def start_promotion(**parameters: Any) -> Future[Any]:
    """Start the flow in a thread with the current settings."""
    context = contextvars.copy_context()
    return ThreadPoolExecutor(1).submit(context.run, lambda: promote("a trial", **parameters))


def wait_for_paused(client: Any, count: int) -> list[Any]:
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterState, FlowRunFilterStateName

    state = FlowRunFilterState(name=FlowRunFilterStateName(any_=["Paused"]))
    runs: list[Any] = []

    def waiting() -> bool:
        runs[:] = client.read_flow_runs(flow_run_filter=FlowRunFilter(state=state))
        return len(runs) == count and all(form(run) for run in runs)

    wait_until(waiting, 60, "a paused run")
    return runs


def form(run: Any) -> str:
    """The description above the approval form in the UI; empty until it exists."""
    key = run.state.state_details.run_input_keyset["description"]
    return str(read_flow_run_input(key, flow_run_id=run.id) or "")


def test_a_person_approves_or_refuses_in_the_ui_and_the_ledger_is_read_again(problems: Path) -> None:
    from prefect.client.orchestration import get_client

    first, second = (train_and_register(problems, rounds, approval="approval=True") for rounds in (100, 200))
    with get_client(sync_client=True) as client:
        run = start_promotion(version=1)
        (waiting,) = wait_for_paused(client, 1)
        assert "Promote version 1 of diabetes to champion? a trial" in form(waiting)
        for untyped in ({"approve": "by all means", "reason": "why not"}, {"reason": "why not"}, {"approve": True}):
            assert client.resume_flow_run(waiting.id, run_input=untyped).status.value == "REJECT"
        client.resume_flow_run(waiting.id, run_input={"approve": False, "reason": "not on a Friday"})
        with pytest.raises(GateFailed, match="version 1 of diabetes: not approved: not on a Friday"):
            run.result(60)
        assert registry.champion("diabetes") is None

        runs = [start_promotion(version=1), start_promotion(version=2)]
        for waiting in wait_for_paused(client, 2):
            client.resume_flow_run(waiting.id, run_input={"approve": True, "reason": "agreed"})
        errors = [error for error in (run.exception(60) for run in runs) if error is not None]
    assert len(errors) == 1
    assert isinstance(errors[0], ModelError)
    assert "ann was first" in str(errors[0])
    now = aliases.current("diabetes")
    assert now.champion in (first, second)
    assert now.reason == "a trial; approved: agreed"


def test_a_promotion_without_approval_fails(problems: Path) -> None:
    train_and_register(problems, 100, approval="approval=True, patience=minutes(0.05)")
    with pytest.raises(GateFailed, match="it was not approved within 0:00:03"):
        promote("soon")
    assert registry.champion("diabetes") is None


def test_one_of_two_concurrent_promotions_wins_and_an_interrupted_one_is_completed(problems: Path) -> None:
    versions = [train_and_register(problems, rounds, approval="approval=True") for rounds in (50, 100)]
    before, start = aliases.current("diabetes"), threading.Barrier(2)

    def promote_version(version: ModelVersion) -> Aliases:
        start.wait()
        return make_champion.fn(before, version, f"because of {version.version}")

    with ThreadPoolExecutor(2) as pool:
        runs = [pool.submit(promote_version, version) for version in versions]
    (won,) = [run.result() for run in runs if run.exception() is None]
    (lost,) = [str(run.exception()) for run in runs if run.exception() is not None]
    assert aliases.current("diabetes") == won
    assert (
        f"ann was first, at {won.at:%Y-%m-%d %H:%M:%S} UTC: promote, because of {existing(won.champion).version}"
        in lost
    )
    mlflow = mlflow_runs.connect_mlflow()
    mlflow.delete_registered_model_alias("diabetes", "champion")  # as if it was killed before it wrote to MLflow
    assert make_champion.fn(before, existing(won.champion), won.reason) == won
    assert int(mlflow.get_model_version_by_alias("diabetes", "champion").version) == existing(won.champion).version
