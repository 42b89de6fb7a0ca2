"""The whole platform on this machine, in the foreground: Prefect with worker and deployments, MLflow, the endpoint, and
the control page."""

import json as jsonlib
import os
import subprocess
import sys
import time
from contextlib import nullcontext
from typing import NoReturn

from cli.endpoint import endpoint_url, start_endpoint, start_shipper
from cli.flowdeployments import POOL
from cli.output import Answer, Json, ProblemName, command, print_json, stderr
from cli.progress import Progress
from cli.server import Platform, announce, answers, platform_file, running_platform, start_prefect
from cli.views import pairs
from services import launch
from truecourse import endpoints
from truecourse.errors import ModelError, PlatformError
from truecourse.loading import load_problem
from truecourse.processes import Child, require_free, require_writable, start, supervised
from truecourse.settings import REPOSITORY, child_environment, get_settings
from truecourse.tracking import connect_mlflow, telling


@command
def up(problem: ProblemName = None, json: Json = False) -> Answer:
    """The platform until Ctrl-C: Prefect's server, UI, worker and deployments; MLflow's UI; the endpoint; the
    control page."""
    name = load_problem(problem).name
    _require_room()
    with supervised() as children:
        try:
            with Progress(["prefect", "mlflow", "endpoint", "control", "worker"]) as progress:
                platform = _start(name, children, progress)
            announce(platform)
            if json:
                print_json({name: getattr(platform, name) for name in ("prefect", "mlflow", "control", "endpoint")})
            stderr().print(pairs(_places(name, platform)))
            with endpoints.announced(name, platform.endpoint) if platform.endpoint else nullcontext():
                _watch(children)
        finally:
            platform_file().unlink(missing_ok=True)


def _require_room() -> None:
    """Raises PlatformError, before anything is started, for what would stop it half-way."""
    settings, running = get_settings(), running_platform()
    if running is not None:
        what = f"truecourse up runs already, as process {running.pid}"
        raise PlatformError(what, where=running.prefect, cure="stop that with Ctrl-C, or use another TRUECOURSE_HOME")
    require_writable(settings.home)
    require_free(settings.host, settings.prefect_port, "Prefect", "TRUECOURSE_PREFECT_PORT")
    require_free(settings.host, settings.mlflow_port, "MLflow", "TRUECOURSE_MLFLOW_PORT")
    require_free(settings.host, settings.control_port, "the control page", "TRUECOURSE_CONTROL_PORT")
    require_free(settings.host, settings.endpoint_port, "the endpoint", "TRUECOURSE_ENDPOINT_PORT")


def _start(problem: str, children: list[Child], progress: Progress) -> Platform:
    import psutil

    settings = get_settings()
    prefect = f"http://{settings.host}:{settings.prefect_port}"
    mlflow = f"http://{settings.host}:{settings.mlflow_port}"
    with progress.step("prefect") as tell:
        children.append(start_prefect(settings.prefect_port, ui=True))
        children[-1].wait_ready(lambda: answers(f"{prefect}/api/health"))
        different = _deploy(f"{prefect}/api")
        tell(f"{prefect}, flows deployed")
        for sentence in different:
            stderr().print(sentence, highlight=False, markup=False)
    with progress.step("mlflow") as tell:
        children.append(_start_mlflow())
        children[-1].wait_ready(lambda: answers(f"{mlflow}/health"))
        tell(mlflow)
    with progress.step("endpoint") as tell:
        endpoint = _start_endpoint(problem, children)
        tell(endpoint or "no packaged champion yet; truecourse run lifecycle makes one")
    with progress.step("control") as tell:
        control = f"http://{settings.host}:{settings.control_port}"
        children.append(_start_control(problem, prefect, mlflow))
        children[-1].wait_ready(lambda: answers(f"{control}/control.json"))
        tell(control)
    with progress.step("worker") as tell:
        children.append(_start_worker(f"{prefect}/api", get_settings().reports_url or f"{control}/reports"))
        children[-1].wait_ready(lambda: "Worker" in children[-1].tail() and "started" in children[-1].tail())
        tell(f"of the work pool {POOL}")
    return Platform(os.getpid(), psutil.Process().create_time(), prefect, mlflow, control, endpoint)


def _deploy(api: str) -> list[str]:
    """Deploy what changed in the repository; in sentences, what people set otherwise in Prefect, which stays."""
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-m", "cli.flowdeployments", api], cwd=REPOSITORY, env=child_environment(PREFECT_API_URL=api),
        stdin=subprocess.DEVNULL, capture_output=True, text=True, start_new_session=True,
    )  # fmt: skip
    if done.returncode:
        raise PlatformError(f"flows cannot be deployed\n{done.stderr[-2000:]}", where="prefect.yaml")
    different: list[str] = jsonlib.loads(done.stdout.splitlines()[-1])
    return different


def _start_worker(api: str, reports: str) -> Child:
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", POOL, "--type", "process", "--limit", "2"]
    told = {
        "PREFECT_LOGGING_LEVEL": "INFO",
        "PREFECT_WORKER_QUERY_SECONDS": "2",
    }  # seconds between two looks for a run; ten else
    environment = child_environment(PREFECT_API_URL=api, TRUECOURSE_REPORTS_URL=reports, **told)
    return start("the Prefect worker", command, environment, get_settings().home / "logs" / "worker.log")


def _start_mlflow() -> Child:
    with telling("that the platform is up"):
        connect_mlflow()  # creates the database, under a lock
    settings = get_settings()
    command = [
        sys.executable, "-m", "mlflow", "server", "--backend-store-uri", settings.mlflow_tracking_uri,
        "--host", settings.host, "--port", str(settings.mlflow_port), "--workers", "1",
    ]  # fmt: skip
    # Its jobs judge answers of language models: eight processes, as heavy as all that is ours.
    environment = child_environment(MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false")
    return start("the MLflow server", command, environment, settings.home / "logs" / "mlflow.log")


def _start_control(problem: str, prefect: str, mlflow: str) -> Child:
    settings, links = get_settings(), [f"Prefect={prefect}", f"MLflow={mlflow}"]
    command = [sys.executable, "-m", "cli.control", problem, str(settings.control_port), *links]
    return start("the control page", command, child_environment(), settings.home / "logs" / "control.log")


def _start_endpoint(problem: str, children: list[Child]) -> str:
    """The endpoint's URL; empty where there is nothing to serve yet."""
    port = get_settings().endpoint_port
    try:
        children.append(start_endpoint(problem, port))
    except ModelError:
        return ""
    launch.wait_ready(children[-1], port)
    children.append(start_shipper(problem))
    return endpoint_url()


def _places(problem: str, platform: Platform) -> dict[str, object]:
    return {
        "control": f"{platform.control}  champion, checks, alarms, a prediction's line",
        "Prefect": f"{platform.prefect}  runs, deployments, artifacts",
        "MLflow": f"{platform.mlflow}  training runs, model versions",
        "endpoint": f"{platform.endpoint}  {problem}" if platform.endpoint else "none: there is no packaged champion",
        "logs": str(get_settings().home / "logs"),
        "stop": "Ctrl-C",
    }


def _watch(children: list[Child]) -> NoReturn:
    """Until Ctrl-C. Raises PlatformError when a process ends by itself."""
    while True:
        for child in children:
            if not child.alive:
                raise PlatformError(f"ended with status {child.process.returncode}\n{child.tail()}", where=child.name)
        time.sleep(0.5)
