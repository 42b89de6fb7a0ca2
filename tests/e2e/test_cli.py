"""The command line, as real processes with real servers."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests import simulated_deliveries
from tests.conftest import REPOSITORY, free_ports, wait_until
from truecourse.settings import get_settings

pytestmark = pytest.mark.timeout(900)
TRUECOURSE = str(Path(sys.executable).parent / "truecourse")
World = dict[str, str]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """The environment of a home in which `truecourse run lifecycle --json` of a small problem has run."""
    folder = tmp_path_factory.mktemp("cli")
    simulated_deliveries.install(folder / "problems")
    prefect, mlflow, control, endpoint = free_ports(4)
    variables = {
        "TRUECOURSE_HOME": str(folder / "home"),
        "TRUECOURSE_PROBLEMS": str(folder / "problems"),
        "TRUECOURSE_PROBLEM": "deliveries",
        "TRUECOURSE_PREFECT_PORT": str(prefect),
        "TRUECOURSE_MLFLOW_PORT": str(mlflow),
        "TRUECOURSE_CONTROL_PORT": str(control),
        "TRUECOURSE_ENDPOINT_PORT": str(endpoint),
    }
    dropped = ("PREFECT_API_URL", "PREFECT_HOME")
    environment = {name: value for name, value in os.environ.items() if name not in dropped} | variables
    done = run(environment, "run", "lifecycle", "--json", timeout=600)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["result"]["champion"]["version"] == 1
    assert "✓ monitor" in done.stderr
    assert not left_over(folder / "home")
    return environment


def run(environment: World, *words: str, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    return subprocess.run([TRUECOURSE, *words], env=environment, capture_output=True, text=True, timeout=timeout)


def answer(environment: World, *words: str) -> Any:
    done = run(environment, *words, "--json")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 1
    return json.loads(done.stdout)


def left_over(home: Path) -> list[psutil.Process]:
    """Processes of this home that still run."""

    def is_of(process: psutil.Process) -> bool:
        try:
            return bool(process.environ().get("TRUECOURSE_HOME") == str(home) and process.pid != os.getpid())
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            return False

    return [process for process in psutil.process_iter() if is_of(process)]


def test_predict_and_explain_agree_on_an_example(world: World) -> None:
    predicted = answer(world, "predict", "--example", "1")
    explained = answer(world, "explain", "--example", "1")
    assert predicted["predictions"][0]["score"] == pytest.approx(explained["predictions"][0]["score"])
    explanation = explained["predictions"][0]
    assert explanation["base"] + sum(c["contribution"] for c in explanation["contributions"]) == pytest.approx(
        explanation["margin"], abs=1e-4
    )
    changed = answer(world, "predict", "--example", "1", "distance=60")
    assert changed["rows"][0]["distance"] == 60
    assert "answered by this process" in run(world, "predict").stdout


def test_status_trace_and_reproduce_after_a_lifecycle(world: World) -> None:
    state = answer(world, "status")
    assert state["champion"]["version"] == 1
    assert {"tables/deliveries/clean/deliveries", "predictions/deliveries"} <= {t["table"] for t in state["tables"]}
    assert state["pages"]
    assert all(Path(page).is_file() for page in state["pages"])
    assert all(link["verified"] for link in answer(world, "trace", "model", "1")["links"])
    assert answer(world, "reproduce", "1")["identical"] is True


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["predict", "distance=far"], 1, "distance"),
        (["predict", "nonsense=1"], 1, "the fields are"),
        (["predict", "--row", "[1"], 1, "not valid JSON"),
        (["trace", "model", "77"], 1, "registered versions: 1"),
        (["check", "--problem", "nowhere"], 1, "known problems"),
        (["predict", "--url", "http://127.0.0.1:9"], 1, "truecourse serve"),
    ],
)
def test_an_error_has_a_hint(world: World, words: list[str], status: int, message: str) -> None:
    done = run(world, *words, "--json")
    assert done.returncode == status
    assert "Traceback" not in done.stderr
    error = json.loads(done.stdout)["error"]
    assert message in json.dumps(error, ensure_ascii=False)


def test_an_unknown_flow_is_a_usage_error(world: World) -> None:
    assert run(world, "run", "everything").returncode == 2


def test_a_home_that_cannot_be_written(world: World, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = run(world | {"TRUECOURSE_HOME": str(tmp_path / "file" / "home")}, "run", "ingest", "--json")
    assert done.returncode == 1
    assert "TRUECOURSE_HOME" in json.loads(done.stdout)["error"]["hint"], done.stdout


@pytest.fixture
def platform(world: World) -> Iterator[tuple["subprocess.Popen[str]", dict[str, str]]]:
    process = subprocess.Popen(
        [TRUECOURSE, "up", "--json"], env=world, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        line = process.stdout.readline()
        assert line, process.stderr.read()
        yield process, json.loads(line)
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=90)


def test_up_runs_deployments_and_leaves_nothing(world: World, platform: Any, configure: Callable[..., None]) -> None:
    process, places = platform
    assert answer(world, "predict")["answered_by"] == places["endpoint"]
    parts = {part["part"]: part for part in answer(world, "status")["platform"]["parts"]}
    assert {name: part["standing"] for name, part in parts.items()} == dict.fromkeys(parts, "up")
    for name in ("control", "shipper"):
        os.kill(parts[name]["pid"], signal.SIGKILL)
    second = run(world, "up", "--json")
    assert second.returncode == 1
    assert "already runs" in json.loads(second.stdout)["error"]["what"]
    prefect = [sys.executable, "-m", "prefect", "deployment", "run", "validate/validate", "--watch"]
    environment = world | {"PREFECT_API_URL": places["prefect"] + "/api"}
    done = subprocess.run(prefect, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    configure(home=world["TRUECOURSE_HOME"])
    assert answer(world, "predict")["answered_by"] == places["endpoint"], "helpers were killed, the endpoint runs on"
    again = {part["part"]: part for part in answer(world, "status")["platform"]["parts"]}
    assert {name: part["restarts"] for name, part in again.items() if part["restarts"]} == {"control": 1, "shipper": 1}
    assert {part["standing"] for part in again.values()} == {"up"}
    assert again["endpoint"]["pid"] == parts["endpoint"]["pid"]
    process.send_signal(signal.SIGINT)
    assert process.wait(90) == 130
    wait_until(lambda: not left_over(get_settings().home), 10, "the end of all processes")
    assert not (get_settings().home / "up.json").exists()


def test_ci_trains_and_a_failed_gate_fails_the_build(world: World, tmp_path: Path) -> None:
    """`.ci/train` starts its own platform and stops it again."""
    passing = run(world, "summary", "1")
    assert passing.returncode == 0, passing.stderr
    assert "gates passed.** It is champion." in passing.stdout
    rows = [line for line in passing.stdout.splitlines() if line.startswith("|")]
    assert len(rows) > 5
    assert all(line.endswith("|") for line in rows), "rows of a table are not wrapped, even in a narrow terminal"
    file = Path(world["TRUECOURSE_PROBLEMS"]) / "deliveries" / "problem.py"
    before, path = file.read_text(), tmp_path / "summary.md"
    failing = before.replace("gates=[BeatsBaseline(), BeatsChampion()]", 'gates=[MetricGate("auc", min=1.01)]')
    failing = failing.replace("    BeatsBaseline,\n", "    MetricGate,\n")
    assert failing.count("MetricGate") == 2
    command = [str(REPOSITORY / ".ci" / "train"), "deliveries", str(path)]
    try:
        file.write_text(re.sub(r"rounds=\d+", "rounds=7", failing, count=1))
        done = subprocess.run(command, env=world, capture_output=True, text=True, timeout=800)
    finally:
        file.write_text(before)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "**1 of 1 gate failed.** The champion is version 1." in path.read_text()
    assert "| ❌ | auc at least 1.01 |" in path.read_text()
    assert not left_over(Path(world["TRUECOURSE_HOME"]))


def test_up_names_a_port_that_is_taken(world: World) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = run(world | {"TRUECOURSE_MLFLOW_PORT": port}, "up", "--json")
    assert done.returncode == 1
    assert port in json.loads(done.stdout)["error"]["what"]
    assert "TRUECOURSE_MLFLOW_PORT" in json.loads(done.stdout)["error"]["hint"]
