"""`up`: the platform on this machine, in the foreground: Prefect server, worker and deployments, MLflow, the endpoint
and the control page. Each part is restarted when it dies; parts fail independently."""

import json as jsonlib
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

from cli.platform.endpoint_parts import EndpointParts, end_leftovers, log_to_stderr
from cli.platform.flow_deployments import POOL
from cli.platform.prefect_server import answers, start_prefect
from cli.platform.server_logs import mlflow_logging, prefect_logging
from cli.terminal.output import Answer, Json, ProblemName, command, print_json, stderr
from cli.terminal.progress import Progress
from cli.terminal.tables import pairs
from services.http.authentication import require_servable
from services.process import endpoint_process, flow_runs
from services.process.flow_runs import FlowRuns
from services.process.platform_state import Platform, platform_file, running_platform, write_platform
from services.process.platform_supervisor import Part, Supervisor
from truecourse import processes
from truecourse.addresses import bind_address, local_url, require_free
from truecourse.compat import prefect_variables
from truecourse.errors import PlatformError
from truecourse.problem.loader import load_problem
from truecourse.processes import Child, require_writable, start
from truecourse.registry.mlflow_runs import connect_mlflow, warn_on_failure
from truecourse.settings import REPOSITORY, child_environment, get_settings

log = logging.getLogger("truecourse.up")
PERIOD = 15.0
"""Seconds between two checks for flow runs whose process is dead."""
PARTS = ("prefect", "mlflow", "endpoint", "control", "worker", "shipper")


@command
def up(problem: ProblemName = None, json: Json = False) -> Answer:
    """Run the platform until Ctrl-C: Prefect's server, UI, worker and deployments; MLflow's UI; the endpoint;
    the control page."""
    name = load_problem(problem).name
    require_writable(get_settings().home)
    _require_only_platform()
    _end_leftovers()
    _require_ports()
    with ExitStack() as stack:
        stack.enter_context(processes.interrupted_by_signals())
        stack.enter_context(log_to_stderr("up"))
        stack.callback(lambda: platform_file().unlink(missing_ok=True))
        parts = _Parts(name, stack)
        supervisor = Supervisor(parts.parts(), lambda states: write_platform(parts.platform(states)))
        stack.callback(_stop, supervisor, parts)
        supervisor.start()
        with Progress(list(PARTS)) as progress:
            for part in PARTS:
                _await(supervisor, part, parts, progress)
        platform = parts.platform(supervisor.states())
        if json:
            places = {name: getattr(platform, name) for name in ("prefect", "mlflow", "control", "endpoint")}
            print_json(places | {"parts": {one["part"]: one["standing"] for one in platform.parts}})
        stderr().print(pairs(_places(name, platform)))
        _watch(supervisor, parts)


def _require_only_platform() -> None:
    running = running_platform()
    if running is not None:
        what = f"truecourse up already runs as process {running.pid}"
        raise PlatformError(what, where=running.prefect, hint="stop it with Ctrl-C, or set another TRUECOURSE_HOME")


def _end_leftovers() -> None:
    """End processes that a killed `truecourse up` of this home left; endpoints of `serve` at other ports go on."""
    settings = get_settings()
    left = processes.leftovers(settings.home)
    end_leftovers([one for one in left if one.name != endpoint_process.NAME or one.port == settings.endpoint_port])


def _require_ports() -> None:
    """Check settings and ports before anything is started. Raises TruecourseError."""
    settings = get_settings()
    require_servable(settings)
    require_free(settings.host, settings.prefect_port, "Prefect", "TRUECOURSE_PREFECT_PORT")
    require_free(settings.host, settings.mlflow_port, "MLflow", "TRUECOURSE_MLFLOW_PORT")
    require_free(settings.host, settings.control_port, "the control page", "TRUECOURSE_CONTROL_PORT")
    require_free(settings.host, settings.endpoint_port, "the endpoint", "TRUECOURSE_ENDPOINT_PORT")


class _Parts:
    """The parts of the platform: how each is started, and its URL."""

    def __init__(self, problem: str, stack: ExitStack) -> None:
        settings = get_settings()
        self._problem = problem
        self.prefect = local_url(settings.host, settings.prefect_port)
        self.mlflow = local_url(settings.host, settings.mlflow_port)
        self.control = local_url(settings.host, settings.control_port)
        self.runs = FlowRuns(f"{self.prefect}/api")
        self.serving = EndpointParts(problem, settings.endpoint_port, None, stack)
        self._logs: Path = settings.home / "logs"
        self._deployed = False
        self._began = datetime.now(UTC).isoformat(timespec="seconds")

    def parts(self) -> list[Part]:
        return [
            self.serving.endpoint(),
            _web_part("prefect", self._start_prefect, f"{self.prefect}/api/health"),
            _web_part("mlflow", self._start_mlflow, f"{self.mlflow}/health"),
            _web_part("control", self._start_control, f"{self.control}/livez"),
            Part("worker", self._start_worker, _worker_started, needs="prefect", kept=prefect_variables.RUN_ID),
            self.serving.shipper(),
        ]

    def platform(self, states: list[dict[str, Any]]) -> Platform:
        started = processes.started_at(os.getpid()) or ""
        places = (self.prefect, self.mlflow, self.control, self.serving.url)
        return Platform(os.getpid(), started, *places, began=self._began, parts=states)

    def location(self, part: str) -> str:
        places = {"prefect": self.prefect, "mlflow": self.mlflow, "control": self.control}
        others = {"endpoint": self.serving.url, "worker": f"work pool {POOL}, flows deployed"}
        return (places | others).get(part, "")

    def reconcile(self, *, starting: bool = False) -> None:
        """Mark flow runs whose process died, free their slots, and cancel runs that a newer run replaces.

        Raises nothing: the next check is soon."""
        try:
            self.runs.reconcile(POOL, starting=starting)
        except PlatformError as error:  # the server may be dying just now
            log.warning("flow runs were not checked: %s", error.what)
        except Exception:  # an unexpected response of Prefect must not stop the platform
            log.exception("checking flow runs failed")

    def _start_prefect(self) -> Child:
        settings = get_settings()
        require_free(settings.host, settings.prefect_port, "Prefect", "TRUECOURSE_PREFECT_PORT")
        return start_prefect(settings.prefect_port, ui=True)

    def _start_mlflow(self) -> Child:
        settings = get_settings()
        require_free(settings.host, settings.mlflow_port, "MLflow", "TRUECOURSE_MLFLOW_PORT")
        with warn_on_failure("the registry"):
            connect_mlflow()  # creates the database, under a lock
        arguments, logging_variables = mlflow_logging()
        command = [
            sys.executable, "-m", "mlflow", "server", "--backend-store-uri", settings.mlflow_tracking_uri,
            "--host", bind_address(settings.host), "--port", str(settings.mlflow_port), "--workers", "1", *arguments,
        ]  # fmt: skip
        # MLflow's jobs evaluate language models: eight processes, as large as the rest of the platform.
        environment = child_environment(MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false", **logging_variables)
        return start("the MLflow server", command, environment, self._logs / "mlflow.log")

    def _start_control(self) -> Child:
        settings = get_settings()
        require_free(settings.host, settings.control_port, "the control page", "TRUECOURSE_CONTROL_PORT")
        links = [f"Prefect={self.prefect}", f"MLflow={self.mlflow}"]
        command = [
            sys.executable,
            "-m",
            "cli.platform.control_server",
            self._problem,
            str(settings.control_port),
            *links,
        ]
        return start("the control page", command, child_environment(), self._logs / "control.log")

    def _start_worker(self) -> Child:
        """Deploy the flows, mark runs whose process is dead, and start the worker."""
        if not self._deployed:
            for sentence in _deploy_flows(f"{self.prefect}/api"):
                log.warning("%s", sentence)
            self._deployed = True
        self.reconcile(starting=True)
        command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", POOL, "--type", "process"]
        command += ["--limit", "2", "--name", flow_runs.worker_name()]
        variables = prefect_logging() | {"PREFECT_LOGGING_LEVEL": "INFO"}
        variables["PREFECT_WORKER_QUERY_SECONDS"] = "2"  # polling interval; the default is 10
        reports = get_settings().reports_url or f"{self.control}/reports"
        variables |= {"PREFECT_API_URL": f"{self.prefect}/api", "TRUECOURSE_REPORTS_URL": reports}
        environment = child_environment(**variables)
        return start("the Prefect worker", command, environment, self._logs / "worker.log")


def _web_part(name: str, start: Callable[[], Child], url: str) -> Part:
    """A part that is ready and alive if a GET returns status 200."""
    return Part(name, start, ready=lambda _: answers(url), live=lambda _: answers(url))


def _worker_started(worker: Child) -> bool:
    text = worker.tail(200)
    return "Worker" in text and "started" in text


def _deploy_flows(api: str) -> list[str]:
    """Deploy changes of the repository; a sentence for each setting that people changed in Prefect, which stays."""
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-m", "cli.platform.flow_deployments", api], cwd=REPOSITORY,
        env=child_environment(PREFECT_API_URL=api),
        stdin=subprocess.DEVNULL, capture_output=True, text=True, start_new_session=True,
    )  # fmt: skip
    if done.returncode:
        raise PlatformError(f"deploying the flows failed\n{done.stderr[-2000:]}", where="prefect.yaml")
    different: list[str] = jsonlib.loads(done.stdout.splitlines()[-1])
    return different


def _await(supervisor: Supervisor, part: str, parts: _Parts, progress: Progress) -> None:
    """Wait for the part's first start. A part that failed is restarted while the others go on."""
    progress.begin(part)
    while (state := supervisor.first_outcome(part)) is None:
        time.sleep(0.1)
    is_ok = state.standing in ("up", "waiting")
    progress.end(part, parts.location(part) if state.standing == "up" else state.cause, failed=not is_ok)


def _places(problem: str, platform: Platform) -> dict[str, object]:
    none = "none: no packaged champion yet; it is served as soon as there is one"
    return {
        "control": f"{platform.control}  champion, checks, alerts, lineage of a prediction",
        "Prefect": f"{platform.prefect}  runs, deployments, artifacts",
        "MLflow": f"{platform.mlflow}  training runs, model versions",
        "endpoint": f"{platform.endpoint}  {problem}" if platform.endpoint else none,
        "logs": str(get_settings().home / "logs"),
        "stop": "Ctrl-C",
    }


def _watch(supervisor: Supervisor, parts: _Parts) -> NoReturn:
    """Until Ctrl-C: check for flow runs whose process died."""
    while True:
        time.sleep(PERIOD)
        if supervisor.standing("prefect") == "up":
            parts.reconcile()


def _stop(supervisor: Supervisor, parts: _Parts) -> None:
    """Stop the worker first, while the server still runs and can record the end of its runs."""
    with processes.ignoring_interrupts():
        supervisor.stop("worker")
        if supervisor.standing("prefect") in ("up", "silent"):
            parts.reconcile(starting=True)
        supervisor.stop()
