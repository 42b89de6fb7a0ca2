"""The cost of orchestration: each flow's wall time with a running Prefect server, compared with its bare steps.

Flows and steps start from separate empty homes, each in its own process, so both import what they need.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.harness import Row, measure
from truecourse.errors import PlatformError
from truecourse.problem.loader import load_problem
from truecourse.settings import child_environment, get_settings

MOST = 3.0
"""Maximum seconds that a flow may add. Prefect itself takes about 1.1 s per flow run, and milliseconds per task."""


def rows(quick: bool) -> list[Row]:
    from tasks.planning.stages import STAGES

    problem = get_settings().problem
    names = list(STAGES)[:2] if quick else list(STAGES)
    folder = Path(tempfile.mkdtemp(prefix="truecourse-bench-"))
    measured: list[Row] = []
    try:
        with prefect_server(folder / "server") as url:
            for name in names:
                arguments: dict[str, Any] = {"problem": problem, "name": name}
                bare = measure("benchmarks.pipeline.flows:bare", home=folder / "bare", **arguments)
                as_flow = measure("benchmarks.pipeline.flows:as_flow", home=folder / "as_flow", url=url, **arguments)
                measured += _rows(name, as_flow.result, bare.result)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return measured


def _rows(name: str, as_flow: float, bare: float) -> list[Row]:
    added = Row(what=f"{name}: seconds added by the flow", value=as_flow - bare, unit="s", limit=MOST)
    return [
        Row(what=f"{name}: wall time", value=as_flow, unit="s", reference=bare, reference_is="its bare steps"),
        added,
    ]


def bare(problem: str, name: str) -> Callable[[], float]:
    from tasks.planning.stages import STAGES

    spec = load_problem(problem)
    __import__(f"flows.{name}")
    return lambda: _seconds(lambda: STAGES[name](spec))


def as_flow(problem: str, name: str, url: str) -> Callable[[], float]:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from tasks.planning.stages import first_unseen

    flow = getattr(__import__(f"flows.{name}", fromlist=[name]), name)
    first = first_unseen(load_problem(problem))
    options: dict[str, Any] = {"start": first} if name == "score" else {}

    def run() -> float:
        with temporary_settings({PREFECT_API_URL: url}):
            return _seconds(lambda: flow(problem, **options))

    return run


def _seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


@contextmanager
def prefect_server(folder: Path) -> Iterator[str]:
    """Run a Prefect server in its own folder; yields its API URL. Raises PlatformError if it does not start."""
    import socket

    folder.mkdir(parents=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    environment = child_environment(PREFECT_HOME=str(folder))
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)  # noqa: S603
    url = f"http://127.0.0.1:{port}/api"
    try:
        _wait(process, url, folder / "log")
        yield url
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)


def _wait(process: subprocess.Popen[bytes], url: str, log: Path, seconds: float = 180) -> None:
    import httpx

    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx.get(f"{url}/health", timeout=5).json() is True:
                return
        except (httpx.HTTPError, ValueError):
            time.sleep(0.2)
    raise PlatformError(f"did not start:\n{log.read_text()[-1000:]}", where="the Prefect server")
